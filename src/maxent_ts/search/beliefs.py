"""What the rewards seen say about the rewards to come, as a Gaussian process along the tree.

The mean reward m(s) of the model's completions below a prefix s is taken as a random walk from the root to the leaves:

    m(sa) = m(s) + N(0, V(s) − V(sa)),        reward of a leaf = its m,        V(leaf) = 0

V(s) is the variance that is still to be decided at s. It is learnt from how far predictions missed (`search.undecided`): a reward
that the first tokens decide has a V that falls at once, one that any token overturns a V that stays high to the end.

Given V, the posterior of every m(s) is exact by two passes of Gaussian messages, up and down the tree. After a round only
the touched paths are passed over; everything, when there are a quarter more completions than at the last full pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from maxent_ts.search.completions import reward_of
from maxent_ts.search.undecided import Expected, UndecidedVariance
from maxent_ts.sums import FEW_CHILDREN, ChildTable
from maxent_ts.tree import GUESS_WEIGHT, NO_COMPLETION, NO_PARENT, Tree

__all__ = ["GROWTH_BEFORE_REFRESH", "Beliefs"]

GROWTH_BEFORE_REFRESH = 1.25
"""What rests on all completions is made again when there are so many times more of them: their spread has moved by then."""

SMALLEST_VARIANCE = 1e-9
"""In units of the variance of the rewards: keeps messages finite where rewards agree to the last digit."""


class Beliefs:
    """Posterior mean and variance of m(s) for every node of one tree that grows.

    Attributes:
        mean: Posterior mean of m(s), in the reward's unit: float64 [capacity], the first `len(tree)` in use.
        variance: Posterior variance of m(s).
        undecided: V(s).
        to_write: Tokens that a completion from s still takes, by the mean length of those below it; at least 1.
    """

    def __init__(self) -> None:
        self.mean, self.variance, self.undecided, self.to_write = (np.zeros(1024) for _ in range(4))
        self.undecided_variance = UndecidedVariance()
        self._floor = SMALLEST_VARIANCE
        self._num_nodes = 0
        self._num_passed = 0
        # Message to the parent's m(s) of all that is below s, and of all that is not, as precision and precision × mean.
        self._up: list[tuple[float, float]] = []
        self._total: list[tuple[float, float]] = []
        self._variances: list[float] = []
        self._tables: dict[int, ChildTable] = {}

    def update(self, tree: Tree, touched: Sequence[int]) -> bool:
        """Take in what has changed.

        Args:
            tree: The tree, backed up.
            touched: The nodes that changed since the last call, parents before children.

        Returns:
            Whether all nodes have changed, and not only those.
        """
        if self._num_nodes == 0 and len(tree.completions) > 1:  # a search goes on
            self.undecided_variance = UndecidedVariance(_variance(tree) or 1.0)
        self._learn(tree, touched)
        self._num_nodes = len(tree)
        missing = len(tree) - len(self._up)
        self._up += [(0.0, 0.0)] * missing
        self._total += [(0.0, 0.0)] * missing
        self._variances += [0.0] * missing
        while len(tree) > len(self.mean):
            self.mean, self.variance, self.undecided, self.to_write = (
                np.concatenate([one, np.zeros(len(one))]) for one in (self.mean, self.variance, self.undecided, self.to_write)
            )
        is_full = len(tree.completions) >= GROWTH_BEFORE_REFRESH * self._num_passed
        if is_full:
            self._num_passed = len(tree.completions)
            self._floor = SMALLEST_VARIANCE * (_variance(tree) or 1.0)
        self._pass(tree, range(len(tree)) if is_full else touched)
        return is_full

    def spread(self, nodes: np.ndarray) -> np.ndarray:
        """Standard deviation of the reward of the next completion from nodes: float64 [number of nodes]."""
        return np.sqrt(self.undecided[nodes] + self.variance[nodes])

    def _pass(self, tree: Tree, nodes: Sequence[int]) -> None:
        indices = np.asarray(nodes, dtype=np.int64)
        to_write = np.array([tree.mean_to_write(node) for node in nodes])
        depth = np.array([tree.depth[node] for node in nodes])
        undecided = self.undecided_variance(to_write / (depth + to_write), depth)
        variances, up, total = self._variances, self._up, self._total
        for node, value in zip(nodes, undecided.tolist(), strict=True):
            variances[node] = value
        for node in reversed(nodes):
            up[node] = self._message_up(tree, node)
            table = self._tables.get(tree.parent[node])
            if table is not None:
                table.replace(node, self._child_row(tree, node))
        for node in nodes:
            total[node] = self._message_down(tree, node)
        precision, weighted = np.array([total[node] for node in nodes]).T
        self.mean[indices], self.variance[indices] = weighted / precision, 1.0 / precision
        self.undecided[indices], self.to_write[indices] = undecided, to_write

    def _message_up(self, tree: Tree, node: int) -> tuple[float, float]:
        """What lies below a node says about m(node), and the reward's guess there: precision, precision × mean."""
        children = tree.children[node].values()
        variances, up, floor = self._variances, self._up, self._floor
        own = variances[node]
        precision = weighted = 0.0
        guess = tree.guess[node]
        if guess is not None:
            precision = GUESS_WEIGHT / max(own, floor)
            weighted = precision * guess
        if len(children) > FEW_CHILDREN:
            of_many = self._message_up_of_many(tree, node)
            return precision + of_many[0], weighted + of_many[1]
        for child in children:
            if tree.completion[child] != NO_COMPLETION:
                one = 1.0 / max(own, floor)
                precision += one
                weighted += one * tree.best_reward[child]
            else:
                below, mean_below = up[child]
                if below > 0.0:
                    one = 1.0 / (1.0 / below + (max(own - variances[child], 0.0) + floor))
                    precision += one
                    weighted += one * mean_below / below
        return precision, weighted

    def _message_up_of_many(self, tree: Tree, node: int) -> tuple[float, float]:
        """The same sums from a table of the children."""
        table = self._tables.get(node)
        if table is None:
            table = self._tables[node] = ChildTable(4)
        for child in table.missing(tree.children[node]):
            table.append(child, self._child_row(tree, child))
        is_leaf, undecided, spread, mean = (table.column(index) for index in range(4))
        own = self._variances[node]
        steps = np.where(is_leaf, max(own, self._floor), np.maximum(own - undecided, 0.0) + self._floor)
        precisions = 1.0 / (spread + steps)
        return float(precisions.sum()), float((precisions * mean).sum())

    def _child_row(self, tree: Tree, child: int) -> tuple[float, float, float, float]:
        """Whether it is a leaf, V, and variance and mean of what lies below it; infinite variance where nothing does."""
        if tree.completion[child] != NO_COMPLETION:
            return 1.0, 0.0, 0.0, tree.best_reward[child]
        precision, weighted = self._up[child]
        if precision <= 0.0:
            return 0.0, self._variances[child], math.inf, 0.0
        return 0.0, self._variances[child], 1.0 / precision, weighted / precision

    def _message_down(self, tree: Tree, node: int) -> tuple[float, float]:
        """All that is known about m(node)."""
        parent = tree.parent[node]
        precision, weighted = self._up[node]
        if parent == NO_PARENT:
            return precision, weighted
        if tree.completion[node] != NO_COMPLETION:
            return 1.0 / self._floor, tree.best_reward[node] / self._floor
        step = self._step(parent, node)
        above, mean_above = self._total[parent]
        if precision > 0.0:
            own = 1.0 / (1.0 / precision + step)
            above, mean_above = above - own, mean_above - own * weighted / precision
        if above <= 1e-12 * self._total[parent][0]:
            return precision, weighted  # Nothing is known but what is below.
        passed = 1.0 / (1.0 / above + step)
        return precision + passed, weighted + passed * mean_above / above

    def _step(self, parent: int, child: int) -> float:
        return max(self._variances[parent] - self._variances[child], 0.0) + self._floor

    def _learn(self, tree: Tree, touched: Sequence[int]) -> None:
        """Compare completions that have arrived with what was expected where they left the tree."""
        if self._num_nodes == 0:
            return
        for leaf in touched:
            if leaf < self._num_nodes or tree.completion[leaf] == NO_COMPLETION:
                continue
            node = tree.parent[leaf]
            while node >= self._num_nodes:
                node = tree.parent[node]
            # The tree has changed since; what counts is what was expected then.
            share = float(self.to_write[node]) / (tree.depth[node] + float(self.to_write[node]))
            undecided = max(float(self.undecided[node]), self._floor)
            expected = Expected(self._up[node], _less(self._total[node], self._up[node]), undecided)
            self.undecided_variance.add(share, tree.depth[node], tree.best_reward[leaf], expected)


def _variance(tree: Tree) -> float:
    """Of the rewards seen."""
    return float(np.var([reward_of(one) for one in tree.completions]))


def _less(total: tuple[float, float], part: tuple[float, float]) -> tuple[float, float]:
    """The rest of a message; nothing where only rounding is left."""
    precision = total[0] - part[0]
    return (precision, total[1] - part[1]) if precision > 1e-12 * total[0] else (0.0, 0.0)
