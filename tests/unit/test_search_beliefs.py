"""The Gaussian process along the tree, against the same Gaussian written as one matrix."""

from __future__ import annotations

import numpy as np
import pytest

from maxent_ts.search.beliefs import Beliefs
from maxent_ts.search.undecided import Expected, UndecidedVariance
from maxent_ts.tree import NO_COMPLETION, NO_PARENT, ROOT, Tree
from maxent_ts.types import Rollout, Target
from tests.unit.test_tree import random_tree


def by_matrix(tree, beliefs):
    """Posterior means and variances of all inner nodes by conditioning the joint normal law of all nodes."""
    num = len(tree)
    covariance = np.zeros((num, num))
    steps = np.zeros(num)
    for node in range(num):
        parent = tree.parent[node]
        if parent == NO_PARENT:
            steps[node] = 1e4  # next to flat
        elif tree.completion[node] != NO_COMPLETION:
            steps[node] = max(beliefs.undecided[parent], beliefs._floor)
        else:
            steps[node] = max(beliefs.undecided[parent] - beliefs.undecided[node], 0) + beliefs._floor
    paths = [set(tree.path(node)) for node in range(num)]
    for i in range(num):
        for j in range(num):
            covariance[i, j] = sum(steps[node] for node in paths[i] & paths[j])
    leaves = [node for node in range(num) if tree.completion[node] != NO_COMPLETION]
    inner = [node for node in range(num) if tree.completion[node] == NO_COMPLETION]
    rewards = np.array([tree.best_reward[node] for node in leaves])
    gain = covariance[np.ix_(inner, leaves)] @ np.linalg.inv(covariance[np.ix_(leaves, leaves)])
    variances = np.diag(covariance[np.ix_(inner, inner)] - gain @ covariance[np.ix_(leaves, inner)])
    return inner, gain @ rewards, variances


def test_a_search_that_goes_on_knows_the_scale_of_the_rewards():
    """Rewards a thousandth apart are not expected to differ by one."""
    spreads = []
    for scale in (1.0, 1e-3):
        tree, beliefs = Tree(Target(1.0, 4)), Beliefs()
        for i, reward in enumerate((0.0, 1.0, 2.0)):
            tree.extend([(ROOT, Rollout((i, 0, 0, 0), (-1.5, -1.0, -1.0, -1.0), "length"), scale * reward)])
        beliefs.update(tree, range(len(tree)))
        spreads.append(float(beliefs.spread(np.array([ROOT]))[0]))
    assert spreads[1] == pytest.approx(1e-3 * spreads[0])


def expecting(mean, variance):
    """Knowledge of m(s) that no V changes: all of it from elsewhere."""
    return Expected((0.0, 0.0), (1.0 / variance, mean / variance), 1.0)


