"""MaxEnt-TS: grow a token tree by the model's own rollouts, back it up softly, branch where it matters.

One round: select branch points, roll out from them with p, score the completions, back up. `maxent` looks for the best
completion, `maxent_sample` draws from π(x) ∝ p(x)·exp(λ r(x)). They differ in how they select and what they return.

Legend (as in `maxent_ts.tree`): s a prefix, C(s) its children seen, ρ(s) the prior mass not seen, W the soft value,
V = log W / λ, R = W - K the part of W that is still unseen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, Rewards, Rollouts, Search
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Completion, Outcome, Target

__all__ = ["maxent", "maxent_sample"]

Select = Callable[[Tree, int], list[int]]
"""From the tree and the number of rollouts wanted to their branch points; a node named m times gets m rollouts."""


def maxent(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    exploration: float = 0.3,
    num_return_sequences: int = 1,
) -> Search:
    """Search for the completion of the highest reward.

    Selection is PUCT on soft values: from the root go to the child, or leave the tree, by the larger of
    V + c·prior·√n(s) / (1 + n), V scaled to [0, 1] by the rewards seen. The prior of leaving is ρ(s).

    Reference: Silver et al. 2017, "Mastering the game of Go without human knowledge", methods (PUCT).

    Args:
        rng: Unused; all chance lies in the rollouts.
        target: Gives λ, which sharpens the values, and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round. More use the engine better, fewer choose with more knowledge.
        exploration: c, in units of the range of rewards seen.
        num_return_sequences: Number of completions returned, best first.
    """
    tree = yield from _grow(target, _select_by_bound(exploration), num_rollouts, num_parallel)
    completions = tree.completions
    order = sorted(range(len(completions)), key=lambda i: (-_reward(completions[i]), -completions[i].logprob))
    return _outcome(tree, tuple(order[:num_return_sequences]))


def maxent_sample(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    num_return_sequences: int = 1,
) -> Search:
    """Draw completions from π, without ever paying for one twice.

    Selection walks from the root: to a child with weight p(a|s)·R(sa), out of the tree with weight ρ(s)·U(s). That is the
    target restricted to what is unseen. Returned are draws from the walk that never leaves the tree; once all is seen, from π.

    Args:
        rng: Walks, and draws what is returned.
        target: Gives λ and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round.
        num_return_sequences: Number of draws returned, with replacement.
    """
    tree = yield from _grow(target, _select_by_unseen_value(rng), num_rollouts, num_parallel)
    weights = np.exp(tree.log_weights())
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights / weights.sum())
    return _outcome(tree, tuple(int(one) for one in chosen))


def _grow(target: Target, select: Select, num_rollouts: int | None, num_parallel: int) -> Generator[Any, Any, Tree]:
    """Rounds of select, roll out, score, back up, until the rollouts, the budget or the unseen completions run out."""
    if num_parallel < 1:
        raise SettingError(f"num_parallel must be at least 1, but is {num_parallel}.")
    tree = Tree(target)
    num_left = math.inf if num_rollouts is None else num_rollouts
    while num_left > 0 and not tree.is_exhausted:
        # The first round is one rollout: there is nothing yet to choose by.
        num = int(min(num_parallel, num_left)) if tree.completions else 1
        points = Counter(select(tree, num))
        branches = yield Parallel(
            tuple(Rollouts(tree.prefix(node), count, tuple(tree.children[node]), distinct=True) for node, count in points.items())
        )
        leaves = []
        for node, branch in zip(points, branches, strict=True):
            leaves += [(tree.add(node, rollout), rollout.finish_reason) for rollout in branch.rollouts]
            if not math.isnan(branch.log_unseen):
                tree.set_unseen(node, branch.log_unseen)
        if all(math.isnan(branch.log_unseen) for branch in branches):
            break
        if leaves:
            completions = tuple(Completion(tree.prefix(leaf), tree.path_logprob[leaf], reason) for leaf, reason in leaves)
            rewards = yield Rewards(completions)
            for (leaf, reason), reward in zip(leaves, rewards, strict=True):
                tree.evaluate(leaf, reward, reason)
        tree.back_up([*points, *(leaf for leaf, _ in leaves)])
        num_left -= len(leaves)
    return tree


def _select_by_bound(exploration: float) -> Select:
    """PUCT. Rollouts chosen in the same round count as visits, so that they spread."""

    def select(tree: Tree, num: int) -> list[int]:
        rewards = [_reward(one) for one in tree.completions]
        low, high = min(rewards, default=0.0), max(rewards, default=0.0)
        scale = 1.0 / (high - low) if high > low else 0.0
        tilt = tree.target.tilt
        in_flight: Counter[int] = Counter()
        points = []
        for _ in range(num):
            node = ROOT
            while True:
                in_flight[node] += 1
                bonus = exploration * math.sqrt(tree.visits[node] + in_flight[node])

                def bound(one: int, log_prior: float, count: int, bonus: float = bonus) -> float:
                    value = (tree.log_value[one] / tilt - low) * scale if tilt > 0 else 0.0
                    return value + bonus * math.exp(log_prior) / (1 + count)

                best, chosen = -math.inf, node
                if tree.log_unseen[node] > -math.inf:
                    # Every child but one was once left for; a chain's only child is what the first rollout went on to.
                    best = bound(node, tree.log_unseen[node], len(tree.children[node]) + points.count(node))
                for child in tree.children[node].values():
                    if tree.log_open[child] > -math.inf:
                        value = bound(child, tree.logprob[child], tree.visits[child] + in_flight[child])
                        if value > best:
                            best, chosen = value, child
                if chosen == node:
                    points.append(node)
                    break
                node = chosen
        return points

    return select


def _select_by_unseen_value(rng: np.random.Generator) -> Select:
    """Independent walks in proportion to the unseen value."""

    def select(tree: Tree, num: int) -> list[int]:
        return [walk(tree) for _ in range(num)]

    def walk(tree: Tree) -> int:
        node = ROOT
        while True:
            children = list(tree.children[node].values())
            logits = np.array([tree.log_leave(node), *(tree.logprob[child] + tree.log_rest[child] for child in children)])
            # Gumbel-max: an exact draw from the softmax that needs no normalisation.
            choice = int(np.argmax(logits + rng.gumbel(size=len(logits))))
            if choice == 0:
                return node
            node = children[choice - 1]

    return select


def _outcome(tree: Tree, chosen: tuple[int, ...]) -> Outcome:
    weights = np.exp(tree.log_weights())
    lower, estimate, upper = tree.log_partition()
    info = {
        "log_z_lower": lower,
        "log_z": estimate,
        "log_z_upper": upper,
        "unseen_mass": math.exp(tree.log_open[ROOT]),
        **tree.statistics(),
    }
    return Outcome(tuple(tree.completions), tuple(float(one) for one in weights / weights.sum()), chosen, info, tree)


def _reward(completion: Completion) -> float:
    assert completion.reward is not None
    return completion.reward
