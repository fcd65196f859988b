"""What a finished tree can prove about π, and what fresh draws from it show.

The frozen tree is a proposal law q: walk to children ∝ p·W, leave the tree at s with weight ρ(s)·U(s) and go on with p. A
completion x that leaves at s has q(x) = p(x)·U(s) / W(root), so its importance weight is known without a normaliser. The
part of q inside the tree is evaluated already, so fresh draws are spent outside alone, and the inside is added exactly:

    Z = K(root) + R(root) · E[v],        v = exp(λ r(x)) / U(s),   x a draw from q that leaves the tree

K and R as in `maxent_ts.tree`. The estimate is unbiased; the tree must not change while the draws are made.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from maxent_ts.search.base import Answers, Parallel, Rollouts
from maxent_ts.search.completions import reward_of, score_written
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Completion, Marginal, Rollout

__all__ = ["Certificate", "FreshDraws", "certify", "draw_fresh", "pareto_shape", "tree_certificate"]

CONFIDENCE = 0.95

NUM_TAIL_DRAWS = 2
"""Draws as large as the largest that the upper end of an interval allows for."""

FEWEST_TAIL_DRAWS = 5
"""A generalised Pareto law is fitted to at least so many."""


@dataclass(frozen=True, slots=True)
class FreshDraws:
    """Independent draws from the frozen tree's law, given that they leave the tree."""

    additions: tuple[tuple[int, Rollout, float], ...]
    """Where each left the tree, what the model wrote, and the reward: for `Tree.extend`."""
    completions: tuple[Completion, ...]
    """The same as completions; may repeat."""
    log_ratios: np.ndarray
    """log v of each, nats: float64 [number of draws]."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What fresh draws show."""

    info: dict[str, float]
    marginals: dict[str, Marginal] = field(default_factory=dict)
    """π(answer), where the task has answers."""


def draw_fresh(tree: Tree, num: int, rng: np.random.Generator) -> Generator[Any, Any, FreshDraws]:
    """Draw from the frozen tree outside of what it has evaluated. The tree itself stays as it is.

    Args:
        tree: Not exhausted.
        num: Number of draws; fewer when the budget ends.
        rng: Chooses where they leave the tree.
    """
    logits = np.array(tree.path_logprob) + np.array(tree.log_unseen) + np.array(tree.log_outside)
    shares = np.exp(logits - np.logaddexp.reduce(logits))
    nodes = rng.choice(len(shares), size=num, p=shares / shares.sum())
    branches = yield Parallel(tuple(Rollouts(tree.prefix(node), 1, tuple(tree.children[node])) for node in nodes.tolist()))
    written: list[tuple[int, Rollout]] = []
    for node, branch in zip(nodes.tolist(), branches, strict=True):
        if not branch.rollouts:
            break  # A shorter one further on may have been affordable; to keep it would favour short completions.
        written.append((node, branch.rollouts[0]))
    completions = yield from score_written(tree, written)
    additions = tuple((node, rollout, reward_of(one)) for (node, rollout), one in zip(written, completions, strict=True))
    log_values = np.array([tree.log_outside[node] for node, _ in written])
    rewards = np.array([reward_of(one) for one in completions])
    return FreshDraws(additions, completions, tree.target.tilt * rewards - log_values)


