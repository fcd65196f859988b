"""Two backups that look like soft values and forget p. They are wrong, and kept so that tests and benchmarks can show it.

The tree grows as that of `maxent_sample`. Only the law of the draw from the finished tree differs: C(s) the children seen,

    sum backup    V(s) = (1/λ) log Σ_{a∈C(s)} exp(λ V(sa))              values grow with the number of completions below
    mean backup   V(s) = (1/λ) log (1/|C(s)|) Σ_{a∈C(s)} exp(λ V(sa))   the diffusion formula on tokens merged into one child

and a walk goes to a child with weight exp(λ V(sa)). On a tree that holds everything the first draws x ∝ exp(λ r(x)), as if
all texts were equally likely, and the second as if all next tokens were. Right are weights p(a|s) (`maxent_sample`), or draws
counted with their multiplicities (`dts`).
"""

from __future__ import annotations

import math

import numpy as np

from maxent_ts.search.base import Search
from maxent_ts.search.growth import grow
from maxent_ts.search.selection import ByUnseenValue, Frontier
from maxent_ts.tree import NO_COMPLETION, ROOT, Tree
from maxent_ts.types import Outcome, Target

__all__ = ["ablation_mean_backup", "ablation_sum_backup"]


def ablation_sum_backup(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    num_return_sequences: int = 1,
) -> Search:
    """Draw from a tree whose values are sums over children without p. Wrong: an ablation.

    Args:
        rng: Walks, and draws what is returned.
        target: Gives λ and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round.
        num_return_sequences: Number of draws returned, with replacement.
    """
    tree = yield from grow(target, Frontier(ByUnseenValue()), num_rollouts, num_parallel)
    return _outcome(rng, tree, num_return_sequences, is_mean=False)


def ablation_mean_backup(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    num_return_sequences: int = 1,
) -> Search:
    """Draw from a tree whose values are means over distinct children without p. Wrong: an ablation.

    Args:
        rng: Walks, and draws what is returned.
        target: Gives λ and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round.
        num_return_sequences: Number of draws returned, with replacement.
    """
    tree = yield from grow(target, Frontier(ByUnseenValue()), num_rollouts, num_parallel)
    return _outcome(rng, tree, num_return_sequences, is_mean=True)


def _outcome(rng: np.random.Generator, tree: Tree, num_return_sequences: int, *, is_mean: bool) -> Outcome:
    """Without the tree: its own values are right, and would tell another law."""
    log_value = np.zeros(len(tree))
    for node in reversed(range(len(tree))):
        if tree.completion[node] != NO_COMPLETION:
            # At the leaves the tree's own λ r; p enters only above them.
            log_value[node] = tree.log_value[node]
        elif tree.children[node]:
            below = log_value[list(tree.children[node].values())]
            log_value[node] = np.logaddexp.reduce(below) - (math.log(len(below)) if is_mean else 0.0)
    log_share = np.zeros(len(tree))
    weights = np.empty(len(tree.completions))
    for node in range(len(tree)):
        children = list(tree.children[node].values())
        if children:
            log_share[children] = log_share[node] + log_value[children] - np.logaddexp.reduce(log_value[children])
        if tree.completion[node] != NO_COMPLETION:
            weights[tree.completion[node]] = math.exp(log_share[node])
    weights /= weights.sum()
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights)
    info = {"log_z": float(log_value[ROOT]), **tree.statistics()}
    return Outcome(tuple(tree.completions), tuple(float(one) for one in weights), tuple(int(one) for one in chosen), info)
