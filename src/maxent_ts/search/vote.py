"""Votes on the final answer: N draws from p, and the answer that most of them state, each draw with one vote or exp(λ r) of it.

Legend: p the model, r the reward, λ the tilt, N `num_rollouts`, a(x) the answer that x states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from maxent_ts.search.base import Answers, Search
from maxent_ts.search.completions import draw_distinct, reward_of, tilted_weights
from maxent_ts.types import Completion, Outcome, Target

__all__ = ["majority_vote", "weighted_vote"]


def majority_vote(rng: np.random.Generator, target: Target, *, num_rollouts: int | None = None) -> Search:
    """Draw N completions from p and return the most likely one among those that state the most frequent answer.

    Completions without a valid answer have no vote. Ties go to the answer seen first. `info["vote_share"]` is the winner's
    share of all draws.

    Reference: self-consistency, Wang et al. 2023, arXiv 2203.11171, section 2.

    Args:
        rng: Unused; the draws belong to the engine.
        target: Unused.
        num_rollouts: N; None draws until the budget is spent.
    """
    completions, counts = yield from draw_distinct(num_rollouts)
    answers = yield Answers(completions)
    return _elect(completions, answers, counts, lambda one: one.logprob)


def weighted_vote(rng: np.random.Generator, target: Target, *, num_rollouts: int | None = None) -> Search:
    """Draw N completions from p, give each exp(λ r) votes, and return the likeliest one under π that states the winning answer.

    The votes for an answer are the importance-sampling estimate of its marginal π(a) = Σ_{x: a(x) = a} π(x), so the
    winner is the estimated maximum a posteriori answer. At λ = 0 this is `majority_vote`. Completions without a valid
    answer have no vote. `info["vote_share"]` is the winner's estimated π(a).

    Reference: the weighted sum of self-consistency, Wang et al. 2023, arXiv 2203.11171, section 2, with exp(λ r) as weight.

    Args:
        rng: Unused; the draws belong to the engine.
        target: Gives λ.
        num_rollouts: N; None draws until the budget is spent.
    """
    completions, counts = yield from draw_distinct(num_rollouts)
    answers = yield Answers(completions)
    votes = tilted_weights(completions, np.log(counts).tolist(), target)
    return _elect(completions, answers, votes, lambda one: one.logprob + target.tilt * reward_of(one))


def _elect(
    completions: tuple[Completion, ...],
    answers: Sequence[str | None],
    votes: Sequence[float],
    rank: Callable[[Completion], float],
) -> Outcome:
    """Return the supporter of the highest rank of the answer with most votes; the votes, normalised, are the weights."""
    tally: dict[str, float] = {}
    for answer, vote in zip(answers, votes, strict=True):
        if answer is not None:
            tally[answer] = tally.get(answer, 0.0) + vote
    winner = max(tally, key=lambda answer: tally[answer]) if tally else None  # the first of equals
    supporters = [i for i, answer in enumerate(answers) if answer == winner]
    chosen = max(supporters, key=lambda i: rank(completions[i]))
    weights = np.asarray(votes, dtype=np.float64) / sum(votes)
    info = {"vote_share": tally[winner] / sum(votes) if winner is not None else 0.0}
    return Outcome(completions, tuple(float(one) for one in weights), (chosen,), info)
