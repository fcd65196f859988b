"""Particle Gibbs against enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import chi2

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.search.particle_gibbs import particle_gibbs
from maxent_ts.search.particles import Scores, sweep
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Outcome, Policy
from tests.conftest import additive_reward, run_one
from tests.prefix_values import with_prefix_values

LENGTH = 3


def model(tilt, noise=1.0, eos=True):
    engine = TableEngine.random(num_tokens=3, eos=eos, concentration=2.0, seed=6)
    reward = with_prefix_values(engine, additive_reward(3, LENGTH, 6, scale=1.5), tilt, LENGTH, noise=noise)
    return engine, reward, run_one(engine, reward, exact, tilt=tilt, max_new_tokens=LENGTH, budget=Budget()).outcome


def law(outcome):
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def one_step(rng, target, *, truth, ess_threshold=1.0, retains=True):
    """Start from a draw of π itself and take one conditional sweep of three particles."""
    scores = Scores(target)
    start = truth.completions[int(rng.choice(len(truth.weights), p=np.array(truth.weights) / sum(truth.weights)))]
    yield from scores.log_twists([prefix_of(start, depth) for depth in range(1, len(start.tokens))] + [start])
    settings = {"segment": 1, "resampling": "multinomial", "ess_threshold": ess_threshold}
    if retains:
        found = yield from sweep(rng, scores, 2, retained=start, **settings)
    else:
        found = yield from sweep(rng, scores, 3, **settings)
    shares = np.exp(found.log_weights - np.logaddexp.reduce(found.log_weights))
    chosen = int(rng.choice(found.indices, p=shares / shares.sum()))
    weights = [0.0] * len(scores.completions)
    weights[chosen] = 1.0
    return Outcome(tuple(scores.completions), tuple(weights), (chosen,))


def prefix_of(completion, depth):
    return type(completion)(completion.tokens[:depth], 0.0, "unfinished")


def chi_square(drawn, truth):
    expected = {one.tokens: len(drawn) * weight for one, weight in zip(truth.completions, truth.weights, strict=True)}
    rare = [tokens for tokens, mean in expected.items() if mean < 5]
    cells = [(sum(one == tokens for one in drawn), mean) for tokens, mean in expected.items() if mean >= 5]
    if rare:
        cells.append((sum(one in rare for one in drawn), sum(expected[tokens] for tokens in rare)))
    return sum((count - mean) ** 2 / mean for count, mean in cells), len(cells) - 1


def steps(tilt, num_seeds, **settings):
    engine, reward, truth = model(tilt)
    method = partial(one_step, truth=truth, **settings)
    jobs = [SearchJob(str(seed), (0,), Policy(LENGTH), method, tilt, Budget(), (seed, 2)) for seed in range(num_seeds)]
    results = list(run_searches(jobs, engine, reward))
    assert [result.error for result in results] == [None] * num_seeds
    return chi_square([result.outcome.best.tokens for result in results], truth)


@pytest.mark.parametrize(("tilt", "ess_threshold"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.7), (3.0, 1.0), (3.0, 0.7)])
def test_a_step_from_the_target_stays_in_the_target(tilt, ess_threshold):
    """χ² after one step of three particles with a noisy ψ over 2000 seeds; fails by chance once in 10⁵."""
    statistic, degrees = steps(tilt, 2000, ess_threshold=ess_threshold)
    assert statistic < chi2.ppf(1 - 1e-5, degrees)


def test_a_sweep_that_retains_nothing_leaves_the_target():
    """The test above has power: three fresh particles, the same ψ and the same final draw are far from π."""
    statistic, degrees = steps(3.0, 2000, retains=False)
    assert statistic > chi2.ppf(1 - 1e-5, degrees)


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("has_prefix_rewards", [True, False])
def test_the_weights_converge_to_the_target(tilt, has_prefix_rewards):
    """Total variation after 100 and 1600 completions' worth of tokens: falls like 1/√tokens (4 times; 2.5 asked)."""
    engine, reward, truth = model(tilt, noise=0.7)
    reward = reward if has_prefix_rewards else additive_reward(3, LENGTH, 6, scale=1.5)
    distances = []
    for num in (100, 1600):
        budget = Budget(generated_tokens=num * LENGTH)
        run = partial(run_one, engine, reward, partial(particle_gibbs, segment_tokens=1), tilt=tilt, max_new_tokens=LENGTH)
        distances.append(np.mean([total_variation(law(run(budget=budget, seed=seed).outcome), law(truth)) for seed in range(6)]))
    assert distances[0] > 2.5 * distances[1]
    assert distances[1] < 0.05


def test_log_probabilities_survive_the_retained_prefix():
    """Others branch off the retained path: their log p is its prefix's plus their own."""
    engine, reward, truth = model(2.0)
    expected = {one.tokens: one.logprob for one in truth.completions}
    method = partial(particle_gibbs, segment_tokens=1, ess_threshold=1.0, num_particles=3)
    found = run_one(engine, reward, method, tilt=2.0, max_new_tokens=LENGTH, budget=Budget(generated_tokens=400)).outcome
    assert len(found.completions) > 5
    for one in found.completions:
        assert one.logprob == pytest.approx(expected[one.tokens], abs=1e-9)


def test_the_number_of_rollouts_is_that_of_particles_drawn():
    """The retained one costs nothing: 4, then 3 at a time, then what is left."""
    engine, _, _ = model(1.0)
    method = partial(particle_gibbs, num_particles=4, num_rollouts=12)
    result = run_one(engine, additive_reward(3, LENGTH, 6), method, max_new_tokens=LENGTH, budget=Budget())
    assert result.usage.rollouts == 12
    assert result.outcome.info["num_sweeps"] == 4


@pytest.mark.parametrize("settings", [{"num_particles": 1}, {"burn_in": 1.0}])
def test_settings_outside_their_domain_are_refused(settings):
    """Each message names the setting."""
    engine, reward, _ = model(1.0)
    with pytest.raises(SettingError, match=next(iter(settings))):
        run_one(engine, reward, partial(particle_gibbs, **settings), max_new_tokens=LENGTH)
