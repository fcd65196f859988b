"""What a search may ask for.

A search is a generator for one prompt. It yields a request and is sent the answer; it returns an `Outcome`. It never sees
a model, a device, a text or a clock. When the budget is spent, `Rollouts` is answered with fewer rollouts than asked, in
the end with none: then the search returns what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.types import Completion, FinishReason, Outcome, Tokens

__all__ = ["Answers", "Branch", "NextTokens", "Parallel", "Request", "Rewards", "Rollout", "Rollouts", "Search", "SearchFactory", "TopTokens"]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Ask for completions that begin with `prefix`, drawn from p. Answered with a `Branch`."""

    prefix: Tokens = ()
    num: int = 1
    exclude: Tokens = ()
    """First tokens that may not be drawn: those already seen at this prefix."""
    distinct: bool = False
    """The first tokens of the rollouts differ from each other (drawn from p without replacement)."""
    do_sample: bool = True
    """False: the most likely token at every step."""


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Ask for the `num` most likely next tokens after `prefix`. Answered with `TopTokens`; costs one generated token."""

    prefix: Tokens
    num: int


@dataclass(frozen=True, slots=True)
class Rewards:
    """Ask for the rewards of completions. Answered with a tuple of finite floats, one each."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Ask for the final answers stated in completions, as the task parses them. Answered with a tuple of `str | None`."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Several requests at once. Answered with a tuple of their answers, in order."""

    requests: tuple[Rollouts | NextTokens, ...]


Request = Rollouts | NextTokens | Rewards | Answers | Parallel


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the model wrote after a prefix."""

    tokens: Tokens
    """The tokens after the prefix; at least one."""
    logprobs: tuple[float, ...]
    """log p(token | everything before), nats, one each, never renormalised for excluded tokens."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Branch:
    """The rollouts from one prefix. Fewer than asked when the budget or the unseen tokens ran out."""

    rollouts: tuple[Rollout, ...]
    log_unseen: float
    """log of the prior mass at the prefix that is neither excluded nor drawn: log ρ(s) afterwards. -inf when all is
    seen; NaN when there are no rollouts because the budget was spent."""


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely next tokens, most likely first."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    """nats under p; empty when the budget was spent."""
    is_end: tuple[bool, ...]
    """Whether the token ends the completion (end-of-sequence)."""


Search = Generator[Request, Any, Outcome]
SearchFactory = Callable[..., Search]
"""`(rng: np.random.Generator, target: Target, *, **settings) -> Search`."""

RandomGenerator = np.random.Generator
