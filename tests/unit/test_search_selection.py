"""The rules that choose where to branch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from maxent_ts.search.selection import _log_expected_excess, _shrunk, by_bound, by_improvement, by_unseen_value
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Rollout, Target
from tests.unit.test_tree import random_tree


@pytest.mark.parametrize("z", [-30.0, -8.0, -5.01, -4.99, -1.0, 0.0, 2.0])
def test_expected_excess_equals_its_integral(z):
    """φ + zΦ cancels for small z; the tail must not."""
    value, _ = quad(lambda x: x * norm.pdf(x - z) / norm.pdf(z), 0, 40, epsabs=0, epsrel=1e-10)
    expected = math.log(value) + norm.logpdf(z)
    assert _log_expected_excess(np.array([z]))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "rule", [by_unseen_value(np.random.default_rng(0)), by_improvement(np.random.default_rng(0)), by_bound(1.0)]
)
@pytest.mark.parametrize("num_rollouts", [1, 3, 20, 60])
def test_a_rule_names_only_nodes_with_something_unseen(rule, num_rollouts):
    """A node that is exhausted, or a leaf, cannot be rolled out from."""
    tree = random_tree(2, num_rollouts=num_rollouts)
    points = rule(tree, 7)
    assert len(points) == 7
    for node in points:
        assert tree.log_unseen[node] > -math.inf
        assert tree.depth[node] < tree.target.max_new_tokens


def test_improvement_prefers_the_prefix_of_what_was_good():
    """Two chains, one with high rewards below: the next rollout continues that one."""
    tree = Tree(Target(1.0, 10))
    for first, rewards in {0: (0.1, 0.0, 0.2), 1: (0.8, 0.9, 0.7)}.items():
        for second, reward in enumerate(rewards):
            tokens = (first, second, *([2] * 6))
            leaf = tree.add(ROOT, Rollout(tokens, tuple(math.log(0.25) for _ in tokens), "eos"))
            tree.evaluate(leaf, reward, "eos")
            tree.back_up([leaf])
    (node,) = by_improvement(np.random.default_rng(0))(tree, 1)
    assert tree.prefix(node)[:1] == (1,)


def test_means_are_shrunk_towards_the_branch_above_and_not_along_chains():
    """One lucky rollout must not look like a good prefix."""
    tree = random_tree(4, num_rollouts=25)
    visits = np.array(tree.visits, dtype=float)
    mean = np.array(tree.reward_sum) / visits
    shrunk = _shrunk(tree, mean, visits)
    for node in range(1, len(tree)):
        above = shrunk[tree.parent[node]]
        if tree.visits[node] == tree.visits[tree.parent[node]]:
            assert shrunk[node] == above
        else:
            assert shrunk[node] == pytest.approx((visits[node] * mean[node] + above) / (visits[node] + 1))


def test_sums_below_a_node_count_every_completion():
    """The means that selection uses are only as good as the sums on the path."""
    tree = random_tree(5, num_rollouts=30)
    assert tree.visits[ROOT] == 30
    for node in range(len(tree)):
        children = list(tree.children[node].values())
        if children:
            assert tree.reward_sum[node] == pytest.approx(sum(tree.reward_sum[child] for child in children))
            assert tree.length_sum[node] == sum(tree.length_sum[child] for child in children)
            assert tree.visits[node] == sum(tree.visits[child] for child in children)
