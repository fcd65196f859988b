"""How good a forecast is, once the truth is known. Nothing here is seen by a search.

Errors are in the series' own unit. To average them over series they are divided by `seasonal_naive_error`, as in M4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxent_ts.errors import SettingError

__all__ = ["crps", "mase", "psd_distance", "seasonal_naive", "seasonal_naive_error", "variance_ratio"]

Values = Sequence[float] | np.ndarray

FLOOR = 1e-4
"""Added to normalised powers: what is fainter than this share of the power counts as absent."""


def seasonal_naive(history: Values, horizon: int, period: int) -> np.ndarray:
    """Return the last season of the history, repeated over the horizon: float64 [horizon].

    A history shorter than a season has its last value repeated.
    """
    values = np.asarray(history, dtype=np.float64)
    season = values[-period:] if len(values) >= period else values[-1:]
    return np.resize(season, horizon)


def seasonal_naive_error(history: Values, period: int) -> float | None:
    """Return the mean absolute error of the seasonal naive forecast within the history, one season ahead.

    The denominator of MASE as the M4 competition computes it: the mean of |y[t] − y[t − period]| (Makridakis et al. 2020,
    International Journal of Forecasting 36, section 2; Hyndman and Koehler 2006, International Journal of Forecasting 22).

    Returns:
        A positive number; None where the history has no such pair or all of them are equal.
    """
    values = np.asarray(history, dtype=np.float64)
    if len(values) <= period:
        return None
    error = float(np.abs(values[period:] - values[:-period]).mean())
    return error if error > 0.0 else None


def mase(forecast: Values, actual: Values, naive_error: float) -> float:
    """Return the mean absolute scaled error: the mean of |forecast − actual| over `naive_error`.

    Args:
        forecast: Shape [horizon].
        actual: The same shape.
        naive_error: `seasonal_naive_error` of the history.

    Raises:
        SettingError: if the shapes differ.
    """
    first, second = _same_shape(forecast, actual)
    return float(np.abs(first - second).mean()) / naive_error


def crps(samples: Sequence[Values] | np.ndarray, actual: Values, weights: Sequence[float] | None = None) -> float:
    """Return the continuous ranked probability score of an ensemble, averaged over the horizon; smaller is better.

    At each step it estimates E|X − y| − ½ E|X − X'| from the members x_i with weights w_i,

        Σ w_i |x_i − y| − ½ Σ_{i≠j} w_i w_j |x_i − x_j| / (1 − Σ w_i²)

    With equal weights this is the fair score, unbiased for the distribution that the members are draws of (Ferro 2014,
    Quarterly Journal of the Royal Meteorological Society 140, section 2.3): without the denominator a small ensemble of the right
    distribution would score worse than a large one. A single member has no spread, and its score is its absolute error.
    The definition: Gneiting and Raftery 2007, Journal of the American Statistical Association 102, section 4.2.

    Args:
        samples: Shape [members, horizon].
        actual: Shape [horizon].
        weights: One for each member, not negative, with a positive sum; equal if left out.

    Raises:
        SettingError: if shapes or weights do not fit.
    """
    members, truth = np.asarray(samples, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if members.ndim != 2 or truth.shape != members.shape[1:] or not len(members):
        raise SettingError(
            f"Expected members of shape [members, horizon] and a truth of shape [horizon], but got {members.shape} "
            f"and {truth.shape}."
        )
    shares = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(members),) or not (shares >= 0).all() or not shares.sum() > 0:
        raise SettingError("Expected one weight for each member, none below 0 and not all 0.")
    shares = shares / shares.sum()
    error = shares @ np.abs(members - truth)
    distinct = 1.0 - float(shares @ shares)
    if len(members) == 1 or distinct <= 1e-12:
        return float(error.mean())
    # Σ_ij w_i w_j |x_i − x_j| = 2 Σ_k F_k (1 − F_k) (x_(k+1) − x_(k)) over the sorted members, F_k the weight up to the k-th.
    order = np.argsort(members, axis=0)
    ranked = np.take_along_axis(members, order, axis=0)
    below = np.cumsum(shares[order], axis=0)[:-1]
    spread = 2.0 * (below * (1.0 - below) * np.diff(ranked, axis=0)).sum(axis=0)
    return float((error - 0.5 * spread / distinct).mean())


def psd_distance(first: Values, second: Values) -> float:
    """Return the mean over frequencies of |log P − log Q|, nats: how differently two stretches vary, whatever their size.

    P and Q are periodograms of the mean-removed values under a Hann window, each normalised to sum 1, plus `FLOOR`. A constant
    has no power at any frequency. 0 for equal spectra; smooth and rough stretches are far apart.

    Args:
        first: Shape [length], at least 4 values.
        second: The same shape.

    Raises:
        SettingError: if the shapes differ or are too short.
    """
    ours, theirs = _same_shape(first, second)
    if len(ours) < 4:
        raise SettingError(f"A spectrum needs at least 4 values, but there are {len(ours)}.")
    return float(np.abs(_log_spectrum(ours) - _log_spectrum(theirs)).mean())


def variance_ratio(forecast: Values, actual: Values) -> float | None:
    """Return the variance of a forecast over time divided by that of the truth; None where the truth is constant."""
    ours, theirs = _same_shape(forecast, actual)
    return float(ours.var() / theirs.var()) if np.ptp(theirs) > 0 else None


def _log_spectrum(values: np.ndarray) -> np.ndarray:
    from scipy.signal import periodogram

    scale = np.abs(values).max(initial=0.0) or 1.0
    _, power = periodogram(values / scale, window="hann", detrend="constant")
    power, total = power[1:], power[1:].sum()
    # Rounding leaves a constant with powers around 1e-34, which are no spectrum.
    return np.log((power / total if total > 1e-24 else np.zeros_like(power)) + FLOOR)


def _same_shape(first: Values, second: Values) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise SettingError(f"Expected two stretches of equal length, but got the shapes {a.shape} and {b.shape}.")
    return a, b
