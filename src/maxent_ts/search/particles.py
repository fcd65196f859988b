"""What particle methods share: one sweep of sequential Monte Carlo over token prefixes, and resampling.

Legend: N particles; s_t the prefix of a particle after t segments; ψ(s) the reward's own guess of V(s) = log E_p[exp(λ r) | s] / λ,
and r(s) for a finished s; w the weight of a particle. The intermediate target is p(s_t)·exp(λ ψ(s_t)), the proposal is p,
so a segment multiplies w by exp(λ (ψ(s_t) - ψ(s_{t-1}))), with ψ = 0 for the empty prefix. At the end this is exp(λ r).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, PrefixRewards, Rewards, Rollouts
from maxent_ts.types import Completion, Rollout, Target, Tokens

__all__ = ["NUM_SEGMENTS", "Resampling", "Scores", "Sweep", "ancestors_of", "effective_sample_size", "segment_length", "sweep"]

NUM_SEGMENTS = 8
"""Segments of a completion of full length, where their length is not given."""

Resampling = Literal["systematic", "residual", "multinomial"]

ROOT = Completion((), 0.0, "unfinished")


class Scores:
    """Rewards and prefix rewards, each asked for once, and the evaluated completions in order of arrival."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.completions: list[Completion] = []
        self.index: dict[Tokens, int] = {}
        """From the tokens of a completion to its place in `completions`."""
        self._seen: dict[Tokens, tuple[Completion, float]] = {}

    def log_twists(self, particles: Sequence[Completion]) -> Generator[Any, Any, np.ndarray]:
        """Return λ r of finished particles and λ ψ of the others: float64 [number of particles], nats."""
        fresh = {one.tokens: one for one in particles if one.tokens not in self._seen}
        finished = tuple(one for one in fresh.values() if one.finish_reason != "unfinished")
        unfinished = tuple(one for one in fresh.values() if one.finish_reason == "unfinished")
        if finished:
            for one, reward in zip(finished, (yield Rewards(finished)), strict=True):
                self.index[one.tokens] = len(self.completions)
                self.completions.append(replace(one, reward=reward))
                self._seen[one.tokens] = one, self.target.tilt * reward
        if unfinished:
            for one, value in zip(unfinished, (yield PrefixRewards(unfinished)), strict=True):
                self._seen[one.tokens] = one, self.target.tilt * value
        return np.array([self._seen[one.tokens][1] for one in particles])

    def prefix(self, completion: Completion, length: int) -> Completion:
        """Return the particle that a completion was after `length` tokens, at a length where it has been scored."""
        return self._seen[completion.tokens[:length]][0]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where the particles ended, properly weighted: E[mean of exp(log_weights)·f(x)] = Σ p(x)·exp(λ r(x))·f(x) for any f."""

    indices: np.ndarray
    """Of the particles' completions in `Scores.completions`: int64 [N]."""
    log_weights: np.ndarray
    """float64 [N], nats, not normalised."""
    num_resamplings: int

    @property
    def log_z(self) -> float:
        """The logarithm of an unbiased estimate of Z."""
        return float(np.logaddexp.reduce(self.log_weights) - math.log(len(self.log_weights)))


def segment_length(target: Target, segment_tokens: int | None) -> int:
    """Return the segment's length in tokens; the whole completion where the reward cannot tell prefixes apart.

    Raises:
        SettingError: if `segment_tokens` is below 1.
    """
    if segment_tokens is not None and segment_tokens < 1:
        raise SettingError(f"segment_tokens must be at least 1, but is {segment_tokens}.")
    if not target.has_prefix_rewards:
        return target.max_new_tokens
    return segment_tokens if segment_tokens is not None else math.ceil(target.max_new_tokens / NUM_SEGMENTS)


