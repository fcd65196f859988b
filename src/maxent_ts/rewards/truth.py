"""How true a statement is of the series it is about.

Every check returns a degree from 0 (false) to 1 (true) and what it measured. The degree is linear between two documented
marks, so that "rises" of a series that barely does is half true, rather than one or the other by an accident of a threshold.
The marks were set on half of the human captions of TRUCE (Jhamtani and Berg-Kirkpatrick 2021, arXiv 2110.01839); figures on
the other half come from benchmarks/claims.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maxent_ts.rewards.measure import Measured
from maxent_ts.rewards.scene import Scene, Verdict, ramp
from maxent_ts.rewards.shapes import (
    check_ends,
    check_extreme,
    check_flat,
    check_level,
    check_no_trend,
    check_rough,
    check_shift,
    check_spike,
    check_trend,
)
from maxent_ts.rewards.statements import Statement

__all__ = ["CHECKS", "judge"]


def _check_rhythm(_: Statement, series: Measured, __: Scene) -> Verdict:
    """A rhythm: the autocorrelation at the best lag."""
    strength = series.period.strength
    return ramp(strength, 0.4, 0.7), {"autocorrelation": strength, "period_steps": series.period.steps}


def _check_spread(statement: Statement, series: Measured, scene: Scene) -> Verdict | None:
    """Low, moderate or high variation: the standard deviation over the size of the means; within a part, over that elsewhere."""
    place = statement.place
    if place.relation not in ("whole", "at"):
        steps = np.abs(np.diff(series.path))
        middles = (np.arange(len(steps)) + 0.5) / len(steps)
        inside = (middles >= place.low) & (middles <= place.high)
        if not inside.any() or inside.all() or series.is_constant:
            return None
        ratio = float((steps[inside].mean() + 1e-3) / (steps[~inside].mean() + 1e-3))
        degree = {
            "strong": ramp(ratio, 0.8, 1.5),
            "weak": ramp(ratio, 1.25, 0.67),
            "moderate": ramp(abs(math.log(ratio)), 1.0, 0.3),
        }
        return degree[statement.value], {"steps_inside_over_outside": ratio}
    if scene.scale <= 0.2 * series.std:
        return None
    ratio = series.std / scene.scale
    degree = {
        "weak": ramp(ratio, 0.1, 0.035),
        "strong": ramp(ratio, 0.05, 0.15),
        "moderate": min(ramp(ratio, 0.01, 0.03), ramp(ratio, 0.35, 0.18)),
    }
    return degree[statement.value], {"std": series.std, "std_over_scale": ratio}


def _check_spread_change(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Variation grows or shrinks: the size of steps in the second half over that in the first."""
    ratio = series.volatility_ratio
    return ramp(math.log(ratio) * (1.0 if statement.value == "up" else -1.0), 0.0, math.log(1.6)), {"volatility_ratio": ratio}


def _check_axis(statement: Statement, _: Measured, scene: Scene) -> Verdict | None:
    """Which of several series carries gravity, or varies most or least."""
    if len(scene.series) < 2 or len(statement.series) != 1:
        return None
    size = [abs(one.mean) if statement.value == "gravity" else one.std for one in scene.series]
    own = size.pop(statement.series[0])
    if statement.value == "least variable":
        other = min(size)
        return (ramp(own, 1.25 * other, other) if other > 0.0 else float(own == 0.0)), {"own": own, "smallest_other": other}
    other = max(size)
    return (ramp(own, 0.8 * other, other) if other > 0.0 else 1.0), {"own": own, "largest_other": other}


def _quantity(name: str, series: Measured) -> tuple[float, ...]:
    """Return the values that a named quantity may have, the one to report first."""
    first, last = float(series.values[0]), float(series.values[-1])
    simple = {
        "mean": (series.mean,),
        "median": (series.median,),
        "minimum": (series.minimum,),
        "maximum": (series.maximum,),
        "std": (series.std,),
        "range": (series.range,),
        "start": (first,),
        "end": (last,),
        "reached": (series.maximum, series.minimum, last),
    }
    return simple[name]


def _check_number(statement: Statement, series: Measured, scene: Scene) -> Verdict | None:
    """A number, with a tolerance for rounding, and beyond it a margin over which the degree falls to 0."""
    claimed = statement.number
    if claimed is None:
        return None
    if statement.value in ("frequency", "period", "period in seconds"):
        return _check_rhythm_number(statement, claimed, series)
    candidates = _quantity(statement.value, series)
    actual = min(candidates, key=lambda value: abs(value - claimed))
    size = max(scene.scale, abs(actual)) if len(scene.series) > 1 else abs(actual)
    rounding = max(statement.precision, 0.01 * abs(actual), 0.02 * series.range) + 1e-9
    margin = 0.1 * series.range + 0.02 * size + 1e-9
    return ramp(abs(claimed - actual), rounding + margin, rounding), {"measured": actual}


def _check_rhythm_number(statement: Statement, claimed: float, series: Measured) -> Verdict | None:
    """A period or frequency: within 8 % of the lag or the spectral peak is true, beyond 25 % false."""
    rhythm = series.period
    if statement.value != "period" and series.sampling_rate is None:
        return None
    if claimed <= 0.0 or not (rhythm.steps or rhythm.dominant_steps):
        return 0.0, {"autocorrelation": rhythm.strength}
    steps = claimed
    if statement.value == "period in seconds":
        steps = claimed * (series.sampling_rate or 0.0)
    slack = statement.precision
    if statement.value == "frequency":
        steps = (series.sampling_rate or 0.0) / claimed
        slack = steps * statement.precision / claimed
    errors = [max(abs(steps - actual) - slack, 0.0) / actual for actual in (rhythm.steps, rhythm.dominant_steps) if actual > 0.0]
    measured = {"period_steps": rhythm.steps, "dominant_steps": rhythm.dominant_steps, "autocorrelation": rhythm.strength}
    if series.sampling_rate is not None:
        measured["frequency"] = series.frequency
    return ramp(min(errors), 0.25, 0.08) * ramp(rhythm.strength, 0.1, 0.4), measured


CHECKS: Mapping[str, Callable[[Statement, Measured, Scene], Verdict | None]] = {
    "axis": _check_axis,
    "ends": check_ends,
    "extreme": check_extreme,
    "flat": check_flat,
    "level": check_level,
    "no trend": check_no_trend,
    "number": _check_number,
    "rhythm": _check_rhythm,
    "rough": check_rough,
    "shift": check_shift,
    "spike": check_spike,
    "spread": _check_spread,
    "spread change": _check_spread_change,
    "trend": check_trend,
}


def judge(statement: Statement, scene: Scene) -> tuple[float, dict[str, Any]] | None:
    """Return how true a statement is and what was measured; None where the series cannot decide it.

    A statement about several series is as true as it is of the worst. One that names no series is about the busiest.
    """
    subjects = statement.series or (scene.busiest,)
    check = CHECKS[statement.kind]
    if statement.kind == "axis":
        subjects = subjects[:1]
    worst: Verdict | None = None
    for index in subjects:
        verdict = check(statement, scene.series[index], scene)
        if verdict is None:
            return None
        degree = 1.0 - verdict[0] if statement.negated else verdict[0]
        if worst is None or degree < worst[0]:
            worst = (degree, {"series": scene.names[index], **verdict[1]})  # type: ignore[dict-item]
    return worst
