"""Energy-guided test-time scaling against enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.ets import ets
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.types import Budget
from tests.conftest import additive_reward, run_one


def model(tilt, length, num_tokens=3, scale=1.5):
    engine = TableEngine.random(num_tokens=num_tokens, concentration=2.0, seed=2)
    reward = additive_reward(num_tokens, length, 2, scale=scale)
    truth = run_one(engine, reward, exact, tilt=tilt, max_new_tokens=length, budget=Budget()).outcome
    return engine, reward, truth


def law(outcome):
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def two_candidates_law(truth, tilt, block, prefix=()):
    """The mean law of ets with M = 2, K = 1 below a prefix, by summing over every pair of completions."""
    inside = [one for one in truth.completions if one.tokens[: len(prefix)] == prefix]
    prior = np.exp([one.logprob for one in inside])
    prior = prior / prior.sum()
    factors = np.exp(tilt * np.array([one.reward for one in inside]))
    kept_mass: dict = {}
    found = dict.fromkeys([one.tokens for one in truth.completions], 0.0)
    for i, first in enumerate(inside):
        for j, second in enumerate(inside):
            shares = np.array([factors[i], factors[j]]) / (factors[i] + factors[j])
            for kept, other in ((0, 1), (1, 0)):
                mass = prior[i] * prior[j] * shares[kept]
                found[(first, second)[other].tokens] += mass * shares[other]
                tokens = (first, second)[kept].tokens
                end = len(prefix) + block
                if len(tokens) <= end:
                    found[tokens] += mass * shares[kept]
                else:
                    kept_mass[tokens[:end]] = kept_mass.get(tokens[:end], 0.0) + mass * shares[kept]
    for longer, mass in kept_mass.items():
        for tokens, share in two_candidates_law(truth, tilt, block, longer).items():
            found[tokens] += mass * share
    return found


@pytest.mark.parametrize(("tilt", "block"), [(0.0, 1), (1.0, 3), (3.0, 1)])
def test_two_candidates_have_the_law_that_enumeration_gives(tilt, block):
    """Mean of 24 000 completions' draws against the sum over all pairs at every level: within 0.03, where π is further off.

    Blocks kept by the wrong energy, candidates that reuse the draws they were chosen by, or a law that forgets what was
    not kept, are off by more.
    """
    engine, reward, truth = model(tilt, 3)
    expected = two_candidates_law(truth, tilt, block)
    assert sum(expected.values()) == pytest.approx(1)
    method = partial(ets, block_tokens=block, num_candidates=2, num_completions=1, num_rollouts=24_000)
    found = run_one(engine, reward, method, tilt=tilt, max_new_tokens=3, budget=Budget()).outcome
    assert total_variation(law(found), expected) < 0.03
    assert tilt == 0.0 or total_variation(expected, law(truth)) > 0.04


def test_one_candidate_is_the_model_itself():
    """With M = 1 nothing is chosen, whatever is learnt of the energy: the mean law is p at any λ, and far from π."""
    engine, reward, truth = model(3.0, 3)
    method = partial(ets, block_tokens=1, num_candidates=1, num_completions=2, num_rollouts=12_000)
    found = law(run_one(engine, reward, method, tilt=3.0, max_new_tokens=3, budget=Budget()).outcome)
    assert total_variation(found, {one.tokens: np.exp(one.logprob) for one in truth.completions}) < 0.03
    assert total_variation(found, law(truth)) > 0.3


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_the_weights_tend_to_the_target_as_candidates_grow(tilt):
    """Total variation of one draw with 10 and 1000 candidates, mean of 6 seeds: falls like 1/√M (10 times; 4 asked)."""
    engine, reward, truth = model(tilt, 4)
    distances = []
    for num in (10, 1000):
        method = partial(ets, num_candidates=num, num_rollouts=2 * num)
        found = [run_one(engine, reward, method, tilt=tilt, budget=Budget(), seed=seed).outcome for seed in range(6)]
        distances.append(np.mean([total_variation(law(one), law(truth)) for one in found]))
    assert distances[0] > 4 * distances[1]


def test_more_completions_estimate_the_energy_better():
    """Total variation of the mean law with M = 8 over many draws: K = 6 is nearer to π than K = 1, at T = 4 and λ = 2."""
    engine, reward, truth = model(2.0, 4)
    distances = []
    for num in (1, 6):
        method = partial(ets, block_tokens=1, num_candidates=8, num_completions=num, num_rollouts=3000 * num)
        found = run_one(engine, reward, method, tilt=2.0, budget=Budget()).outcome
        distances.append(total_variation(law(found), law(truth)))
    assert distances[1] < distances[0]


@pytest.mark.parametrize("num_tokens", [4, 7, 23, 150])
def test_the_budget_is_kept_and_nearly_used(num_tokens):
    """Whatever is cut off, every block has a completion to be judged by, and the law sums to one."""
    engine, reward, _ = model(1.0, 4)
    result = run_one(engine, reward, ets, budget=Budget(generated_tokens=num_tokens))
    assert num_tokens - 4 < result.usage.generated_tokens <= num_tokens
    assert sum(result.outcome.weights) == pytest.approx(1)


@pytest.mark.parametrize("num_rollouts", [1, 2, 5, 9])
def test_the_number_of_rollouts_is_kept(num_rollouts):
    """All completions count, those that estimate an energy among them."""
    engine, reward, _ = model(1.0, 4)
    result = run_one(engine, reward, partial(ets, num_rollouts=num_rollouts), budget=Budget())
    assert result.usage.rollouts == num_rollouts


@pytest.mark.parametrize("settings", [{"block_tokens": 0}, {"num_candidates": 0}, {"num_completions": 0}])
def test_settings_outside_their_domain_are_refused(settings):
    """Each message names the setting."""
    engine, reward, _ = model(1.0, 4)
    with pytest.raises(SettingError, match=next(iter(settings))):
        run_one(engine, reward, partial(ets, **settings))
