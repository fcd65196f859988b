"""Particle Gibbs: a Markov chain on completions, each step a sweep of particles around the one retained.

Legend (as in `maxent_ts.search.particles`): N particles, ψ the prefix reward, w the weights of a sweep.
"""

from __future__ import annotations

import math

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Search
from maxent_ts.search.particles import Scores, Sweep, segment_length, sweep
from maxent_ts.search.smc import check_settings
from maxent_ts.types import Outcome, Target

__all__ = ["particle_gibbs"]


def particle_gibbs(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_particles: int = 8,
    segment_tokens: int | None = None,
    ess_threshold: float = 0.5,
    burn_in: float = 0.25,
    num_return_sequences: int = 1,
) -> Search:
    """Draw from π by iterated conditional sequential Monte Carlo.

    The first sweep is `smc`'s. Every further one keeps the completion drawn by weight from the sweep before as its first
    particle and draws N - 1 others around it; π is invariant for any N of at least 2 and any ψ. Resampling is multinomial, for
    which it suffices that the retained particle is its own ancestor. Resampling only when the effective sample size is low
    keeps π invariant, because that choice treats all particles alike.

    The weights are the mean over the sweeps after burn-in of each sweep's own weights: the chance of being retained, given
    the sweep, in place of what was retained (Rao-Blackwell).

    Reference: Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods", sections 2.4.3 and 4.5.

    Args:
        rng: Resamples, and draws what is retained and returned.
        target: Gives λ, `max_new_tokens`, and whether there are prefix rewards.
        num_rollouts: Particles drawn in all sweeps together; None goes on until the budget is spent.
        num_particles: N of one sweep, the retained one among them. The last sweep has as many as the budget affords.
        segment_tokens: Tokens between two looks at the weights; None is an eighth of `max_new_tokens`.
        ess_threshold: Resample when the effective sample size is below this share of N.
        burn_in: Share of the sweeps that is left out, in [0, 1).
        num_return_sequences: Number of draws returned, with replacement.
    """
    check_settings(num_particles, ess_threshold)
    if num_particles < 2:
        raise SettingError("num_particles must be at least 2: one is retained, and without others it never changes.")
    if not 0 <= burn_in < 1:
        raise SettingError(f"burn_in must lie in [0, 1), but is {burn_in}.")
    segment = segment_length(target, segment_tokens)
    scores = Scores(target)
    sweeps: list[Sweep] = []
    shares: list[np.ndarray] = []
    retained = None
    num_left = math.inf if num_rollouts is None else num_rollouts
    while num_left > 0:
        num = int(min(num_left, num_particles if retained is None else num_particles - 1))
        one = yield from sweep(
            rng, scores, num, segment=segment, resampling="multinomial", ess_threshold=ess_threshold, retained=retained
        )
        if one is None:
            break
        num_left -= len(one.indices) - (retained is not None)
        share = np.exp(one.log_weights - np.logaddexp.reduce(one.log_weights))
        sweeps.append(one)
        shares.append(share / share.sum())
        retained = scores.completions[int(rng.choice(one.indices, p=shares[-1]))]
    start = int(burn_in * len(sweeps))
    indices, mean = np.concatenate([one.indices for one in sweeps[start:]]), np.concatenate(shares[start:])
    weights = np.bincount(indices, mean / mean.sum(), len(scores.completions))
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights)
    info = {"log_z": sweeps[0].log_z, "num_sweeps": float(len(sweeps))}
    return Outcome(tuple(scores.completions), tuple(weights.tolist()), tuple(int(one) for one in chosen), info)
