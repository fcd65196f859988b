"""A search method: draw in small batches, and stop as soon as one completion is good enough."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from maxent_ts.search.base import Rewards, Rollouts
from maxent_ts.types import Completion, Outcome


def good_enough(rng, target, *, num_parallel: int = 4, enough: float = math.inf):
    """Draw completions from p until one has a reward of at least `enough`, or the budget is spent, and return the best.

    A method is a generator: it yields requests and is sent the answers. It sees no model, no text and no clock, and the driver
    keeps its budget: when that is spent, `Rollouts` brings fewer than asked, in the end none.

    Args:
        rng: Random numbers of the method's own; the draws belong to the engine.
        target: λ (`target.tilt`), the length limit and the bounds of the reward.
        num_parallel: Completions drawn at once.
        enough: The reward to stop at.
    """
    found: dict[tuple[int, ...], Completion] = {}
    counts = Counter()
    while all(one.reward < enough for one in found.values()):
        branch = yield Rollouts(num=num_parallel)
        if not branch.rollouts:
            break
        counts.update(rollout.tokens for rollout in branch.rollouts)
        fresh = {
            rollout.tokens: Completion(rollout.tokens, sum(rollout.logprobs), rollout.finish_reason)
            for rollout in branch.rollouts
            if rollout.tokens not in found
        }
        rewards = yield Rewards(tuple(fresh.values()))
        for completion, reward in zip(fresh.values(), rewards, strict=True):
            found[completion.tokens] = replace(completion, reward=reward)
    completions = tuple(found.values())
    logits = np.array([target.tilt * one.reward + math.log(counts[one.tokens]) for one in completions])
    weights = np.exp(logits - np.logaddexp.reduce(logits))
    best = max(range(len(completions)), key=lambda index: (completions[index].reward, completions[index].logprob))
    return Outcome(completions, tuple(float(one) for one in weights / weights.sum()), (best,))
