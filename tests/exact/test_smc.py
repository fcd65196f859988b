"""Sequential Monte Carlo against enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import chi2

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.base import Rollouts
from maxent_ts.search.best_of_n import best_of_n_softmax
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.search.particles import ancestors_of, effective_sample_size
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.search.smc import smc
from maxent_ts.types import Budget, Completion, Outcome, Policy
from tests.conftest import additive_reward, run_one
from tests.prefix_values import PrefixTokenReward, with_prefix_values

LENGTH = 4


def model(tilt=1.0, noise=0.0, seed=3, eos=True):
    engine = TableEngine.random(num_tokens=3, eos=eos, seed=seed)
    reward = with_prefix_values(engine, additive_reward(3, LENGTH, seed, scale=1.5), tilt, LENGTH, noise=noise, seed=seed)
    return engine, reward, run_one(engine, reward, exact, tilt=tilt, budget=Budget()).outcome


def law(outcome):
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def outcomes(engine, reward, method, tilt, num_seeds, budget):
    jobs = [SearchJob(str(seed), (0,), Policy(LENGTH), method, tilt, budget, (seed, 1)) for seed in range(num_seeds)]
    results = list(run_searches(jobs, engine, reward))
    assert [result.error for result in results] == [None] * num_seeds
    return [result.outcome for result in results]


@pytest.mark.parametrize("resampling", ["systematic", "residual", "multinomial"])
def test_resampling_keeps_the_expected_number_of_copies(resampling):
    """z-test of the mean copies of every particle over 4000 draws; a scheme that favours an index fails. 5 sigma."""
    rng = np.random.default_rng(0)
    log_weights = np.log([0.05, 0.4, 0.0001, 0.3, 0.1, 0.1499]) + 700.0
    counts = np.array([np.bincount(ancestors_of(rng, log_weights, resampling), minlength=6) for _ in range(4000)])
    expected = 6 * np.exp(log_weights - 700.0)
    assert (counts.sum(axis=1) == 6).all()
    assert (np.abs(counts.mean(axis=0) - expected) < 5 * counts.std(axis=0) / np.sqrt(4000) + 1e-3).all()


def test_the_effective_sample_size_is_that_of_the_weights():
    """Equal weights count in full, a single one counts once, at any scale."""
    assert effective_sample_size(np.full(7, -900.0)) == pytest.approx(7)
    assert effective_sample_size(np.array([0.0, -800.0, -900.0])) == pytest.approx(1)


def test_weights_come_close_to_the_target_as_particles_grow():
    """Total variation at 20, 200 and 2000 particles, with a noisy ψ: falls like 1/√N (here 10 times in all; 6 asked)."""
    engine, reward, truth = model(tilt=1.0, noise=0.7)
    distances = []
    for num in (20, 200, 2000):
        found = outcomes(engine, reward, partial(smc, segment_tokens=1), 1.0, 8, Budget(generated_tokens=num * LENGTH))
        distances.append(np.mean([total_variation(law(one), law(truth)) for one in found]))
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    assert distances[0] > 6 * distances[2]


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_a_draw_of_many_particles_follows_the_target(tilt):
    """χ² of the returned completion over 300 seeds at 100 particles; fails by chance once in 10⁵.

    Particles that end early and are weighted by ψ = 0, or dropped at a resampling, would be drawn too often or too rarely.
    """
    engine, reward, truth = model(tilt, noise=0.5)
    method = partial(smc, segment_tokens=1, ess_threshold=0.9, num_particles=100, num_rollouts=100)
    drawn = [one.best.tokens for one in outcomes(engine, reward, method, tilt, 300, Budget())]
    target = law(truth)
    expected = np.array([300 * target[tokens] for tokens in target])
    counts = np.array([drawn.count(tokens) for tokens in target])
    order = np.argsort(-expected)
    frequent, rare = order[expected[order] >= 5], order[expected[order] < 5]
    pairs = [(counts[i], expected[i]) for i in frequent] + [(counts[rare].sum(), expected[rare].sum())]
    statistic = sum((count - mean) ** 2 / mean for count, mean in pairs)
    assert statistic < chi2.ppf(1 - 1e-5, len(pairs) - 1)


def test_exact_prefix_values_lower_the_variance():
    """Standard deviation of Ẑ/Z over 200 seeds: exact ψ a fifth below no resampling. A ψ of the wrong sign, or unused, fails."""
    spread = {}
    engine, reward, truth = model(tilt=2.0, eos=False)
    for threshold in (1.0, 0.0):
        method = partial(smc, segment_tokens=1, ess_threshold=threshold)
        found = outcomes(engine, reward, method, 2.0, 200, Budget(generated_tokens=16 * LENGTH))
        spread[threshold] = np.std(np.exp([one.info["log_z"] - truth.info["log_z"] for one in found]))
    assert spread[1.0] < 0.8 * spread[0.0]


def test_without_prefix_rewards_it_is_importance_sampling():
    """Nothing to resample by: the completions and weights are best_of_n_softmax's own."""
    engine = TableEngine.random(num_tokens=3, seed=3)
    reward = additive_reward(3, LENGTH, 3)
    budget = Budget(rollouts=25)
    found, softmax = (run_one(engine, reward, method, tilt=2.0, budget=budget).outcome for method in (smc, best_of_n_softmax))
    assert found.completions == softmax.completions
    assert found.weights == pytest.approx(softmax.weights)


