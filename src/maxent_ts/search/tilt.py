"""Choosing λ by what it does: how far π may go from the model, or how many draws from the model would still count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import root_scalar

from maxent_ts.errors import SettingError
from maxent_ts.search.completions import reward_of
from maxent_ts.tree import Tree

__all__ = ["matching_tilt"]

LARGEST_TILT = 1e4
"""In units of 1 / standard deviation of the rewards: beyond it only the best completion is left."""


def matching_tilt(kl: float | None, ess: float | None) -> Callable[[Tree], float] | None:
    """Return a function from a tree to the λ that meets a goal on the completions it holds; None without a goal.

    With w the weights of the tree at λ = 0 (its estimate of p on what it holds) and π_λ ∝ w·exp(λ r), both KL(π_λ‖w) and
    1 / (Σ π_λ² / w), the effective share of draws from w, are monotone in λ, so a root finder meets the goal. Where the
    completions cannot meet it, as with equal rewards, λ is 0 for equal rewards and else the largest that makes sense.

    Args:
        kl: KL(π‖p) in nats, above 0.
        ess: Effective share of draws from p, in (0, 1).

    Raises:
        SettingError: if both are given, or one is out of its range.
    """
    if kl is None and ess is None:
        return None
    if kl is not None and ess is not None:
        raise SettingError("Give kl_target or ess_target, not both: each decides λ.")
    if kl is not None and not 0 < kl < np.inf:
        raise SettingError(f"kl_target must be a finite number of nats above 0, but is {kl}.")
    if ess is not None and not 0 < ess < 1:
        raise SettingError(f"ess_target must lie in (0, 1), but is {ess}. It is a share of draws.")

    def match(tree: Tree) -> float:
        tree.back_up_all(tree.target.with_tilt(0.0))
        log_prior = tree.log_weights()
        log_prior -= np.logaddexp.reduce(log_prior)
        rewards = np.array([reward_of(one) for one in tree.completions])
        spread = float(rewards.std())
        if spread == 0.0:
            return 0.0
        rewards = rewards - rewards.max()

        def excess(tilt: float) -> float:
            """Above 0 where λ is too large."""
            log_post = log_prior + tilt * rewards
            log_post -= np.logaddexp.reduce(log_post)
            if kl is not None:
                return float(np.exp(log_post) @ (log_post - log_prior)) - kl
            assert ess is not None
            return ess - float(np.exp(-np.logaddexp.reduce(2 * log_post - log_prior)))

        largest = LARGEST_TILT / spread
        return largest if excess(largest) <= 0 else root_scalar(excess, bracket=(0.0, largest), xtol=1e-6 / spread).root

    return match
