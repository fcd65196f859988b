"""What a time series does, in numbers: the measurements behind checkable statements.

Every function takes a one-dimensional array of finite numbers with at least `MIN_POINTS` points and works without warnings on
constant series. Units: values in the series' own unit, positions as the fraction of the way from the first point (0) to the
last (1), periods in steps, frequencies in Hz where a sampling rate is given. Ratios carry no unit.

References: Theil-Sen slope (Sen 1968, JASA 63), Spearman's rank correlation, Welch's periodogram (Welch 1967).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy import signal, stats

from maxent_ts.errors import DataError

__all__ = [
    "COARSE_POINTS",
    "MIN_POINTS",
    "PATH_POINTS",
    "Measured",
    "Period",
    "Shift",
    "Trend",
    "level_shift",
    "measure",
    "period",
    "rank_correlation",
    "roughness",
    "spikes",
    "trend",
    "volatility_ratio",
]

MIN_POINTS = 4
"""Shortest series that can be measured."""

PATH_POINTS = 48
"""Points of `Measured.path`."""

COARSE_POINTS = 16
"""Points of `Measured.coarse_path`."""

_TREND_POINTS = 128
"""Theil-Sen looks at all pairs of points, so longer series are averaged down to at most this many blocks."""

_TINY = 1e-12
"""Spread relative to the largest absolute value below which a series counts as constant."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The direction of a series."""

    slope: float
    """Theil-Sen slope, unit per step."""
    change: float
    """Slope times the number of steps: what the line rises or falls, in the series' unit."""
    strength: float
    """`change` over the range of the series: -1 to 1 for a straight line, near 0 without a trend."""
    rank_correlation: float
    """Spearman's correlation of value and time, -1 to 1."""
    p_value: float
    """Two-sided, for no monotone relation and independent points (Student's t approximation)."""


@dataclass(frozen=True, slots=True)
class Period:
    """The rhythm of a series."""

    steps: float
    """Lag at which the series repeats itself best, in steps; 0 where there is no rhythm to measure."""
    strength: float
    """Autocorrelation of the detrended series at that lag, clipped to [0, 1]."""
    dominant_steps: float
    """Period of the highest peak of Welch's spectrum, in steps; often a divisor of `steps`; 0 where there is none."""
    concentration: float
    """Share of spectral power within the dominant peak, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Shift:
    """The largest step of the level."""

    position: float
    """Where, as a fraction of the way."""
    size: float
    """Mean after minus mean before, in the series' unit."""
    strength: float
    """Share of variance that the two-level description explains, 0 to 1."""


def _spread_is_nothing(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= _TINY * max(1.0, float(np.abs(values).max())))


def _block_means(values: np.ndarray, most: int) -> np.ndarray:
    """Average down to at most `most` blocks of nearly equal length."""
    if len(values) <= most:
        return values
    edges = np.linspace(0, len(values), most + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def rank_correlation(values: np.ndarray) -> float:
    """Return Spearman's correlation of value and time, -1 to 1; 0 for a constant series."""
    if _spread_is_nothing(values):
        return 0.0
    ranks = stats.rankdata(values)
    ranks -= ranks.mean()
    steps = np.arange(len(values)) - (len(values) - 1) / 2.0
    return float(np.clip(steps @ ranks / math.sqrt((steps @ steps) * (ranks @ ranks)), -1.0, 1.0))


def trend(values: np.ndarray) -> Trend:
    """Measure the monotone trend by the Theil-Sen slope and Spearman's correlation."""
    if _spread_is_nothing(values):
        return Trend(0.0, 0.0, 0.0, 0.0, 1.0)
    means = _block_means(values, _TREND_POINTS)
    steps = _block_means(np.arange(len(values), dtype=float), _TREND_POINTS)
    first, second = np.triu_indices(len(means), 1)
    slope = float(np.median((means[second] - means[first]) / (steps[second] - steps[first])))
    change = slope * (len(values) - 1)
    correlation = rank_correlation(means)
    freedom = len(means) - 2
    statistic = abs(correlation) * math.sqrt(freedom / max(1.0 - correlation**2, _TINY))
    strength = float(np.clip(change / np.ptp(values), -1.0, 1.0))
    return Trend(slope, change, strength, correlation, float(2.0 * stats.t.sf(statistic, freedom)))


def _detrended(values: np.ndarray) -> np.ndarray:
    steps = np.arange(len(values)) - (len(values) - 1) / 2.0
    centred = values - values.mean()
    return centred - steps * (steps @ centred) / (steps @ steps)


def _autocorrelation(residual: np.ndarray) -> np.ndarray:
    """Unbiased autocorrelation at every lag, by FFT."""
    length = len(residual)
    spectrum = np.fft.rfft(residual, 2 * length)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum))[:length]
    return covariance / (length - np.arange(length)) / (covariance[0] / length)


