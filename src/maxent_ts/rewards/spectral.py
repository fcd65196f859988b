"""A reward for forecasts written as numbers: does the forecast go on as the context went?

Only the context is looked at, never what came after it. Three parts, each in [0, 1]:

    spectrum 0.4   exp(−max(0, d − d₀)). d is the distance of the forecast's spectrum from the context's: the mean over frequencies
                   of |log P − log Q|, nats, P and Q Welch's estimates of the mean-removed values, each normalised to sum 1. d₀ is
                   the median of the same distance for the context's own pieces of the forecast's length.
    backtest 0.4   min(1, (q₀ + ε) / (q + ε)). The simplest forecasts (last value, drift, last season, mean) are tried on held-out
                   tails of the context. The best of them, with its errors there added and subtracted, is an ensemble; q is the
                   mean CRPS of the forecast under it, q₀ what members of the ensemble themselves get on average, and ε 1 % of
                   the context's range.
    range 0.2      Mean over the values: 1 within what the context spans, falling to 0 half of its range outside; the span is
                   widened by the drift that the context's Theil-Sen slope makes over the horizon.

A part that the context is too short for is left out. The value is the weighted mean times n / m, with n the smaller and m the
larger of the number of values stated and the horizon; a text without numbers gets 0.

Sources: Welch 1967 (`scipy.signal.welch`); the continuous ranked probability score of an ensemble, Gneiting and Raftery 2007,
Strictly Proper Scoring Rules, section 4.2; Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.2 for the
simple forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.signal import welch
from scipy.stats import theilslopes

from maxent_ts.errors import RewardError
from maxent_ts.rewards.base import Evidence, missing_column
from maxent_ts.rewards.measure import MIN_POINTS, measure
from maxent_ts.rewards.numbers import parse_numbers

__all__ = ["Spectral", "spectral_score"]

_WEIGHTS = {"spectrum": 0.4, "backtest": 0.4, "range": 0.2}
_MIN_SEGMENT, _MAX_SEGMENT = 8, 64
_FLOOR = 1e-4
"""Added to normalised powers: what is fainter than this share of the power counts as absent."""
_MAX_ORIGINS = 8
_MAX_PIECES = 32
_MAX_SLOPE_POINTS = 256


def spectral_score(
    context: np.ndarray, forecast: np.ndarray, *, horizon: int | None = None, period: int | None = None
) -> tuple[float, dict[str, Any]]:
    """Score a forecast against its own context; see the module's docstring.

    Args:
        context: What came before, in raw units, shape [length], at least 2 finite numbers.
        forecast: What is said to come next, same unit and step, shape [values]. What exceeds the horizon is not looked at.
        horizon: How many values were asked for; as many as there are if None.
        period: Length of a season in steps; found by autocorrelation if None.

    Returns:
        The value in [0, 1] and the evidence as plain JSON values: `value`, and `parts` by name.

    Raises:
        RewardError: if the context or the forecast is not a flat array of finite numbers, or the context has fewer than two.
    """
    context, forecast = _checked(context, "context", 2), _checked(forecast, "forecast", 0)
    wanted = len(forecast) if horizon is None else horizon
    stated = len(forecast)
    forecast = forecast[:wanted]
    if not len(forecast):
        return 0.0, {"value": 0.0, "parts": {}, "num_values": stated, "horizon": wanted}
    parts: dict[str, dict[str, Any]] = {"range": _range(context, forecast)}
    for name, part in (("spectrum", _spectrum(context, forecast)), ("backtest", _backtest(context, forecast, period))):
        if part is not None:
            parts[name] = part
    for name, part in parts.items():
        part["weight"] = _WEIGHTS[name]
    completeness = min(stated, wanted) / max(stated, wanted)
    mean = sum(one["weight"] * one["value"] for one in parts.values()) / sum(one["weight"] for one in parts.values())
    value = min(1.0, mean * completeness)
    ordered = {name: parts[name] for name in _WEIGHTS if name in parts}
    return value, {"value": value, "parts": ordered, "num_values": stated, "horizon": wanted, "completeness": completeness}


def _checked(values: np.ndarray, what: str, least: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise RewardError(
            f"The reward 'spectral' expected a {what} of at least {least} finite numbers in one row, but got shape {array.shape}"
            f"{'' if np.isfinite(array).all() else ' with numbers that are not finite'}. Fill gaps and give one series."
        )
    return array


def _log_spectrum(values: np.ndarray, segment: int) -> np.ndarray:
    """Log of the normalised Welch estimate, the constant left out: shape [segment // 2]."""
    scale = np.abs(values).max(initial=0.0) or 1.0
    _, power = welch(values / scale, nperseg=segment, detrend="constant")
    power = power[1:]
    total = power.sum()
    # Rounding leaves a constant with powers around 1e-34, which are no spectrum.
    return np.log((power / total if total > 1e-24 else np.zeros_like(power)) + _FLOOR)


def _spectrum(context: np.ndarray, forecast: np.ndarray) -> dict[str, Any] | None:
    size = len(forecast)
    segment = min(size, len(context) // 2, _MAX_SEGMENT)
    if segment < _MIN_SEGMENT:
        return None
    own = _log_spectrum(context, segment)
    distance = float(np.abs(_log_spectrum(forecast, segment) - own).mean())
    length = min(size, len(context) // 2)
    starts = np.unique(np.linspace(0, len(context) - length, min(_MAX_PIECES, 2 * (len(context) // length))).astype(int))
    pieces = [np.abs(_log_spectrum(context[start : start + length], segment) - own).mean() for start in starts]
    typical = float(np.median(pieces))
    value = float(np.exp(-max(0.0, distance - typical)))
    return {"value": value, "distance": distance, "distance_of_own_pieces": typical, "segment": segment}


def _range(context: np.ndarray, forecast: np.ndarray) -> dict[str, Any]:
    recent = context[-_MAX_SLOPE_POINTS:]
    drift = float(np.asarray(theilslopes(recent))[0]) * len(forecast)
    low, high = float(context.min()) + min(drift, 0.0), float(context.max()) + max(drift, 0.0)
    outside = np.maximum(np.maximum(low - forecast, forecast - high), 0.0)
    margin = 0.5 * max(high - low, _spread(context))
    return {"value": float(np.clip(1.0 - outside / margin, 0.0, 1.0).mean()), "low": low, "high": high}


def _spread(context: np.ndarray) -> float:
    """The range of a context; a constant one has none, and then a hundredth of its level stands for it."""
    return float(np.ptp(context)) or 0.01 * float(np.abs(context).max()) or 1e-9


def _backtest(context: np.ndarray, forecast: np.ndarray, period: int | None) -> dict[str, Any] | None:
    size, length = len(forecast), len(context)
    last_origin = length - size
    if last_origin < 2:
        return None
    if period is None:
        period = round(measure(context).period.steps) if length >= MIN_POINTS else 0
    # The first origin still has as much history as there is to forecast, where the context is long enough for that.
    origins = np.unique(np.linspace(min(last_origin, max(2, size, period)), last_origin, _MAX_ORIGINS).astype(int))
    errors: dict[str, np.ndarray] = {}
    for origin in origins:
        actual = context[origin : origin + size]
        for name, path in _simple_forecasts(context[:origin], size, period).items():
            errors[name] = np.vstack([errors[name], actual - path]) if name in errors else (actual - path)[None]
    complete = {name: error for name, error in errors.items() if len(error) == len(origins)}
    best = min(complete, key=lambda name: float(np.abs(complete[name]).mean()))
    ensemble = _simple_forecasts(context, size, period)[best] + np.vstack([complete[best], -complete[best]])
    spread = 0.5 * np.abs(ensemble[:, None] - ensemble[None]).mean(axis=(0, 1))
    crps = np.abs(ensemble - forecast).mean(axis=0) - spread
    found, typical = max(float(crps.mean()), 0.0), float(spread.mean())
    tolerance = 0.01 * _spread(context)
    value = min(1.0, (typical + tolerance) / (found + tolerance))
    return {"value": value, "crps": found, "crps_of_members": typical, "simple_forecast": best, "num_origins": len(origins)}


def _simple_forecasts(history: np.ndarray, size: int, season: int) -> dict[str, np.ndarray]:
    last = history[-1]
    steps = np.arange(1, size + 1)
    found = {"last value": np.full(size, last), "mean": np.full(size, history.mean())}
    found["drift"] = last + steps * (last - history[0]) / max(len(history) - 1, 1)
    if 2 <= season <= len(history):
        found["last season"] = history[len(history) - season + (steps - 1) % season]
    return found


class Spectral:
    """How well numbers written in the text go on from the series: spectrum, back-test and range; see the module's docstring.

    Columns it reads: `series` (list of series in raw units; the first is the context), and if present `horizon` (how many
    values were asked for), `decimals` (digits of LLMTime with so many decimals; plain decimals without it), `offset` and
    `scale` (value = offset + scale · number), and `period` (steps of a season).
    """

    name = "spectral"
    range = (0.0, 1.0)

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion.

        Raises:
            RewardError: if there is no column `series`, or its first series is not made of at least two finite numbers.
        """
        explained = self.explain(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [one["value"] for one in explained]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the value with its parts and what was measured."""
        del prompts, completion_ids
        if "series" not in columns:
            raise missing_column(
                "The reward 'spectral' compares a forecast with the column 'series', which this task does not have.", columns
            )
        return [
            _explained(text, {name: column[index] for name, column in columns.items()}) for index, text in enumerate(completions)
        ]


def _explained(text: str, inputs: Mapping[str, Any]) -> Evidence:
    settings = {name: inputs[name] for name in ("decimals", "offset", "scale") if inputs.get(name) is not None}
    if not len(inputs["series"]):
        raise RewardError(
            "The reward 'spectral' got no series. The column 'series' holds a list of series; the first is the context."
        )
    context = np.asarray(inputs["series"][0], dtype=np.float64)
    return spectral_score(context, parse_numbers(text, **settings), horizon=inputs.get("horizon"), period=inputs.get("period"))[1]
