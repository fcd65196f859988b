"""How true a statement is of the series it is about.

Every check returns a degree from 0 (false) to 1 (true) and what it measured. The degree is linear between two documented
marks, so that "rises" of a series that barely does is half true, rather than one or the other by an accident of a threshold.
The marks were set on half of the human captions of TRUCE (Jhamtani and Berg-Kirkpatrick 2021, arXiv 2110.01839); figures on
the other half come from benchmarks/claims.py.

Shapes are judged on `Measured.path`, which runs from 0 to 1: a rise of 0.5 is half of the series' range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.rewards.measure import Measured
from maxent_ts.rewards.statements import Statement

__all__ = ["CHECKS", "Scene", "judge"]

Verdict = tuple[float, dict[str, float]]


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


def _part(path: np.ndarray, low: float, high: float) -> np.ndarray:
    """Cut a path to the points within two positions, and to one more on either side if fewer than two lie there."""
    last = len(path) - 1
    first, after = math.floor(low * last + 1e-9), math.ceil(high * last - 1e-9) + 1
    first = max(min(first, last - 1), 0)
    return path[first : max(after, first + 2)]


def _window(statement: Statement) -> tuple[float, float]:
    """Return the positions where a course is looked for.

    Writers place a course by where it shows most: at the border for the beginning and the end, widely around the middle.
    """
    low, high = statement.place.low, statement.place.high
    if statement.place.relation == "in" and high - low < 0.4:
        if low < 0.01:
            return 0.0, 0.8 * high
        if high > 0.99:
            return 1.0 - 0.8 * (1.0 - low), 1.0
        return low - 0.06, high + 0.06
    if statement.place.relation == "at":
        return max(low - 0.1, 0.0), min(high + 0.1, 1.0)
    return low, high


def _advance(part: np.ndarray) -> float:
    """Return how much a part of a path goes up: the mean of its largest climb less half of its largest drop, and its net rise."""
    climb = float(np.max(part - np.minimum.accumulate(part)))
    drop = float(np.max(np.maximum.accumulate(part) - part))
    steps = np.arange(len(part)) - (len(part) - 1) / 2.0
    line = float(steps @ part / (steps @ steps)) * (len(part) - 1)
    net = 0.5 * (float(part[-1] - part[0]) + line)
    return 0.5 * (climb - 0.5 * drop) + 0.5 * net


_SPLITS = (0.25, 0.4, 0.5, 0.6, 0.75)
"""Where one course may give way to the next in "rises, then falls"."""


def _check_trend(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Up or down: by Spearman's correlation over the whole series, by the advance of the path within a part."""
    sign = 1.0 if statement.value == "up" else -1.0
    relation = statement.place.relation
    if relation == "whole":
        correlation = series.trend.rank_correlation
        return ramp(sign * correlation, 0.1, 0.75), {"rank_correlation": correlation, "slope_per_step": series.trend.slope}
    path = sign * series.path
    if relation in ("opening", "closing"):
        parts = [_part(path, 0.0, split) if relation == "opening" else _part(path, split, 1.0) for split in _SPLITS]
        advance = max(_advance(part) for part in parts)
        return ramp(advance, 0.1, 0.8), {"advance_in_ranges": sign * advance}
    low, high = _window(statement)
    advance = _advance(_part(path, low, high))
    return ramp(advance, 0.0, 0.6), {"advance_in_ranges": sign * advance, "from": low, "to": high}


def _check_flat(statement: Statement, series: Measured, scene: Scene) -> Verdict:
    """Flat: a range that is small beside the values over the whole series, small beside the whole range within a part."""
    relation = statement.place.relation
    if relation == "whole":
        scale = scene.scale if len(scene.series) > 1 else float(np.abs(series.values).max())
        relative = series.std / scale if scale > 0.0 else (0.0 if series.is_constant else math.inf)
        if len(scene.series) > 1:
            return ramp(relative, 0.1, 0.035), {"std_over_scale": relative}
        return ramp(relative, 0.3, 0.02), {"std_over_largest_value": relative}
    path = series.path
    if relation in ("opening", "closing"):
        parts = [_part(path, 0.0, split) if relation == "opening" else _part(path, split, 1.0) for split in _SPLITS]
        spread = min(float(np.ptp(part)) for part in parts)
    else:
        low, high = _window(statement)
        if relation == "from":
            low = low + 0.4 * (1.0 - low)
        if relation == "until":
            high = 0.8 * high
        spread = float(np.ptp(_part(path, low, high)))
    return ramp(spread, 0.75, 0.1), {"range_of_part_over_range": spread}


def _check_no_trend(_: Statement, series: Measured, __: Scene) -> Verdict:
    """No trend: neither rank correlation nor the fitted line moves far."""
    trend = series.trend
    degree = min(ramp(abs(trend.rank_correlation), 0.6, 0.25), ramp(abs(trend.strength), 0.4, 0.12))
    return degree, {"rank_correlation": trend.rank_correlation, "line_over_range": trend.strength}


def _positions(series: Measured) -> np.ndarray:
    return np.linspace(0.0, 1.0, len(series.path))


