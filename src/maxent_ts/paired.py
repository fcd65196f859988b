"""Paired comparison of two methods on the same items: interval, test, and what the sample could have shown.

What is said about differences follows Miller (2024), Adding Error Bars to Evals, arXiv 2411.00640: differences per item, items
that belong together resampled together, and a power analysis. scipy is imported where it is used: the command line's help must
not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from maxent_ts.errors import SettingError

__all__ = ["SIGNIFICANCE", "PairedDifference", "holm", "paired_difference", "score_interval"]

NUM_RESAMPLES = 9999
"""Of the bootstrap and of the permutation test, which is exact where there are no more sign patterns than that."""

SIGNIFICANCE = 0.05

POWER = 0.8


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much more `a` has than `b` on the same items."""

    mean: float
    """Mean of a − b."""
    ci95: tuple[float, float] | None
    """95 % confidence interval; None for fewer than two clusters."""
    interval: str
    """What `ci95` is: "bootstrap", or "score" where every value is 0 or 1."""
    p_value: float
    """Two-sided sign-flip permutation test of "a and b are exchangeable within each cluster"."""
    num_pairs: int
    num_clusters: int
    detectable: float | None
    """The smallest true difference that a t test at 5 % would find in 80 % of samples of this size and spread; None where the
    differences do not vary."""


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedDifference | None:
    """Compare two methods on the same items, item by item.

    The interval is the percentile bootstrap's over clusters (`scipy.stats.bootstrap`), at the level that gives it the width of
    Student's t (Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 5.3). Where every value is 0 or 1, so
    that a difference is a disagreement or nothing, it is the score interval for paired proportions: the bootstrap knows nothing
    of disagreements that did not happen to occur. Either is extended to 0 where the test does not reject at 5 %: else few
    differences of one sign would count as a finding that the test cannot confirm. That can only raise the coverage.

    The p value flips the signs of whole clusters (`scipy.stats.permutation_test`): all patterns for up to 13 clusters that
    differ, else `num_resamples` random ones with the add-one rule (Phipson and Smyth 2010).

    Args:
        a: One value per item.
        b: One value per item, in the same order.
        clusters: What each item belongs to; items are their own clusters if left out.
        seed: Of the resampling.
        num_resamples: Of the bootstrap and of the permutation test.

    Returns:
        The difference; None without items.

    Raises:
        SettingError: if the sequences differ in length.
    """
    if not len(a) == len(b) == len(a if clusters is None else clusters):
        raise SettingError(f"Expected sequences of equal length, one value per item, but got {len(a)} and {len(b)}.")
    if not len(a):
        return None
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    index: dict[Hashable, int] = {}
    groups = np.array([index.setdefault(one, len(index)) for one in (range(len(a)) if clusters is None else clusters)])
    sums, sizes = np.bincount(groups, weights=differences), np.bincount(groups).astype(np.float64)
    rng = np.random.default_rng(seed)
    p_value = _sign_flip(sums, rng, num_resamples)
    binary = len(index) == len(a) and {*map(float, a), *map(float, b)} <= {0.0, 1.0}
    if len(index) < 2:
        ci95 = None
    elif binary:
        ci95 = score_interval(int(np.sum(differences > 0)), int(np.sum(differences < 0)), len(a))
    else:
        ci95 = _bootstrap(sums, sizes, rng, num_resamples)
    if ci95 is not None and p_value > SIGNIFICANCE:
        ci95 = min(ci95[0], 0.0), max(ci95[1], 0.0)
    return PairedDifference(
        mean=float(differences.mean()),
        ci95=ci95,
        interval="score" if binary else "bootstrap",
        p_value=p_value,
        num_pairs=len(a),
        num_clusters=len(index),
        detectable=_detectable(sums, sizes),
    )


def score_interval(num_a_only: int, num_b_only: int, num_pairs: int) -> tuple[float, float]:
    """Return Tango's 95 % score interval for the difference of two paired proportions.

    Tango (1998), Statistics in Medicine 17, 891–908: the differences that a score test does not reject. It has a width even
    where there is no disagreement, and stays within [−1, 1].

    Args:
        num_a_only: Pairs in which only a is 1.
        num_b_only: Pairs in which only b is 1.
        num_pairs: All pairs.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    critical, edge = float(ndtri(0.975)), 1 - 1e-12
    estimate = (num_a_only - num_b_only) / num_pairs

    def score(difference: float) -> float:
        # The rate of "only b" that is likeliest given the difference solves a quadratic; the variance follows from it.
        linear = (2 * num_pairs - num_a_only + num_b_only) * difference - num_a_only - num_b_only
        root = math.sqrt(max(linear**2 + 8 * num_pairs * num_b_only * difference * (1 - difference), 0.0))
        variance = num_pairs * ((root - linear) / (2 * num_pairs) + difference * (1 - difference))
        return num_pairs * (estimate - difference) / math.sqrt(max(variance, 1e-300))

    low = -1.0 if score(-edge) < critical else brentq(lambda value: score(value) - critical, -edge, estimate)
    high = 1.0 if score(edge) > -critical else brentq(lambda value: score(value) + critical, estimate, edge)
    return float(low), float(high)  # pyright: ignore[reportArgumentType] (brentq returns one number here)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number: Holm (1979), Scandinavian Journal of Statistics 6, 65–70."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _bootstrap(sums: np.ndarray, sizes: np.ndarray, rng: np.random.Generator, num_resamples: int) -> tuple[float, float]:
    from scipy import special, stats

    num = sums.size
    level = 2 * float(special.ndtr(math.sqrt(num / (num - 1)) * special.stdtrit(num - 1, 0.975))) - 1
    interval = stats.bootstrap(
        (sums, sizes),
        lambda some_sums, some_sizes, axis: some_sums.sum(axis=axis) / some_sizes.sum(axis=axis),
        n_resamples=num_resamples,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=level,
        batch=_batch_size(num),
        random_state=rng,  # pyright: ignore[reportCallIssue] (named rng from scipy 1.15 on, which takes this name too)
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _sign_flip(sums: np.ndarray, rng: np.random.Generator, num_resamples: int) -> float:
    from scipy import stats

    # Sums that differ in their last digits only are 0 too; a 0 has no sign to flip.
    sums = sums[np.abs(sums) > 1e-12 * np.abs(sums).max(initial=0.0)]
    if sums.size < 2:
        return 1.0  # both patterns of one sign are as far from 0
    found = stats.permutation_test(
        (sums,),
        lambda values, axis: np.abs(values.sum(axis=axis)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_resamples,
        alternative="greater",
        batch=_batch_size(sums.size),
        random_state=rng,  # pyright: ignore[reportCallIssue] (as above)
    )
    return float(found.pvalue)


def _detectable(sums: np.ndarray, sizes: np.ndarray) -> float | None:
    """Standard error by clusters (Miller 2024, section 2.2) times the quantiles for level and power (section 5)."""
    from scipy.special import stdtrit

    if sums.size < 2:
        return None
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    error = math.sqrt(sums.size / (sums.size - 1) * float(residuals @ residuals)) / float(sizes.sum())
    if error <= 1e-12 * float(np.abs(sums).max()):
        return None
    return float(stdtrit(sums.size - 1, 1 - SIGNIFICANCE / 2) + stdtrit(sums.size - 1, POWER)) * error


def _batch_size(num_values: int) -> int:
    """Return how many resamples fit into about 16 MB."""
    return max(1, 2**21 // num_values)
