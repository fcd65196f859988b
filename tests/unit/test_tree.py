"""The tree against the slow obvious recursion."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxent_ts.errors import DataError
from maxent_ts.tree import NO_COMPLETION, ROOT, Tree
from maxent_ts.types import Rollout, Target


def random_tree(seed: int, *, num_rollouts: int, tilt: float = 1.3, length: int = 5, num_tokens: int = 3) -> Tree:
    """Rollouts of one random model, added where they diverge."""
    rng = np.random.default_rng(seed)
    rows: dict[tuple[int, ...], np.ndarray] = {}
    tree = Tree(Target(tilt, length, (-3.0, 3.0)))
    for _ in range(num_rollouts):
        tokens: tuple[int, ...] = ()
        logprobs = []
        while len(tokens) < length and (not tokens or tokens[-1] != num_tokens - 1):
            row = rows.setdefault(tokens, rng.dirichlet(np.ones(num_tokens)))
            token = int(rng.choice(num_tokens, p=row))
            tokens, logprobs = (*tokens, token), [*logprobs, float(np.log(row[token]))]
        leaf = tree.add(ROOT, Rollout(tokens, tuple(logprobs), "eos"))
        tree.evaluate(leaf, float(np.sin(hash(tokens) % 1000)) * 3, "eos")
        tree.back_up([leaf])
    return tree


def recursive(tree: Tree, node: int) -> dict[str, float]:
    """W, K, R and M of a node by the definitions, in plain numbers."""
    if tree.completion[node] != NO_COMPLETION:
        value = math.exp(tree.target.tilt * tree.completions[tree.completion[node]].reward)
        return {"W": value, "K": value, "R": 0.0, "M": 0.0}
    children = [(math.exp(tree.logprob[child]), recursive(tree, child)) for child in tree.children[node].values()]
    seen = sum(p for p, _ in children)
    unseen = max(0.0, 1 - seen)
    mean = sum(p * below["W"] for p, below in children) / seen
    return {
        "W": sum(p * below["W"] for p, below in children) + unseen * mean,
        "K": sum(p * below["K"] for p, below in children),
        "R": sum(p * below["R"] for p, below in children) + unseen * mean,
        "M": sum(p * below["M"] for p, below in children) + unseen,
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0, 4))
def test_incremental_backup_equals_the_definition(seed, num_rollouts, tilt):
    """A path that is not refreshed after an insert leaves a stale value somewhere."""
    tree = random_tree(seed, num_rollouts=num_rollouts, tilt=tilt)
    for node in range(len(tree)):
        expected = recursive(tree, node)
        for name, column in {"W": tree.log_value, "K": tree.log_known, "R": tree.log_rest, "M": tree.log_open}.items():
            assert math.exp(column[node]) == pytest.approx(expected[name], rel=1e-8, abs=1e-9)


def test_backing_up_for_another_tilt_equals_growing_with_it():
    """A warm tree under a new λ must not remember the old one."""
    one, other = random_tree(3, num_rollouts=30, tilt=0.5), random_tree(3, num_rollouts=30, tilt=2.5)
    one.back_up_all(other.target)
    np.testing.assert_allclose(one.log_value, other.log_value)
    np.testing.assert_allclose(one.log_weights(), other.log_weights())
    assert one.log_partition() == pytest.approx(other.log_partition())


def test_backing_up_for_other_rewards_replaces_them_everywhere():
    """Rescoring must reach the completions, the values and the best reward."""
    tree = random_tree(4, num_rollouts=20)
    rewards = [float(i) / 10 for i in range(len(tree.completions))]
    tree.back_up_all(tree.target, rewards)
    assert [one.reward for one in tree.completions] == rewards
    assert tree.best_reward[ROOT] == max(rewards)
    assert math.exp(tree.log_value[ROOT]) == pytest.approx(recursive(tree, ROOT)["W"])


def test_huge_tilts_neither_overflow_nor_lose_the_order():
    """exp(λ r) itself overflows at λ r > 709; logs do not."""
    tree = random_tree(5, num_rollouts=20, tilt=5000.0)
    assert math.isfinite(tree.log_value[ROOT])
    weights = np.exp(tree.log_weights())
    assert weights.sum() == pytest.approx(1)


def test_weights_sum_to_one_and_follow_the_walk():
    """The weight of a leaf is the product of the shares p·W on its path."""
    tree = random_tree(6, num_rollouts=25)
    assert np.exp(tree.log_weights()).sum() == pytest.approx(1)
    by_tokens = {one.tokens: weight for one, weight in zip(tree.completions, tree.log_weights(), strict=True)}
    for tokens, weight in by_tokens.items():
        node, log_share = ROOT, 0.0
        for token in tokens:
            scores = {t: tree.logprob[child] + tree.log_value[child] for t, child in tree.children[node].items()}
            log_share += scores[token] - np.logaddexp.reduce(list(scores.values()))
            node = tree.children[node][token]
        assert weight == pytest.approx(log_share)


def test_the_engines_unseen_mass_is_exact_where_a_difference_would_cancel():
    """1 - Σp loses everything below 1e-16; the engine's own sum does not."""
    tree = Tree(Target(1.0, 3))
    leaf = tree.add(ROOT, Rollout((0,), (-1e-20,), "eos"))
    assert tree.log_unseen[ROOT] == pytest.approx(math.log(1e-20))
    tree.set_unseen(ROOT, -50.0)
    tree.evaluate(leaf, 0.0, "eos")
    tree.back_up([leaf])
    assert tree.log_open[ROOT] == -50.0


