"""MaxEnt-TS: grow a token tree by the model's own rollouts, back it up softly, branch where it matters.

One round: select branch points, roll out from them with p, score the completions, back up. `maxent` looks for the best
completion, `maxent_sample` draws from π(x) ∝ p(x)·exp(λ r(x)). They differ in how they select and what they return.

Legend (as in `maxent_ts.tree`): s a prefix, C(s) its children seen, ρ(s) the prior mass not seen, W the soft value,
V = log W / λ, R = W - K the part of W that is still unseen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from typing import Any, Literal

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, Rewards, Rollouts, Search
from maxent_ts.search.completions import best_first
from maxent_ts.search.selection import Select, by_bound, by_improvement, by_unseen_value
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Completion, Outcome, Target

__all__ = ["maxent", "maxent_sample"]


def maxent(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    selection: Literal["improvement", "bound"] = "improvement",
    exploration: float = 1.0,
    num_return_sequences: int = 1,
) -> Search:
    """Search for the completion of the highest reward.

    Args:
        rng: Explores while there is nothing yet to judge by.
        target: Gives λ, which the weights and the "bound" rule use, and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round. More use the engine better, fewer choose with more knowledge.
        selection: "improvement" branches where the expected gain over the best so far is worth its tokens; "bound" is PUCT on
            soft values. See `maxent_ts.search.selection`.
        exploration: Of "bound" alone: its constant c.
        num_return_sequences: Number of completions returned, best first.
    """
    if selection not in ("improvement", "bound"):
        raise SettingError(f"selection must be 'improvement' or 'bound', but is {selection!r}.")
    select = by_improvement(rng) if selection == "improvement" else by_bound(exploration)
    tree = yield from _grow(target, select, num_rollouts, num_parallel)
    return _outcome(tree, tuple(best_first(tree.completions)[:num_return_sequences]))


def maxent_sample(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    num_return_sequences: int = 1,
) -> Search:
    """Draw completions from π, without ever paying for one twice.

    Selection walks from the root: to a child with weight p(a|s)·R(sa), out of the tree with weight ρ(s)·U(s). That is the
    target restricted to what is unseen. Returned are draws from the walk that never leaves the tree; once all is seen, from π.

    Args:
        rng: Walks, and draws what is returned.
        target: Gives λ and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round.
        num_return_sequences: Number of draws returned, with replacement.
    """
    tree = yield from _grow(target, by_unseen_value(rng), num_rollouts, num_parallel)
    weights = np.exp(tree.log_weights())
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights / weights.sum())
    return _outcome(tree, tuple(int(one) for one in chosen))


def _grow(target: Target, select: Select, num_rollouts: int | None, num_parallel: int) -> Generator[Any, Any, Tree]:
    """Rounds of select, roll out, score, back up, until the rollouts, the budget or the unseen completions run out."""
    if num_parallel < 1:
        raise SettingError(f"num_parallel must be at least 1, but is {num_parallel}.")
    tree = Tree(target)
    num_left = math.inf if num_rollouts is None else num_rollouts
    while num_left > 0 and not tree.is_exhausted:
        # The first round is one rollout: there is nothing yet to choose by.
        num = int(min(num_parallel, num_left)) if tree.completions else 1
        points = Counter(select(tree, num))
        branches = yield Parallel(
            tuple(Rollouts(tree.prefix(node), count, tuple(tree.children[node]), distinct=True) for node, count in points.items())
        )
        leaves = []
        for node, branch in zip(points, branches, strict=True):
            leaves += [(tree.add(node, rollout), rollout.finish_reason) for rollout in branch.rollouts]
            if not math.isnan(branch.log_unseen):
                tree.set_unseen(node, branch.log_unseen)
        if all(math.isnan(branch.log_unseen) for branch in branches):
            break
        if leaves:
            completions = tuple(Completion(tree.prefix(leaf), tree.path_logprob[leaf], reason) for leaf, reason in leaves)
            rewards = yield Rewards(completions)
            for (leaf, reason), reward in zip(leaves, rewards, strict=True):
                tree.evaluate(leaf, reward, reason)
        tree.back_up([*points, *(leaf for leaf, _ in leaves)])
        num_left -= len(leaves)
    return tree


def _outcome(tree: Tree, chosen: tuple[int, ...]) -> Outcome:
    weights = np.exp(tree.log_weights())
    lower, estimate, upper = tree.log_partition()
    info = {
        "log_z_lower": lower,
        "log_z": estimate,
        "log_z_upper": upper,
        "unseen_mass": math.exp(tree.log_open[ROOT]),
        **tree.statistics(),
    }
    return Outcome(tuple(tree.completions), tuple(float(one) for one in weights / weights.sum()), chosen, info, tree)
