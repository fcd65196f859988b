"""Trees that go on, aim at another λ, take a reward's guesses, or see noise: against enumeration."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.exact import exact, frozen_tree_law, total_variation
from maxent_ts.search.maxent import maxent, maxent_sample
from maxent_ts.types import Budget
from tests.conftest import TokenReward, additive_reward, run_one
from tests.exact.laws import law_of_weights
from tests.prefix_values import with_prefix_values

LENGTH = 5


def model(seed):
    return TableEngine.random(num_tokens=4, concentration=0.7, seed=seed), additive_reward(4, LENGTH, seed)


def search(engine, reward, method=maxent_sample, *, tilt=2.0, num_rollouts=20, seed=0):
    budget = Budget(rollouts=num_rollouts)
    return run_one(engine, reward, method, tilt=tilt, max_new_tokens=LENGTH, budget=budget, seed=seed)


@pytest.mark.parametrize("method", [maxent, maxent_sample])
def test_a_tree_goes_on_where_it_was_left(method):
    """Nothing is paid for twice, nothing is lost, and the bracket is that of all of it."""
    engine, reward = model(1)
    first = search(engine, reward, method)
    before = [one.tokens for one in first.outcome.completions]
    second = search(engine, reward, partial(method, tree=first.outcome.tree), tilt=1.0, seed=1)
    after = [one.tokens for one in second.outcome.completions]
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) == len(before) + second.usage.rollouts
    truth = search(engine, reward, exact, tilt=1.0, num_rollouts=10**6).outcome.info["log_z"]
    assert second.outcome.info["log_z_lower"] <= truth <= second.outcome.info["log_z_upper"]
    assert second.outcome.tree.target.tilt == 1.0


def test_a_tree_of_another_length_is_refused():
    """A completion cut at five tokens is another event than one cut at six."""
    engine, reward = model(1)
    tree = search(engine, reward).outcome.tree
    with pytest.raises(SettingError, match="grown with max_new_tokens=5, but this search has 6"):
        run_one(engine, reward, partial(maxent_sample, tree=tree), max_new_tokens=6)


@pytest.mark.parametrize("goal", [{"kl_target": 0.3}, {"kl_target": 1.0}, {"ess_target": 0.2}])
def test_the_tilt_meets_its_goal_once_everything_is_seen(goal):
    """KL(π‖p) and the effective share of draws from p, both by enumeration."""
    engine, reward = model(3)
    budget = Budget(generated_tokens=10**6)
    found = run_one(engine, reward, partial(maxent_sample, **goal), max_new_tokens=LENGTH, budget=budget).outcome
    tilt = found.info["tilt"]
    truth = run_one(engine, reward, exact, tilt=tilt, max_new_tokens=LENGTH, budget=Budget()).outcome
    weights = np.array(truth.weights)
    model_weights = np.exp([one.logprob for one in truth.completions])
    if "kl_target" in goal:
        assert weights @ np.log(weights / model_weights) == pytest.approx(goal["kl_target"], abs=1e-4)
    else:
        assert 1 / np.sum(weights**2 / model_weights) == pytest.approx(goal["ess_target"], abs=1e-4)
    assert total_variation(law_of_weights(found), law_of_weights(truth)) < 1e-6


def test_goals_that_make_no_sense_are_refused():
    """Two goals for one number, or a share above one."""
    engine, reward = model(3)
    for settings, words in (
        ({"kl_target": 1.0, "ess_target": 0.5}, "not both"),
        ({"kl_target": -1.0}, "kl_target must be a finite number"),
        ({"ess_target": 1.5}, r"ess_target must lie in \(0, 1\)"),
    ):
        with pytest.raises(SettingError, match=words):
            search(engine, reward, partial(maxent_sample, **settings))


def test_exact_guesses_of_prefixes_bring_the_tree_closer_to_the_target():
    """On average over models, with few rollouts; and a fully expanded tree is π whatever the guesses were."""
    gains = []
    for seed in range(20):
        engine, reward = model(seed)
        truth = law_of_weights(search(engine, reward, exact, num_rollouts=10**6).outcome)
        guessed = with_prefix_values(engine, reward, 2.0, LENGTH)
        distances = []
        for settings in ({"prefix_rewards": True}, {"prefix_rewards": False}):
            tree = search(engine, guessed, partial(maxent_sample, **settings)).outcome.tree
            distances.append(total_variation(frozen_tree_law(tree, _outcome(engine, reward)), truth))
        gains.append(distances[1] - distances[0])
    assert np.mean(gains) > 2 * np.std(gains) / math.sqrt(len(gains))
    engine, reward = model(0)
    wrong = with_prefix_values(engine, reward, 2.0, LENGTH, noise=3.0)
    full = run_one(engine, wrong, maxent_sample, tilt=2.0, max_new_tokens=LENGTH, budget=Budget(generated_tokens=10**6)).outcome
    assert total_variation(law_of_weights(full), law_of_weights(_outcome(engine, reward))) < 1e-9


def _outcome(engine, reward):
    return search(engine, reward, exact, num_rollouts=10**6).outcome


def test_scoring_the_best_again_finds_a_truly_better_one_under_noise():
    """Without it the answer is the completion that was luckiest; paired over 150 searches."""
    gains = []
    for seed in range(150):
        engine, reward = model(seed)
        values = []
        for num_rescores in (8, 0):
            rng = np.random.default_rng(seed)
            noisy = TokenReward(lambda tokens, reward=reward, rng=rng: reward.function(tokens) + float(rng.normal()))
            found = search(engine, noisy, partial(maxent, num_rescores=num_rescores), num_rollouts=30, seed=seed).outcome
            values.append(reward.function(found.best.tokens))
        gains.append(values[0] - values[1])
    assert np.mean(gains) > 2 * np.std(gains) / math.sqrt(len(gains))


@pytest.mark.parametrize("branch_on", ["segment", "entropy"])
@pytest.mark.parametrize("method", [maxent, maxent_sample])
def test_preferred_places_to_branch_leave_the_target_as_it_is(method, branch_on):
    """They decide the order of work, not what is true in the end."""
    engine, reward = model(2)
    budget = Budget(generated_tokens=10**6)
    found = run_one(engine, reward, partial(method, branch_on=branch_on), tilt=2.0, max_new_tokens=LENGTH, budget=budget).outcome
    assert total_variation(law_of_weights(found), law_of_weights(_outcome(engine, reward))) < 1e-9
