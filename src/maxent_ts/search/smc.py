"""Sequential Monte Carlo: particles that are resampled by what their prefixes promise.

Legend (as in `maxent_ts.search.particles`): N particles, ψ the prefix reward, w the weights, Ẑ the mean of w.
"""

from __future__ import annotations

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import AS_MANY_AS_AFFORDABLE, Search
from maxent_ts.search.particles import Resampling, Scores, Sweep, effective_sample_size, segment_length, sweep
from maxent_ts.types import Outcome, Target

__all__ = ["smc"]


def smc(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_particles: int | None = None,
    segment_tokens: int | None = None,
    resampling: Resampling = "systematic",
    ess_threshold: float = 0.5,
    num_return_sequences: int = 1,
) -> Search:
    """Draw from π with particles that grow by segments drawn from p and are resampled by exp(λ ψ).

    The weight of a particle ends as exp(λ r) over what its resamplings assumed, so Ẑ is unbiased whatever ψ is; a good ψ lowers
    its variance, a bad one raises it. A reward without prefix rewards gives nothing to resample by: then a particle is one
    draw from p, and this is importance sampling, as `best_of_n_softmax` is.

    Particles that end early leave budget for further sweeps, which are pooled in proportion to their weights.
    `info["log_z"]` is log Ẑ of the first sweep alone: its size does not depend on what is drawn, so exp of it is unbiased,
    which a mean over a number of sweeps that depends on their lengths is not.

    References: Del Moral, Doucet and Jasra 2006, "Sequential Monte Carlo samplers"; Lew et al. 2023, arXiv 2306.03081; Zhao et
    al. 2024, "Probabilistic inference in language models via twisted sequential Monte Carlo", arXiv 2404.17546, section 3.

    Args:
        rng: Resamples, and draws the returned completions.
        target: Gives λ, `max_new_tokens`, and whether there are prefix rewards.
        num_rollouts: Particles in all sweeps together; None goes on until the budget is spent.
        num_particles: N of one sweep; None makes it as large as the budget affords.
        segment_tokens: Tokens between two looks at the weights; None is an eighth of `max_new_tokens`.
        resampling: "systematic", "residual" or "multinomial".
        ess_threshold: Resample when the effective sample size is below this share of N; 0 never does.
        num_return_sequences: Number of draws returned, with replacement.
    """
    check_settings(num_particles, ess_threshold)
    segment = segment_length(target, segment_tokens)
    scores = Scores(target)
    sweeps: list[Sweep] = []
    num_left = AS_MANY_AS_AFFORDABLE if num_rollouts is None else num_rollouts
    while num_left > 0:
        num = num_left if num_particles is None else min(num_left, num_particles)
        one = yield from sweep(rng, scores, num, segment=segment, resampling=resampling, ess_threshold=ess_threshold)
        if one is None:
            break
        sweeps.append(one)
        num_left -= len(one.indices) if num_rollouts is not None else 0
    log_weights = np.concatenate([one.log_weights for one in sweeps])
    shares = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    weights = np.bincount(np.concatenate([one.indices for one in sweeps]), shares / shares.sum(), len(scores.completions))
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights)
    info = {
        "log_z": sweeps[0].log_z,
        "effective_sample_size": effective_sample_size(log_weights),
        "num_particles": float(len(sweeps[0].indices)),
        "num_sweeps": float(len(sweeps)),
        "num_resamplings": float(sum(one.num_resamplings for one in sweeps)),
    }
    return Outcome(tuple(scores.completions), tuple(weights.tolist()), tuple(int(one) for one in chosen), info)


def check_settings(num_particles: int | None, ess_threshold: float) -> None:
    """Raise SettingError for numbers outside their domain."""
    if num_particles is not None and num_particles < 1:
        raise SettingError(f"num_particles must be at least 1, but is {num_particles}.")
    if not 0 <= ess_threshold <= 1:
        raise SettingError(f"ess_threshold must lie in [0, 1], but is {ess_threshold}.")
