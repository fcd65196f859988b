"""The baselines that draw whole completions: greedy, sample, best-of-N and majority vote.

Legend: p the model, r the reward, λ the tilt, N `num_rollouts`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from maxent_ts.search.base import Answers, Search
from maxent_ts.search.completions import best_first, draw, draw_distinct, score, tilted_weights
from maxent_ts.types import Outcome, Target

__all__ = ["best_of_n", "best_of_n_softmax", "greedy", "majority_vote", "sample"]


def greedy(rng: np.random.Generator, target: Target) -> Search:
    """Take the most likely token at every step: one completion, no search."""
    completions = yield from draw(1, do_sample=False)
    completions = yield from score(completions)
    return Outcome(completions, (1.0,), (0,))


def sample(rng: np.random.Generator, target: Target) -> Search:
    """Draw one completion from p: what the model itself does."""
    completions = yield from draw(1)
    completions = yield from score(completions)
    return Outcome(completions, (1.0,), (0,))


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

    Args:
        rng: Draws the returned completions.
        target: Gives λ.
        num_rollouts: N; None draws until the budget is spent.
        num_return_sequences: Number of draws returned, with replacement.
    """
    completions, counts = yield from draw_distinct(num_rollouts)
    weights = tilted_weights(completions, np.log(counts).tolist(), target)
    chosen = rng.choice(len(completions), size=num_return_sequences, p=weights)
    return Outcome(completions, weights, tuple(int(one) for one in chosen))


def majority_vote(rng: np.random.Generator, target: Target, *, num_rollouts: int | None = None) -> Search:
    """Draw N completions from p and return the most likely one among those that state the most frequent answer.

    Completions without a valid answer have no vote. Ties go to the answer seen first.

    Reference: self-consistency, Wang et al. 2023, arXiv 2203.11171, section 2.

    Args:
        rng: Unused; the draws belong to the engine.
        target: Unused but for the weights' form.
        num_rollouts: N; None draws until the budget is spent.
    """
    completions, counts = yield from draw_distinct(num_rollouts)
    answers = yield Answers(completions)
    votes: Counter[str] = Counter()
    for answer, count in zip(answers, counts, strict=True):
        if answer is not None:
            votes[answer] += count
    winner = votes.most_common(1)[0][0] if votes else None
    supporters = [i for i, answer in enumerate(answers) if answer == winner]
    chosen = max(supporters, key=lambda i: completions[i].logprob)
    weights = np.asarray(counts, dtype=np.float64) / sum(counts)
    info = {"vote_share": votes[winner] / sum(counts) if winner is not None else 0.0}
    return Outcome(completions, tuple(float(one) for one in weights), (chosen,), info)
