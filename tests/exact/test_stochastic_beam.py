"""Stochastic beam search against sampling without replacement by definition."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.exact import total_variation
from maxent_ts.search.stochastic_beam import arrival_times, inclusion_log_probabilities, stochastic_beam
from maxent_ts.types import Budget
from tests.conftest import additive_reward, run_one
from tests.exact.laws import chi_squared_excess, enumerate_all, law_of_weights, outcomes, standard_errors_from

ENGINE = TableEngine.random(num_tokens=3, concentration=2.0, seed=8)
REWARD = additive_reward(3, 3, 1)


def without_replacement(p: dict, num: int) -> dict[tuple, float]:
    """P of every ordered sample: each draw ∝ p among those not drawn."""
    law = {}
    for sample in permutations(p, num):
        left, probability = 1.0, 1.0
        for one in sample:
            probability *= p[one] / left
            left -= p[one]
        law[sample] = probability
    return law


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_completions_are_draws_without_replacement_in_order(length):
    """χ² over 3000 seeds: times whose gaps forget p(s), a beam cut by log p, or children drawn anew change the law of the pairs."""
    truth = enumerate_all(ENGINE, REWARD, tilt=0.0, max_new_tokens=length)
    law = without_replacement({one.tokens: math.exp(one.logprob) for one in truth.completions}, 2)
    found = outcomes(
        ENGINE, REWARD, partial(stochastic_beam, num_beams=2), num=3000, tilt=1.0, max_new_tokens=length, budget=Budget()
    )
    assert chi_squared_excess((tuple(one.tokens for one in outcome.completions) for outcome in found), law) < 1


def test_the_set_of_completions_has_the_law_of_draws_without_replacement():
    """As above for sets of four of fifteen completions of unequal lengths."""
    truth = enumerate_all(ENGINE, REWARD, tilt=0.0, max_new_tokens=3)
    ordered = without_replacement({one.tokens: math.exp(one.logprob) for one in truth.completions}, 4)
    law = dict.fromkeys((frozenset(one) for one in combinations([one.tokens for one in truth.completions], 4)), 0.0)
    for sample, probability in ordered.items():
        law[frozenset(sample)] += probability
    found = outcomes(ENGINE, REWARD, partial(stochastic_beam, num_beams=4), num=4000, tilt=1.0, max_new_tokens=3, budget=Budget())
    assert chi_squared_excess((frozenset(one.tokens for one in outcome.completions) for outcome in found), law) < 1


@pytest.mark.parametrize("num_beams", [1, 3, 8])
@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_the_estimate_of_z_is_unbiased(tilt, num_beams):
    """A threshold of another arrival, or one taken among the kept, is off by many standard errors over 1500 seeds."""
    truth = math.exp(enumerate_all(ENGINE, REWARD, tilt=tilt, max_new_tokens=3).info["log_z"])
    found = outcomes(
        ENGINE, REWARD, partial(stochastic_beam, num_beams=num_beams), num=1500, tilt=tilt, max_new_tokens=3, budget=Budget()
    )
    assert standard_errors_from((min(50.0 * truth, math.exp(one.info["log_z"])) for one in found), truth) < 4.5


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_a_beam_wide_enough_for_everything_is_the_target(tilt):
    """Nothing is dropped, so every leaf has inclusion probability 1."""
    truth = enumerate_all(ENGINE, REWARD, tilt=tilt, max_new_tokens=3)
    for num_beams in (15, 40):
        found = run_one(ENGINE, REWARD, partial(stochastic_beam, num_beams=num_beams), tilt=tilt, max_new_tokens=3).outcome
        assert total_variation(law_of_weights(found), law_of_weights(truth)) < 1e-9
        assert found.info["log_z"] == pytest.approx(truth.info["log_z"], abs=1e-9)


def test_arrival_times_of_children_are_those_of_independent_exponentials():
    """The second and third arrivals of four given the first, by moments, against a plain race of rates p(s)·p(a|s)."""
    rng = np.random.default_rng(0)
    p, log_mass = np.array([0.5, 0.3, 0.15, 0.05]), math.log(0.2)
    race = rng.exponential(size=(200_000, 4)) / (p * 0.2)
    expected = np.sort(race, axis=1) - race.min(axis=1, keepdims=True)
    found = []
    for row in np.argsort(race, axis=1)[:20_000]:
        found.append(np.exp(arrival_times(rng, math.log(1e-9), log_mass, np.log(p[row]))))
    for column in (1, 2, 3):
        spread = expected[:, column].std() / math.sqrt(len(found))
        assert abs(np.mean(found, axis=0)[column] - expected[:, column].mean()) < 5 * spread


def test_times_and_weights_stay_finite_for_long_unlikely_texts():
    """exp of the time, or 1 - exp(-p·t) taken literally, overflows or is 0 at log p = -3000."""
    rng = np.random.default_rng(0)
    times = arrival_times(rng, 2999.0, -3000.0, np.log([0.5, 0.25, 0.25 - 1e-13, 1e-13]))
    assert np.all(np.isfinite(times))
    assert np.all(np.diff(times) > 0)
    found = inclusion_log_probabilities(np.array([-3000.0, -2980.0, 0.0]), 2990.0)
    assert found == pytest.approx([-10.0 - math.exp(-10) / 2, math.log(-math.expm1(-math.exp(10))), 0.0], abs=1e-9)
    assert inclusion_log_probabilities(np.array([-3000.0, -1.0]), 0.0)[0] == -3000.0
    assert inclusion_log_probabilities(np.array([-3000.0]), math.inf)[0] == 0.0
