"""How much a statement says: one minus the share of series of which it holds.

"There is a peak" holds for nearly every series and says nothing; "the mean is 5.2" holds for few. Without this weight a reward
for true statements is earned by remarks that fit any series. The shares are rounded averages over series of the M4
competition (hourly, weekly) and windows of UCI HAR; `python benchmarks/claims.py --base-rates` measures them again.
"""

from __future__ import annotations

from collections.abc import Mapping

from maxent_ts.rewards.statements import Statement

__all__ = ["informativeness"]

_WHOLE: Mapping[tuple[str, str], float] = {
    ("trend", "up"): 0.15,
    ("trend", "down"): 0.1,
    ("flat", ""): 0.55,
    ("no trend", ""): 0.7,
    ("extreme", "maximum"): 0.95,
    ("extreme", "minimum"): 0.95,
    ("extreme", "peak"): 0.95,
    ("extreme", "trough"): 0.95,
    ("ends", "up"): 0.5,
    ("ends", "down"): 0.5,
    ("ends", "same"): 0.5,
    ("rough", "rough"): 0.2,
    ("rough", "smooth"): 0.8,
    ("rough", "volatile"): 0.95,
    ("rhythm", ""): 0.5,
    ("spread", "weak"): 0.3,
    ("spread", "moderate"): 0.5,
    ("spread", "strong"): 0.65,
    ("spread change", "up"): 0.2,
    ("spread change", "down"): 0.2,
    ("shift", ""): 0.05,
    ("shift", "up"): 0.05,
    ("shift", "down"): 0.05,
    ("spike", ""): 0.35,
    ("axis", "gravity"): 0.33,
    ("axis", "most variable"): 0.33,
    ("axis", "least variable"): 0.33,
}
"""Share of series of which a statement without a place holds."""

_PART: Mapping[str, float] = {
    "trend": 0.35,
    "flat": 0.15,
    "extreme": 0.7,
    "rough": 0.5,
    "spread": 0.45,
    "spike": 0.65,
    "level": 0.4,
    "shift": 0.05,
}
"""Share of series of which a statement about a part holds, by kind."""

_POINT = 0.2
"""Share of series of which a statement holds that names one position."""


def informativeness(statement: Statement) -> float:
    """Return the weight of a statement, between 0 (holds for every series) and 1 (for hardly any)."""
    if statement.kind == "number":
        return 1.0
    place = statement.place
    if place.relation == "at":
        holds = _POINT
    elif place.explicit and place.relation != "whole":
        holds = _PART.get(statement.kind, 0.5)
    else:
        holds = _WHOLE.get((statement.kind, statement.value), 0.5)
    return holds if statement.negated else 1.0 - holds