def certify(tree: Tree, num: int, rng: np.random.Generator) -> Generator[Any, Any, Certificate]:
    """Make fresh draws, estimate from them, and let them join the tree.

    Returns:
        `info`: `log_z_unbiased` (its exponential is unbiased) with `log_z_low` and `log_z_high` (95 % interval),
        `relative_ess` of draws from the frozen tree, `pareto_k` (PSIS k̂; NaN for fewer than 21 draws),
        `pareto_k_limit` (above it the estimate and its interval are not to be relied on; Vehtari et al., section 3.2.4),
        `num_fresh_draws`. Empty if the tree is exhausted: all is exact then.
    """
    if tree.is_exhausted or num < 1:
        return Certificate({})
    fresh = yield from draw_fresh(tree, num, rng)
    if len(fresh.completions) < 2:
        return Certificate({"num_fresh_draws": float(len(fresh.completions))})
    ratios = np.exp(fresh.log_ratios)
    known, rest = math.exp(tree.log_known[ROOT] - tree.log_value[ROOT]), math.exp(tree.log_rest[ROOT] - tree.log_value[ROOT])
    estimate = known + rest * float(ratios.mean())
    low, high = _log_interval(estimate, rest * ratios)
    lower, _, upper = tree.log_partition()
    log_scale = tree.log_value[ROOT]
    info = {
        "log_z_unbiased": log_scale + math.log(estimate),
        # What is proved bounds what is estimated.
        "log_z_low": max(log_scale + low, lower),
        "log_z_high": min(log_scale + high, upper),
        "relative_ess": estimate**2 / (known + rest * float(np.mean(ratios**2))),
        "pareto_k": pareto_shape(ratios),
        "pareto_k_limit": min(1.0 - 1.0 / math.log10(len(ratios)), 0.7) if len(ratios) > 10 else 0.0,
        "num_fresh_draws": float(len(ratios)),
    }
    marginals = {}
    if tree.target.has_answers:
        answers = yield Answers((*tree.completions, *fresh.completions))
        marginals = _marginals(tree, answers, ratios, known, rest)
    tree.extend(fresh.additions)
    return Certificate(info, marginals)


def tree_certificate(tree: Tree) -> dict[str, float]:
    """What a tree proves and estimates by itself.

    Returns:
        `log_z_lower`, `log_z`, `log_z_upper`: bracket and estimate of log Z, nats. `tv_bound`: no less than the total
        variation between π and the law of the tree's weights. `known_share`: the part of the estimated Z that is evaluated.
        `kl_from_model`: estimate of KL(π‖p), nats. `unseen_mass`: prior mass not evaluated. And the tree's statistics.
    """
    lower, estimate, upper = tree.log_partition()
    log_weights = tree.log_weights()
    weights = np.exp(log_weights)
    rewards = np.array([reward_of(one) for one in tree.completions])
    mean_reward = float(weights @ rewards / weights.sum())
    return {
        "log_z_lower": lower,
        "log_z": estimate,
        "log_z_upper": upper,
        "tv_bound": max(_distance(tree, weights, one) for one in (lower, upper)),
        "known_share": math.exp(tree.log_known[ROOT] - estimate),
        "kl_from_model": max(tree.target.tilt * mean_reward - estimate, 0.0),
        "unseen_mass": math.exp(tree.log_open[ROOT]),
        **tree.statistics(),
    }


