"""The best-of-N family against enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.best_of_n import best_of_n, best_of_n_softmax, best_of_n_unique
from maxent_ts.search.exact import total_variation
from maxent_ts.types import Budget
from tests.conftest import additive_reward, run_one
from tests.exact.laws import chi_squared_excess, enumerate_all, law_of_weights, outcomes, standard_errors_from

ENGINE = TableEngine.random(num_tokens=3, concentration=2.0, seed=8)
REWARD = additive_reward(3, 3, 1)


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_unique_weights_are_the_target_among_what_was_drawn(tilt):
    """Counts left in the weights, or p left out, differ from π restricted to the draws, and from π once all was drawn."""
    truth = law_of_weights(enumerate_all(ENGINE, REWARD, tilt=tilt, max_new_tokens=3))
    sizes = set()
    for num in (1, 5, 20, 5000):
        found = law_of_weights(
            run_one(ENGINE, REWARD, best_of_n_unique, tilt=tilt, max_new_tokens=3, budget=Budget(rollouts=num)).outcome
        )
        mass = sum(truth[tokens] for tokens in found)
        assert total_variation(found, {tokens: truth[tokens] / mass for tokens in found}) < 1e-9
        sizes.add(len(found))
    assert max(sizes) == len(truth) > min(sizes)


@pytest.mark.parametrize("method", [best_of_n_softmax, best_of_n_unique])
def test_what_is_returned_follows_the_weights(method):
    """χ² of 4000 draws from one outcome; the best, or an index into another list, fails."""
    outcome = run_one(
        ENGINE,
        REWARD,
        lambda rng, target: method(rng, target, num_return_sequences=4000),
        tilt=1.0,
        max_new_tokens=3,
        budget=Budget(rollouts=12),
    ).outcome
    assert chi_squared_excess(outcome.chosen, dict(enumerate(outcome.weights))) < 1


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_the_mean_of_the_tilted_rewards_is_unbiased(tilt):
    """A mean over distinct draws, or one divided by another number, is off by many standard errors over 800 seeds."""
    truth = enumerate_all(ENGINE, REWARD, tilt=tilt, max_new_tokens=3).info["log_z"]
    found = outcomes(ENGINE, REWARD, best_of_n_softmax, num=800, tilt=tilt, max_new_tokens=3, budget=Budget(rollouts=10))
    assert standard_errors_from((math.exp(one.info["log_z"]) for one in found), math.exp(truth)) < 4.5


def test_the_best_has_the_law_of_the_maximum_of_n_draws():
    """P(best = x) = F(x)^N - F(x-)^N in the order of reward: fewer or dependent draws have another law. χ² over 2000 seeds."""
    truth = enumerate_all(ENGINE, REWARD, tilt=0.0, max_new_tokens=3)
    ordered = sorted(truth.completions, key=lambda one: one.reward)
    cumulative = np.concatenate([[0.0], np.cumsum([math.exp(one.logprob) for one in ordered])]) ** 4
    law = {one.tokens: float(p) for one, p in zip(ordered, np.diff(cumulative), strict=True)}
    found = outcomes(ENGINE, REWARD, best_of_n, num=2000, tilt=1.0, max_new_tokens=3, budget=Budget(rollouts=4))
    assert chi_squared_excess((one.best.tokens for one in found), law) < 1
