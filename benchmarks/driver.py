"""Rollouts per second that the driver and a method get through when the model costs nothing.

    python benchmarks/driver.py [--rollouts 20000] [--length 20] [--per-search 64] [--method NAME ...] [--profile] [--json]

The engine answers at once from completions drawn beforehand; the reward is a number from a list. What is left is the search
itself, the driver, the metering and the texts, with the small cost of that engine and reward. In process CPU seconds of one
core, the best of three rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import pstats
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maxent_ts.engines.base import Capabilities, Finished, Job, RolloutJob
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Branch, Budget, Policy, Rollout, TopTokens

VOCABULARY = 50_000
DEFAULT_METHODS = ("best_of_n", "maxent", "maxent_sample")
ROUNDS = 3


class NullContext:
    """A prompt of no meaning."""

    num_prompt_tokens = 1

    def __init__(self, policy: Policy) -> None:
        self.policy = policy


class NullEngine:
    """Answers every job at once; every first token is one that was not drawn before."""

    capabilities = Capabilities(deterministic=True, time_series=False)
    identity: Mapping[str, Any] = {"engine": "null"}

    def __init__(self, length: int) -> None:
        rng = np.random.default_rng(0)
        self._tails = [tuple(row) for row in rng.integers(VOCABULARY, size=(512, length)).tolist()]
        self._logprobs = tuple([-5.0] * length)
        self._queue: list[tuple[int, Job]] = []
        self._num_tickets = self._num_drawn = 0

    def open(self, prompt: Any, policy: Policy) -> NullContext:  # noqa: ARG002 - the protocol's signature
        """Take any prompt."""
        return NullContext(policy)

    def close(self, context: Any) -> None:
        """Forget nothing."""

    def submit(self, job: Job) -> int:
        """Queue a job; returns its ticket."""
        self._num_tickets += 1
        self._queue.append((self._num_tickets, job))
        return self._num_tickets

    def step(self) -> list[Finished]:
        """Finish everything queued."""
        queue, self._queue = self._queue, []
        return [Finished(ticket, self._answer(job), 0) for ticket, job in queue]

    def decode(self, tokens: Sequence[int]) -> str:  # noqa: ARG002 - the protocol's signature
        """No text."""
        return ""

    def _answer(self, job: Job) -> Branch | TopTokens:
        if not isinstance(job, RolloutJob):
            raise TypeError("This engine knows no next tokens.")
        num = job.limit - len(job.prefix)
        rollouts = []
        for _ in job.streams:
            self._num_drawn += 1
            tail = self._tails[self._num_drawn % len(self._tails)]
            rollouts.append(Rollout((VOCABULARY + self._num_drawn, *tail[1:num]), self._logprobs[:num], "length"))
        seen = len(job.exclude) + len(rollouts)
        return Branch(tuple(rollouts), math.log1p(-min(0.99, seen * math.exp(-5.0))))


class ListedReward:
    """Numbers from a list."""

    name = "listed"
    range = (0.0, 1.0)

    def __init__(self) -> None:
        self._values: list[float | None] = [*np.random.default_rng(1).random(4096).tolist()]
        self._next = 0

    def __call__(self, *, completions: Sequence[str], **columns: Any) -> list[float | None]:  # noqa: ARG002 - the protocol's signature
        """The next ones."""
        start = self._next = (self._next + len(completions)) % 2048
        return self._values[start : start + len(completions)]

    def explain(self, *, completions: Sequence[str], **columns: Any) -> list[Mapping[str, Any]]:  # noqa: ARG002 - the protocol's signature
        """Nothing to say."""
        return [{} for _ in completions]


def measured(name: str, num_rollouts: int, length: int, per_search: int) -> float:
    """Rollouts per CPU second of a method."""
    method = load(METHODS, name, "method")
    jobs = [
        SearchJob(str(i), (0,), Policy(length), method, 4.0, Budget(generated_tokens=per_search * length), (0, i))
        for i in range(max(1, num_rollouts // per_search))
    ]
    start = time.process_time()
    results = list(run_searches(jobs, NullEngine(length), ListedReward()))
    seconds = time.process_time() - start
    for result in results:
        if result.error is not None:
            raise result.error
    return sum(result.usage.rollouts for result in results) / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=6_400)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--per-search", type=int, default=64)
    parser.add_argument("--method", action="append")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {}
    for name in given.method or DEFAULT_METHODS:
        profile = cProfile.Profile()
        if given.profile:
            profile.enable()
        found[name] = max(measured(name, given.rollouts, given.length, given.per_search) for _ in range(ROUNDS))
        if given.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{given.rollouts} rollouts of {given.length} tokens, {given.per_search} per search")
        for name, rate in found.items():
            print(f"{name:14} {rate:9.0f} rollouts/s of CPU")


if __name__ == "__main__":
    main()
