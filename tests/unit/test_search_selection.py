"""The rules that choose where to branch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from maxent_ts.errors import SettingError
from maxent_ts.search.beliefs import Beliefs
from maxent_ts.search.selection import SEGMENT_TOKENS, ByImprovement, ByUnseenValue, Frontier, by_bound, log_expected_excess
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Rollout, Target
from tests.unit.test_tree import random_tree


@pytest.mark.parametrize("z", [-30.0, -8.0, -5.01, -4.99, -1.0, 0.0, 2.0])
def test_expected_excess_equals_its_integral(z):
    """φ + zΦ cancels for small z; the tail must not."""
    value, _ = quad(lambda x: x * norm.pdf(x - z) / norm.pdf(z), 0, 40, epsabs=0, epsrel=1e-10)
    expected = math.log(value) + norm.logpdf(z)
    assert log_expected_excess(np.array([z]))[0] == pytest.approx(expected, rel=1e-6)


def rules():
    return {
        "unseen value": Frontier(ByUnseenValue()),
        "improvement": Frontier(ByImprovement(), 0.2),
        "segment": Frontier(ByImprovement(), 0.2, "segment"),
        "entropy": Frontier(ByUnseenValue(), 0.0, "entropy"),
        "bound": by_bound(1.0),
    }


@pytest.mark.parametrize("rule", rules())
@pytest.mark.parametrize("num_rollouts", [1, 3, 20, 60])
def test_a_rule_names_only_nodes_with_something_unseen(rule, num_rollouts):
    """A node that is exhausted, or a leaf, cannot be rolled out from."""
    tree = random_tree(2, num_rollouts=num_rollouts)
    points = rules()[rule](tree, range(len(tree)), 7)
    assert len(points) == 7
    for node in points:
        assert tree.log_unseen[node] > -math.inf
        assert tree.depth[node] < tree.target.max_new_tokens


def grown(tokens_and_rewards, length=10):
    tree = Tree(Target(1.0, length))
    for tokens, reward in tokens_and_rewards:
        tree.extend([(ROOT, Rollout(tokens, tuple(math.log(0.25) for _ in tokens), "eos"), reward)])
    return tree


def test_improvement_prefers_the_prefix_of_what_was_good():
    """Two chains, one with high rewards below: the next rollout continues that one."""
    pairs = [((0, i, *([2] * 6)), reward) for i, reward in enumerate((0.1, 0.0, 0.2))]
    pairs += [((1, i, *([2] * 6)), reward) for i, reward in enumerate((0.8, 0.9, 0.7))]
    tree = grown(pairs)
    (node,) = Frontier(ByImprovement())(tree, range(len(tree)), 1)
    assert tree.prefix(node)[:1] == (1,)


def test_the_unseen_value_is_the_posterior_mass_expected_outside():
    """Without optimism the rule takes the node with the most of p·ρ·exp(λ m)."""
    tree, beliefs = random_tree(3, num_rollouts=25), Beliefs()
    (node,) = Frontier(ByUnseenValue(optimism=0.0))(tree, range(len(tree)), 1)
    beliefs.update(tree, range(len(tree)))
    mass = [tree.path_logprob[i] + tree.log_unseen[i] + tree.target.tilt * beliefs.mean[i] for i in range(len(tree))]
    assert node == int(np.argmax(mass))
    assert tree.depth[node] > 0


class ScoredAnew(ByUnseenValue):
    """Keeps no score."""

    def is_stale(self, tree, touched):
        super().is_stale(tree, touched)
        return True


def test_scores_kept_between_rounds_are_those_made_anew():
    """A path that changed without being scored again would be chosen by what it was."""
    kept, anew = Frontier(ByUnseenValue()), Frontier(ScoredAnew())
    tree = random_tree(6, num_rollouts=20)
    rng = np.random.default_rng(0)
    touched = range(len(tree))
    for _ in range(60):
        (node,) = kept(tree, touched, 1)
        assert [node] == anew(tree, touched, 1)
        tokens = tuple(int(one) for one in rng.integers(9, 40, size=tree.target.max_new_tokens - tree.depth[node]))
        rollout = Rollout(tokens, tuple(-6.0 for _ in tokens), "length")
        touched = tree.extend([(node, rollout, float(rng.normal()))])


def test_a_share_of_tokens_follows_the_model_whatever_the_rewards():
    """With all of them, the node is the likeliest place for a fresh draw to leave the tree."""
    tree = random_tree(5, num_rollouts=30)
    (node,) = Frontier(ByImprovement(), whole_draws=1.0)(tree, range(len(tree)), 1)
    mass = np.array(tree.path_logprob) + np.array(tree.log_unseen)
    assert node == int(np.argmax(mass))


def test_segments_branch_at_their_ends_while_they_can():
    """Other nodes come when nothing is unseen at the ends of segments."""
    tree = grown([(tuple([1] * 20), 1.0), (tuple([1] * 12 + [2] * 8), 2.0)], length=20)
    points = Frontier(ByUnseenValue(), 0.0, "segment")(tree, range(len(tree)), 3)
    assert all(tree.depth[node] % SEGMENT_TOKENS == 0 for node in points)
    with pytest.raises(SettingError, match="branch_on must be one of token, segment, entropy"):
        Frontier(ByUnseenValue(), 0.0, "sentence")


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
