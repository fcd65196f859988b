"""Stochastic beam search: k completions drawn from p without replacement by a beam, and their importance weights.

Legend (Kool, van Hoof and Welling 2019, arXiv 1903.06059): s a prefix, p(s) the probability that a completion begins with it,
k `num_beams`, G the perturbed log-probability of the paper, κ its threshold. We keep T = exp(-G) in its place:

    T of a leaf x     an exponential time of rate p(x), independent: x arrives at T   (a Gumbel variable is -log of one)
    T of a prefix s   the first arrival below it: exponential of rate p(s)
    S                 the k leaves that arrive first: drawn without replacement ∝ p, in the order of arrival
    κ                 exp(-κ) is the time of the (k+1)-th arrival

Given T(s), the first of the children of s to have an arrival has it at T(s), and is a with probability p(a|s). After it
every other child still waits without memory, so the next one is ∝ p(a|s) among the rest, later by an exponential time whose rate
is p(s) times their share. That is `NextTokens(do_sample=True)` with gaps of known rates, and equals the paper's top-down
Gumbels (section 3 and algorithm 1), of which it needs no truncated inverse.
"""

from __future__ import annotations

import math

import numpy as np

from maxent_ts.search.base import Search
from maxent_ts.search.beam import EMPTY, affordable_beams, extend, is_open
from maxent_ts.search.completions import reward_of, score
from maxent_ts.types import Completion, Outcome, Target

__all__ = ["arrival_times", "inclusion_log_probabilities", "stochastic_beam"]


def stochastic_beam(rng: np.random.Generator, target: Target, *, num_beams: int = 10, num_return_sequences: int = 1) -> Search:
    """Draw `num_beams` distinct completions from p in one pass, and return draws from them weighted towards π.

    A leaf is in S with probability q(x) = 1 - exp(-p(x)·exp(-κ)) given the other leaves' times, so that
    Ẑ = Σ_{x∈S} p(x)·exp(λ r(x)) / q(x) is an unbiased estimate of Z (section 4.2): `info["log_z"]` is its log, nats. The
    weights are its terms, normalised.

    Args:
        rng: Draws the times, and what is returned.
        target: Gives λ and `max_new_tokens`.
        num_beams: k, less where the budget could not bring so many to their end. It costs one generated token per
            unfinished prefix and step.
        num_return_sequences: Number of draws returned, with replacement.
    """
    width = affordable_beams(num_beams, target)
    beams = [(EMPTY, math.log(rng.exponential()))]
    log_threshold = math.inf  # The (k+1)-th arrival is the first among all prefixes that were dropped: -κ.
    while any(is_open(one) for one, _ in beams):
        # One child more than can be kept: those never drawn then arrive later than one that was dropped.
        families = yield from extend([one for one, _ in beams], width + 1, target, do_sample=True)
        candidates: list[tuple[Completion, float]] = []
        for (parent, log_time), children in zip(beams, families, strict=True):
            logprobs = np.array([child.logprob for child in children]) - parent.logprob
            candidates += zip(children, arrival_times(rng, log_time, parent.logprob, logprobs), strict=True)
        candidates.sort(key=lambda candidate: candidate[1])
        beams = candidates[:width]
        if len(candidates) > width:
            log_threshold = min(log_threshold, candidates[width][1])
    completions = yield from score([one for one, _ in beams])
    logprobs = np.array([one.logprob for one in completions])
    rewards = np.array([reward_of(one) for one in completions])
    log_terms = logprobs + target.tilt * rewards - inclusion_log_probabilities(logprobs, log_threshold)
    log_z = float(np.logaddexp.reduce(log_terms))
    weights = np.exp(log_terms - log_z)
    weights /= weights.sum()
    chosen = rng.choice(len(completions), size=num_return_sequences, p=weights)
    return Outcome(completions, tuple(weights.tolist()), tuple(int(one) for one in chosen), {"log_z": log_z})


def arrival_times(rng: np.random.Generator, log_time: float, log_mass: float, logprobs: np.ndarray) -> list[float]:
    """Return the log times of a prefix's children, given its own.

    Args:
        rng: Draws the gaps between them.
        log_time: log T of the prefix.
        log_mass: log p of the prefix, nats.
        logprobs: log p(a|s) of children in the order they were drawn in without replacement: float64 array [num].

    Returns:
        log T of each, increasing from `log_time`.
    """
    p = np.exp(logprobs)
    # The share of what is still waiting: at least what is drawn later, where 1 - Σp has lost its digits.
    waiting = np.maximum(1.0 - np.cumsum(p)[:-1], np.cumsum(p[::-1])[::-1][1:])
    log_gaps = np.log(rng.exponential(size=len(p) - 1)) - log_mass - np.log(waiting)
    return np.logaddexp.accumulate(np.concatenate([[log_time], log_gaps])).tolist()


def inclusion_log_probabilities(logprobs: np.ndarray, log_threshold: float) -> np.ndarray:
    """Return log (1 - exp(-p·exp(log_threshold))): the log-probability of an arrival before the threshold, nats.

    Args:
        logprobs: log p of the leaves, float64 array [num].
        log_threshold: log of the time, +inf where every leaf has arrived.
    """
    log_rate = logprobs + log_threshold
    # Below exp(-40) the rate itself is the answer to the last digit; above exp(40) it is 1.
    return np.where(log_rate < -40.0, log_rate, np.log(-np.expm1(-np.exp(np.clip(log_rate, -40.0, 40.0)))))