def sweep(
    rng: np.random.Generator,
    scores: Scores,
    num: int,
    *,
    segment: int,
    resampling: Resampling,
    ess_threshold: float,
    retained: Completion | None = None,
) -> Generator[Any, Any, Sweep | None]:
    """Take particles from the empty prefix to the end.

    With `retained` this is conditional sequential Monte Carlo (Andrieu, Doucet and Holenstein 2010, section 2.4.3): the first
    particle follows that completion and is its own ancestor whenever the others are resampled.

    Args:
        rng: Resamples.
        scores: Knows what was scored before.
        num: Particles to draw, those retained not counted; as many as the budget affords if those are fewer.
        segment: Tokens between two looks at the weights.
        resampling: How; conditional sweeps need "multinomial", where the others' ancestors do not depend on the retained one's.
        ess_threshold: Resample when the effective sample size is below this share of N.
        retained: A finished completion.

    Returns:
        The particles; None if the budget does not afford a single one.
    """
    # Where the budget counts rollouts and is smaller than the number of segments, a particle is one rollout.
    branch = yield Rollouts((), num, num_tokens=segment, reserve=True)
    if not branch.rollouts:
        segment = scores.target.max_new_tokens
        branch = yield Rollouts((), num, num_tokens=segment, reserve=True)
    if not branch.rollouts:
        return None
    particles = [_extend(ROOT, rollout) for rollout in branch.rollouts]
    if retained is not None:
        particles.insert(0, scores.prefix(retained, segment))
    log_weights = np.zeros(len(particles))
    before = np.zeros(len(particles))
    num_resamplings = 0
    while True:
        after = yield from scores.log_twists(particles)
        log_weights = log_weights + after - before
        if all(one.finish_reason != "unfinished" for one in particles):
            break
        if effective_sample_size(log_weights) < ess_threshold * len(particles):
            ancestors = ancestors_of(rng, log_weights, resampling)
            if retained is not None:
                ancestors[0] = 0
            particles = [particles[one] for one in ancestors]
            after = after[ancestors]
            # The mean is kept, not the sum normalised to 1: so the mean weight at the end is the estimate of Z.
            log_weights = np.full(len(particles), np.logaddexp.reduce(log_weights) - math.log(len(particles)))
            num_resamplings += 1
        before = after
        particles = yield from _one_segment(scores, particles, segment, retained)
    indices = np.array([scores.index[one.tokens] for one in particles])
    return Sweep(indices, log_weights, num_resamplings)


def _one_segment(
    scores: Scores, particles: list[Completion], segment: int, retained: Completion | None
) -> Generator[Any, Any, list[Completion]]:
    """Extend every unfinished particle by a segment drawn from p, equal prefixes in one request."""
    first_new = 0 if retained is None else 1
    extended = list(particles)
    if retained is not None:
        extended[0] = scores.prefix(retained, len(particles[0].tokens) + segment)
    counts = Counter(one.tokens for one in particles[first_new:] if one.finish_reason == "unfinished")
    if counts:
        requests = tuple(Rollouts(prefix, num, num_tokens=segment, reserve=True) for prefix, num in counts.items())
        branches = yield Parallel(requests)
        drawn = {prefix: iter(branch.rollouts) for prefix, branch in zip(counts, branches, strict=True)}
        for place in range(first_new, len(particles)):
            if particles[place].finish_reason == "unfinished":
                extended[place] = _extend(particles[place], next(drawn[particles[place].tokens]))
    return extended


def _extend(prefix: Completion, rollout: Rollout) -> Completion:
    return Completion(prefix.tokens + rollout.tokens, prefix.logprob + sum(rollout.logprobs), rollout.finish_reason)


def effective_sample_size(log_weights: np.ndarray) -> float:
    """Return (Σ w)² / Σ w² (Kong, Liu and Wong 1994)."""
    return float(np.exp(2 * np.logaddexp.reduce(log_weights) - np.logaddexp.reduce(2 * log_weights)))


def ancestors_of(rng: np.random.Generator, log_weights: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Return N indices in which i is expected N·w_i / Σ w times, whatever the scheme: int64 [N].

    Reference: Douc, Cappé and Moulines 2005, "Comparison of resampling schemes for particle filtering".
    """
    num = len(log_weights)
    shares = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    shares = shares / shares.sum()
    if resampling == "multinomial":
        return rng.choice(num, size=num, p=shares)
    if resampling == "systematic":
        # Exact 1 at the end, so that rounding never asks for a particle that is not there.
        cumulative = np.append(np.cumsum(shares)[:-1], 1.0)
        return np.searchsorted(cumulative, (np.arange(num) + rng.random()) / num, side="right")
    if resampling == "residual":
        copies = np.floor(num * shares).astype(np.int64)
        rest = num * shares - copies
        kept = np.repeat(np.arange(num), copies)
        if len(kept) == num:
            return kept
        return np.concatenate([kept, rng.choice(num, size=num - len(kept), p=rest / rest.sum())])
    raise SettingError(f"resampling must be 'systematic', 'residual' or 'multinomial', but is {resampling!r}.")
