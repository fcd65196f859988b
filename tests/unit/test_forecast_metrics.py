"""Scores of forecasts against hand-computed values and their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.errors import SettingError
from maxent_ts.forecast_metrics import FLOOR, crps, mase, psd_distance, seasonal_naive, seasonal_naive_error, variance_ratio


def test_the_seasonal_naive_forecast_repeats_the_last_season():
    """Catches a season that begins a step late, and a horizon that is no multiple of it."""
    assert seasonal_naive([9, 9, 1, 2, 3], 7, 3).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert seasonal_naive([5, 6], 3, 1).tolist() == [6, 6, 6]
    assert seasonal_naive([5, 6], 3, 4).tolist() == [6, 6, 6]


def test_the_scale_of_mase_is_the_error_of_the_seasonal_naive_forecast_in_the_past():
    """Computed by hand: |2−1|, |3−2|, |5−3| and |3−1|, |5−2|."""
    assert seasonal_naive_error([1, 2, 3, 5], 1) == pytest.approx(4 / 3)
    assert seasonal_naive_error([1, 2, 3, 5], 2) == pytest.approx(2.5)
    assert seasonal_naive_error([1, 2], 2) is None
    assert seasonal_naive_error([4, 4, 4], 1) is None


def test_mase_by_hand():
    """(1 + 0 + 3) / 3 over 2."""
    assert mase([2, 5, 1], [1, 5, 4], 2.0) == pytest.approx(2 / 3)
    with pytest.raises(SettingError, match="equal length"):
        mase([1, 2], [1], 1.0)


def test_crps_of_one_member_is_its_absolute_error():
    assert crps([[1.0, 4.0]], [2.0, 1.0]) == pytest.approx(2.0)


def test_crps_by_hand():
    """Members 0 and 2, truth 1: mean error 1, mean distance of the one pair 2, so 1 − ½ · 2 = 0; and truth 3: 2 − 1 = 1."""
    assert crps([[0.0], [2.0]], [1.0]) == pytest.approx(0.0)
    assert crps([[0.0], [2.0]], [3.0]) == pytest.approx(1.0)


numbers = st.floats(-5, 5, allow_nan=False).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(numbers, st.floats(0.05, 1)), min_size=2, max_size=6), numbers)
def test_crps_is_the_weighted_double_sum(members, truth):
    """Catches a wrong shortcut of the sum over pairs, which is done by sorting."""
    values, weights = np.array([value for value, _ in members]), np.array([weight for _, weight in members])
    shares = weights / weights.sum()
    pairs = sum(
        shares[i] * shares[j] * abs(values[i] - values[j]) for i, j in itertools.product(range(len(values)), repeat=2) if i != j
    )
    expected = float(shares @ np.abs(values - truth)) - 0.5 * pairs / (1 - float(shares @ shares))
    assert crps(values[:, None], [truth], weights) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("truth", [-0.5, 0.3, 1.0, 2.0])
def test_crps_of_draws_is_unbiased(size, truth):
    """All ensembles of `size` draws from P(0) = 0.3, P(1) = 0.7, each with its probability: the mean is the CRPS of P itself.

    That is ∫ (F(x) − 1[x ≥ y])² dx, by hand for a distribution of two points.
    """
    share = 0.3
    mean = 0.0
    for draw in itertools.product((0.0, 1.0), repeat=size):
        ones = int(sum(draw))
        mean += share ** (size - ones) * (1 - share) ** ones * crps(np.array(draw)[:, None], [truth])
    below, inside, above = max(-truth, 0.0), min(max(truth, 0.0), 1.0), max(truth - 1, 0.0)
    exact = below + share**2 * inside + (1 - share) ** 2 * (min(max(1 - truth, 0.0), 1.0)) + above
    assert mean == pytest.approx(exact, abs=1e-12)


def test_crps_checks_shapes_and_weights():
    for samples, truth, weights in (([[1.0]], [1.0, 2.0], None), ([[1.0], [2.0]], [1.0], [1.0]), ([[1.0]], [1.0], [-1.0])):
        with pytest.raises(SettingError):
            crps(samples, truth, weights)


def test_psd_distance_by_hand():
    """Four values under a Hann window (0, ½, 1, ½), mean removed: the discrete Fourier transform written out."""

    def spectrum(values):
        window = [0.0, 0.5, 1.0, 0.5]
        centred = [(value - sum(values) / 4) * weight for value, weight in zip(values, window, strict=True)]
        power = []
        for k, double in ((1, 2.0), (2, 1.0)):  # the one-sided spectrum counts all but the highest frequency twice
            real = sum(value * math.cos(2 * math.pi * k * n / 4) for n, value in enumerate(centred))
            imaginary = sum(value * math.sin(2 * math.pi * k * n / 4) for n, value in enumerate(centred))
            power.append(double * (real**2 + imaginary**2))
        return [math.log(one / sum(power) + FLOOR) for one in power]

    first, second = [1.0, 2.0, 4.0, 3.0], [2.0, 0.0, 1.0, 5.0]
    expected = sum(abs(a - b) for a, b in zip(spectrum(first), spectrum(second), strict=True)) / 2
    assert psd_distance(first, second) == pytest.approx(expected)


def test_psd_distance_sees_shape_and_not_size():
    """Catches a distance that a shift or a scale changes, and one that a flat forecast escapes."""
    steps = np.arange(48)
    slow, fast = np.sin(2 * np.pi * steps / 24), np.sin(2 * np.pi * steps / 6)
    assert psd_distance(slow, 100 + 7 * slow) == pytest.approx(0.0, abs=1e-9)
    assert psd_distance(slow, fast) > 1
    assert psd_distance(np.full(48, 3.0), slow + 0.1 * fast) > 1
    assert psd_distance(np.zeros(48), np.full(48, 5.0)) == 0
    with pytest.raises(SettingError, match="at least 4"):
        psd_distance([1, 2, 3], [1, 2, 3])


def test_variance_ratio_by_hand():
    """Variances 1 and 4; and a truth without any."""
    assert variance_ratio([1, 3], [0, 4]) == pytest.approx(0.25)
    assert variance_ratio([5, 5], [0, 4]) == 0
    assert variance_ratio([1, 3], [2, 2]) is None
