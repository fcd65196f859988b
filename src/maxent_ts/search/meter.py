"""What one search has spent and found, and what its budget still allows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from maxent_ts.errors import SettingError
from maxent_ts.search.base import AS_MANY_AS_AFFORDABLE, Rollouts
from maxent_ts.types import Branch, Budget, Completion, Tokens, TopTokens, Usage

__all__ = ["SearchMeter"]

ROLLOUTS_BETWEEN_LOOKS_AT_THE_CLOCK = 16
"""How many rollouts start at once when only wall time bounds a search: enough for a batch, few enough to stop in time."""


class SearchMeter:
    """Counts one search. A method never counts itself.

    Args:
        budget: What bounds the search.
        max_new_tokens: Length of a completion at most.

    Attributes:
        usage: The cost so far.
        trajectory: (generated tokens so far, best reward so far), one pair per scored completion.
        best: The completion of the highest reward, with that reward; None before the first.
    """

    def __init__(self, budget: Budget, max_new_tokens: int) -> None:
        self.usage = Usage()
        self.trajectory: list[tuple[int, float]] = []
        self.best: Completion | None = None
        self._budget = budget
        self._max_new_tokens = max_new_tokens
        self._started = time.perf_counter()
        self._reserved_tokens = 0
        self._reserved_rollouts = 0
        self._cost_at: dict[Tokens, int] = {}
        self._num_finished = 0
        self._finished: set[Tokens] = set()

    def check_budget(self) -> None:
        """Refuse a budget that no completion fits in."""
        tokens = self._budget.generated_tokens
        if tokens is not None and tokens < self._max_new_tokens:
            raise SettingError(
                f"The budget of {tokens} generated tokens does not cover one completion of max_new_tokens="
                f"{self._max_new_tokens}. Raise the budget or lower max_new_tokens."
            )

    def begin_request(self) -> None:
        """Forget what was reserved for the request before."""
        self._reserved_tokens = self._reserved_rollouts = 0

    def reserve(self, request: Rollouts) -> int:
        """Take from the budget what a request's rollouts may need, each as long as it can become; returns how many it covers."""
        length, segments = self._longest(request)
        num, budget, usage = request.num, self._budget, self.usage
        if budget.generated_tokens is None and budget.rollouts is None:
            if budget.seconds is not None:
                num = min(num, ROLLOUTS_BETWEEN_LOOKS_AT_THE_CLOCK)
            elif num == AS_MANY_AS_AFFORDABLE:
                raise SettingError("The search has no end: give num_rollouts, or a budget in generated tokens or seconds.")
        is_begun = request.reserve and len(request.prefix) > 0
        if self._is_late() and not is_begun:
            return 0
        if budget.rollouts is not None:
            num = min(num, (budget.rollouts - usage.rollouts - self._reserved_rollouts) // segments)
        num = max(0, min(num, self._num_left(num, length)))
        self._reserved_tokens += num * length
        self._reserved_rollouts += num * segments
        return num

    def reserve_token(self) -> bool:
        """Take one token from the budget, if it is there."""
        if self._is_late() or self._num_left(1, 1) < 1:
            return False
        self._reserved_tokens += 1
        return True

    def count(self, request: object, answer: object) -> None:
        """Count one answer of the engine."""
        if isinstance(answer, Branch) and isinstance(request, Rollouts):
            self.usage.rollouts += len(answer.thrown_away)
            self.usage.generated_tokens += sum(answer.thrown_away)
            for rollout in answer.rollouts:
                num_tokens = rollout.num_generated_tokens
                self.usage.rollouts += 1
                self.usage.generated_tokens += len(rollout.tokens) if num_tokens is None else num_tokens
                tokens = request.prefix + rollout.tokens
                self._cost_at.setdefault(tokens, self.usage.generated_tokens)
                if rollout.finish_reason != "unfinished":
                    self._num_finished += 1
                    self._finished.add(tokens)
        elif isinstance(answer, TopTokens):
            self.usage.generated_tokens += len(answer.tokens) > 0

    def score(self, completions: Sequence[Completion], rewards: Sequence[float]) -> None:
        """Note the rewards of completions, each at the number of tokens after which it was there."""
        best = self.trajectory[-1][1] if self.trajectory else -math.inf
        for completion, reward in zip(completions, rewards, strict=True):
            if reward > best:
                best, self.best = reward, replace(completion, reward=reward)
            self.trajectory.append((self._cost_at.get(completion.tokens, self.usage.generated_tokens), best))

    def duplicate_rate(self) -> float | None:
        """Share of the finished rollouts that had been there before; None without any."""
        return 1.0 - len(self._finished) / self._num_finished if self._num_finished else None

    def stop(self) -> None:
        """Stop the clock."""
        self.usage.seconds = time.perf_counter() - self._started

    def _is_late(self) -> bool:
        """Whether the time is up; a search that has no rollout yet is given its first."""
        limit = self._budget.seconds
        return limit is not None and self.usage.rollouts > 0 and time.perf_counter() - self._started > limit

    def _num_left(self, num: int, length: int) -> int:
        """How many of `num` times `length` tokens are left."""
        tokens = self._budget.generated_tokens
        return num if tokens is None else (tokens - self.usage.generated_tokens - self._reserved_tokens) // max(1, length)

    def _longest(self, request: Rollouts) -> tuple[int, int]:
        """The most tokens and rollouts that one rollout of a request can take; with `reserve`, to the completion's end."""
        length = self._max_new_tokens - len(request.prefix)
        if request.num_tokens is None:
            return length, 1
        if request.reserve:
            return length, max(1, math.ceil(length / request.num_tokens))
        return min(length, request.num_tokens), 1
