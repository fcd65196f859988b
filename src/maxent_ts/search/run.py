"""The driver: advances many searches at once over one engine, counts what they cost, and keeps them within budget.

A search that waits for rollouts leaves the others running: as soon as its own answer is there it is sent in, and its next
request joins the engine's queue. So the engine's slots stay full with the rollouts of many prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from maxent_ts.engines.base import Engine
from maxent_ts.errors import RewardError
from maxent_ts.rewards.base import Reward, prefix_function
from maxent_ts.search.base import Answers, NextTokens, Parallel, PrefixRewards, Rewards, Rollouts
from maxent_ts.search.live import Live, SearchJob, SearchResult
from maxent_ts.types import Completion

__all__ = ["Event", "SearchJob", "SearchResult", "Searches", "run_searches"]


@dataclass(frozen=True, slots=True)
class Event:
    """Progress."""

    kind: Literal["step", "finished"]
    job_id: str | None
    generated_tokens: int
    """By all searches since the start."""
    live: int
    """Searches under way."""


class Searches:
    """The searches under way over one engine, advanced from outside: `add`, `advance` and `step` in any order, from one thread.

    Each has its own reward. What becomes of one does not depend on the others where `engine.capabilities.deterministic`.

    Args:
        engine: Answers the rollouts of all of them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live: list[Live] = []
        self._waiting: dict[int, Live] = {}
        self._generated_by_ended = 0

    def __len__(self) -> int:
        return len(self._live)

    @property
    def is_waiting(self) -> bool:
        """Whether a search waits for the engine."""
        return bool(self._waiting)

    @property
    def generated_tokens(self) -> int:
        """By all searches since the start."""
        return self._generated_by_ended + sum(one.usage.generated_tokens for one in self._live)

    def add(self, job: SearchJob, reward: Reward, answer_fn: Callable[[str], str | None] | None = None) -> None:
        """Begin a search. If it cannot begin, the next `advance` returns its error."""
        self._live.append(Live(job, self._engine, reward, answer_fn))

    def advance(self) -> list[SearchResult]:
        """Send answers in until every search waits for the engine or is done; returns those that are done.

        Rewards of all searches with the same reward and the same columns go out as one batch.
        """
        while ready := [one for one in self._live if one.is_ready]:
            for one in ready:
                one.resume()
            for one in ready:
                if isinstance(one.request, Rewards):
                    self._submit(one, one.submit_scores)
            for kind in (Rewards, PrefixRewards):
                scoring = [one for one in ready if isinstance(one.request, kind) and one.is_ready]
                for alike in _alike(scoring):
                    _score(alike)
            for one in ready:
                if isinstance(one.request, Answers):
                    one.read_answers()
                elif isinstance(one.request, (Rollouts, NextTokens, Parallel)):
                    self._submit(one, one.submit)
        return [self._end(one) for one in self._live.copy() if one.is_done]

    def step(self) -> None:
        """Let the engine work once and hand its answers out."""
        for finished in self._engine.step():
            if finished.ticket in self._waiting:
                self._waiting.pop(finished.ticket).receive(finished.ticket, finished.answer, finished.forwarded_tokens)

    def best(self, job_id: str) -> Completion | None:
        """Return what a search has found of the highest reward so far, with its text; None before its first reward."""
        (one,) = (one for one in self._live if one.job.id == job_id)
        return one.best

    def cancel(self, job_id: str) -> SearchResult:
        """End a search and free what it holds; its result has no outcome."""
        (one,) = (one for one in self._live if one.job.id == job_id)
        return self._end(one)

    def close(self) -> None:
        """End all searches."""
        for one in self._live.copy():
            self._end(one)

    def _end(self, one: Live) -> SearchResult:
        self._live.remove(one)
        for ticket in one.tickets:
            self._waiting.pop(ticket, None)
        one.close()
        self._generated_by_ended += one.usage.generated_tokens
        return one.result()

    def _submit(self, one: Live, submit: Callable[[], list[int]]) -> None:
        try:
            tickets = submit()
        except Exception as error:  # noqa: BLE001 - as in _score
            one.fail(error)
            return
        self._waiting.update(dict.fromkeys(tickets, one))


