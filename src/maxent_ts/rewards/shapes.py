"""How true statements about the shape of a series are: courses, extrema, spikes, roughness.

Shapes are judged on `Measured.path`, which runs from 0 to 1: a rise of 0.5 is half of the series' range. The marks between which
a statement becomes true were set on half of the human captions of TRUCE; see `maxent_ts.rewards.truth`.
"""

from __future__ import annotations

import math

import numpy as np

from maxent_ts.rewards.measure import Measured, rank_correlation
from maxent_ts.rewards.scene import Scene, Verdict, ramp
from maxent_ts.rewards.statements import Statement

__all__ = [
    "check_ends",
    "check_extreme",
    "check_flat",
    "check_level",
    "check_no_trend",
    "check_rough",
    "check_shift",
    "check_spike",
    "check_trend",
]


_MANY = 12
"""Points from which on a rank correlation within a part says something."""


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


def _climb(part: np.ndarray) -> float:
    """Return the largest rise from a point of a path to a later one."""
    return float(np.max(part - np.minimum.accumulate(part)))


def _advance(part: np.ndarray) -> float:
    """Return how much a part of a path goes up: 0.7 of its largest climb less 0.3 of its largest drop, and 0.3 of its net rise."""
    steps = np.arange(len(part)) - (len(part) - 1) / 2.0
    line = float(steps @ part / (steps @ steps)) * (len(part) - 1)
    net = 0.5 * (float(part[-1] - part[0]) + line)
    return 0.7 * (_climb(part) - 0.3 * _climb(-part)) + 0.3 * net