def _lead(path: np.ndarray, positions: np.ndarray, low: float, high: float) -> float:
    """Return how far the highest point inside two positions lies above the highest outside, in ranges."""
    inside = (positions >= low - 1e-9) & (positions <= high + 1e-9)
    if not inside.any():
        inside[int(np.argmin(np.abs(positions - 0.5 * (low + high))))] = True
    outside = float(path[~inside].max()) if not inside.all() else 0.0
    return float(path[inside].max()) - outside


def _prominence(path: np.ndarray, positions: np.ndarray, low: float, high: float) -> float:
    """Return how far the most prominent summit inside two positions rises above both its sides; at a border, 0.7 of one."""
    best = 0.0
    last = len(path) - 1
    for index in np.flatnonzero((positions >= low - 1e-9) & (positions <= high + 1e-9)):
        top = path[index]
        higher_before = np.flatnonzero(path[:index] > top)
        higher_after = np.flatnonzero(path[index + 1 :] > top)
        left = path[(higher_before[-1] + 1 if len(higher_before) else 0) : index + 1]
        right = path[index : (index + 1 + higher_after[0] if len(higher_after) else last + 1)]
        rises = float(top - left.min()), float(top - right.min())
        best = max(best, min(rises) if 0 < index < last else 0.7 * max(rises))
    return best


def _check_extreme(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Place of the highest or lowest point (maximum, minimum) or of a local one (peak, trough)."""
    upward = statement.value in ("maximum", "peak")
    path = series.path if upward else 1.0 - series.path
    positions = _positions(series)
    place = statement.place
    where = series.where("maximum" if upward else "minimum")
    nearest = min(where, key=lambda position: max(place.low - position, position - place.high, 0.0))
    if series.is_constant:
        return 0.0, {"position": nearest}
    if place.relation == "whole":
        found = _prominence(path, positions, 0.0, 1.0)
        return ramp(found, 0.1, 0.4), {"prominence_in_ranges": found}
    if place.relation == "at":
        distance = min(abs(position - place.low) for position in where)
        return ramp(distance, 0.2, 0.05), {"position": nearest}
    low, high = place.low - 0.04, place.high + 0.04
    inside = any(low <= position <= high for position in where)
    if statement.value in ("maximum", "minimum"):
        lead = max(_lead(path, positions, low, high), 0.0 if inside else -1.0)
        return ramp(lead, -0.25, 0.0), {"position": nearest, "lead_in_ranges": lead}
    width = 0.05 if place.relation == "in" else 0.0
    low, high = low - width, high + width
    found = _prominence(path, positions, low, high)
    lead = _lead(path, positions, low, high)
    return ramp(found + 0.5 * lead, -0.1, 0.7), {"position": nearest, "prominence_in_ranges": found, "lead_in_ranges": lead}


def _check_ends(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Last value against first value."""
    change = float(series.path[-1] - series.path[0])
    degree = {"up": ramp(change, -0.1, 0.3), "down": ramp(-change, -0.1, 0.3), "same": ramp(abs(change), 0.6, 0.05)}[
        statement.value
    ]
    return degree, {"last_minus_first_in_ranges": change}


def _check_rough(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Noisy or smooth by von Neumann's ratio; fluctuating by the length of the path beyond one range."""
    travelled = float(np.abs(np.diff(series.path)).sum())
    if statement.value == "volatile" or (statement.value == "rough" and len(series) < 24):
        return ramp(travelled, 1.2, 3.0), {"path_length_in_ranges": travelled}
    if statement.value == "rough":
        return ramp(series.roughness, 0.1, 0.45), {"roughness": series.roughness}
    return ramp(series.roughness, 0.45, 0.05), {"roughness": series.roughness}


def _check_level(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Low or high within a part: the mean of the path there."""
    mean = float(_part(series.path, statement.place.low, statement.place.high).mean())
    return (ramp(mean, 0.65, 0.2) if statement.value == "low" else ramp(mean, 0.35, 0.8)), {"mean_of_part_in_ranges": mean}


def _check_spike(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """An isolated point far from its neighbours, or within a named part the sharpest summit."""
    positions = [index / (len(series) - 1) for index in series.spikes]
    place = statement.place
    inside = [position for position in positions if place.low - 0.04 <= position <= place.high + 0.04]
    found = _prominence(series.path, _positions(series), place.low - 0.04, place.high + 0.04)
    degree = 1.0 if inside else (0.9 * ramp(found, 0.2, 0.8) if place.explicit and place.relation != "whole" else 0.0)
    return degree, {"num_spikes": float(len(positions)), "prominence_in_ranges": found}


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
    "ends": _check_ends,
    "extreme": _check_extreme,
    "flat": _check_flat,
    "level": _check_level,
    "no trend": _check_no_trend,
    "number": _check_number,
    "rhythm": _check_rhythm,
    "rough": _check_rough,
    "spike": _check_spike,
    "spread": _check_spread,
    "spread change": _check_spread_change,
    "trend": _check_trend,
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
