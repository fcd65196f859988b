"""Diffusion Tree Sampling against enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import chi2

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.best_of_n import best_of_n
from maxent_ts.search.dts import dts, dts_star
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.types import Budget, Outcome, Tokens
from tests.conftest import additive_reward, run_one


def law_of_weights(outcome: Outcome) -> dict[Tokens, float]:
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_many_walks_converge_to_the_target(tilt):
    """Completions that end early, and others: distinct tokens averaged without their multiplicities stay 0.2 and more away."""
    engine = TableEngine.random(num_tokens=3, concentration=0.7, seed=6)
    reward = additive_reward(3, 3, 2)
    truth = run_one(engine, reward, exact, tilt=tilt, max_new_tokens=3, budget=Budget()).outcome
    distances = []
    for num_rollouts in (100, 20_000):
        method = partial(dts, num_rollouts=num_rollouts, widening_exponent=0.75)
        found = run_one(engine, reward, method, tilt=tilt, max_new_tokens=3, budget=Budget())
        distances.append(total_variation(law_of_weights(found.outcome), law_of_weights(truth)))
    assert distances[1] < 0.03
    assert distances[1] < distances[0]
    assert found.outcome.info["log_z"] == pytest.approx(truth.info["log_z"], abs=0.05)


def test_without_tilt_a_returned_draw_follows_the_model_after_any_number_of_walks():
    """χ² over 2000 seeds; fails by chance once in 10⁵. Repeats drawn with another law than p, or left out of m, show."""
    engine = TableEngine.random(num_tokens=3, concentration=1.0, seed=8)
    reward = additive_reward(3, 2, 0)
    truth = run_one(engine, reward, exact, tilt=0.0, max_new_tokens=2, budget=Budget()).outcome
    counts = dict.fromkeys([one.tokens for one in truth.completions], 0)
    for seed in range(2000):
        found = run_one(engine, reward, partial(dts, num_rollouts=5), tilt=0.0, max_new_tokens=2, budget=Budget(), seed=seed)
        counts[found.outcome.best.tokens] += 1
    expected = {one.tokens: 2000 * weight for one, weight in zip(truth.completions, truth.weights, strict=True)}
    statistic = sum((counts[tokens] - expected[tokens]) ** 2 / expected[tokens] for tokens in counts)
    assert statistic < chi2.ppf(1 - 1e-5, len(counts) - 1)


@pytest.mark.parametrize("method", [dts, dts_star])
def test_a_tilt_near_zero_is_the_limit(method):
    """log-mean-exp divided by a tiny λ would be noise, or infinite."""
    engine = TableEngine.random(num_tokens=4, concentration=0.7, seed=3)
    found = [
        run_one(engine, additive_reward(4, 5, 1), method, tilt=tilt, max_new_tokens=5, budget=Budget(rollouts=60)).outcome
        for tilt in (0.0, 1e-12)
    ]
    assert found[0].completions == found[1].completions
    assert found[0].weights == pytest.approx(found[1].weights, abs=1e-9)


@pytest.mark.parametrize("method", [dts, dts_star])
def test_a_seen_completion_is_never_written_again(method):
    """Every rollout of the model is a completion that was not there."""
    engine = TableEngine.random(num_tokens=3, seed=1)
    result = run_one(engine, additive_reward(3, 5, 1), method, max_new_tokens=5, budget=Budget(rollouts=60))
    assert result.usage.rollouts == result.usage.reward_calls == len(result.outcome.completions)


def test_growth_ends_when_all_is_seen():
    """Without an end to idle walks this test would not return."""
    engine = TableEngine.random(num_tokens=2, seed=1)
    result = run_one(engine, additive_reward(2, 2, 1), dts, max_new_tokens=2, budget=Budget(generated_tokens=10**6))
    assert len(result.outcome.completions) == 3


def test_the_search_returns_the_best_it_has_seen_and_beats_best_of_n():
    """On additive rewards at equal tokens, on average over 30 models."""
    budget = Budget(generated_tokens=60 * 8)
    gains = []
    for seed in range(30):
        engine = TableEngine.random(num_tokens=6, eos=False, seed=seed)
        run = partial(run_one, engine, additive_reward(6, 8, seed), tilt=4.0, max_new_tokens=8, budget=budget)
        found = run(method=dts_star).outcome
        assert found.best.reward == max(one.reward for one in found.completions)
        gains.append(found.best.reward - run(method=best_of_n).outcome.best.reward)
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


@pytest.mark.parametrize("setting", [{"widening": 0.0}, {"widening_exponent": 0.1}, {"widening_exponent": 1.5}])
def test_constants_out_of_range_are_refused(setting):
    engine = TableEngine.random(num_tokens=2, seed=1)
    with pytest.raises(SettingError):
        run_one(engine, additive_reward(2, 2, 1), partial(dts, **setting))
