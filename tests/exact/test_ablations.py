"""The backups that forget p fail against enumeration, where the tree's own passes."""

from __future__ import annotations

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.ablations import ablation_mean_backup, ablation_sum_backup
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.search.maxent import maxent_sample
from maxent_ts.types import Budget, Outcome, Tokens
from tests.conftest import additive_reward, run_one

EVERYTHING = Budget(generated_tokens=10**7)
LENGTHS = (2, 4, 6)


def law_of_weights(outcome: Outcome) -> dict[Tokens, float]:
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def distances(method, tilt: float) -> np.ndarray:
    """Total variation to π on fully expanded trees with completions of unequal lengths, float64 [lengths], mean of 5 models."""
    found = np.empty((5, len(LENGTHS)))
    for seed in range(5):
        engine = TableEngine.random(num_tokens=3, concentration=0.5, seed=seed)
        for column, length in enumerate(LENGTHS):
            reward = additive_reward(3, length, seed)
            truth = run_one(engine, reward, exact, tilt=tilt, max_new_tokens=length, budget=Budget()).outcome
            outcome = run_one(engine, reward, method, tilt=tilt, max_new_tokens=length, budget=EVERYTHING).outcome
            found[seed, column] = total_variation(law_of_weights(outcome), law_of_weights(truth))
    return found.mean(axis=0)


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("method", [ablation_sum_backup, ablation_mean_backup])
def test_a_backup_without_p_misses_the_target_even_when_all_is_seen_and_more_with_length(method, tilt):
    """Should one of them come near π, it would be no warning, or would have got p in by mistake."""
    by_length = distances(method, tilt)
    assert by_length[-1] > 0.3
    assert by_length[0] < by_length[1] < by_length[2]


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_the_same_trees_backed_up_with_p_are_the_target(tilt):
    assert distances(maxent_sample, tilt).max() < 1e-9


def test_the_sum_backup_is_the_tilted_uniform_law():
    """What the docstring says it draws: x ∝ exp(λ r(x)), whatever p."""
    engine, reward = TableEngine.random(num_tokens=3, seed=1), additive_reward(3, 3, 1)
    outcome = run_one(engine, reward, ablation_sum_backup, tilt=2.0, max_new_tokens=3, budget=EVERYTHING).outcome
    tilted = np.exp([2.0 * one.reward for one in outcome.completions])
    assert outcome.weights == pytest.approx(tilted / tilted.sum())


def test_the_mean_backup_takes_every_token_for_equally_likely():
    """With three tokens after every prefix, x ∝ 3^-length · exp(λ r(x))."""
    engine, reward = TableEngine.random(num_tokens=3, seed=1), additive_reward(3, 3, 1)
    outcome = run_one(engine, reward, ablation_mean_backup, tilt=2.0, max_new_tokens=3, budget=EVERYTHING).outcome
    tilted = np.exp([2.0 * one.reward - len(one.tokens) * np.log(3) for one in outcome.completions])
    assert outcome.weights == pytest.approx(tilted / tilted.sum())
