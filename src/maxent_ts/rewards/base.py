"""What a reward is: a callable with TRL's signature.

    def reward(prompts, completions, completion_ids, **columns) -> list[float | None]

`columns` are the example's inputs, each a list with one entry per completion, plus `logprobs` (log p of each completion,
nats). A function without `**kwargs` gets the columns it names. None means "not applicable". Targets are not among the
columns, and there is no way to reach them from here.

A reward may also have a method `prefix` of the same signature that scores unfinished completions: its guess of
V(s) = log E[exp(λ r) | s] / λ, in the reward's own unit. Searches that steer by it say so.

A reward that asks what the model thinks of a completion under another prompt has an attribute `other_prompts`: names of columns,
each with a function from the prompt to the other one. The driver has the engine score the completions under it, batched with
all else, and the column holds log p of each, nats. Generated tokens do not count it; forwarded tokens do.

A reward that was fitted has an attribute `provenance`: by its name, of what kind it is, on what it was fitted, and a content hash.
run.json, the printed tables and the report say it.

Reference: TRL's GRPOTrainer documentation, "Using a custom reward function".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from maxent_ts.errors import MissingColumnError
from maxent_ts.types import Prompt

__all__ = ["Evidence", "Reward", "RewardFunction", "missing_column", "other_prompts", "prefix_function", "provenance"]

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


def missing_column(problem: str, columns: Mapping[str, Any]) -> MissingColumnError:
    """Return the error of a reward whose column a task does not have.

    Args:
        problem: What the reward reads and what did not come, as a sentence.
        columns: Those that came.
    """
    return MissingColumnError(f"{problem} Its columns are: {', '.join(sorted(columns)) or 'none'}. Choose another reward.")


def prefix_function(reward: Reward | RewardFunction) -> Callable[..., list[float | None]] | None:
    """Return what scores unfinished completions under a reward; None if nothing does."""
    return getattr(reward, "prefix", None)


def other_prompts(reward: Reward | RewardFunction) -> Mapping[str, Callable[[Prompt], Prompt]]:
    """Return the columns of log-probabilities under other prompts that a reward reads; empty for most."""
    return getattr(reward, "other_prompts", {})


def provenance(reward: Reward | RewardFunction) -> Mapping[str, Mapping[str, str]]:
    """Return for each fitted part of a reward, by name, its `kind` and where it comes from; empty for most."""
    return getattr(reward, "provenance", {})