def run_searches(
    jobs: Iterable[SearchJob],
    engine: Engine,
    reward: Reward,
    *,
    answer_fn: Callable[[str], str | None] | None = None,
    max_concurrent: int = 64,
    on_event: Callable[[Event], None] | None = None,
) -> Iterator[SearchResult]:
    """Run searches side by side and yield each result as it is ready.

    A search that fails, whatever the reason, becomes a result with an `error`; the others go on.

    Args:
        jobs: The searches; taken one by one, as others finish.
        engine: Answers the rollouts of all of them.
        reward: Scores their completions.
        answer_fn: Reads the final answer of a completion, for methods that vote.
        max_concurrent: Number of searches under way at once. Results do not depend on it where
            `engine.capabilities.deterministic`.
        on_event: Called after every engine step and every finished search.
    """
    source = iter(jobs)
    exhausted = False

    def emit(kind: Literal["step", "finished"], job_id: str | None = None) -> None:
        if on_event is not None:
            on_event(Event(kind, job_id, searches.generated_tokens, len(searches)))

    with closing(Searches(engine)) as searches:
        while True:
            while not exhausted and len(searches) < max_concurrent:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                searches.add(job, reward, answer_fn)
            if not searches:
                return
            for result in searches.advance():
                emit("finished", result.job.id)
                yield result
            if searches.is_waiting:
                searches.step()
                emit("step")


def _alike(scoring: list[Live]) -> list[list[Live]]:
    """Group searches that wait for rewards by reward and columns: what a reward sees of one does not depend on the others."""
    groups: dict[tuple[int, frozenset[str]], list[Live]] = {}
    for one in scoring:
        groups.setdefault((id(one.reward), frozenset(one.job.inputs)), []).append(one)
    return list(groups.values())


def _score(scoring: list[Live]) -> None:
    """Score every waiting completion in one call; if that fails, search by search, so that the fault finds its owner.

    The open requests must be of one kind, all `Rewards` or all `PrefixRewards`, with one reward and the same columns.
    """
    try:
        values = _call_reward(scoring)
    except Exception as error:  # noqa: BLE001 - one failing search must not end the others; the error is in its result
        if len(scoring) == 1:
            scoring[0].fail(error)
            return
        for one in scoring:
            _score([one])
        return
    start = 0
    for one in scoring:
        stop = start + len(one.scored_completions)
        one.receive_rewards(values[start:stop])
        start = stop


def _call_reward(scoring: list[Live]) -> list[float]:
    reward = scoring[0].reward
    rows = [(one, completion) for one in scoring for completion in one.scored_completions]
    others = [one.other_logprobs() for one in scoring]
    names = sorted(scoring[0].job.inputs)
    function = reward if isinstance(scoring[0].request, Rewards) else prefix_function(reward)
    assert function is not None, "a search asked for prefix rewards although its target has none"
    values = function(
        prompts=[one.job.prompt for one, _ in rows],
        completions=[one.text(completion.tokens) for one, completion in rows],
        completion_ids=[list(completion.tokens) for _, completion in rows],
        logprobs=[completion.logprob for _, completion in rows],
        finish_reasons=[completion.finish_reason for _, completion in rows],
        **{name: [one.job.inputs[name] for one, _ in rows] for name in names},
        **{name: [value for own in others for value in own[name]] for name in others[0]},
    )
    if len(values) != len(rows):
        raise RewardError(
            f"The reward '{reward.name}' must return one value per completion: {len(rows)} were given, {len(values)} came back."
        )
    checked = []
    for (one, completion), value in zip(rows, values, strict=True):
        if value is None or not math.isfinite(value):
            raise RewardError(
                f"The reward '{reward.name}' returned {value} for a completion of '{one.job.id}', but a search needs a finite "
                f"number for each. The completion was: {one.text(completion.tokens)[:200]!r}. Return a number, or combine "
                "this reward with one that applies to every completion."
            )
        checked.append(float(value))
    return checked
