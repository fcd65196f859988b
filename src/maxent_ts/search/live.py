"""One search under way: its generator, its open request and its meter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from maxent_ts.engines.base import Engine, NextTokensJob, RolloutJob
from maxent_ts.errors import EngineError, MaxentError, SettingError
from maxent_ts.registry import METHODS, METHODS_WITHOUT_LOGPROBS
from maxent_ts.rewards.base import Reward, other_prompts, prefix_function
from maxent_ts.search.base import (
    Answers,
    NextTokens,
    Parallel,
    PrefixRewards,
    Request,
    Rewards,
    Rollouts,
    Search,
    SearchFactory,
)
from maxent_ts.search.meter import SearchMeter
from maxent_ts.search.other_prompts import OtherPrompts
from maxent_ts.types import Branch, Budget, Completion, Outcome, Policy, Prompt, Target, Tokens, TopTokens, Usage

__all__ = ["Live", "SearchJob", "SearchResult"]

LOOK = 1
"""Ends the stream of a draw of next tokens, which no stream of a rollout has."""


@dataclass(frozen=True, slots=True)
class SearchJob:
    """One search to run."""

    id: str
    """Names the search in events and results."""
    prompt: Prompt
    policy: Policy
    method: SearchFactory
    """A method of `registry.METHODS` with its settings bound by `functools.partial`."""
    tilt: float = 1.0
    budget: Budget = field(default_factory=Budget)
    seed: tuple[int, ...] = (0,)
    """(seed, example): with the number of the rollout it names every random stream of the search."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Columns for the reward. There is no place for a target."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What became of a search: an outcome or an error, and what it cost either way."""

    job: SearchJob
    outcome: Outcome | None
    usage: Usage
    error: Exception | None = None
    trajectory: tuple[tuple[int, float], ...] = ()
    """(generated tokens so far, best reward so far), one pair per scored completion."""
    other_logprobs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Columns that the reward asked for: log p of each completion of the outcome under another prompt, nats."""


