"""What is computed from answers, targets and rewards once a search is over. Nothing here is seen by a search.

scipy and scikit-learn are imported where they are used: the command line's help must not wait for them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maxent_ts.errors import SettingError

__all__ = [
    "Correlation",
    "PairedDifference",
    "accuracy",
    "correlation",
    "macro_f1",
    "mean_ci95",
    "paired_difference",
    "valid_answer_rate",
]

NUM_RESAMPLES = 9999
"""Of the bootstrap and of the permutation test."""

MAX_ENUMERATED_PAIRS = 12
"""Up to this many pairs that differ, all sign patterns are enumerated rather than drawn."""


def accuracy(answers: Sequence[str | None], targets: Sequence[str]) -> float | None:
    """Return the share of answers equal to their target; no answer counts as wrong. None without items."""
    _same_length(answers, targets)
    if not targets:
        return None
    return sum(answer == target for answer, target in zip(answers, targets, strict=True)) / len(targets)


def macro_f1(answers: Sequence[str | None], targets: Sequence[str], labels: Sequence[str]) -> float | None:
    """Return the unweighted mean of the F1 scores of the labels that occur among the targets.

    An answer that is missing or not a label is a miss of its target's class and no false alarm of any class, as in OpenTSLM's
    evaluation. Labels without a target are left out of the mean: they could only score 0, and OpenTSLM's own test set has all
    of its labels, so that there the two agree. Answering such a label counts as a miss all the same.

    Args:
        answers: What was answered.
        targets: The gold labels, one each.
        labels: The task's labels.

    Returns:
        A number in [0, 1]; None if no target is one of the labels.
    """
    from sklearn.metrics import f1_score

    _same_length(answers, targets)
    present = [label for label in labels if label in set(targets)]
    if not present:
        return None
    predicted = ["" if answer is None else answer for answer in answers]
    score = f1_score(list(targets), predicted, labels=present, average="macro", zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return float(score)


def valid_answer_rate(answers: Sequence[str | None]) -> float | None:
    """Return the share of items with a valid answer, right or wrong. None without items."""
    return sum(answer is not None for answer in answers) / len(answers) if answers else None


def mean_ci95(values: Sequence[float]) -> tuple[float, float] | None:
    """Return a 95 % confidence interval for the mean: mean ± t · standard error, with Student's t of n − 1.

    Returns:
        (low, high), of zero width if all values are equal; None for fewer than two values.
    """
    from scipy.special import stdtrit

    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return None
    half = float(stdtrit(sample.size - 1, 0.975)) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    mean = float(sample.mean())
    return mean - half, mean + half


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much more `a` has than `b` on the same items."""

    mean: float
    """Mean of a − b."""
    ci95: tuple[float, float] | None
    """Bias-corrected and accelerated bootstrap interval over items; None for fewer than two items."""
    p_value: float
    """Two-sided sign-flip permutation test of "a and b are exchangeable within each item"."""
    num_pairs: int


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> PairedDifference | None:
    """Compare two methods on the same items, item by item.

    The interval is the BCa bootstrap's (Efron 1987; `scipy.stats.bootstrap` on the differences). Where all differences are equal
    it has zero width. The p value flips the signs of the differences: all patterns for up to 12 differences other than 0, else
    9999 random ones with the add-one rule (Phipson and Smyth 2010).

    Args:
        a: One value per item.
        b: One value per item, in the same order.
        seed: Of the resampling.

    Returns:
        The difference; None without items.
    """
    _same_length(a, b)
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if not differences.size:
        return None
    rng = np.random.default_rng(seed)
    return PairedDifference(
        mean=float(differences.mean()),
        ci95=_bootstrap(differences, rng),
        p_value=_sign_flip(differences, rng),
        num_pairs=int(differences.size),
    )


def _bootstrap(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float] | None:
    from scipy import stats

    if differences.size < 2:
        return None
    low, width = float(differences.min()), float(np.ptp(differences))
    if width == 0:
        return low, low
    # On [0, 1], where differences that vary in their last digits only do not make the acceleration 0/0. BCa is equivariant.
    scaled = (differences - low) / width
    interval = stats.bootstrap(
        (scaled,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        method="BCa",
        batch=_batch_size(differences),
        random_state=rng,  # pyright: ignore[reportCallIssue] (named rng from scipy 1.15 on, which takes this name too)
    ).confidence_interval
    return low + width * float(interval.low), low + width * float(interval.high)


def _sign_flip(differences: np.ndarray, rng: np.random.Generator) -> float:
    sizes = np.abs(differences[differences != 0])
    # Sums that are equal but for rounding count as equal.
    observed = abs(float(differences.sum())) - 1e-12 * float(sizes.sum())
    if sizes.size <= MAX_ENUMERATED_PAIRS:
        patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=sizes.size)))
        return float(np.mean(np.abs(patterns @ sizes) >= observed))
    num_extreme = 0
    for start in range(0, NUM_RESAMPLES, _batch_size(sizes)):
        rows = min(_batch_size(sizes), NUM_RESAMPLES - start)
        signs = 2.0 * rng.integers(0, 2, (rows, sizes.size), dtype=np.int8) - 1.0
        num_extreme += int(np.count_nonzero(np.abs(signs @ sizes) >= observed))
    return (num_extreme + 1) / (NUM_RESAMPLES + 1)


def _batch_size(values: np.ndarray) -> int:
    """Return how many resamples fit into about 16 MB."""
    return max(1, 2**21 // values.size)


@dataclass(frozen=True, slots=True)
class Correlation:
    """Whether what was rewarded was right."""

    coefficient: float | None
    """Point-biserial correlation in [-1, 1]; None where it is undefined."""
    num_items: int


def correlation(rewards: Sequence[float], correct: Sequence[bool]) -> Correlation:
    """Return the point-biserial (that is, Pearson) correlation of rewards with being correct.

    Args:
        rewards: One finite number per item.
        correct: Whether the item's answer is its target.

    Returns:
        The coefficient with the number of items; None in its place if all rewards are equal, or all or no answers correct.
    """
    _same_length(rewards, correct)
    x = np.asarray(rewards, dtype=np.float64)
    y = np.asarray(correct, dtype=np.float64)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(None, int(x.size))
    x = (x - x.min()) / np.ptp(x)
    x, y = x - x.mean(), y - y.mean()
    coefficient = float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))
    return Correlation(min(1.0, max(-1.0, coefficient)), int(x.size))


def _same_length(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise SettingError(f"Expected two sequences of equal length, one value per item, but got {len(first)} and {len(second)}.")