def test_a_dictionary_holds_the_whole_tree_without_chains():
    """Path compression must keep tokens, mass and leaves."""
    tree = random_tree(7, num_rollouts=30)
    found = tree.to_dict()
    assert sum(len(node["tokens"]) for node in found["nodes"]) == len(tree) - 1
    assert found["nodes"][0]["mass"] == pytest.approx(1)
    assert sorted(node["completion"] for node in found["nodes"] if node["completion"] is not None) == list(
        range(len(tree.completions))
    )
    num_children = [0] * len(found["nodes"])
    for node in found["nodes"][1:]:
        num_children[node["parent"]] += 1
    assert all(count != 1 for count in num_children[1:])
    for node in found["nodes"]:
        if node["completion"] is not None:
            leaf, tokens = node["completion"], list(node["tokens"])
            while node["parent"] != -1:
                node = found["nodes"][node["parent"]]
                tokens = node["tokens"] + tokens
            assert tokens == found["completions"][leaf]["tokens"]
    json.dumps(found, allow_nan=False)


def test_a_leaf_met_again_counts_a_visit_but_no_second_completion():
    """Methods that draw with replacement meet leaves twice."""
    tree = random_tree(8, num_rollouts=1)
    first = tree.completions[0]
    leaf = tree.completion.index(0)
    assert tree.evaluate(leaf, first.reward, "eos") is first
    assert len(tree.completions) == 1
    assert tree.visits[ROOT] == 2


def test_a_stored_tree_can_go_on():
    """Through JSON and back: every value, the order of completions, and what is unseen."""
    for seed in range(5):
        tree = random_tree(seed, num_rollouts=30)
        tree.set_guess(1, 0.3)
        tree.back_up_all(tree.target)
        again = Tree.from_dict(json.loads(json.dumps(tree.to_dict())))
        assert len(again) == len(tree)
        assert again.completions == tree.completions
        assert again.log_partition() == pytest.approx(tree.log_partition())
        nodes = {tree.prefix(node): node for node in range(len(tree))}
        for node in range(len(again)):
            twin = nodes[again.prefix(node)]
            for name in ("log_value", "log_outside", "log_known", "log_open", "log_rest", "log_unseen", "path_logprob"):
                assert getattr(again, name)[node] == pytest.approx(getattr(tree, name)[twin], abs=1e-9), name
            assert again.visits[node] == tree.visits[twin]


def test_what_is_no_tree_is_refused():
    """A dictionary of an earlier version lacks the log-probabilities of single tokens."""
    stored = random_tree(1, num_rollouts=5).to_dict()
    for node in stored["nodes"]:
        del node["logprobs"]
    with pytest.raises(DataError, match="Grow the tree again"):
        Tree.from_dict(stored)
