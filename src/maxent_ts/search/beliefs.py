"""What the rewards seen say about the rewards to come, as a Gaussian process along the tree.

The mean reward m(s) of the model's completions below a prefix s is taken as a random walk from the root to the leaves:

    m(sa) = m(s) + N(0, V(s) − V(sa)),        reward of a leaf = its m,        V(leaf) = 0

V(s) is the variance that is still to be decided at s. It is a function of the share of the completion still to be
written, and is learnt from how far predictions missed: a reward that the first tokens decide has a V that falls at once,
one that any token overturns a V that stays high to the end.

Given V, the posterior of every m(s) is exact by two passes of Gaussian messages, up and down the tree. After a round only
the touched paths are passed over; everything, when there are a quarter more completions than at the last full pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxent_ts.search.completions import reward_of
from maxent_ts.tree import NO_COMPLETION, NO_PARENT, Tree

__all__ = ["GROWTH_BEFORE_REFRESH", "Beliefs", "UndecidedVariance"]

GROWTH_BEFORE_REFRESH = 1.25
"""What rests on all completions is made again when there are so many times more of them: their spread has moved by then."""

SMALLEST_SHARE = 1e-4
"""Of the largest mean square miss: below it a bin's misses count as none."""

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

    def update(self, tree: Tree, touched: Sequence[int]) -> bool:
        """Take in what has changed.

        Args:
            tree: The tree, backed up.
            touched: The nodes that changed since the last call, parents before children.

        Returns:
            Whether all nodes have changed, and not only those.
        """
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
            rewards = np.array([reward_of(one) for one in tree.completions])
            self._floor = SMALLEST_VARIANCE * (float(rewards.var()) or 1.0)
        self._pass(tree, range(len(tree)) if is_full else touched)
        return is_full

    def _pass(self, tree: Tree, nodes: Sequence[int]) -> None:
        indices = np.asarray(nodes, dtype=np.int64)
        to_write = np.array([tree.mean_to_write(node) for node in nodes])
        depth = np.array([tree.depth[node] for node in nodes])
        undecided = self.undecided_variance(to_write / (depth + to_write))
        variances, up, total = self._variances, self._up, self._total
        for node, value in zip(nodes, undecided.tolist(), strict=True):
            variances[node] = value
        for node in reversed(nodes):
            up[node] = self._message_up(tree, node)
        for node in nodes:
            total[node] = self._message_down(tree, node)
        precision, weighted = np.array([total[node] for node in nodes]).T
        self.mean[indices], self.variance[indices] = weighted / precision, 1.0 / precision
        self.undecided[indices], self.to_write[indices] = undecided, to_write

    def _message_up(self, tree: Tree, node: int) -> tuple[float, float]:
        """What lies below a node says about m(node): precision, precision × mean."""
        precision = weighted = 0.0
        variances, up = self._variances, self._up
        for child in tree.children[node].values():
            if tree.completion[child] != NO_COMPLETION:
                one = 1.0 / max(variances[node], self._floor)
                precision += one
                weighted += one * tree.best_reward[child]
            else:
                below, mean_below = up[child]
                if below > 0.0:
                    one = 1.0 / (1.0 / below + self._step(node, child))
                    precision += one
                    weighted += one * mean_below / below
        return precision, weighted

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
            miss = tree.best_reward[leaf] - float(self.mean[node])
            # The tree has changed since; what counts is what was expected then.
            share = float(self.to_write[node]) / (tree.depth[node] + float(self.to_write[node]))
            self.undecided_variance.add(share, miss, float(self.variance[node]))


class UndecidedVariance:
    """V as a function of the share of the completion still to be written, learnt from misses.

    V(u) = scale · u^γ, fitted to the misses, and corrected where one of a few bins of u has seen enough.
    Before anything is known γ is 1: a reward earned token by token.
    """

    NUM_BINS = 16
    LARGEST_EXPONENT = 16.0
    PRIOR_OF_EXPONENT = 0.05
    """How strongly γ is held at 1, against the variance of log u over the misses (about 0.5 when they are spread over all u)."""
    PRIOR_WEIGHT = 2.0
    """Of the power law against the misses of one bin, in observations."""
    MEMORY = 12.0
    """Misses that one bin remembers, older ones fading; so no bin outweighs the others where the power law is fitted."""

    def __init__(self) -> None:
        self._centres = (np.arange(self.NUM_BINS) + 0.5) / self.NUM_BINS
        self._sums = np.zeros(self.NUM_BINS)
        self._counts = np.zeros(self.NUM_BINS)
        self._values: np.ndarray | None = None
        self.exponent = 1.0

    def add(self, share: float, miss: float, known_variance: float) -> None:
        """Note a miss.

        Args:
            share: Of the completion still to be written where it left the tree, in (0, 1].
            miss: Reward minus expected reward.
            known_variance: Posterior variance of the expected reward, which is the part of miss² that is not V.
        """
        index = min(int(share * self.NUM_BINS), self.NUM_BINS - 1)
        undecided = float(self(np.array([share]))[0]) if self._counts.sum() else known_variance
        part = undecided / (undecided + known_variance) if undecided + known_variance > 0.0 else 0.5
        # Early misses tell more of the first guess of V than of V: they are forgotten.
        kept = 1.0 - 1.0 / self.MEMORY if self._counts[index] >= self.MEMORY else 1.0
        self._sums[index] = kept * self._sums[index] + part * miss * miss
        self._counts[index] = kept * self._counts[index] + 1.0
        self._values = None

    def __call__(self, share: np.ndarray) -> np.ndarray:
        """Return V at shares in (0, 1], in the reward's unit squared: float64 of their shape, at least 0."""
        if self._values is None:
            self._values = self._fit()
        scaled = np.interp(share, self._centres, self._values)
        # Below the first bin's centre, and above the last one's, the power law goes on.
        low = np.minimum(share / self._centres[0], 1.0) ** self.exponent
        high = np.maximum(share / self._centres[-1], 1.0) ** self.exponent
        return scaled * low * high

    def _fit(self) -> np.ndarray:
        """Values at the bins' centres: the mean of the misses, pulled towards a power law through all bins."""
        if self._sums.sum() == 0.0:
            self.exponent = 1.0
            return self._centres.copy()
        means = self._sums / self._counts.clip(1.0)
        # Squares of normal numbers have a spread of about 2 in the log, whatever their scale: least squares there.
        logs = np.log(np.maximum(means, SMALLEST_SHARE * means.max()))
        weights = self._counts / self._counts.sum()
        x = np.log(self._centres)
        centre_x, centre_y = float(weights @ x), float(weights @ logs)
        slope = float(weights @ ((x - centre_x) * (logs - centre_y)) + self.PRIOR_OF_EXPONENT)
        slope /= float(weights @ (x - centre_x) ** 2 + self.PRIOR_OF_EXPONENT)
        self.exponent = min(max(slope, 0.0), self.LARGEST_EXPONENT)
        law = np.exp(centre_y + self.exponent * (x - centre_x))
        # The sum of both in place of a mean: few misses leave room for surprise.
        return (self._sums + self.PRIOR_WEIGHT * law) / self._counts.clip(1.0)
