"""What a task is.

An example keeps apart what a reward may see (`inputs`) and what only the metrics may see (`target`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from maxent_ts.types import Prompt

__all__ = ["Example", "Score", "Task", "UpstreamScorer", "measure_function"]


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
    reference: str | None = None
    """The gold text as the data has it, from which an upstream scorer reads its own target. Metrics alone see it."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer makes of one text."""

    answer: str | None
    """The class that the text names; None if it names none of the possible ones."""
    target: str
    """The class that is right."""
    correct: bool
    """What accuracy counts. A scorer may be stricter here than `answer == target`, as OpenTSLM's HAR parser is."""


class UpstreamScorer(Protocol):
    """The parser and the class rules of the data's own authors, with all their quirks. A task has one or none."""

    @property
    def always(self) -> Mapping[str, tuple[str, ...]]:
        """For each stratum ("" for all items), classes that macro-F1 averages over even if no target is one of them."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether targets outside of `always` are left out of macro-F1; otherwise they are classes of their own."""
        ...

    def score(self, text: str, example: Example) -> Score | None:
        """Return the score of a text; None for an item without a reference."""
        ...


class Task(Protocol):
    """Examples and how to read an answer.

    A task may also have a method `measures(example, text, texts, weights) -> Mapping[str, float | None]`: what its own metrics say
    about the returned completion, and about all that were evaluated with the method's weights. It may look at the target; None
    means that a measure does not apply to the item; the search never sees them.

    Two more attributes are optional: `embedded_model`, the folder below `assets/` of the embedded model that it is for ("model"
    without it), and `max_new_tokens`, the length that a completion needs, for commands that name neither a preset nor a length.
    """

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


def measure_function(task: Task) -> Callable[..., Mapping[str, float | None]] | None:
    """Return what computes a task's own measures; None if it has none."""
    return getattr(task, "measures", None)