def _around(path: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Return the largest climb in and around a part, and how far from the part the steepest step of all is."""
    steps = np.diff(path)
    position = (int(np.argmax(steps)) + 0.5) / len(steps)
    return _climb(_part(path, max(low - 0.15, 0.0), min(high + 0.15, 1.0))), max(low - position, position - high, 0.0)


_SPLITS = (0.25, 0.4, 0.5, 0.6, 0.75)
"""Where one course may give way to the next in "rises, then falls"."""


def check_trend(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Up or down: by Spearman's correlation over the whole series, by the advance of the path within a part."""
    sign = 1.0 if statement.value == "up" else -1.0
    relation = statement.place.relation
    if relation == "whole":
        correlation = series.trend.rank_correlation
        return ramp(sign * correlation, 0.1, 1.0), {"rank_correlation": correlation, "slope_per_step": series.trend.slope}
    path = sign * series.coarse_path
    if relation in ("opening", "closing"):
        parts = [_part(path, 0.0, split) if relation == "opening" else _part(path, split, 1.0) for split in _SPLITS]
        advance = max(_advance(part) for part in parts)
        return ramp(advance, 0.1, 0.8), {"advance_in_ranges": sign * advance}
    low, high = _window(statement)
    advance = _advance(_part(path, low, high))
    degree = ramp(advance, 0.0, 0.7)
    measured = {"advance_in_ranges": sign * advance, "from": low, "to": high}
    if relation == "in" and low > 0.0 and high - low < 0.5:
        climb, distance = _around(sign * series.path, low, high)
        degree = ramp(0.7 * advance + 0.3 * climb + 0.2 * ramp(distance, 0.25, 0.0), 0.15, 0.9)
        measured |= {"climb_around_in_ranges": climb, "steepest_step_away": distance}
    values = _part(series.values, low, high)
    if degree < 1.0 and advance > 0.0 and len(values) >= _MANY:
        # A gentle but steady rise is a rise too, where there are enough points to tell it from chance.
        correlation = rank_correlation(values)
        degree = max(degree, ramp(sign * correlation, 0.5, 0.9) * ramp(advance, 0.0, 0.15))
        measured["rank_correlation"] = correlation
    return degree, measured


def check_flat(statement: Statement, series: Measured, scene: Scene) -> Verdict:
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
    return ramp(spread, 0.75, 0.03), {"range_of_part_over_range": spread}


def check_no_trend(_: Statement, series: Measured, __: Scene) -> Verdict:
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


def check_extreme(statement: Statement, series: Measured, _: Scene) -> Verdict:
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
    measured = {"position": nearest, "prominence_in_ranges": found, "lead_in_ranges": lead}
    if place.relation == "in" and place.low < 0.01:
        # Writers call it a peak at the beginning only where the series first climbs to it.
        climb = _climb(_part(path, 0.0, 0.8 * place.high))
        return ramp(climb + 0.5 * found + 0.25 * lead, 0.1, 1.0), {**measured, "climb_in_ranges": climb}
    if place.relation == "in":
        part = _part(path, max(place.low - 0.06, 0.0), min(place.high + 0.06, 1.0))
        up, down = _climb(part), _climb(-part)
        return ramp(0.5 * found + lead + 0.25 * (up + down), 0.1, 0.8), {**measured, "climb_in_ranges": up, "drop_in_ranges": down}
    return ramp(found + 0.5 * lead, -0.1, 0.7), measured


def check_ends(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Last value against first value."""
    change = float(series.path[-1] - series.path[0])
    degree = {"up": ramp(change, -0.1, 0.3), "down": ramp(-change, -0.1, 0.3), "same": ramp(abs(change), 0.6, 0.05)}[
        statement.value
    ]
    return degree, {"last_minus_first_in_ranges": change}


def check_rough(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Noisy or smooth by von Neumann's ratio; fluctuating by the length of the path beyond one range."""
    travelled = float(np.abs(np.diff(series.path)).sum())
    if statement.value == "volatile" or (statement.value == "rough" and len(series) < 24):
        return ramp(travelled, 1.2, 3.0), {"path_length_in_ranges": travelled}
    if statement.value == "rough":
        return ramp(series.roughness, 0.1, 0.45), {"roughness": series.roughness}
    return ramp(series.roughness, 0.45, 0.05), {"roughness": series.roughness}


def check_level(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """Low or high within a part: the mean of the path there."""
    mean = float(_part(series.path, statement.place.low, statement.place.high).mean())
    return (ramp(mean, 0.65, 0.2) if statement.value == "low" else ramp(mean, 0.35, 0.8)), {"mean_of_part_in_ranges": mean}


def check_shift(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """A shift of level: two levels explain most of the variance, and most of the way between them is one jump."""
    shift = series.shift
    length = len(series)
    split = round(shift.position * (length - 1) + 0.5)
    near = max(1, length // 20)
    jump = float(series.values[split : split + near].mean() - series.values[max(split - near, 0) : split].mean()) if split else 0.0
    share = jump / shift.size if shift.size else 0.0
    degree = ramp(shift.strength, 0.4, 0.7) * ramp(share, 0.4, 0.8)
    place = statement.place
    if place.explicit and place.relation != "whole":
        degree *= ramp(max(place.low - shift.position, shift.position - place.high, 0.0), 0.2, 0.05)
    if statement.value and (shift.size > 0.0) != (statement.value == "up"):
        degree = 0.0
    measured = {"position": shift.position, "size": shift.size, "variance_explained": shift.strength, "jump_over_size": share}
    return degree, measured


def check_spike(statement: Statement, series: Measured, _: Scene) -> Verdict:
    """An isolated point far from its neighbours, or within a named part the sharpest summit."""
    positions = [index / (len(series) - 1) for index in series.spikes]
    place = statement.place
    inside = [position for position in positions if place.low - 0.04 <= position <= place.high + 0.04]
    found = _prominence(series.path, _positions(series), place.low - 0.04, place.high + 0.04)
    degree = 1.0 if inside else (0.9 * ramp(found, 0.2, 0.8) if place.explicit and place.relation != "whole" else 0.0)
    return degree, {"num_spikes": float(len(positions)), "prominence_in_ranges": found}
