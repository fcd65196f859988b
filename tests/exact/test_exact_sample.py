"""Exact draws against enumeration."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from scipy.stats import chi2

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.exact import exact
from maxent_ts.search.exact_sample import exact_sample
from maxent_ts.types import Budget
from tests.conftest import TokenReward, additive_reward, run_one

LENGTH = 4


@pytest.mark.parametrize(("tilt", "num_parallel"), [(0.0, 1), (1.0, 4), (3.0, 16)])
def test_a_hundred_thousand_draws_follow_the_target(tilt, num_parallel):
    """χ² over 10⁵ draws; fails by chance once in 10⁵. A bound too low, or a proposal that repeats, shifts the law."""
    engine, reward = TableEngine.random(num_tokens=3, seed=3), additive_reward(3, LENGTH, 4)
    truth = run_one(engine, reward, exact, tilt=tilt, budget=Budget()).outcome
    num_draws, num_searches = 100_000, 200
    counts: Counter[tuple[int, ...]] = Counter()
    method = partial(exact_sample, num_return_sequences=num_draws // num_searches, num_parallel=num_parallel)
    for seed in range(num_searches):
        outcome = run_one(engine, reward, method, tilt=tilt, budget=Budget(generated_tokens=10**6), seed=seed).outcome
        counts.update(outcome.completions[index].tokens for index in outcome.chosen)
    assert counts.total() == num_draws
    expected = {one.tokens: num_draws * weight for one, weight in zip(truth.completions, truth.weights, strict=True)}
    statistic = sum((counts[tokens] - number) ** 2 / number for tokens, number in expected.items() if number > 5)
    assert statistic < chi2.ppf(1 - 1e-5, sum(number > 5 for number in expected.values()) - 1)


def test_first_draws_follow_the_target_too():
    """Before the tree holds anything only the rejection makes it right: a draw accepted always would follow the model."""
    engine, reward = TableEngine.random(num_tokens=3, seed=7), additive_reward(3, 2, 1)
    truth = run_one(engine, reward, exact, tilt=2.0, max_new_tokens=2, budget=Budget()).outcome
    num_draws = 20_000
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(num_draws):
        outcome = run_one(
            engine, reward, exact_sample, tilt=2.0, max_new_tokens=2, budget=Budget(generated_tokens=1000), seed=seed
        ).outcome
        counts[outcome.best.tokens] += 1
    expected = {one.tokens: num_draws * weight for one, weight in zip(truth.completions, truth.weights, strict=True)}
    statistic = sum((counts[tokens] - number) ** 2 / number for tokens, number in expected.items())
    assert statistic < chi2.ppf(1 - 1e-5, len(expected) - 1)


def test_acceptance_never_falls_as_the_tree_grows():
    """The chance Z / Ū(root), with the true Z, after more and more draws of one search; at the end everything is accepted."""
    engine, reward = TableEngine.random(num_tokens=3, seed=5), additive_reward(3, LENGTH, 6)
    log_z = run_one(engine, reward, exact, tilt=3.0, budget=Budget()).outcome.info["log_z"]
    chances = []
    for num in (1, 3, 10, 30, 100, 300, 3000):
        method = partial(exact_sample, num_return_sequences=num)
        info = run_one(engine, reward, method, tilt=3.0, budget=Budget(generated_tokens=10**6)).outcome.info
        assert info["exact_samples"] == num
        chances.append(log_z - info["log_z_upper"])
    assert chances == sorted(chances)
    assert chances[0] < -0.5
    assert chances[-1] > -1e-3


def test_a_budget_ends_with_as_many_as_were_accepted():
    """Fewer samples than asked for, and none that is not exact."""
    engine, reward = TableEngine.random(num_tokens=3, seed=5), additive_reward(3, LENGTH, 6)
    method = partial(exact_sample, num_return_sequences=10**6)
    outcome = run_one(engine, reward, method, tilt=1.0, budget=Budget(rollouts=20)).outcome
    assert 1 <= len(outcome.chosen) == outcome.info["exact_samples"] < 10**6


def test_what_cannot_be_exact_is_refused():
    """No bound, or no sample within the budget: another method's draw would pass for an exact one."""
    engine = TableEngine.random(num_tokens=3, seed=5)
    with pytest.raises(SettingError, match="finite upper bound"):
        run_one(engine, TokenReward(lambda tokens: 0.0), exact_sample)
    never = TokenReward(lambda tokens: 0.0, (0.0, 1.0))
    with pytest.raises(SettingError, match="No exact sample was accepted among 3 proposals"):
        run_one(engine, never, exact_sample, tilt=50.0, budget=Budget(rollouts=3))


def test_one_seed_gives_one_result():
    """Acceptance draws from the search's own generator alone."""
    engine, reward = TableEngine.random(num_tokens=3, seed=5), additive_reward(3, LENGTH, 6)
    first, second = (run_one(engine, reward, partial(exact_sample, num_return_sequences=5), seed=4).outcome for _ in range(2))
    assert first.chosen == second.chosen
    assert np.array_equal(first.weights, second.weights)
