"""The backtracking walk against its transition matrix and enumeration."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.search.exact import exact, total_variation
from maxent_ts.search.vgb import ROOT, Walk, vgb
from maxent_ts.types import Budget, Outcome, Policy
from tests.conftest import additive_reward, run_one
from tests.prefix_values import with_prefix_values

LENGTH = 3
EVERYTHING = Budget(generated_tokens=10**6)


def model(tilt, noise=0.0, length=LENGTH, num_tokens=3, scale=1.5):
    engine = TableEngine.random(num_tokens=num_tokens, seed=4)
    plain = additive_reward(num_tokens, length, 4, scale=scale)
    reward = with_prefix_values(engine, plain, tilt, length, noise=noise)
    truth = run_one(engine, plain, exact, tilt=tilt, max_new_tokens=length, budget=Budget()).outcome
    return engine, reward, plain, truth


def law(outcome):
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def rows(engine, reward, tilt, length):
    """The paper's transition probabilities, without holding: {prefix: {neighbour: probability}}, leaves included."""
    context = engine.open((0,), Policy(length))
    found = {}

    def is_leaf(tokens):
        return len(tokens) == length or (tokens and tokens[-1] == engine._eos_token_id)

    def value(tokens):
        return np.exp(tilt * (reward.function(tokens) if is_leaf(tokens) else reward.prefix_value(tokens)))

    def visit(tokens):
        up = {tokens[:-1]: value(tokens)} if tokens else {}
        row = [] if is_leaf(tokens) else engine._row(context, tokens)
        down = {(*tokens, token): p * value((*tokens, token)) for token, p in enumerate(row)}
        total = sum((up | down).values())
        found[tokens] = {other: weight / total for other, weight in (up | down).items()}
        for child in down:
            visit(child)

    visit(())
    return found


def stationary(found):
    states = list(found)
    matrix = np.array([[found[one].get(other, 0.0) for other in states] for one in states])
    lazy = 0.5 * (np.eye(len(states)) + matrix)
    values, vectors = np.linalg.eig(lazy.T)
    mass = np.real(vectors[:, np.argmax(np.real(values))])
    return dict(zip(states, mass / mass.sum(), strict=True))


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_walk_takes_the_steps_of_the_paper(tilt, noise):
    """At every prefix of the tree the code's step is the matrix' row; a parent's weight taken at the parent fails."""
    engine, reward, _, _ = model(tilt, noise)
    expected = rows(engine, reward, tilt, LENGTH)
    seen = {}

    def everywhere(rng, target):
        walk = Walk(target, 1, 1 << 30)
        index = ROOT
        while index < len(walk.nodes):
            assert (yield from walk.expand(index, []))
            node = walk.nodes[index]
            steps = np.diff([0.0, *node.cumulative]) / node.cumulative[-1]
            seen[node.tokens] = dict(zip([child.tokens for child in node.children], steps, strict=False)) | {
                node.tokens[:-1]: steps[-1]
            }
            for place, child in enumerate(node.children):
                if child.finish_reason == "unfinished":
                    walk.child(index, place)
            index += 1
        return Outcome(tuple(walk.completions), (1.0,) + (0.0,) * (len(walk.completions) - 1), (0,))

    run_one(engine, reward, everywhere, tilt=tilt, max_new_tokens=LENGTH, budget=EVERYTHING)
    for tokens, steps in seen.items():
        for other, probability in steps.items():
            assert probability == pytest.approx(expected[tokens].get(other, 0.0), abs=1e-12)
    assert set(seen) == {tokens for tokens, row in expected.items() if len(row) > 1}


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_among_leaves_the_walk_is_in_the_target_whatever_the_values(noise):
    """The stationary law of the transition matrix, conditioned on leaves, is π to rounding; inner values are off by e^±2."""
    engine, reward, _, truth = model(1.5, noise)
    mass = stationary(rows(engine, reward, 1.5, LENGTH))
    leaves = {one.tokens: mass[one.tokens] for one in truth.completions}
    total = sum(leaves.values())
    assert total_variation({tokens: one / total for tokens, one in leaves.items()}, law(truth)) < 1e-10


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_the_weights_converge_to_the_target(tilt):
    """Time in leaves over 1 000 and 64 000 steps, mean of 4 walks: error falls like 1/√steps (8 times; 4 asked)."""
    engine, reward, _, truth = model(tilt, noise=0.5)
    distances = []
    for num_steps in (1_000, 64_000):
        run = partial(run_one, engine, reward, partial(vgb, num_steps=num_steps), tilt=tilt, max_new_tokens=LENGTH)
        distances.append(
            np.mean([total_variation(law(run(budget=EVERYTHING, seed=seed).outcome), law(truth)) for seed in range(4)])
        )
    assert distances[0] > 4 * distances[1]


