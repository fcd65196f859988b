"""What can be said about series and checked against them."""

from __future__ import annotations

from dataclasses import dataclass

from maxent_ts.rewards.places import WHOLE, Place

__all__ = ["Statement"]


@dataclass(frozen=True, slots=True)
class Statement:
    """One checkable statement."""

    kind: str
    """What it is about: a key of `maxent_ts.rewards.truth.CHECKS`, such as `trend` or `number`."""
    value: str = ""
    """What is claimed, such as `up`, `maximum` or `low`."""
    place: Place = WHOLE
    """The part of the series it is about."""
    series: tuple[int, ...] = ()
    """Indices of the series it names; () where it names none."""
    number: float | None = None
    """The number claimed: in the series' unit, in steps or in Hz, by kind and value."""
    precision: float = 0.0
    """Half a unit of the last digit written."""
    negated: bool = False
    start: int = 0
    """Where its clause begins in the text."""
    end: int = 0
    """Where its clause ends in the text."""

    @property
    def slot(self) -> tuple[object, ...]:
        """What can be said once: two statements that share it repeat or contradict each other."""
        if self.kind == "axis":
            return self.kind, self.value
        if self.kind in ("number", "level"):
            return self.kind, self.value if self.kind == "number" else "", self.series, self.place
        if self.kind == "extreme":
            # There is one maximum, but there may be a peak in every part.
            return self.kind, self.value, self.series, None if self.value in ("maximum", "minimum") else self.place
        if self.kind == "rough" and self.value == "volatile":
            return "volatile", self.series, self.place
        return "course" if self.kind in ("trend", "flat", "no trend") else self.kind, self.series, self.place

    @property
    def claim(self) -> tuple[object, ...]:
        """What is said there: two statements with one slot and one claim are the same statement."""
        return self.kind, self.value, self.place, self.series, self.number, self.negated
