"""MaxEnt-TS against enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.best_of_n import best_of_n, best_of_n_softmax
from maxent_ts.search.exact import exact, frozen_tree_law, total_variation
from maxent_ts.search.maxent import maxent, maxent_sample
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.search.sampling import sample
from maxent_ts.types import Budget, Policy
from tests.conftest import TokenReward, additive_reward, run_one
from tests.exact.laws import law_of_weights

EVERYTHING = Budget(generated_tokens=10**7)
MODELS = {
    "num_tokens": st.integers(2, 4),
    "length": st.integers(1, 4),
    "tilt": st.floats(0, 6),
    "eos": st.booleans(),
    "seed": st.integers(0, 10**6),
}


@pytest.mark.parametrize("method", [maxent, partial(maxent, selection="bound"), maxent_sample])
@given(**MODELS)
def test_a_fully_expanded_tree_is_the_target(method, num_tokens, length, tilt, eos, seed):
    """A backup that sums or averages without p, or forgets that EOS makes lengths differ, fails here."""
    engine = TableEngine.random(num_tokens=num_tokens, eos=eos, seed=seed)
    reward = additive_reward(num_tokens, length, seed)
    truth = run_one(engine, reward, exact, tilt=tilt, max_new_tokens=length, budget=Budget()).outcome
    found = run_one(engine, reward, method, tilt=tilt, max_new_tokens=length, budget=EVERYTHING).outcome
    assert total_variation(law_of_weights(found), law_of_weights(truth)) < 1e-9
    assert total_variation(frozen_tree_law(found.tree, truth), law_of_weights(truth)) < 1e-9
    assert found.info["log_z"] == pytest.approx(truth.info["log_z"], abs=1e-9)
    assert found.info["unseen_mass"] == 0.0


@pytest.mark.parametrize("method", [maxent, partial(maxent, selection="bound"), maxent_sample])
@given(num_rollouts=st.integers(1, 30), num_parallel=st.integers(1, 6), **MODELS)
def test_the_bracket_holds_log_z_at_every_size_of_the_tree(method, num_rollouts, num_parallel, num_tokens, length, tilt, eos, seed):
    """A bracket that counts mass twice, or loses some, excludes the truth on some model."""
    engine = TableEngine.random(num_tokens=num_tokens, eos=eos, seed=seed)
    reward = additive_reward(num_tokens, length, seed)
    truth = run_one(engine, reward, exact, tilt=tilt, max_new_tokens=length, budget=Budget()).outcome.info["log_z"]
    found = run_one(
        engine,
        reward,
        partial(method, num_parallel=num_parallel),
        tilt=tilt,
        max_new_tokens=length,
        budget=Budget(rollouts=num_rollouts),
    ).outcome
    assert found.info["log_z_lower"] - 1e-9 <= truth <= found.info["log_z_upper"] + 1e-9
    assert found.info["log_z_lower"] - 1e-9 <= found.info["log_z"] <= found.info["log_z_upper"] + 1e-9
    assert sum(found.weights) == pytest.approx(1)


def test_total_variation_after_a_hundred_rollouts_worth_of_tokens():
    """4⁶ leaves, tilt 1, additive reward, mean of 12 models: the sampler's law is within 0.10 of π, and improves."""
    distances = np.empty((12, 3))
    for seed in range(12):
        engine = TableEngine.random(num_tokens=4, concentration=0.5, eos=False, seed=seed)
        reward = additive_reward(4, 6, seed)
        truth = run_one(engine, reward, exact, max_new_tokens=6, budget=Budget()).outcome
        for column, num_rollouts in enumerate((10, 30, 100)):
            budget = Budget(generated_tokens=num_rollouts * 6)
            found = run_one(engine, reward, maxent_sample, max_new_tokens=6, budget=budget).outcome
            distances[seed, column] = total_variation(frozen_tree_law(found.tree, truth), law_of_weights(truth))
    after_10, after_30, after_100 = distances.mean(axis=0)
    assert after_100 <= 0.10
    assert after_10 > after_30 > after_100


