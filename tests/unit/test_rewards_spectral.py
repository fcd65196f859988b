"""Forecasts written as numbers: how they are read, and what they are worth given their context alone."""

from __future__ import annotations

import numpy as np
import pytest

from maxent_ts.errors import RewardError
from maxent_ts.rewards.numbers import parse_numbers
from maxent_ts.rewards.spectral import Spectral, spectral_score

STEPS = np.arange(144)
WAVE = 10.0 + 3.0 * np.sin(2 * np.pi * STEPS / 12)
NEXT = 10.0 + 3.0 * np.sin(2 * np.pi * np.arange(144, 168) / 12)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("the next 3 values are 1.5, 2, 2.5.", [1.5, 2.0, 2.5]),
        ("1 2 3\n4;5 , -6e-1", [1, 2, 3, 4, 5, -0.6]),
        (".5 5. +7 −8", [0.5, 5.0, 7.0, -8.0]),
        ("50% of 20", [20.0]),
        ("x1 2y and 1e999", []),
        ("1e99 " + "9" * 31, [1e99]),
        ("none", []),
    ],
)
def test_plain_decimals(text, numbers):
    """Catches a number of the sentence taken for one of the forecast, and lost signs, points and exponents."""
    assert parse_numbers(text).tolist() == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1 2 5 , 1 3 0 , - 4 5 , 0", [1.25, 1.3, -0.45, 0.0]),
        ("125, 130,-45", [1.25, 1.3, -0.45]),
        ("so: 7 , 8 then", [0.07, 0.08]),
        ("a b , c", []),
    ],
)
def test_digits_of_llmtime(text, numbers):
    """Catches digits taken for values of their own, and a point in the wrong place."""
    assert parse_numbers(text, decimals=2).tolist() == pytest.approx(numbers)


def test_numbers_are_scaled_back():
    assert parse_numbers("1 0 , 2 0", decimals=1, offset=5.0, scale=2.0).tolist() == [7.0, 9.0]


def test_going_on_with_the_wave_is_worth_one_and_everything_else_less():
    """Catches a part with the wrong sign, and a spectrum that a shift of level can hide from."""
    rng = np.random.default_rng(0)
    best, evidence = spectral_score(WAVE, NEXT)
    assert best == pytest.approx(1.0, abs=1e-6)
    assert set(evidence["parts"]) == {"spectrum", "backtest", "range"}
    others = {
        "constant": np.full(24, 10.0),
        "opposite phase": 20.0 - NEXT,
        "shifted": NEXT + 9.0,
        "twice as fast": 10.0 + 3.0 * np.sin(2 * np.pi * np.arange(24) / 6),
        "noise": 10.0 + rng.normal(size=24) * 2.0,
    }
    parts = {name: spectral_score(WAVE, path)[1]["parts"] for name, path in others.items()}
    assert all(spectral_score(WAVE, path)[0] < 0.7 for path in others.values())
    assert parts["constant"]["spectrum"]["value"] < 0.2
    assert parts["twice as fast"]["spectrum"]["value"] < 0.2
    assert parts["opposite phase"]["spectrum"]["value"] > 0.99
    assert parts["opposite phase"]["backtest"]["value"] < 0.05
    assert parts["shifted"]["range"]["value"] < 0.1


def test_the_unit_of_the_series_does_not_matter():
    """Catches a tolerance in raw units."""
    rng = np.random.default_rng(1)
    context, path = rng.normal(size=100).cumsum(), rng.normal(size=20).cumsum()
    value = spectral_score(context, path)[0]
    for factor, shift in ((1e-3, 0.0), (1e4, -7.0), (-2.0, 100.0)):
        assert spectral_score(factor * context + shift, factor * path + shift)[0] == pytest.approx(value, abs=1e-6)


def test_the_back_test_scores_with_the_crps_of_the_tested_errors():
    """By hand: after 0, 1, 0, 1, … the last season is best, with errors of 0; half a CRPS of 0.1 is against 1 % of the range."""
    context = np.array([0.0, 1.0] * 8)
    assert spectral_score(context, np.array([0.0, 1.0]), period=2)[1]["parts"]["backtest"]["value"] == 1.0
    assert spectral_score(context, np.array([0.1, 1.0]), period=2)[1]["parts"]["backtest"]["value"] == pytest.approx(0.01 / 0.06)
    # After 0, 0, 3 with one step to go, 2 and 3 tested: the last value errs by 0 and 3, the ensemble is {3, 6, 3, 0}.
    part = spectral_score(np.array([0.0, 0.0, 0.0, 3.0]), np.array([9.0]), period=0)[1]["parts"]["backtest"]
    assert part["simple_forecast"] == "last value"
    members = np.array([3.0, 6.0, 3.0, 0.0])
    spread = 0.5 * np.abs(members[:, None] - members).mean()
    assert part["crps"] == pytest.approx(np.abs(members - 9.0).mean() - spread)
    assert part["crps_of_members"] == pytest.approx(spread)


def test_a_forecast_of_another_length_loses_in_proportion():
    """Catches a reward that is earned by the first few values, or by going on for ever."""
    whole = spectral_score(WAVE, NEXT, horizon=24)[0]
    assert spectral_score(WAVE, NEXT[:12], horizon=24)[0] == pytest.approx(0.5 * spectral_score(WAVE, NEXT[:12])[0])
    assert spectral_score(WAVE, np.tile(NEXT, 2), horizon=24)[0] == pytest.approx(0.5 * whole)
    assert spectral_score(WAVE, np.array([]), horizon=24)[0] == 0.0


@pytest.mark.parametrize("context", [[1.0, 1.0], [5.0] * 64, [0.0, 1.0, 2.0], list(range(40))])
@pytest.mark.parametrize("num_values", [1, 7, 64])
def test_short_and_constant_contexts_have_a_value(context, num_values):
    """Catches a division by a range, spread or spectrum of 0."""
    value, evidence = spectral_score(np.array(context), np.full(num_values, 1.0))
    assert 0.0 <= value <= 1.0
    assert evidence["value"] == value


def test_a_constant_context_wants_its_constant():
    context = np.full(64, 5.0)
    assert spectral_score(context, np.full(16, 5.0))[0] == 1.0
    assert spectral_score(context, np.full(16, 6.0))[0] < 0.5


def test_the_reward_reads_the_task_columns():
    """Catches columns that are ignored: horizon, digits and scale."""
    shared = {"prompts": [None], "completion_ids": [[]], "series": [[WAVE.tolist()]]}
    plain = " ".join(f"{value:.2f}" for value in NEXT)
    digits = " , ".join(" ".join(str(round(100 * (value - 7.0)))) for value in NEXT)
    reward = Spectral()
    (first,) = reward(completions=[plain], horizon=[24], **shared)
    (second,) = reward(completions=[digits], horizon=[24], decimals=[2], offset=[7.0], scale=[1.0], **shared)
    assert first > 0.9
    assert second == pytest.approx(first, abs=0.01)
    assert reward(completions=[plain], horizon=[48], **shared) == [pytest.approx(first / 2)]
    assert reward(completions=["no numbers"], horizon=[24], **shared) == [0.0]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(RewardError, match="column 'series'"):
        Spectral()(prompts=[None], completions=["1"], completion_ids=[[]])
    with pytest.raises(RewardError, match="at least 2 finite numbers"):
        spectral_score(np.array([1.0, np.nan, 2.0]), np.array([1.0]))