def _distance(tree: Tree, weights: np.ndarray, log_z: float) -> float:
    """TV between the weights and π if log Z were this. It is convex in 1 / Z, so the ends of a bracket bound it."""
    if not math.isfinite(log_z):
        return 1.0
    target = np.exp(tree.log_posterior() + tree.log_value[ROOT] - log_z)
    return min(0.5 * float(np.abs(weights - target).sum() + max(1.0 - target.sum(), 0.0)), 1.0)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _log_interval(estimate: float, values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval for the log of a known number plus a mean.

    Importance ratios are skewed to the right, so the lower end is symmetric in the log and the upper end has Johnson's
    correction for skewness (1978, "Modified t tests"), as if the largest ratio had been drawn twice more: the tail that no draw has
    shown yet is what such intervals miss by. `tests/exact/test_certificate.py` counts how often they hold.

    Args:
        estimate: The number plus the mean of `values`.
        values: float64 [number of draws], at least two.
    """
    num = len(values)
    quantile = float(student_t.ppf(0.5 + CONFIDENCE / 2, num - 1))
    relative = _standard_error(values) / estimate
    with_tail = np.append(values, [values.max()] * NUM_TAIL_DRAWS)
    above = float(with_tail.std(ddof=1)) / math.sqrt(num) / estimate
    correction = max(_skewness(with_tail), 0.0) * (1.0 + 2.0 * quantile**2) / (6.0 * math.sqrt(num))
    return math.log(estimate) - quantile * relative * (1.0 + relative), math.log(estimate * (1.0 + above * (quantile + correction)))


def _skewness(values: np.ndarray) -> float:
    """Third standardised moment; 0 where the values differ by no more than rounding."""
    deviations = values - values.mean()
    spread = math.sqrt(float(np.mean(deviations**2)))
    if spread <= 1e-9 * float(np.abs(values).max()):
        return 0.0
    return float(np.mean((deviations / spread) ** 3))


def _marginals(tree: Tree, answers: Sequence[str | None], ratios: np.ndarray, known: float, rest: float) -> dict[str, Marginal]:
    """π(answer) as ratios of two estimates, with intervals by the delta method on the logit.

    For the intervals two draws are added to every answer, one that gives it and one that does not (Agresti and Coull 1998): an
    answer that no fresh draw gave would otherwise seem certain.
    """
    inside = np.exp(tree.log_posterior())
    num = len(tree.completions)
    total = known + rest * float(ratios.mean())
    padded = np.append(ratios, [ratios.mean()] * 2)
    # Few heavy ratios carry the variance, and it is known no better than from as many draws as they stand for. The effective
    # number counts too many of them; a quarter gave the coverage that `tests/exact/test_certificate.py` asks for.
    num_effective = float(ratios.sum() ** 2 / (ratios**2).sum())
    quantile = float(student_t.ppf(0.5 + CONFIDENCE / 2, max(num_effective / 4.0 - 1.0, 1.0)))
    found = {}
    for answer in sorted({one for one in answers if one is not None}):
        is_inside = np.array([one == answer for one in answers[:num]])
        is_outside = np.array([float(one == answer) for one in answers[num:]] + [1.0, 0.0])
        known_share = float(inside[is_inside].sum())
        share = (known_share + rest * float((ratios * is_outside[:-2]).mean())) / total
        centre = (known_share + rest * float((padded * is_outside).mean())) / total
        error = rest * _standard_error(padded * (is_outside - centre)) / total
        logit, width = math.log(centre / (1.0 - centre)), quantile * error / (centre * (1.0 - centre))
        low, high = (1.0 / (1.0 + math.exp(-one)) for one in (logit - width, logit + width))
        found[answer] = Marginal(share, min(low, share), max(high, share))
    return found


def pareto_shape(ratios: np.ndarray) -> float:
    """Return k̂, the shape of the generalised Pareto law of the largest importance ratios.

    Below 0.5 their variance is finite; up to 0.7 estimates are usable; above, they are not. NaN for fewer than 21 ratios.

    Reference: Vehtari et al., "Pareto smoothed importance sampling", arXiv 1507.02646, section 2.4 and appendix; the fit is
    Zhang and Stephens 2009, with their weakly informative prior.

    Args:
        ratios: Positive, float64 [number of draws].
    """
    num_tail = math.ceil(min(0.2 * len(ratios), 3.0 * math.sqrt(len(ratios))))
    if num_tail < FEWEST_TAIL_DRAWS:
        return math.nan
    ordered = np.sort(ratios)
    excess = ordered[-num_tail:] - ordered[-num_tail - 1]
    if excess[-1] <= 0.0 or excess[0] == excess[-1]:
        return -math.inf  # All alike: no tail.
    num_points = 30 + int(math.sqrt(num_tail))
    quartile = float(excess[int(num_tail / 4 + 0.5) - 1]) or float(excess[excess > 0.0][0])
    grid = 1.0 - np.sqrt(num_points / (np.arange(1, num_points + 1) - 0.5))
    grid = 1.0 / excess[-1] + grid / (3.0 * quartile)
    shapes = np.log1p(-grid[:, None] * excess).mean(axis=1)
    likelihood = num_tail * (np.log(-grid / shapes) - shapes - 1.0)
    weights = 1.0 / np.exp(likelihood - likelihood[:, None]).sum(axis=1)
    shape = float(np.log1p(-float(grid @ weights / weights.sum()) * excess).mean())
    return (num_tail * shape + 10.0 * 0.5) / (num_tail + 10.0)
