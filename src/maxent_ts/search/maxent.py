"""MaxEnt-TS: grow a token tree by the model's own rollouts, back it up softly, branch where it matters.

One round: select branch points, roll out from them with p, score the completions, back up. `maxent` looks for the best
completion, `maxent_sample` draws from π(x) ∝ p(x)·exp(λ r(x)). They differ in how they select and what they return.

Legend (as in `maxent_ts.tree`): s a prefix, ρ(s) the prior mass not seen, W the soft value, U the value of what is unseen.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Literal

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Search
from maxent_ts.search.certificate import Certificate, certify, draw_fresh, tree_certificate
from maxent_ts.search.completions import best_first
from maxent_ts.search.growth import grow, rescore
from maxent_ts.search.selection import BranchOn, ByImprovement, ByUnseenValue, Frontier, by_bound
from maxent_ts.search.tilt import matching_tilt
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Outcome, Target, Tokens

__all__ = ["maxent", "maxent_sample"]

WHOLE_DRAWS = 0.2
"""Share of the tokens of `maxent` that follows the model alone: what keeps it from falling far behind best-of-N where
early choices decide and look like all others."""


def maxent(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    selection: Literal["improvement", "bound"] = "improvement",
    branch_on: BranchOn = "token",
    exploration: float = 1.0,
    num_rescores: int = 0,
    num_fresh_draws: int = 0,
    num_return_sequences: int = 1,
    tree: Tree | None = None,
) -> Search:
    """Search for the completion of the highest reward.

    Args:
        rng: Chooses fresh draws.
        target: Gives λ, which the weights and the "bound" rule use, and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round. More use the engine better, fewer choose with more knowledge.
        selection: "improvement" branches where the expected gain over the best so far is worth its tokens; "bound" is PUCT on
            soft values. See `maxent_ts.search.selection`.
        branch_on: "token" anywhere; "segment" every eighth token; "entropy" where the model itself was undecided.
        exploration: Of "bound" alone: its constant c.
        num_rescores: For noisy rewards: how often the best few are scored again, so that the luckiest is not taken for the best.
        num_fresh_draws: Rollouts kept for an unbiased estimate of log Z: see `maxent_ts.search.certificate`.
        num_return_sequences: Number of completions returned, best first.
        tree: Grow on from this tree of the same prompt and reward, backed up for the present λ. For another reward give
            `Tree.back_up_all` the new values first.
    """
    if selection not in ("improvement", "bound"):
        raise SettingError(f"selection must be 'improvement' or 'bound', but is {selection!r}.")
    by_improvement = selection == "improvement"
    select = Frontier(ByImprovement(), WHOLE_DRAWS, branch_on) if by_improvement else by_bound(exploration)
    tree = yield from grow(target, select, num_rollouts, num_parallel, tree=tree, num_kept=num_fresh_draws)
    certificate = yield from certify(tree, num_fresh_draws, rng)
    order = (yield from rescore(tree, num_rescores)) if num_rescores else best_first(tree.completions)
    return _outcome(tree, tuple(order[:num_return_sequences]), certificate)


def maxent_sample(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    branch_on: BranchOn = "token",
    optimism: float = 0.5,
    num_fresh_draws: int = 0,
    kl_target: float | None = None,
    ess_target: float | None = None,
    prefix_rewards: bool = True,
    num_return_sequences: int = 1,
    tree: Tree | None = None,
) -> Search:
    """Draw completions from π, without ever paying for one twice.

    Branches where most of π is expected unseen, with some optimism. What is returned is drawn from the tree
    it has grown: to a child ∝ p·W, out of the tree at s ∝ ρ(s)·U(s), where the model itself goes on. Rollouts for that are
    kept from the budget. Once all is seen, the draws are from π.

    Args:
        rng: Draws what is returned.
        target: Gives λ and `max_new_tokens`.
        num_rollouts: Rollouts in all; None goes on until the budget is spent.
        num_parallel: Rollouts per round.
        branch_on: As for `maxent`.
        optimism: Of the selection, see `maxent_ts.search.selection.ByUnseenValue`.
        num_fresh_draws: Rollouts kept for an unbiased estimate of log Z: see `maxent_ts.search.certificate`.
        kl_target: Choose λ so that KL(π‖p) is this many nats, in place of the target's λ; `info["tilt"]` says which.
        ess_target: Choose λ so that this share of draws from p would be effective under π, in (0, 1).
        prefix_rewards: Where the reward scores unfinished completions, let it say what prefixes promise.
        num_return_sequences: Number of draws returned, with replacement.
        tree: Grow on from this tree of the same prompt and reward, backed up for the present λ. For another reward give
            `Tree.back_up_all` the new values first.
    """
    retarget = matching_tilt(kl_target, ess_target)
    num_kept = num_fresh_draws + num_return_sequences
    select = Frontier(ByUnseenValue(optimism), 0.0, branch_on)
    tree = yield from grow(
        target,
        select,
        num_rollouts,
        num_parallel,
        tree=tree,
        num_kept=num_kept,
        with_guesses=prefix_rewards,
        retarget=retarget,
    )
    certificate = yield from certify(tree, num_fresh_draws, rng)
    tokens, num_forced = yield from _draws(tree, num_return_sequences, rng)
    index = {one.tokens: i for i, one in enumerate(tree.completions)}
    return _outcome(tree, tuple(index[one] for one in tokens), certificate, {"draws_forced_inside": float(num_forced)})


def _draws(tree: Tree, num: int, rng: np.random.Generator) -> Generator[Any, Any, tuple[list[Tokens], int]]:
    """Draw from the frozen tree, then let what left it join.

    A draw that the budget has no rollout left for is made inside; the second number returned counts those.
    """
    known_share = float(np.exp(tree.log_known[ROOT] - tree.log_value[ROOT]))
    num_outside = 0 if tree.is_exhausted else int((rng.random(num) >= known_share).sum())
    outside = (yield from draw_fresh(tree, num_outside, rng)) if num_outside else None
    drawn = [] if outside is None else [one.tokens for one in outside.completions]
    num_forced = num_outside - len(drawn)
    posterior, weights = np.exp(tree.log_posterior()), np.exp(tree.log_weights())
    for law, size in ((posterior, num - num_outside), (weights, num_forced)):
        if size:
            drawn += [tree.completions[int(one)].tokens for one in rng.choice(len(law), size=size, p=law / law.sum())]
    if outside is not None:
        tree.extend(outside.additions)
    return [drawn[int(one)] for one in rng.permutation(num)], num_forced


def _outcome(tree: Tree, chosen: tuple[int, ...], certificate: Certificate, extra: Mapping[str, float] | None = None) -> Outcome:
    weights = np.exp(tree.log_weights())
    info = {"tilt": tree.target.tilt, **tree_certificate(tree), **certificate.info, **(extra or {})}
    return Outcome(
        tuple(tree.completions), tuple(float(one) for one in weights / weights.sum()), chosen, info, tree, certificate.marginals
    )
