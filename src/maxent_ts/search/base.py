"""What a search may ask for.

A search is a generator for one prompt. It yields a request and is sent the answer; it returns an `Outcome`. It never sees
a model, a device, a text or a clock. When the budget is spent, `Rollouts` is answered with fewer rollouts than asked, in
the end with none: then the search returns what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from maxent_ts.types import Completion, Outcome, Tokens

__all__ = [
    "AS_MANY_AS_AFFORDABLE",
    "Answers",
    "NextTokens",
    "Parallel",
    "PrefixRewards",
    "Request",
    "Rewards",
    "Rollouts",
    "Search",
    "SearchFactory",
]


AS_MANY_AS_AFFORDABLE = 1 << 30
"""`Rollouts.num` of a search that goes on until the budget is spent."""


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
    num_tokens: int | None = None
    """At most so many tokens each; a rollout that this cuts is `unfinished`. None goes to the end."""


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Ask for `num` next tokens after `prefix`. Answered with `TopTokens`; costs one generated token, whatever `num`."""

    prefix: Tokens
    num: int
    do_sample: bool = False
    """False: the most likely ones, most likely first. True: drawn from p without replacement, in the order of drawing."""


@dataclass(frozen=True, slots=True)
class Rewards:
    """Ask for the rewards of completions. Answered with a tuple of finite floats, one each."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class PrefixRewards:
    """Ask what unfinished completions promise: ψ(s), the reward's own guess of V(s) = log E_p[exp(λ r) | s] / λ.

    Only where `target.has_prefix_rewards`. Answered with a tuple of finite floats, one each.
    """

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Ask for the final answers stated in completions, as the task parses them. Answered with a tuple of `str | None`."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Several requests at once. Answered with a tuple of their answers, in order."""

    requests: tuple[Rollouts | NextTokens, ...]


Request = Rollouts | NextTokens | Rewards | PrefixRewards | Answers | Parallel


Search = Generator[Request, Any, Outcome]
SearchFactory = Callable[..., Search]
"""`(rng: numpy.random.Generator, target: Target, *, **settings) -> Search`."""