@pytest.mark.parametrize("num_rollouts", [1, 5, 40])
def test_without_tilt_the_tree_is_the_model_itself(num_rollouts):
    """At λ = 0 every value is 1, whatever the reward: a reward that leaks into the weights shows."""
    engine = TableEngine.random(num_tokens=3, seed=5)
    truth = run_one(engine, additive_reward(3, 4, 0), exact, tilt=0.0, budget=Budget()).outcome
    model = {one.tokens: np.exp(one.logprob) for one in truth.completions}
    assert total_variation(law_of_weights(truth), model) < 1e-12
    budget = Budget(rollouts=num_rollouts)
    found = run_one(engine, additive_reward(3, 4, 0), maxent_sample, tilt=0.0, budget=budget).outcome
    assert total_variation(frozen_tree_law(found.tree, truth), model) < 1e-12
    assert found.info["log_z"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", [maxent, partial(maxent, selection="bound"), maxent_sample])
def test_no_completion_is_paid_for_twice(method):
    """Rollouts in flight that collide, or branch into seen tokens, would repeat a completion."""
    engine = TableEngine.random(num_tokens=3, seed=1)
    result = run_one(
        engine, additive_reward(3, 5, 1), partial(method, num_parallel=6), max_new_tokens=5, budget=Budget(rollouts=60)
    )
    assert result.usage.rollouts == len(result.outcome.completions) == len({one.tokens for one in result.outcome.completions})


def test_best_returns_the_highest_reward_it_has_seen():
    """A fresh rollout, or the leaf of the highest value, is not what was scored best."""
    engine = TableEngine.random(num_tokens=4, seed=2)
    outcome = run_one(engine, additive_reward(4, 5, 2), maxent, max_new_tokens=5, budget=Budget(rollouts=25)).outcome
    assert outcome.best.reward == max(one.reward for one in outcome.completions)


def test_search_beats_best_of_n_on_a_reward_with_structure():
    """On additive rewards at equal tokens the tree's best is better on average over 30 models."""
    budget = Budget(generated_tokens=60 * 8)
    gains = []
    for seed in range(30):
        engine = TableEngine.random(num_tokens=6, eos=False, seed=seed)
        reward = additive_reward(6, 8, seed)
        run = partial(run_one, engine, reward, tilt=4.0, max_new_tokens=8, budget=budget)
        gains.append(run(method=maxent).outcome.best.reward - run(method=best_of_n).outcome.best.reward)
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


@pytest.mark.parametrize("method", [sample, best_of_n_softmax, maxent_sample])
def test_a_draw_at_tilt_zero_follows_the_model(method):
    """χ² of the first returned completion over 1000 seeds; fails by chance once in 10⁵."""
    engine = TableEngine.random(num_tokens=3, concentration=2.0, seed=8)
    truth = run_one(engine, additive_reward(3, 2, 0), exact, tilt=0.0, max_new_tokens=2, budget=Budget()).outcome
    counts = dict.fromkeys([one.tokens for one in truth.completions], 0)
    num_draws = 1000
    for seed in range(num_draws):
        # maxent_sample is exact once everything is seen; the others are unbiased at λ = 0 at any size.
        budget = Budget(rollouts=100 if method is maxent_sample else 4)
        one = run_one(engine, TokenReward(lambda tokens: 0.0), method, tilt=0.0, max_new_tokens=2, budget=budget, seed=seed)
        counts[one.outcome.best.tokens] += 1
    expected = {one.tokens: num_draws * weight for one, weight in zip(truth.completions, truth.weights, strict=True)}
    statistic = sum((counts[tokens] - expected[tokens]) ** 2 / expected[tokens] for tokens in counts)
    assert statistic < chi2.ppf(1 - 1e-5, len(counts) - 1)


def test_policy_is_part_of_the_target():
    """Temperature, top-k and top-p change p, so the enumerated log Z changes with them and the tree follows."""
    engine = TableEngine.random(num_tokens=4, eos=False, seed=4)
    reward = additive_reward(4, 3, 4)
    found = {}
    for name, policy in {
        "plain": Policy(3),
        "cold": Policy(3, temperature=0.5),
        "top-k": Policy(3, top_k=2),
        "top-p": Policy(3, top_p=0.6),
    }.items():
        jobs = [SearchJob(str(method), (0,), policy, method, 2.0, EVERYTHING) for method in (exact, maxent_sample)]
        truth, tree = sorted(run_searches(jobs, engine, reward), key=lambda result: result.job.id)
        assert tree.outcome.info["log_z"] == pytest.approx(truth.outcome.info["log_z"], abs=1e-9)
        found[name] = truth.outcome.info["log_z"]
    assert len({round(value, 6) for value in found.values()}) == 4
