"""Suffix Metropolis-Hastings: the enumerated transition matrix, and the law of long chains."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.metropolis import acceptance, metropolis, num_cuts
from maxent_ts.types import Budget, Outcome
from tests.conftest import additive_reward, run_one
from tests.exact.laws import chi_squared_excess, enumerate_all, law_of_weights, outcomes

ENGINE = TableEngine.random(num_tokens=3, concentration=2.0, seed=8)
REWARD = additive_reward(3, 4, 1)


def transition_matrix(truth: Outcome, tilt: float, block_size: int) -> np.ndarray:
    """P(x → x') over all completions: a uniform cut, a suffix from p, the method's own acceptance.

    Returns:
        float64 array of shape [num completions, num completions]; rows sum to 1.
    """
    completions = truth.completions
    p = np.exp([one.logprob for one in completions])
    matrix = np.zeros((len(p), len(p)))
    for i, current in enumerate(completions):
        cuts = range(0, len(current.tokens), block_size)
        assert len(cuts) == num_cuts(len(current.tokens), block_size)
        for cut in cuts:
            behind = [j for j, one in enumerate(completions) if one.tokens[:cut] == current.tokens[:cut] and len(one.tokens) > cut]
            for j in behind:
                proposal = p[j] / p[behind].sum() / len(cuts)
                accepted = proposal * acceptance(current, completions[j], tilt, block_size)
                matrix[i, j] += accepted
                matrix[i, i] += proposal - accepted
    return matrix


@given(
    seed=st.integers(0, 10**6),
    num_tokens=st.integers(2, 3),
    eos=st.booleans(),
    length=st.integers(1, 4),
    tilt=st.sampled_from([0.0, 1.0, 3.0]),
    block_size=st.integers(1, 3),
)
def test_the_target_is_stationary_and_reversible(seed, num_tokens, eos, length, tilt, block_size):
    """An acceptance without the number of cuts, or with it upside down, fails wherever lengths differ."""
    engine = TableEngine.random(num_tokens=num_tokens, eos=eos, seed=seed)
    truth = enumerate_all(engine, additive_reward(num_tokens, length, seed), tilt=tilt, max_new_tokens=length)
    matrix = transition_matrix(truth, tilt, block_size)
    pi = np.array(truth.weights)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    flow = pi[:, None] * matrix
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)


@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_a_long_chain_visits_completions_as_the_target_does(tilt, block_size):
    """Every completion's share of 5000 steps is within 5 standard errors of π.

    At λ ≤ 1 those of π·m, the law without the number of cuts, are not.

    The standard errors are those of this chain, from its fundamental matrix (Kemeny and Snell 1960): steps are not independent.
    """
    truth = enumerate_all(ENGINE, REWARD, tilt=tilt, max_new_tokens=4)
    matrix, pi = transition_matrix(truth, tilt, block_size), np.array(truth.weights)
    centred = np.eye(len(pi)) - pi[:, None]  # Row k: the indicator of completion k less its mean.
    fundamental = np.linalg.inv(np.eye(len(pi)) - matrix + pi)
    variance = 2 * np.einsum("ki,i,ij,kj->k", centred, pi, fundamental, centred) - np.einsum("ki,i,ki->k", centred, pi, centred)
    num_chains, num_steps = 4, 1250
    standard_error = np.sqrt(variance / (num_chains * num_steps * 0.9))
    method = partial(metropolis, num_chains=num_chains, burn_in=0.1)
    budget = Budget(rollouts=num_chains * num_steps)
    run = partial(run_one, ENGINE, REWARD, tilt=tilt, max_new_tokens=4, budget=budget)
    law = law_of_weights(run(method=partial(method, block_size=block_size)).outcome)
    shares = np.array([law.get(one.tokens, 0.0) for one in truth.completions])
    wrong = pi * [num_cuts(len(one.tokens), block_size) for one in truth.completions]
    assert np.max(np.abs(shares - pi) / standard_error) < 5
    assert tilt > 1 or np.max(np.abs(pi - wrong / wrong.sum()) / standard_error) > 5


def test_the_state_after_two_steps_has_the_law_of_the_matrix():
    """χ² over 3000 seeds against p·P²: cuts of the wrong token, stale states and swapped chains all show, not only in the limit."""
    truth = enumerate_all(ENGINE, REWARD, tilt=2.0, max_new_tokens=3)
    p = np.exp([one.logprob for one in truth.completions])
    after = p @ np.linalg.matrix_power(transition_matrix(truth, 2.0, 1), 2)
    law = dict(zip([one.tokens for one in truth.completions], after, strict=True))
    method = partial(metropolis, num_rollouts=3, burn_in=0.99)
    found = outcomes(ENGINE, REWARD, method, num=3000, tilt=2.0, max_new_tokens=3, budget=Budget())
    assert chi_squared_excess((one.best.tokens for one in found), law) < 1


def test_burn_in_leaves_out_the_beginning_of_each_chain():
    """With two chains of four states and a burn-in of one half, the weights are quarters; without it, eighths."""
    run = partial(run_one, TableEngine.random(num_tokens=4, seed=3), additive_reward(4, 4, 1), tilt=1.0, budget=Budget())
    for burn_in, kept in ((0.0, 8), (0.5, 4), (0.99, 2)):
        outcome = run(method=partial(metropolis, num_rollouts=8, num_chains=2, burn_in=burn_in)).outcome
        assert sum(outcome.weights) == pytest.approx(1)
        assert np.array(outcome.weights) * kept == pytest.approx(np.round(np.array(outcome.weights) * kept), abs=1e-12)
        assert 1 / kept <= max(outcome.weights)
        assert 0 <= outcome.info["acceptance_rate"] <= 1


def test_without_tilt_only_lengths_can_reject():
    """At λ = 0 and equal lengths every proposal is accepted; a reward that enters all the same lowers the rate."""
    engine = TableEngine.random(num_tokens=3, eos=False, seed=1)
    outcome = run_one(engine, additive_reward(3, 4, 1), metropolis, tilt=0.0, budget=Budget(rollouts=200)).outcome
    assert outcome.info["acceptance_rate"] == 1.0
    assert math.isclose(sum(outcome.weights), 1.0)


@pytest.mark.parametrize("settings", [{"num_chains": 0}, {"burn_in": 1.0}, {"burn_in": -0.1}, {"block_size": 0}])
def test_settings_outside_their_domain_are_refused(settings):
    """A burn-in of 1 would leave no state to return."""
    with pytest.raises(SettingError, match=f"{next(iter(settings))} must"):
        run_one(ENGINE, REWARD, partial(metropolis, **settings))
