"""What a reward is: a callable with TRL's signature.

    def reward(prompts, completions, completion_ids, **columns) -> list[float | None]

`columns` are the example's inputs, each a list with one entry per completion, plus `logprobs` (log p of each completion,
nats). A function without `**kwargs` gets the columns it names. None means "not applicable". Targets are not among the
columns, and there is no way to reach them from here.

A reward may also have a method `prefix` of the same signature that scores unfinished completions: its guess of
V(s) = log E[exp(λ r) | s] / λ, in the reward's own unit. Searches that steer by it say so.

Reference: TRL's GRPOTrainer documentation, "Using a custom reward function".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Evidence", "Reward", "RewardFunction", "prefix_function"]

Evidence = Mapping[str, Any]
"""Why a completion got its reward, as plain JSON values."""


class RewardFunction(Protocol):
    """A reward as TRL's users write it."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
        """Return one value per completion."""
        ...


class Reward(Protocol):
    """A reward with a name, known bounds, and evidence."""

    @property
    def name(self) -> str:
        """The name in tables and records."""
        ...

    @property
    def range(self) -> tuple[float, float]:
        """Bounds the values keep; infinite where unknown."""
        ...

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion."""
        ...

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the parts and the evidence behind each value: `{"value": …, "parts": {name: {"value": …, …}}, …}`."""
        ...


def prefix_function(reward: Reward | RewardFunction) -> Callable[..., list[float | None]] | None:
    """Return what scores unfinished completions under a reward; None if nothing does."""
    return getattr(reward, "prefix", None)
