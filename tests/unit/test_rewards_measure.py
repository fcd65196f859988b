"""Measurements of a series, on series whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maxent_ts.errors import DataError
from maxent_ts.rewards.measure import (
    Measured,
    level_shift,
    measure,
    period,
    roughness,
    spikes,
    trend,
    volatility_ratio,
)

STEPS = np.arange(200.0)


def noise(seed: int = 0, length: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=length)


def test_the_slope_of_a_line_is_in_units_per_step_and_outliers_do_not_move_it():
    """Catches a least-squares slope, or one scaled by the length."""
    values = 3.0 - 0.25 * STEPS
    values[[10, 150]] += 1000.0
    measured = trend(values)
    assert measured.slope == pytest.approx(-0.25, abs=0.003)
    assert measured.change == pytest.approx(-0.25 * 199, rel=0.02)
    assert trend(3.0 - 0.25 * STEPS).strength == pytest.approx(-1.0)
    assert trend(3.0 - 0.25 * STEPS).rank_correlation == pytest.approx(-1.0)


def test_the_slope_stays_in_units_per_step_when_a_long_series_is_averaged_into_blocks():
    """Catches block indices taken for steps."""
    assert trend(0.5 * np.arange(1000.0)).slope == pytest.approx(0.5, rel=1e-6)


def test_a_trend_in_noise_is_significant_and_noise_alone_is_not():
    """Catches a p-value that is inverted or always small."""
    assert trend(noise() + 0.03 * STEPS).p_value < 1e-6
    assert np.mean([trend(noise(seed)).p_value < 0.05 for seed in range(100)]) < 0.15


def test_the_p_value_of_a_short_rise_is_the_one_of_students_t():
    """Catches a wrong number of degrees of freedom: Spearman 0.8 at n = 5 has p = 0.104."""
    assert trend(np.array([1.0, 3.0, 2.0, 5.0, 4.0])).p_value == pytest.approx(0.1041, abs=1e-3)


@pytest.mark.parametrize("steps", [7, 24, 50])
def test_the_period_of_a_noisy_wave_is_found_by_both_measures(steps: int):
    """Catches a lag counted from 1, and a frequency axis that does not fit the segment."""
    measured = period(np.sin(2 * np.pi * np.arange(400) / steps) + 0.3 * noise(length=400))
    assert measured.steps == pytest.approx(steps, abs=1)
    assert measured.dominant_steps == pytest.approx(steps, rel=0.06)
    assert measured.strength > 0.7


def test_a_trend_and_a_random_walk_are_no_rhythm():
    """Catches an autocorrelation of the series itself, in which every slow curve repeats."""
    assert period(STEPS).strength == 0.0
    assert period(STEPS + 0.5 * noise()).strength < 0.4


def test_a_stride_of_two_unlike_steps_has_the_stride_as_period_and_the_step_as_frequency():
    """Catches taking one for the other: walking shows both."""
    values = np.sin(2 * np.pi * STEPS / 25) + 0.3 * np.sin(2 * np.pi * STEPS / 50)
    measured = Measured(values, sampling_rate=50.0)
    assert measured.period.steps == pytest.approx(50, abs=1)
    assert measured.frequency == pytest.approx(2.0, rel=0.03)


def test_spikes_are_the_isolated_points_only():
    """Catches steps and edges of a block taken for spikes."""
    values = 0.1 * noise()
    values[40] += 5.0
    values[41] -= 4.0
    assert spikes(values) == (40, 41)
    assert spikes(np.repeat([0.0, 1.0], 50)) == ()
    assert spikes(np.sin(STEPS / 5)) == ()


def test_a_level_shift_is_found_where_it_is_with_its_size():
    """Catches a split off by one, and a size with the wrong sign."""
    values = np.concatenate([np.full(30, 7.0), np.full(70, 2.0)])
    measured = level_shift(values)
    assert measured.position == pytest.approx(29.5 / 99)
    assert measured.size == pytest.approx(-5.0)
    assert measured.strength == pytest.approx(1.0)
    assert level_shift(noise()).strength < 0.2


def test_the_volatility_ratio_is_second_half_over_first():
    """Catches the inverse ratio."""
    grown = np.concatenate([noise(length=100), 3.0 * noise(seed=1, length=100)])
    assert volatility_ratio(grown) == pytest.approx(3.0, rel=0.25)
    assert volatility_ratio(grown[::-1]) == pytest.approx(1 / 3.0, rel=0.25)


def test_roughness_is_near_one_for_white_noise_and_near_zero_for_a_curve():
    """Catches a normalisation without the factor 2, and a line that counts as rough by rounding."""
    assert roughness(noise(length=2000)) == pytest.approx(1.0, abs=0.1)
    assert roughness(np.sin(STEPS / 20)) < 0.01
    assert roughness(1e9 + STEPS) == pytest.approx(0.0, abs=1e-6)


def test_levels_are_in_the_unit_of_the_series():
    """Catches values of the scaled path instead of the series."""
    measured = measure([4.0, 8.0, 6.0, 2.0, 5.0])
    assert (measured.mean, measured.median, measured.minimum, measured.maximum, measured.range) == (5.0, 5.0, 2.0, 8.0, 6.0)
    assert measured.std == pytest.approx(2.0)


def test_the_place_of_an_extreme_counts_ties():
    """Catches argmax alone: a repeated maximum is at both places."""
    measured = measure([0.0, 10.0, 0.0, 0.0, 10.0])
    assert measured.where("maximum") == (0.25, 1.0)
    assert measured.where("minimum") == (0.0, 0.5, 0.75)


def test_the_path_runs_from_zero_to_one_and_the_coarse_path_keeps_its_scale():
    """Catches a coarse path that blows up what was averaged out."""
    measured = measure(np.sin(2 * np.pi * np.arange(480) / 10) + np.arange(480) / 1000)
    assert measured.path.min() == 0.0
    assert measured.path.max() == 1.0
    assert len(measured.path) == 48
    assert np.ptp(measured.coarse_path) < 1.0


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.integers(4, 40), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_measurement_is_finite_for_every_short_series(values: np.ndarray):
    """Catches divisions by a zero spread; warnings are errors here."""
    measured = Measured(values, sampling_rate=10.0)
    numbers = [
        measured.trend.slope,
        measured.trend.strength,
        measured.trend.p_value,
        measured.period.steps,
        measured.period.strength,
        measured.period.concentration,
        measured.shift.strength,
        measured.volatility_ratio,
        measured.roughness,
        measured.frequency,
        *measured.path,
        *measured.coarse_path,
    ]
    assert np.isfinite(numbers).all()
    assert all(0 <= index < len(values) for index in measured.spikes)


@pytest.mark.parametrize("level", [0.0, 5.0, -1e12, 1e-12])
def test_a_constant_series_has_no_trend_no_rhythm_and_no_spread(level: float):
    """Catches rounding errors of a large level taken for movement."""
    measured = measure(np.full(30, level))
    assert measured.is_constant
    assert measured.trend.strength == 0.0
    assert measured.period.strength == 0.0
    assert measured.spikes == ()
    assert measured.volatility_ratio == 1.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0, 3.0], "at least 4 points"),
        ([[1.0, 2.0, 3.0, 4.0]], "flat list"),
        ([1.0, float("nan"), 2.0, 3.0], "not finite"),
        (["a", "b", "c", "d"], "flat list of numbers"),
    ],
)
def test_what_is_no_series_is_refused_in_words(values: list, words: str):
    """Catches a numpy error, or a NaN that travels on."""
    with pytest.raises(DataError, match=words):
        measure(values)


def test_equal_series_share_their_measurements():
    """Catches a cache keyed by identity, which would measure every completion's copy anew."""
    assert measure([1.0, 2.0, 4.0, 3.0], 50.0) is measure(np.array([1.0, 2.0, 4.0, 3.0]), 50.0)
    assert measure([1.0, 2.0, 4.0, 3.0], 50.0) is not measure([1.0, 2.0, 4.0, 3.0], 25.0)
