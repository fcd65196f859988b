"""Best-of-N and its importance-weighted relatives: N draws from p, then a choice among them by reward.

Legend: p the model, r the reward, λ the tilt, N `num_rollouts`, c(x) how often x was drawn, S the distinct draws.

    best_of_n           argmax r over S
    best_of_n_softmax   weights ∝ c(x)·exp(λ r(x))      importance sampling of π with p as the proposal
    best_of_n_unique    weights ∝ p(x)·exp(λ r(x))      π restricted to S: the counts' noise is replaced by what they estimate
"""

from __future__ import annotations

import math

import numpy as np

from maxent_ts.search.base import Search
from maxent_ts.search.completions import best_first, draw_distinct, reward_of, tilted_weights
from maxent_ts.types import Outcome, Target

__all__ = ["best_of_n", "best_of_n_softmax", "best_of_n_unique"]


def best_of_n(
    rng: np.random.Generator, target: Target, *, num_rollouts: int | None = None, num_return_sequences: int = 1
) -> Search:
    """Draw N completions from p and return the one of the highest reward (ties: higher log p).

    Args:
        rng: Unused; the draws belong to the engine.
        target: The target; its tilt only enters the weights.
        num_rollouts: N; None draws until the budget is spent.
        num_return_sequences: Number of completions returned, best first.
    """
    completions, counts = yield from draw_distinct(num_rollouts)
    weights = tilted_weights(completions, np.log(counts).tolist(), target)
    return Outcome(completions, weights, tuple(best_first(completions)[:num_return_sequences]))


def best_of_n_softmax(
    rng: np.random.Generator, target: Target, *, num_rollouts: int | None = None, num_return_sequences: int = 1
) -> Search:
    """Draw N completions from p and return draws from them with weights ∝ exp(λ r): importance sampling of π.

    `info["log_z"]` is log (1/N) Σ exp(λ r) over the draws, nats; its exponential is unbiased for Z where N is fixed beforehand.

    Args:
        rng: Draws the returned completions.
        target: Gives λ.
        num_rollouts: N; None draws until the budget is spent.
        num_return_sequences: Number of draws returned, with replacement.
    """
    completions, counts = yield from draw_distinct(num_rollouts)
    log_counts = np.log(counts)
    weights = tilted_weights(completions, log_counts.tolist(), target)
    chosen = rng.choice(len(completions), size=num_return_sequences, p=weights)
    rewards = np.array([reward_of(one) for one in completions])
    info = {"log_z": float(np.logaddexp.reduce(log_counts + target.tilt * rewards)) - math.log(sum(counts))}
    return Outcome(completions, weights, tuple(int(one) for one in chosen), info)


def best_of_n_unique(
    rng: np.random.Generator, target: Target, *, num_rollouts: int | None = None, num_return_sequences: int = 1
) -> Search:
    """Draw N completions from p and return draws from the distinct ones with weights ∝ p·exp(λ r): π among what was seen.

    A count c(x) is only a noisy N·p(x), and p(x) is known. So these weights are exact as soon as everything was drawn once,
    and biased before: what was not drawn has none. It is what `maxent_sample` would know of the same draws without a tree.

    Args:
        rng: Draws the returned completions.
        target: Gives λ.
        num_rollouts: N; None draws until the budget is spent.
        num_return_sequences: Number of draws returned, with replacement.
    """
    completions, _ = yield from draw_distinct(num_rollouts)
    weights = tilted_weights(completions, [one.logprob for one in completions], target)
    chosen = rng.choice(len(completions), size=num_return_sequences, p=weights)
    return Outcome(completions, weights, tuple(int(one) for one in chosen))
