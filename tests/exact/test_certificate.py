"""What a tree and its fresh draws say about π, against enumeration."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom, genpareto

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.certificate import pareto_shape
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.search.maxent import maxent, maxent_sample
from maxent_ts.types import Budget
from tests.conftest import additive_reward, run_one

LENGTH = 5


def model(seed):
    return TableEngine.random(num_tokens=4, concentration=0.7, seed=seed), additive_reward(4, LENGTH, seed)


def truth_of(engine, reward, tilt):
    return run_one(engine, reward, exact, tilt=tilt, max_new_tokens=LENGTH, budget=Budget()).outcome


def answer_of(text):
    return text[:1] or None


def certified(engine, reward, tilt, seed, num_fresh_draws=40, num_rollouts=70):
    method = partial(maxent_sample, num_fresh_draws=num_fresh_draws)
    budget = Budget(rollouts=num_rollouts)
    return run_one(engine, reward, method, tilt=tilt, max_new_tokens=LENGTH, budget=budget, seed=seed, answer_fn=answer_of).outcome


@pytest.mark.parametrize(("tilt", "num_fresh_draws", "largest_k"), [(1.0, 40, math.inf), (2.0, 200, None)])
def test_intervals_cover_the_truth_as_often_as_they_say(tilt, num_fresh_draws, largest_k):
    """500 models: the 95 % intervals of log Z and of every answer's probability cover 90 to 99 % of the time.

    At λ = 2 that is asked where k̂ keeps its limit, as the docs say. An interval that forgets the part inside the tree, or takes
    the adaptive rollouts for fresh draws, fails.
    """
    hits, answer_hits = [], []
    for seed in range(500):
        engine, reward = model(seed)
        truth = truth_of(engine, reward, tilt)
        found = certified(engine, reward, tilt, seed, num_fresh_draws, num_fresh_draws + 40)
        if "log_z_low" not in found.info or found.info["pareto_k"] > (largest_k or found.info["pareto_k_limit"]):
            continue
        hits.append(found.info["log_z_low"] <= truth.info["log_z"] <= found.info["log_z_high"])
        for answer, one in found.marginals.items():
            pairs = zip(truth.completions, truth.weights, strict=True)
            probability = sum(weight for completion, weight in pairs if answer_of(completion.text) == answer)
            answer_hits.append(one.low - 1e-12 <= probability <= one.high + 1e-12)
    assert len(hits) > 200
    assert 0.90 <= np.mean(hits) <= 0.99
    assert 0.90 <= np.mean(answer_hits) <= 0.99


def test_the_estimate_is_unbiased():
    """The mean of Ẑ over seeds on one model is Z, within 4.5 standard errors; the tree's own estimate is not."""
    engine, reward = model(2)
    truth = truth_of(engine, reward, 3.0).info["log_z"]
    ratios = [
        math.exp(certified(engine, reward, 3.0, seed, num_fresh_draws=4, num_rollouts=14).info["log_z_unbiased"] - truth)
        for seed in range(1500)
    ]
    assert abs(np.mean(ratios) - 1) < 4.5 * np.std(ratios) / math.sqrt(len(ratios))


@pytest.mark.parametrize("num_rollouts", [3, 20, 80, 400])
def test_the_bound_on_the_distance_holds(num_rollouts):
    """And is no longer vacuous once most of the mass has been evaluated."""
    for seed in range(20):
        engine, reward = model(seed)
        truth = truth_of(engine, reward, 1.0)
        budget = Budget(rollouts=num_rollouts)
        found = run_one(engine, reward, maxent_sample, max_new_tokens=LENGTH, budget=budget, seed=seed).outcome
        law = dict(zip([one.tokens for one in found.completions], found.weights, strict=True))
        distance = total_variation(law, dict(zip([one.tokens for one in truth.completions], truth.weights, strict=True)))
        assert distance <= found.info["tv_bound"] + 1e-9
        if num_rollouts == 400:
            assert found.info["tv_bound"] < 0.2


def test_everything_is_exact_once_everything_is_seen():
    """KL, the known share and the bound become those of enumeration, and fresh draws are not needed."""
    engine, reward = model(1)
    truth = truth_of(engine, reward, 2.0)
    budget = Budget(generated_tokens=10**6)
    found = run_one(engine, reward, partial(maxent, num_fresh_draws=5), tilt=2.0, max_new_tokens=LENGTH, budget=budget).outcome
    rewards = np.array([one.reward for one in truth.completions])
    assert found.info["kl_from_model"] == pytest.approx(2.0 * np.dot(truth.weights, rewards) - truth.info["log_z"], abs=1e-9)
    assert found.info["known_share"] == pytest.approx(1)
    assert found.info["tv_bound"] == pytest.approx(0, abs=1e-9)
    assert "log_z_unbiased" not in found.info


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9])
def test_the_shape_of_a_heavy_tail_is_found(shape):
    """On generalised Pareto ratios the fit is near the truth, drawn towards 0.5 as its prior says."""
    found = [pareto_shape(genpareto.rvs(shape, size=4000, random_state=seed)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(shape, abs=0.08)


def test_too_few_ratios_have_no_shape_and_equal_ones_no_tail():
    """A number fitted to three values would pass for a diagnosis."""
    assert math.isnan(pareto_shape(np.ones(20)))
    assert pareto_shape(np.ones(100)) == -math.inf


def test_draws_from_the_frozen_tree_leave_it_as_often_as_its_law_says():
    """Draws kept inside the tree would look like π on what was seen, and be far from π. Binomial, once in 10⁵."""
    engine, reward = model(4)
    num_outside, expected, num_draws = 0, 0.0, 400
    for seed in range(num_draws):
        one = run_one(engine, reward, maxent_sample, max_new_tokens=LENGTH, budget=Budget(generated_tokens=60), seed=seed)
        assert one.outcome.info["draws_forced_inside"] == 0
        num_outside += one.outcome.best is one.outcome.completions[-1]
        expected += 1 - one.outcome.info["known_share"]
    # The share is that of the tree after the draw has joined it: close to, and at most, the one it was drawn with.
    low, high = binom.ppf([1e-5, 1 - 1e-5], num_draws, expected / num_draws)
    assert low <= num_outside <= high + 0.1 * num_draws