@pytest.mark.parametrize("num_rollouts", [1, 2, 7, 25])
def test_messages_give_the_posterior_of_the_joint_normal_law(num_rollouts):
    """A message counted twice, or one that forgets the rest of the tree, differs at some node."""
    tree, beliefs = random_tree(3, num_rollouts=num_rollouts), Beliefs()
    beliefs.update(tree, range(len(tree)))
    beliefs.undecided_variance.add(0.9, 1, 1.3, expecting(0.0, 0.1))
    beliefs.undecided_variance.add(0.3, 4, 0.4, expecting(0.0, 0.1))
    beliefs.update(tree, range(len(tree)))
    inner, means, variances = by_matrix(tree, beliefs)
    np.testing.assert_allclose(beliefs.mean[inner], means, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(beliefs.variance[inner], variances, rtol=1e-3, atol=1e-4)


def test_a_guess_of_the_reward_counts_as_a_completion_below_its_prefix():
    """The same messages come from a leaf of that reward."""
    guessed, seen = (Tree(Target(1.0, 3)) for _ in range(2))
    for tree in (guessed, seen):
        tree.extend([(ROOT, Rollout((0, 1, 2), (-1.0, -1.0, -1.0), "length"), 0.3)])
    inner = guessed.children[ROOT][0]
    guessed.set_guess(inner, 2.0)
    seen.extend([(inner, Rollout((5, 2), (-1.0, -1.0), "length"), 2.0)])
    means = []
    for tree in (guessed, seen):
        beliefs = Beliefs()
        beliefs.update(tree, range(len(tree)))
        beliefs.undecided_variance = lambda share, depth: np.where(depth == 0, 3.0, 2.0)
        beliefs.update(tree, range(len(tree)))
        means.append((beliefs.mean[[ROOT, inner]], beliefs.variance[[ROOT, inner]]))
    np.testing.assert_allclose(means[0], means[1], rtol=1e-6)
    assert means[0][0][1] > 0.3


def learnt(reward_of, *, length=12, num=400):
    """V after whole draws and short ones of a reward, as a search makes them."""
    rng = np.random.default_rng(0)
    tree, beliefs = Tree(Target(1.0, length)), Beliefs()
    touched = range(1)
    for index in range(num):
        node = ROOT if index % 2 == 0 or len(tree) == 1 else int(rng.integers(len(tree)))
        if tree.completion[node] != NO_COMPLETION or tree.depth[node] >= length:
            node = ROOT
        tokens = tuple(int(one) for one in rng.integers(1000, size=length - tree.depth[node]))
        rollout = Rollout(tokens, tuple(-7.0 for _ in tokens), "length")
        touched = tree.extend([(node, rollout, reward_of((*tree.prefix(node), *tokens)))])
        beliefs.update(tree, touched)
    shares = np.array([0.25, 0.5, 0.75, 1.0])
    return beliefs.undecided_variance(shares, (length * (1.0 - shares)).astype(int))


def test_what_is_undecided_is_learnt_from_the_reward():
    """Earned token by token, decided by the first tokens, or overturned by any: three shapes of V."""
    additive = learnt(lambda tokens: sum(np.random.default_rng((i, one)).normal() for i, one in enumerate(tokens)) / 12**0.5)
    early = learnt(lambda tokens: float(np.random.default_rng(tokens[:2]).normal()))
    rugged = learnt(lambda tokens: float(np.random.default_rng(tokens).normal()))
    assert additive[0] < additive[1] < additive[3]
    assert early[1] < 0.05 * early[3]
    assert rugged[0] > 0.5 * rugged[3]


def test_each_explanation_expects_what_the_joint_normal_law_says():
    """Three completions below s, and a mean known from elsewhere: m(s) given all that, were V(s) another."""
    rewards, above = np.array([0.4, 1.0, -0.2]), (0.5, 0.8)
    expected = Expected((3.0 / 2.0, rewards.sum() / 2.0), (above[1], above[0] * above[1]), 2.0)
    for undecided in (0.1, 2.0, 7.0):
        covariance = 1.0 / above[1] + undecided * np.eye(3)
        gain = np.ones(3) / above[1] @ np.linalg.inv(covariance)
        miss, known_variance = expected.under(undecided, 0.9)
        assert miss == pytest.approx(0.9 - (above[0] + gain @ (rewards - above[0])))
        assert known_variance == pytest.approx(1.0 / above[1] - gain @ np.ones(3) / above[1])


def test_without_any_miss_the_shape_is_the_first_guess():
    """Rewards that are all alike must not end in a division by zero."""
    variance = UndecidedVariance()
    assert variance(np.array([0.5]), np.array([3]))[0] == pytest.approx(0.5)
    variance.add(0.5, 3, 0.0, expecting(0.0, 1e-9))
    assert variance(np.array([0.25]), np.array([5]))[0] == pytest.approx(0.25)


def test_a_reward_of_the_first_tokens_is_known_by_depth_whatever_is_left_to_write():
    """Completions of unlike lengths: the same share lies before the deciding token in long ones and behind it in short ones."""
    rng = np.random.default_rng(0)
    variance = UndecidedVariance()
    for _ in range(200):
        depth, left = int(rng.integers(6)), int(rng.integers(1, 30))
        variance.add(left / (depth + left), depth, float(rng.normal()) if depth < 3 else 0.0, expecting(0.0, 0.01))
    shares = np.array([0.7, 0.7])
    before, behind = variance(shares, np.array([2, 3]))
    assert behind < 0.05 < 0.3 < before


def test_a_reward_of_what_is_left_is_not_mistaken_for_one_of_depth():
    """Where every miss has the variance that its share says, V is the share's at any depth: means of 20 repetitions."""
    found = []
    for seed in range(20):
        rng, variance = np.random.default_rng(seed), UndecidedVariance()
        for _ in range(400):
            depth, left = int(rng.integers(20)), int(rng.integers(1, 30))
            share = left / (depth + left)
            variance.add(share, depth, float(rng.normal()) * share**0.5, expecting(0.0, 1e-9))
        found.append(variance(np.array([0.9, 0.9, 0.1, 0.1]), np.array([2, 1000, 2, 1000])))
    np.testing.assert_allclose(np.mean(found, axis=0), [0.9, 0.9, 0.1, 0.1], rtol=0.6)  # few misses leave room for surprise
