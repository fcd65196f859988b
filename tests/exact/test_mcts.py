"""Monte Carlo tree search against enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.best_of_n import best_of_n
from maxent_ts.search.exact import exact
from maxent_ts.search.mcts import mcts
from maxent_ts.types import Budget
from tests.conftest import TokenReward, additive_reward, run_one

RULES = ("uct", "puct")


@pytest.mark.parametrize("num_parallel", [1, 5])
@pytest.mark.parametrize("selection", RULES)
def test_with_tokens_enough_every_completion_is_found_once_and_the_search_ends(selection, num_parallel):
    """Subtrees closed too early lose completions; never closed, the search would not end."""
    engine, reward = TableEngine.random(num_tokens=3, seed=4), additive_reward(3, 4, 2)
    truth = run_one(engine, reward, exact, max_new_tokens=4, budget=Budget()).outcome
    method = partial(mcts, selection=selection, num_parallel=num_parallel)
    found = run_one(engine, reward, method, max_new_tokens=4, budget=Budget(generated_tokens=10**6)).outcome
    assert {one.tokens for one in found.completions} == {one.tokens for one in truth.completions}
    assert found.best.reward == max(one.reward for one in truth.completions)
    for one in truth.completions:
        (same,) = [other for other in found.completions if other.tokens == one.tokens]
        assert same.logprob == pytest.approx(one.logprob)
        assert same.finish_reason == one.finish_reason


@pytest.mark.parametrize("selection", RULES)
def test_it_beats_best_of_n_on_a_reward_with_structure(selection):
    """On additive rewards at equal tokens, on average over 30 models; what is returned is the best seen."""
    budget = Budget(generated_tokens=60 * 8)
    gains = []
    for seed in range(30):
        engine = TableEngine.random(num_tokens=6, eos=False, seed=seed)
        run = partial(run_one, engine, additive_reward(6, 8, seed), max_new_tokens=8, budget=budget)
        found = run(method=partial(mcts, selection=selection)).outcome
        assert found.best.reward == max(one.reward for one in found.completions)
        gains.append(found.best.reward - run(method=best_of_n).outcome.best.reward)
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


@pytest.mark.parametrize("selection", RULES)
def test_simulations_gather_below_the_better_first_token(selection):
    """Only token 0 first is rewarded; the model takes it once in six. A rule with the sign of Q wrong avoids it."""
    engine = TableEngine(lambda tokens: np.full(6, 1 / 6), "abcdef")
    method = partial(mcts, selection=selection, num_rollouts=200)
    found = run_one(engine, TokenReward(lambda tokens: float(tokens[0] == 0)), method, max_new_tokens=8, budget=Budget()).outcome
    below = sum(weight for one, weight in zip(found.completions, found.weights, strict=True) if one.tokens[0] == 0)
    assert below > 0.5


def test_simulations_of_one_round_spread():
    """With all rewards equal and a flat prior, virtual loss sends the five walks of a round to five children."""
    engine = TableEngine(lambda tokens: np.full(5, 0.2), "abcde")
    method = partial(mcts, num_rollouts=6, num_parallel=5)
    found = run_one(engine, TokenReward(lambda tokens: 0.0), method, max_new_tokens=6, budget=Budget()).outcome
    assert {one.tokens[0] for one in found.completions[1:]} == set(range(5))


def test_uct_never_tries_a_token_twice_at_one_node():
    """Five draws that widen the root are its five tokens: those tried are excluded, and those of one round differ."""
    engine = TableEngine(lambda tokens: np.full(5, 0.2), "abcde")
    method = partial(mcts, selection="uct", num_rollouts=5, widening=10.0)
    found = run_one(engine, TokenReward(lambda tokens: 0.0), method, max_new_tokens=6, budget=Budget()).outcome
    assert {one.tokens[0] for one in found.completions} == set(range(5))


@pytest.mark.parametrize(
    "setting", [{"selection": "ucb"}, {"num_parallel": 0}, {"exploration": -1.0}, {"widening": 0.0}, {"widening_exponent": 0.0}]
)
def test_settings_out_of_range_are_refused(setting):
    engine = TableEngine.random(num_tokens=2, seed=1)
    with pytest.raises(SettingError):
        run_one(engine, additive_reward(2, 2, 1), partial(mcts, **setting))