def test_without_prefix_rewards_the_late_values_still_lead_to_the_target():
    """V̂ from eight completions of the parent, mean of 3 walks of 60 000 steps; a V̂ that changes from visit to visit fails."""
    engine, _, plain, truth = model(2.0)
    method = partial(vgb, num_steps=60_000, num_completions=8)
    run = partial(run_one, engine, plain, method, tilt=2.0, max_new_tokens=LENGTH, budget=EVERYTHING)
    assert np.mean([total_variation(law(run(seed=seed).outcome), law(truth)) for seed in range(3)]) < 0.02


def test_noise_that_misleads_the_guided_sampler_does_not_mislead_the_walk():
    """V̂ off by e^±2 at every prefix: going down only ends a TV of 0.2 from π or more, the walk within a third of that."""
    engine, reward, _, truth = model(1.0, noise=2.0, length=6, num_tokens=2)
    found = rows(engine, reward, 1.0, 6)
    guided = {}
    for one in truth.completions:
        share = 1.0
        for depth in range(len(one.tokens)):
            row = found[one.tokens[:depth]]
            share *= row[one.tokens[: depth + 1]] / (1.0 - row.get(one.tokens[:depth][:-1], 0.0) if depth else 1.0)
        guided[one.tokens] = share
    assert sum(guided.values()) == pytest.approx(1)
    drift = total_variation(guided, law(truth))
    assert drift > 0.2
    walked = run_one(engine, reward, partial(vgb, num_steps=60_000), max_new_tokens=6, budget=EVERYTHING).outcome
    assert total_variation(law(walked), law(truth)) < drift / 3


def test_a_prefix_is_paid_for_once():
    """One token for each prefix stood on, and those of the first completion, however long the walk."""
    engine, reward, _, _ = model(1.0)
    result = run_one(engine, reward, partial(vgb, num_steps=5_000), max_new_tokens=LENGTH, budget=EVERYTHING)
    first = result.outcome.completions[0]
    assert result.usage.generated_tokens == result.outcome.info["num_prefixes"] + len(first.tokens)
    assert result.usage.rollouts == 1


def test_the_walk_ends_with_the_budget():
    """It returns what it has, and never a prefix."""
    engine, reward, plain, _ = model(1.0)
    for num_tokens in range(3, 30):
        for kind in (reward, plain):
            result = run_one(engine, kind, vgb, max_new_tokens=LENGTH, budget=Budget(generated_tokens=num_tokens))
            assert result.usage.generated_tokens <= num_tokens
            assert sum(result.outcome.weights) == pytest.approx(1)


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"num_completions": 0}, {"num_candidates": 0}, {"burn_in": -0.1}])
def test_settings_outside_their_domain_are_refused(settings):
    """Each message names the setting."""
    engine, reward, _, _ = model(1.0)
    with pytest.raises(SettingError, match=next(iter(settings))):
        run_one(engine, reward, partial(vgb, **settings), max_new_tokens=LENGTH)