class Live:
    """One search under way: its generator, its open request, and its meter."""

    def __init__(
        self, job: SearchJob, engine: Engine, reward: Reward, answer_fn: Callable[[str], str | None] | None = None
    ) -> None:
        self.job = job
        self.reward = reward
        self.meter = SearchMeter(job.budget, job.policy.max_new_tokens)
        self.request: Request | None = None
        self.tickets: dict[int, int] = {}
        self.is_done = False
        self._engine = engine
        self._has_logprobs = engine.capabilities.logprobs
        self._answer_fn = answer_fn
        self._context: Any = None
        self._search: Search | None = None
        self._answers: list[Any] = []
        self._num_open = 0
        self._num_looks = 0
        self._value: Any = None
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        self._texts: dict[Tokens, str] = {}
        self._other_prompts: OtherPrompts | None = None
        self._other_logprobs: Mapping[str, tuple[float, ...]] = {}
        target = Target(
            job.tilt,
            job.policy.max_new_tokens,
            reward.range,
            has_prefix_rewards=prefix_function(reward) is not None,
            has_answers=answer_fn is not None,
            max_generated_tokens=job.budget.generated_tokens,
            max_rollouts=job.budget.rollouts,
        )
        try:
            self._context = engine.open(job.prompt, job.policy)
            self.usage.prompt_tokens = self._context.num_prompt_tokens
            self.meter.check_budget()
            self._check_method()
            self._other_prompts = OtherPrompts(engine, job.prompt, job.policy, other_prompts(reward))
            self._search = job.method(np.random.default_rng(job.seed), target)
        except Exception as error:  # noqa: BLE001 - one failing search must not end the others; the error is in its result
            self.fail(error)

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self.meter.usage

    @property
    def is_ready(self) -> bool:
        """Whether the generator can be sent something."""
        return not self.is_done and self._num_open == 0

    @property
    def scored_completions(self) -> tuple[Completion, ...]:
        """The completions of an open `Rewards` or `PrefixRewards` request."""
        return self.request.completions if isinstance(self.request, (Rewards, PrefixRewards)) else ()

    @property
    def best(self) -> Completion | None:
        """The completion of the highest reward so far, with its text; None before the first reward."""
        best = self.meter.best
        return None if best is None else replace(best, text=self.text(best.tokens))

    def resume(self) -> None:
        """Send the last answer in and take the next request."""
        assert self._search is not None
        if isinstance(self.request, Rewards):
            return  # it waited for the engine's scores, and can now be answered
        value, self._value = self._value, None
        try:
            self.request = self._search.send(value)
        except StopIteration as stop:
            self.request = None
            self.is_done = True
            try:
                self._outcome = self._completed(stop.value)
            except Exception as error:  # noqa: BLE001 - as above: a user's method may return anything
                self.fail(error)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)

    def submit(self) -> list[int]:
        """Hand the open request to the engine as far as the budget goes; returns the tickets to wait for."""
        request = self.request
        requests = request.requests if isinstance(request, Parallel) else (request,)
        self._answers = [None] * len(requests)
        self.tickets = {}
        self.meter.begin_request()
        num_streams = 0
        for index, one in enumerate(requests):
            if isinstance(one, Rollouts):
                num = self.meter.reserve(one)
                if num == 0:
                    self._answers[index] = Branch((), math.nan)
                    continue
                first = self.usage.rollouts + num_streams
                num_streams += num
                streams = tuple((*self.job.seed, first + i) for i in range(num))
                job = RolloutJob(self._context, one.prefix, streams, one.exclude, one.distinct, one.do_sample, one.num_tokens)
            elif isinstance(one, NextTokens):
                if not self.meter.reserve_token():
                    self._answers[index] = TopTokens((), (), ())
                    continue
                self._num_looks += 1
                stream = (*self.job.seed, self._num_looks, LOOK) if one.do_sample else None
                job = NextTokensJob(self._context, one.prefix, one.num, stream)
            else:
                raise TypeError(f"A search yielded {type(one).__name__}, which is not a request.")
            self.tickets[self._engine.submit(job)] = index
        self._num_open = len(self.tickets)
        if not self.tickets:
            self._deliver()
        return list(self.tickets)

    def submit_scores(self) -> list[int]:
        """Hand what the reward asks of the engine for an open `Rewards` request to it; returns the tickets to wait for."""
        assert self._other_prompts is not None
        jobs = self._other_prompts.jobs(self.scored_completions)
        self._answers = [None] * len(jobs)
        self.tickets = {self._engine.submit(job): index for index, job in enumerate(jobs)}
        self._num_open = len(self.tickets)
        return list(self.tickets)

    def other_logprobs(self) -> dict[str, tuple[float, ...]]:
        """Return log p of the completions of an open `Rewards` request under the reward's other prompts, by column."""
        assert self._other_prompts is not None
        return self._other_prompts.columns(self.scored_completions) if isinstance(self.request, Rewards) else {}

    def receive(self, ticket: int, answer: Branch | TopTokens | tuple[float, ...] | MaxentError, forwarded_tokens: int) -> None:
        """Take one answer of the engine; when all are there, the search is ready."""
        self.usage.forwarded_tokens += forwarded_tokens
        self._num_open -= 1
        if isinstance(answer, MaxentError):
            self.fail(answer)
            return
        self._answers[self.tickets[ticket]] = answer
        if self._num_open == 0:
            self._deliver()

    def receive_rewards(self, values: list[float]) -> None:
        """Take the rewards of the open request."""
        self.usage.reward_calls += len(values)
        self._value = tuple(values)
        if isinstance(self.request, Rewards):
            self.meter.score(self.request.completions, values)
        self.request = None

    def read_answers(self) -> None:
        """Answer an `Answers` request from the completions' texts."""
        assert isinstance(self.request, Answers)
        if self._answer_fn is None:
            self.fail(SettingError("This method votes on final answers, but the task has none to read. Use best_of_n or maxent."))
            return
        try:
            self._value = tuple(self._answer_fn(self.text(completion.tokens)) for completion in self.request.completions)
        except Exception as error:  # noqa: BLE001 - a task's parser that breaks on one text must not end the other searches
            self.fail(error)
        self.request = None

    def text(self, tokens: Tokens) -> str:
        """Decode, once per completion."""
        if tokens not in self._texts:
            self._texts[tokens] = self._engine.decode(tokens)
        return self._texts[tokens]

    def fail(self, error: Exception) -> None:
        """End this search with an error."""
        self._error = error
        self.is_done = True

    def close(self) -> None:
        """Stop the generator and free the context."""
        self.meter.stop()
        if self._search is not None:
            self._search.close()
        if self._other_prompts is not None:
            self._other_prompts.close()
        if self._context is not None:
            self.usage.prompt_tokens = self._context.num_prompt_tokens  # which a server may have counted only now
            self._engine.close(self._context)
            self._context = None

    def result(self) -> SearchResult:
        """What became of it."""
        return SearchResult(self.job, self._outcome, self.usage, self._error, tuple(self.meter.trajectory), self._other_logprobs)

    def _check_method(self) -> None:
        """Refuse a method of the package's own that would take NaN for log p; a method of the user's may know what it does."""
        factory = getattr(self.job.method, "func", self.job.method)
        place = f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', '')}"
        name = next((name for name, where in METHODS.items() if where == place), None)
        if not self._has_logprobs and name is not None and name not in METHODS_WITHOUT_LOGPROBS:
            raise SettingError(
                f"The method '{name}' needs log-probabilities, but this engine knows none. These methods need none: "
                f"{', '.join(sorted(METHODS_WITHOUT_LOGPROBS))}."
            )

    def _deliver(self) -> None:
        """Meter the answers in the order of the request, and make them the value to send."""
        if isinstance(self.request, Rewards):
            assert self._other_prompts is not None
            self._other_prompts.receive(self._answers)
            return
        requests = self.request.requests if isinstance(self.request, Parallel) else (self.request,)
        for one, answer in zip(requests, self._answers, strict=True):
            self.meter.count(one, answer)
            rollouts = answer.rollouts if isinstance(answer, Branch) else ()
            if self._has_logprobs and not all(math.isfinite(logprob) for rollout in rollouts for logprob in rollout.logprobs):
                self.fail(EngineError("The engine returned a log-probability that is not finite for a token it drew."))
        self._value = tuple(self._answers) if isinstance(self.request, Parallel) else self._answers[0]

    def _completed(self, outcome: Outcome) -> Outcome:
        """Add the texts, and the diagnostics that every method has: see `Outcome.info`."""
        if not all(math.isfinite(weight) for weight in outcome.weights):
            raise EngineError("The method weighed completions by numbers that are not finite. Does it need log p, and is it known?")
        assert self._other_prompts is not None
        self._other_logprobs = self._other_prompts.columns(outcome.completions)
        completions = tuple(replace(one, text=self.text(one.tokens)) for one in outcome.completions)
        info = dict(outcome.info)
        if outcome.weights:
            info["ess"] = 1.0 / math.fsum(weight * weight for weight in outcome.weights)
        if (duplicate_rate := self.meter.duplicate_rate()) is not None:
            info["duplicate_rate"] = duplicate_rate
        return replace(outcome, completions=completions, info=info)
