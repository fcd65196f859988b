"""What a task is.

An example keeps apart what a reward may see (`inputs`) and what only the metrics may see (`target`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from maxent_ts.types import Prompt

__all__ = ["Example", "Task"]


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a task."""

    id: str
    """Unique in the task and stable across runs and subsets: it names the item's random streams and records."""
    prompt: Prompt
    inputs: Mapping[str, Any]
    """Columns for rewards. For time series: `series` (list of lists, in the data's own unit), `series_names`, `labels`
    (possible answers, () for free text)."""
    target: str | None
    """The gold answer. Metrics alone see it. None where there is none."""
    stratum: str
    """What a stratified subset keeps in proportion."""


class Task(Protocol):
    """Examples and how to read an answer."""

    @property
    def name(self) -> str:
        """The name in tables and records."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Possible answers; () for free text, which has no accuracy and no vote."""
        ...

    @property
    def rewards(self) -> Mapping[str, float]:
        """Names and weights of the rewards used unless the user names others."""
        ...

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load the test items: a seeded stratified subset of `limit`, all of them without.

        Raises:
            DataError: if a file or column is missing or a series is not made of finite numbers.
        """
        ...

    def answer(self, text: str) -> str | None:
        """Return the label a completion ends in, None if it states no valid one."""
        ...