def test_every_particle_is_finished_within_the_budget_of_tokens():
    """As many particles as whole completions fit; what early ends leave over goes to further sweeps."""
    engine, reward, _ = model(noise=1.0)
    for num_tokens in (4, 7, 41, 400):
        result = run_one(engine, reward, partial(smc, segment_tokens=1), budget=Budget(generated_tokens=num_tokens))
        assert result.usage.generated_tokens <= num_tokens
        assert result.usage.generated_tokens > num_tokens - LENGTH
        assert result.outcome.info["num_particles"] == num_tokens // LENGTH


@pytest.mark.parametrize("num_rollouts", [1, 3, 4, 9, 30])
def test_a_budget_in_rollouts_counts_segments_and_is_used_up(num_rollouts):
    """Four segments a particle; with fewer rollouts left than segments a particle is one rollout."""
    engine, reward, _ = model()
    result = run_one(engine, reward, partial(smc, segment_tokens=1), budget=Budget(rollouts=num_rollouts))
    assert result.usage.rollouts == num_rollouts
    assert sum(result.outcome.weights) == pytest.approx(1)


def test_what_was_begun_is_finished_when_the_time_is_up():
    """The clock stops the next sweep, not the particles under way: one sweep, all of it finished."""
    engine, reward, _ = model()
    result = run_one(engine, reward, partial(smc, segment_tokens=1), budget=Budget(seconds=1e-9))
    assert result.outcome.info["num_sweeps"] == 1
    assert all(one.finish_reason in ("eos", "length") for one in result.outcome.completions)


def test_reserving_leaves_room_for_the_ends():
    """A request that reserves starts only what further segments can finish; one that does not takes all."""
    engine, reward, _ = model()

    def method(rng, target, *, reserve):
        branch = yield Rollouts((), 1 << 30, num_tokens=1, reserve=reserve)
        one = yield Rollouts((), 1)
        tokens = branch.rollouts[0].tokens
        return Outcome(
            (Completion(tokens, 0.0, "length", 0.0),), (1.0,), (0,), {"started": len(branch.rollouts), "more": len(one.rollouts)}
        )

    budget = Budget(generated_tokens=4 * LENGTH + 3)
    for reserve, started, more in ((True, 4, 1), (False, 19, 0)):
        info = run_one(engine, reward, partial(method, reserve=reserve), budget=budget).outcome.info
        assert (info["started"], info["more"]) == (started, more)


def test_log_probabilities_survive_the_segments():
    """Added up over segments and resamplings they are the enumeration's."""
    engine, reward, truth = model(noise=1.0)
    expected = {one.tokens: one.logprob for one in truth.completions}
    found = run_one(engine, reward, partial(smc, segment_tokens=1, ess_threshold=1.0), budget=Budget(generated_tokens=800)).outcome
    for one in found.completions:
        assert one.logprob == pytest.approx(expected[one.tokens], abs=1e-9)


@pytest.mark.parametrize(
    "settings", [{"segment_tokens": 0}, {"num_particles": 0}, {"ess_threshold": 1.5}, {"resampling": "wheel", "ess_threshold": 1.0}]
)
def test_settings_outside_their_domain_are_refused(settings):
    """Each message names the setting."""
    engine, reward, _ = model(noise=1.0)
    with pytest.raises(SettingError, match=next(iter(settings))):
        run_one(engine, reward, partial(smc, **{"segment_tokens": 1, **settings}), budget=Budget(generated_tokens=100))


def test_the_reward_of_a_prefix_is_asked_once():
    """Equal prefixes of many particles, and of many sweeps, are one question."""
    engine, reward, _ = model()
    asked = []

    class Counting(PrefixTokenReward):
        def prefix(self, *, completion_ids, **columns):
            asked.extend(tuple(ids) for ids in completion_ids)
            return super().prefix(completion_ids=completion_ids, **columns)

    run_one(
        engine,
        Counting(reward, reward.values),
        partial(smc, segment_tokens=1, num_particles=5),
        budget=Budget(generated_tokens=500),
    )
    assert len(asked) == len(set(asked)) > 0
