"""Nodes with many children: what is kept of those equals what a fresh look at all of them gives."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from maxent_ts.search.beliefs import Beliefs
from maxent_ts.sums import FEW_CHILDREN, ChildTable
from maxent_ts.tree import NO_COMPLETION, ROOT, Tree
from maxent_ts.types import Rollout, Target

COLUMNS = ("log_value", "log_known", "log_open", "log_rest", "log_outside", "log_unseen")


def grown_step_by_step(seed=0, num_rounds=120, guess=False):
    """Yields a tree after every round: rollouts below the root, below its first child and below any node, leaves met again."""
    rng = np.random.default_rng(seed)
    tree, length = Tree(Target(1.7, 4, (-3.0, 3.0))), 4
    for _ in range(num_rounds):
        additions = []
        for node in (ROOT, ROOT, min(1, len(tree) - 1), int(rng.integers(len(tree)))):
            if tree.completion[node] != NO_COMPLETION:
                node = ROOT
            tokens = tuple(int(one) for one in rng.integers(2000, size=length - tree.depth[node]))
            logprobs = tuple(float(one) for one in rng.normal(-9.0, 1.0, size=len(tokens)))
            additions.append((node, Rollout(tokens, logprobs, "length"), float(rng.normal())))
        unseen = {} if rng.random() < 0.3 else {ROOT: tree.log_unseen[ROOT] - 0.01}
        if guess:
            tree.set_guess(ROOT, float(rng.normal()))
        yield tree, tree.extend(additions, unseen)


def plain(tree):
    """The sums over children as `Tree` documents them, from scratch and without tables: dictionary of columns."""

    def log_sum(logs):
        high = max(logs)
        if len(logs) == 1 or high == -math.inf:
            return high
        if len(logs) > FEW_CHILDREN:
            return high + math.log(np.exp(np.array(logs) - high).sum())
        return high + math.log(sum(math.exp(one - high) for one in logs))

    columns = {name: list(getattr(tree, name)) for name in COLUMNS}
    value, known, unevaluated, rest, outside, unseen = (columns[name] for name in COLUMNS)
    for node in reversed(range(len(tree))):
        children = list(tree.children[node].values())
        if len(children) < 2:
            continue  # no sum
        logprobs = [tree.logprob[child] for child in children]
        log_seen, log_inside = log_sum(logprobs), log_sum([tree.logprob[child] + value[child] for child in children])
        value[node] = outside[node] = log_inside - log_seen
        guess = tree.guess[node]
        if guess is not None:
            weight = math.log(tree.visits[node])
            outside[node] = log_sum([weight + log_inside - log_seen, tree.target.tilt * guess]) - log_sum([weight, 0.0])
            value[node] = log_sum([log_inside, unseen[node] + outside[node]])
        known[node] = log_sum([tree.logprob[child] + known[child] for child in children])
        unevaluated[node] = log_sum([unseen[node], *(tree.logprob[child] + unevaluated[child] for child in children)])
        rest[node] = log_sum([unseen[node] + outside[node], *(tree.logprob[child] + rest[child] for child in children)])
    return columns


def widest(tree):
    return sorted((len(one) for one in tree.children), reverse=True)[:2]


@pytest.mark.parametrize("guess", [False, True])
def test_a_tree_grown_step_by_step_equals_one_backed_up_from_scratch_to_the_bit(guess):
    """A child whose change does not reach its parent's table leaves an old term in the sums."""
    for index, (tree, _) in enumerate(grown_step_by_step(guess=guess)):
        if index % 20 == 19:
            assert plain(tree) == {name: getattr(tree, name) for name in COLUMNS}
    assert min(widest(tree)) > 1.5 * FEW_CHILDREN


def test_another_tilt_or_other_rewards_leave_nothing_old_behind():
    """What was kept belongs to the old λ; and the tree must go on to grow from there."""
    steps = grown_step_by_step(seed=1)
    for index, (tree, _) in enumerate(steps):
        if index == 80:
            before = tree.log_value[ROOT]
            tree.back_up_all(replace(tree.target, tilt=0.4), [one.reward + 1.0 for one in tree.completions])
            assert tree.log_value[ROOT] != before
        if index in (80, 81, 119):
            assert plain(tree) == {name: getattr(tree, name) for name in COLUMNS}


def test_a_leaf_evaluated_without_its_own_back_up_counts_at_the_next_one_that_passes():
    """`back_up` may be called for one of two leaves with the same wide parent."""
    *_, (tree, _) = grown_step_by_step(seed=2)
    leaves = [tree.add(ROOT, Rollout((token,), (-9.0,), "eos")) for token in (5001, 5002)]
    tree.back_up(leaves)
    for leaf in leaves:
        tree.evaluate(leaf, 2.0, "eos")
    tree.back_up(leaves[1:])
    assert plain(tree) == {name: getattr(tree, name) for name in COLUMNS}


def test_a_stored_wide_tree_goes_on_as_the_one_it_was_stored_from():
    """Loading numbers the nodes another way; both then take the same rollouts."""
    *_, (tree, _) = grown_step_by_step(seed=3)
    again = Tree.from_dict(json.loads(json.dumps(tree.to_dict())))
    for one in (tree, again):
        for token in range(6000, 6010):
            one.extend([(ROOT, Rollout((token, 7), (-8.0, -1.0), "eos"), 0.5)])
        assert plain(one) == {name: getattr(one, name) for name in COLUMNS}
    for name in COLUMNS:
        assert getattr(again, name)[ROOT] == pytest.approx(getattr(tree, name)[ROOT], rel=1e-9)


def test_log_unseen_by_the_sum_is_that_of_all_children():
    """One minus the probabilities seen, wide or not."""
    tree = Tree(Target(1.0, 1))
    for token in range(300):
        tree.add(ROOT, Rollout((token,), (-6.0 - token / 100,), "eos"))
        if token:
            assert tree.log_unseen[ROOT] == math.log(1.0 - sum(math.exp(tree.logprob[one]) for one in range(1, len(tree))))


def test_beliefs_of_wide_nodes_are_those_of_a_full_pass_over_lists(monkeypatch):
    """Messages from tables, kept over rounds, against those of the plain loop: after every round, at every node."""
    with_tables, with_lists = Beliefs(), Beliefs()
    for index, (tree, touched) in enumerate(grown_step_by_step(seed=4)):
        with_tables.update(tree, touched)
        with monkeypatch.context() as patch:
            patch.setattr("maxent_ts.search.beliefs.FEW_CHILDREN", 10**9)
            with_lists.update(tree, touched)
        if index % 10 == 9:
            for name in ("mean", "variance", "undecided"):
                found, expected = (getattr(one, name)[: len(tree)] for one in (with_tables, with_lists))
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=name)
    assert min(widest(tree)) > 1.5 * FEW_CHILDREN


def test_a_table_grows_and_replaces_only_what_it_has():
    """Columns keep the order of appearance past the first capacity; a child not taken in yet is not written over another."""
    table, children = ChildTable(2), {}
    for token in range(1000):
        children[token] = 3 * token + 1
        if token % 7 == 0:
            for child in table.missing(children):
                table.append(child, (child, -child))
    table.replace(children[500], (0.5, -0.5))
    table.replace(children[999], (9.0, 9.0))
    expected = [0.5 if token == 500 else 3 * token + 1 for token in range(len(table))]
    assert len(table) == 995
    assert table.column(0).tolist() == expected
    assert table.column(1, 8.0).tolist() == [8.0, *(-one for one in expected)]
    assert [*table.missing(children)] == [children[token] for token in range(995, 1000)]
