"""Where to branch next: three rules, each a function from a tree and a number to that many nodes.

A rollout from node s continues p after the prefix s with a first token not seen there. Nodes with nothing unseen are never
named. A node named m times gets m rollouts with distinct first tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from scipy.special import log_ndtr, ndtr

from maxent_ts.tree import NO_PARENT, ROOT, Tree

__all__ = ["Select", "by_bound", "by_improvement", "by_unseen_value"]

Select = Callable[[Tree, int], list[int]]

NUM_COMPLETIONS_TO_JUDGE_BY = 3
"""Below this there is no spread of rewards to speak of, and `by_improvement` explores as `by_unseen_value` does."""


def by_unseen_value(rng: np.random.Generator) -> Select:
    """Walk from the root in proportion to π restricted to what is unseen.

    To a child with weight p(a|s)·R(sa), out of the tree with weight ρ(s)·U(s).
    """

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


def by_improvement(rng: np.random.Generator) -> Select:
    """Take the nodes of the highest expected improvement over the best reward so far, weighed against their cost.

    The reward r of a rollout from s is taken as normal: its mean is the mean reward below s, shrunk towards the mean below
    the last branch above with the weight of one completion; its standard deviation is that of all rewards, times the root
    of the share of the completion that is still to be written. With r* the best reward, c(s) the tokens still to be written
    and ρ(s) the chance that the model itself would leave the tree at s, the score is

        log E[max(r − r*, 0)] − ½ log c(s) + ½ log ρ(s)

    and a rollout already chosen in this round lowers the score of its node by 1. Both halves were chosen on training data
    of the embedded tasks (docs/algorithm.md); 1 for the cost resamples last words only, 0 forgets that tokens are paid for.

    Reference: expected improvement is Mockus 1978's criterion of Bayesian optimisation; the model of r is ours.
    """
    explore = by_unseen_value(rng)

    def select(tree: Tree, num: int) -> list[int]:
        if len(tree.completions) < NUM_COMPLETIONS_TO_JUDGE_BY:
            return explore(tree, num)
        score = _improvement(tree)
        points = []
        for _ in range(num):
            node = int(np.argmax(score))
            points.append(node)
            score[node] -= 1.0
        return points

    return select


def _improvement(tree: Tree) -> np.ndarray:
    """The score of `by_improvement` for every node, float64 [number of nodes]; -inf where nothing is unseen."""
    visits = np.array(tree.visits, dtype=np.float64)
    rewards = np.array([one.reward for one in tree.completions])
    mean = np.array(tree.reward_sum) / visits
    to_write = np.maximum(np.array(tree.length_sum) / visits - np.array(tree.depth), 1.0)
    expected = _shrunk(tree, mean, visits)
    # If all rewards are equal any positive spread gives the same order.
    spread = (float(rewards.std()) or 1.0) * np.sqrt(np.minimum(to_write / to_write[ROOT], 1.0))
    log_gain = np.log(spread) + _log_expected_excess((expected - rewards.max()) / spread)
    log_unseen = np.array(tree.log_unseen)
    return np.where(np.isneginf(log_unseen), -np.inf, log_gain - 0.5 * np.log(to_write) + 0.5 * log_unseen)


def _shrunk(tree: Tree, mean: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Means pulled towards the branch above by one completion's weight; along a chain nothing changes. float64 [nodes]."""
    parent, depth = np.array(tree.parent), np.array(tree.depth)
    shrunk = mean.copy()
    order = np.argsort(depth, kind="stable")
    # Parents lie one level above their children, so each level can be done at once.
    for level in np.split(order, np.searchsorted(depth[order], np.arange(1, depth.max() + 1)))[1:]:
        above = shrunk[parent[level]]
        is_chain = visits[level] == visits[parent[level]]
        shrunk[level] = np.where(is_chain, above, (visits[level] * mean[level] + above) / (visits[level] + 1))
    return shrunk


def _log_expected_excess(z: np.ndarray) -> np.ndarray:
    """Log E[max(x, 0)] of x ~ normal(z, 1) = log(φ(z) + z Φ(z)), also far below 0 where the two cancel."""
    log_density = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    near = np.maximum(z, -5.0)
    direct = np.log(np.exp(-0.5 * near * near) / math.sqrt(2 * math.pi) + near * ndtr(near))
    # Below -5: φ(z) + zΦ(z) = φ(z)·(1 + z·Φ(z)/φ(z)), and 1 + z·Φ/φ = 1/z² − 3/z⁴ + … ; Φ/φ from log_ndtr keeps its digits.
    far = np.minimum(z, -5.0)
    mills = np.exp(log_ndtr(far) + 0.5 * far * far + 0.5 * math.log(2 * math.pi))
    tail = log_density + np.log(np.maximum(1.0 + far * mills, 1.0 / (far * far + 3.0)))
    return np.where(z > -5.0, direct, tail)


def by_bound(exploration: float) -> Select:
    """PUCT on soft values: go to the child, or leave, by the larger of V + c·prior·√n(s) / (1 + n).

    V = log W / λ is scaled to [0, 1] by the rewards seen; the prior of leaving is ρ(s). Rollouts chosen in the same round
    count as visits, so that they spread.

    Reference: Silver et al. 2017, "Mastering the game of Go without human knowledge", methods.

    Args:
        exploration: c, in units of the range of rewards seen.
    """

    def select(tree: Tree, num: int) -> list[int]:
        in_flight: Counter[int] = Counter()
        points: list[int] = []
        for _ in range(num):
            points.append(_descend(tree, exploration, in_flight, Counter(points)))
        return points

    return select


def _descend(tree: Tree, exploration: float, in_flight: Counter[int], num_leaving: Counter[int]) -> int:
    """One walk of `by_bound`."""
    rewards = [one.reward for one in tree.completions if one.reward is not None]
    low, high = min(rewards, default=0.0), max(rewards, default=0.0)
    scale = 1.0 / (high - low) if high > low and tree.target.tilt > 0 else 0.0
    node = ROOT
    while node != NO_PARENT:
        in_flight[node] += 1
        bonus = exploration * math.sqrt(tree.visits[node] + in_flight[node])

        def bound(one: int, log_prior: float, count: int, bonus: float = bonus) -> float:
            value = (tree.log_value[one] / tree.target.tilt - low) * scale if scale else 0.0
            return value + bonus * math.exp(log_prior) / (1 + count)

        # Leaving has been tried once for every child.
        arms = [(bound(node, tree.log_unseen[node], len(tree.children[node]) + num_leaving[node]), node)]
        for child in tree.children[node].values():
            if tree.log_open[child] > -math.inf:
                arms.append((bound(child, tree.logprob[child], tree.visits[child] + in_flight[child]), child))
        if tree.log_unseen[node] == -math.inf:
            arms = arms[1:]
        _, chosen = max(arms, key=lambda arm: arm[0])
        if chosen == node:
            return node
        node = chosen
    return ROOT
