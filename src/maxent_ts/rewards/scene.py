"""The series a text is about, and what checks of statements have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maxent_ts.rewards.measure import Measured

__all__ = ["Scene", "Verdict", "ramp"]

Verdict = tuple[float, dict[str, float]]
"""How true something is, from 0 to 1, and what was measured."""


@dataclass(frozen=True)
class Scene:
    """The series of one example."""

    series: tuple[Measured, ...]
    names: tuple[str, ...]

    @property
    def busiest(self) -> int:
        """Index of the series with the largest standard deviation: what a statement without a name is about."""
        return max(range(len(self.series)), key=lambda index: self.series[index].std)

    @property
    def scale(self) -> float:
        """Length of the vector of means: what "small" and "large" variation are compared with. For acceleration, gravity."""
        return math.sqrt(sum(one.mean**2 for one in self.series))


def ramp(value: float, false_at: float, true_at: float) -> float:
    """Return 0 at `false_at`, 1 at `true_at`, and linear values between; `true_at` may be the smaller one."""
    return float(min(max((value - false_at) / (true_at - false_at), 0.0), 1.0))
