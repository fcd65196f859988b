"""Steps that many methods share: draw completions, score them, weigh them by exp(λ r), order them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from maxent_ts.search.base import AS_MANY_AS_AFFORDABLE, Rewards, Rollouts
from maxent_ts.types import Completion, Target, Tokens

__all__ = ["best_first", "draw", "draw_distinct", "reward_of", "score", "tilted_weights"]

Completions = tuple[Completion, ...]


def draw(num: int, *, do_sample: bool = True) -> Generator[Any, Any, Completions]:
    """Draw whole completions from p; fewer than `num` when the budget is spent. They may repeat, and have no rewards yet."""
    branch = yield Rollouts(num=num, do_sample=do_sample)
    return tuple(Completion(one.tokens, sum(one.logprobs), one.finish_reason) for one in branch.rollouts)


def score(completions: Sequence[Completion]) -> Generator[Any, Any, Completions]:
    """Return the same completions with their rewards."""
    rewards = yield Rewards(tuple(completions))
    return tuple(replace(one, reward=reward) for one, reward in zip(completions, rewards, strict=True))


def draw_distinct(num_rollouts: int | None) -> Generator[Any, Any, tuple[Completions, tuple[int, ...]]]:
    """Draw from p and score each distinct completion once.

    Args:
        num_rollouts: Number of draws; None draws until the budget is spent.

    Returns:
        The distinct completions with rewards, in order of appearance, and how often each was drawn.
    """
    drawn: dict[Tokens, Completion] = {}
    counts: Counter[Tokens] = Counter()
    while num_rollouts is None or counts.total() < num_rollouts:
        completions = yield from draw(AS_MANY_AS_AFFORDABLE if num_rollouts is None else num_rollouts - counts.total())
        if not completions:
            break
        for one in completions:
            drawn.setdefault(one.tokens, one)
            counts[one.tokens] += 1
    completions = yield from score(tuple(drawn.values()))
    return completions, tuple(counts[one] for one in drawn)


def tilted_weights(completions: Sequence[Completion], log_prior: Sequence[float], target: Target) -> tuple[float, ...]:
    """Return prior · exp(λ r), normalised over scored completions.

    Args:
        completions: With rewards.
        log_prior: log of each one's weight without the reward, nats: log p, or the log of a number of draws.
        target: Gives λ.
    """
    logits = np.asarray(log_prior, dtype=np.float64) + target.tilt * np.array([reward_of(one) for one in completions])
    weights = np.exp(logits - np.logaddexp.reduce(logits))
    return tuple(float(one) for one in weights / weights.sum())


def best_first(completions: Sequence[Completion]) -> list[int]:
    """Return the indices of scored completions, highest reward first; ties by higher log p."""
    return sorted(range(len(completions)), key=lambda i: (-reward_of(completions[i]), -completions[i].logprob))


def reward_of(completion: Completion) -> float:
    """Return the reward of a scored completion."""
    assert completion.reward is not None
    return completion.reward