def period(values: np.ndarray) -> Period:
    """Measure the rhythm: the best lag of the autocorrelation and the highest peak of Welch's spectrum.

    A lag counts only after the autocorrelation has first fallen below zero, so that smooth series are not taken for periodic
    ones, and up to half of the length, so that at least two cycles are seen. Of nearly equal lags the shortest wins.
    """
    length = len(values)
    residual = _detrended(values)
    if length < 8 or _spread_is_nothing(values) or _spread_is_nothing(residual):
        return Period(0.0, 0.0, 0.0, 0.0)
    segment = min(length, 256)
    frequencies, power = signal.welch(residual, nperseg=segment, nfft=4 * segment, detrend="constant")
    usable = (frequencies >= 2.0 / length) & (frequencies <= 0.5)
    total = float(power.sum())
    dominant_steps = concentration = 0.0
    if usable.any() and total > 0.0:
        best = int(np.flatnonzero(usable)[np.argmax(power[usable])])
        dominant_steps = 1.0 / float(frequencies[best])
        concentration = float(power[max(best - 6, 0) : best + 7].sum() / total)
    correlations = _autocorrelation(residual)[: length // 2 + 1]
    below = np.flatnonzero(correlations < 0.0)
    start = int(below[0]) if len(below) else len(correlations)
    inner = np.arange(max(start, 2), len(correlations) - 1)
    peaks = inner[(correlations[inner] >= correlations[inner - 1]) & (correlations[inner] >= correlations[inner + 1])]
    if not len(peaks):
        return Period(0.0, 0.0, dominant_steps, concentration)
    height = float(correlations[peaks].max())
    lag = int(peaks[np.argmax(correlations[peaks] >= height - 0.05)])
    return Period(float(lag), float(np.clip(height, 0.0, 1.0)), dominant_steps, concentration)


def spikes(values: np.ndarray, threshold: float = 6.0) -> tuple[int, ...]:
    """Return the indices of isolated points that stand out from their neighbourhood.

    A point is a spike where its distance from the running median of 5 points exceeds both `threshold` times the scaled median
    absolute deviation of those distances and a quarter of the series' range.
    """
    if _spread_is_nothing(values):
        return ()
    padded = np.pad(values, 2, mode="edge")
    residual = values - np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    scale = 1.4826 * float(np.median(np.abs(residual)))
    limit = max(threshold * scale, 0.25 * float(np.ptp(values)))
    return tuple(int(index) for index in np.flatnonzero(np.abs(residual) > limit))


def level_shift(values: np.ndarray) -> Shift:
    """Find the split into two levels that explains most variance, at least two points on each side."""
    length = len(values)
    centred = values - values.mean()
    total = float(centred @ centred)
    if _spread_is_nothing(values) or total <= 0.0:
        return Shift(0.5, 0.0, 0.0)
    before = np.arange(2, length - 1)
    sums = np.cumsum(centred)[before - 1]
    explained = sums**2 * (1.0 / before + 1.0 / (length - before)) / total
    best = int(np.argmax(explained))
    split = int(before[best])
    size = float(values[split:].mean() - values[:split].mean())
    return Shift((split - 0.5) / (length - 1), size, float(np.clip(explained[best], 0.0, 1.0)))


def volatility_ratio(values: np.ndarray) -> float:
    """Standard deviation of the steps in the second half over that in the first; 1 for a constant series.

    Both are raised by a hundredth of the overall one, so that a constant half gives a large finite number.
    """
    steps = np.diff(values)
    if _spread_is_nothing(values):
        return 1.0
    half = len(steps) // 2
    floor = 0.01 * float(np.sqrt(np.mean(steps**2)))
    return (float(steps[-half:].std()) + floor) / (float(steps[:half].std()) + floor)


def roughness(values: np.ndarray) -> float:
    """Von Neumann ratio of the detrended series over 2: about 1 for white noise, near 0 for a smooth curve, 0 for a line."""
    residual = _detrended(values)
    if _spread_is_nothing(values) or float(np.ptp(residual)) <= 1e-9 * float(np.ptp(values)):
        return 0.0
    steps = np.diff(residual)
    return float(np.mean(steps**2) / (2.0 * np.mean(residual**2)))


class Measured:
    """One series with its measurements, each computed on first use and kept.

    Args:
        values: One-dimensional, finite, at least `MIN_POINTS` points.
        sampling_rate: Points per second; None where time has no unit.

    Raises:
        DataError: if the values are not such a series.
    """

    def __init__(self, values: Any, sampling_rate: float | None = None) -> None:
        array = np.asarray(values, dtype=float)
        if array.ndim != 1 or len(array) < MIN_POINTS:
            raise DataError(
                f"A series to measure needs one dimension and at least {MIN_POINTS} points, but has shape {array.shape}."
            )
        if not np.isfinite(array).all():
            raise DataError("A series to measure holds values that are not finite numbers. Fill or drop them first.")
        self.values = array
        self.sampling_rate = sampling_rate
        self.mean = float(array.mean())
        self.minimum = float(array.min())
        self.maximum = float(array.max())
        self.range = self.maximum - self.minimum
        self.std = float(array.std())

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def median(self) -> float:
        """Median, in the series' unit."""
        return float(np.median(self.values))

    @cached_property
    def is_constant(self) -> bool:
        """Whether the spread is nothing beside the values themselves."""
        return _spread_is_nothing(self.values)

    @cached_property
    def path(self) -> np.ndarray:
        """The shape a reader of a plot sees: means of at most `PATH_POINTS` blocks, scaled to run from 0 to 1."""
        low, high = self._path_bounds
        means = _block_means(self.values, PATH_POINTS)
        return (means - low) / (high - low) if high > low else np.zeros(len(means))

    @cached_property
    def coarse_path(self) -> np.ndarray:
        """The course without its ripples: means of at most `COARSE_POINTS` blocks, on the scale of `path`."""
        low, high = self._path_bounds
        means = _block_means(self.values, COARSE_POINTS)
        return (means - low) / (high - low) if high > low else np.zeros(len(means))

    @cached_property
    def _path_bounds(self) -> tuple[float, float]:
        means = _block_means(self.values, PATH_POINTS)
        low, high = float(means.min()), float(means.max())
        return (low, high) if not self.is_constant and high - low > _TINY * max(abs(low), abs(high)) else (0.0, 0.0)

    @cached_property
    def trend(self) -> Trend:
        """See `trend`."""
        return trend(self.values)

    @cached_property
    def period(self) -> Period:
        """See `period`."""
        return period(self.values)

    @cached_property
    def shift(self) -> Shift:
        """See `level_shift`."""
        return level_shift(self.values)

    @cached_property
    def spikes(self) -> tuple[int, ...]:
        """See `spikes`."""
        return spikes(self.values)

    @cached_property
    def volatility_ratio(self) -> float:
        """See `volatility_ratio`."""
        return volatility_ratio(self.values)

    @cached_property
    def roughness(self) -> float:
        """See `roughness`."""
        return roughness(self.values)

    @property
    def frequency(self) -> float:
        """Dominant frequency in Hz; 0 without a rhythm or a sampling rate."""
        if self.sampling_rate is None or self.period.dominant_steps == 0.0:
            return 0.0
        return self.sampling_rate / self.period.dominant_steps

    def where(self, extreme: str) -> tuple[float, ...]:
        """Return the positions (0 to 1) of every point within 2 % of the range from the maximum or minimum.

        Args:
            extreme: "maximum" or "minimum".
        """
        margin = 0.02 * self.range
        close = self.values >= self.maximum - margin if extreme == "maximum" else self.values <= self.minimum + margin
        return tuple(float(index) / (len(self) - 1) for index in np.flatnonzero(close))


@lru_cache(maxsize=4096)
def _measured(content: bytes, sampling_rate: float | None) -> Measured:
    return Measured(np.frombuffer(content, dtype=float), sampling_rate)


def measure(values: Any, sampling_rate: float | None = None) -> Measured:
    """Return the measurements of a series, shared by every call with the same content.

    Raises:
        DataError: if the values are not a one-dimensional series of finite numbers, or fewer than `MIN_POINTS`.
    """
    try:
        array = np.ascontiguousarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"A series must be a flat list of numbers, but came as something else: {error}.") from error
    if array.ndim != 1:
        raise DataError(f"A series must be a flat list of numbers, but has shape {array.shape}.")
    return _measured(array.tobytes(), sampling_rate)
