"""How much of a reward is still undecided at a prefix, learnt from how far predictions missed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Expected", "UndecidedVariance"]

SMALLEST_SHARE = 1e-4
"""Of the largest mean square miss: below it a bin's misses count as none."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What was known of the mean reward m(s) at a prefix s before a completion arrived there.

    Attributes:
        below: Gaussian message to m(s) from the completions below s, as precision and precision × mean.
        above: From all others.
        undecided: The V(s) that `below` was made with, above 0.
    """

    below: tuple[float, float]
    above: tuple[float, float]
    undecided: float

    def under(self, undecided: float, reward: float) -> tuple[float, float]:
        """How far a reward is from its expectation were V(s) this one, and the variance of m(s) then."""
        scale = self.undecided / undecided if undecided > 0.0 else 1.0
        precision = scale * self.below[0] + self.above[0]
        return reward - (scale * self.below[1] + self.above[1]) / precision, 1.0 / precision


@dataclass(frozen=True, slots=True)
class _Guess:
    """What one explanation had expected of a completion: V(s), how far the reward was off, and the variance of m(s)."""

    undecided: float
    miss: float
    known_variance: float

    def square(self) -> float:
        """The part of miss² that is V's, and not that of a mean little known."""
        whole = self.undecided + self.known_variance
        return self.miss * self.miss * (self.undecided / whole if whole > 0.0 else 0.5)

    def log_density(self, floor: float) -> float:
        """Of the reward, but for a constant."""
        variance = self.undecided + self.known_variance + floor
        return -0.5 * (math.log(variance) + self.miss * self.miss / variance) if variance > 0.0 else 0.0


class UndecidedVariance:
    """V, the variance still to be decided at a prefix, by one of two explanations or by both.

    By what is left: V(u) = scale · u^γ of the share u of the completion still to be written, fitted to the misses, and corrected
    where one of a few bins of u has seen enough. Before anything is known γ is 1: a reward earned token by token.

    By what is written: a number for each of some classes of depth, pulled to the first explanation where they have seen little. A
    reward that the third token decides has no V behind it, whatever is left to write, and shares of completions of unlike lengths
    mix what comes before with what comes after.

    Their mean counts, by the odds that the rewards so far give them (Bayesian model averaging: Hoeting et al. 1999). Each is held
    to its own expectation of m(s): one that says that nothing is decided below s expects of the next completion there what the
    first one had.

    Args:
        scale: V of a whole completion before anything is known.
    """

    NUM_BINS = 16
    LARGEST_EXPONENT = 16.0
    PRIOR_OF_EXPONENT = 0.05
    """How strongly γ is held at 1, against the variance of log u over the misses (about 0.5 when they are spread over all u)."""
    PRIOR_WEIGHT = 2.0
    """Of the power law against the misses of one bin, in observations."""
    MEMORY = 12.0
    """Misses that one bin remembers, older ones fading; so no bin outweighs the others where the power law is fitted."""

    DEPTHS_PER_DOUBLING = 3
    NUM_DEPTHS = 48
    """Classes of depth: the last begins at 2^(47/3), about 50 000 tokens."""
    PRIOR_WEIGHT_OF_DEPTH = 0.2
    """Of the first explanation against the misses of one class of depth, in observations."""
    FIRST_LOG_ODDS = -4.0
    """Of the second explanation, nats: rewards decided by place are the rarer ones."""
    LARGEST_LOG_ODDS = 6.0
    LARGEST_EVIDENCE = 2.0
    """Of one miss, nats: misses are not normal, and none may decide alone."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._centres = (np.arange(self.NUM_BINS) + 0.5) / self.NUM_BINS
        self._sums = np.zeros(self.NUM_BINS)
        self._counts = np.zeros(self.NUM_BINS)
        self._values: np.ndarray | None = None
        self.exponent = 1.0
        self._sums_by_depth = np.zeros(self.NUM_DEPTHS)
        self._counts_by_depth = np.zeros(self.NUM_DEPTHS)
        self._log_odds = self.FIRST_LOG_ODDS

    def add(self, share: float, depth: int, reward: float, expected: Expected) -> None:
        """Note a reward. Each explanation is held to what it would have expected itself.

        Args:
            share: Of the completion still to be written where it left the tree, in (0, 1].
            depth: Tokens written there.
            reward: Of the completion.
            expected: What was known there before.
        """
        classes = self._classes(np.array([depth]))
        by_share = by_depth = expected.undecided
        if self._counts.sum():
            by_share = float(self._by_share(np.array([share]))[0])
            by_depth = float(self._by_depth(np.array([by_share]), classes)[0])
        floor = SMALLEST_SHARE * by_share
        of_share, of_depth = (_Guess(one, *expected.under(max(one, floor), reward)) for one in (by_share, by_depth))
        evidence = of_depth.log_density(floor) - of_share.log_density(floor)
        evidence = min(max(evidence, -self.LARGEST_EVIDENCE), self.LARGEST_EVIDENCE)
        self._log_odds = min(max(self._log_odds + evidence, -self.LARGEST_LOG_ODDS), self.LARGEST_LOG_ODDS)
        index = min(int(share * self.NUM_BINS), self.NUM_BINS - 1)
        # Early misses tell more of the first guess of V than of V: they are forgotten.
        kept = 1.0 - 1.0 / self.MEMORY if self._counts[index] >= self.MEMORY else 1.0
        self._sums[index] = kept * self._sums[index] + of_share.square()
        self._counts[index] = kept * self._counts[index] + 1.0
        self._sums_by_depth[classes[0]] += of_depth.square()
        self._counts_by_depth[classes[0]] += 1.0
        self._values = None

    def __call__(self, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Return V, in the reward's unit squared, at least 0.

        Args:
            share: Of the completion still to be written, in (0, 1]: float64 [number].
            depth: Tokens written: integers [number].
        """
        by_share = self._by_share(share)
        of_depth = self._share_of_depth()
        return (1.0 - of_depth) * by_share + of_depth * self._by_depth(by_share, self._classes(depth))

    def _share_of_depth(self) -> float:
        """The odds of the second explanation, as a share."""
        return 1.0 / (1.0 + math.exp(-self._log_odds))

    def _classes(self, depth: np.ndarray) -> np.ndarray:
        classes = (self.DEPTHS_PER_DOUBLING * np.log2(1.0 + depth)).astype(np.int64)
        return np.minimum(classes, self.NUM_DEPTHS - 1)

    def _by_depth(self, by_share: np.ndarray, classes: np.ndarray) -> np.ndarray:
        weight = self.PRIOR_WEIGHT_OF_DEPTH
        return (self._sums_by_depth[classes] + weight * by_share) / (self._counts_by_depth[classes] + weight)

    def _by_share(self, share: np.ndarray) -> np.ndarray:
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
            return self._scale * self._centres
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
