"""How a tree of `maxent` grows: rounds of select, roll out, score, back up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, PrefixRewards, Rewards, Rollouts
from maxent_ts.search.beliefs import GROWTH_BEFORE_REFRESH
from maxent_ts.search.completions import best_first, reward_of, score_written
from maxent_ts.search.selection import Select
from maxent_ts.tree import Tree
from maxent_ts.types import Completion, Target

__all__ = ["grow", "rescore"]

NUM_RESCORED = 8
"""Of the completions with the highest rewards, those that `rescore` looks at again."""


def grow(
    target: Target,
    select: Select,
    num_rollouts: int | None,
    num_parallel: int,
    *,
    tree: Tree | None = None,
    num_kept: int = 0,
    with_guesses: bool = False,
    retarget: Callable[[Tree], float] | None = None,
) -> Generator[Any, Any, Tree]:
    """Grow until the rollouts, the budget or the unseen completions run out.

    Args:
        target: What the tree aims at.
        select: Where to branch.
        num_rollouts: Rollouts in all, those kept included; None goes on until the budget is spent.
        num_parallel: Rollouts per round.
        tree: A tree to go on from; None starts one.
        num_kept: Rollouts of full length that are left over for later, if the budget covers more than those.
        with_guesses: Ask what prefixes promise, where the reward can say: one reward call for every token.
        retarget: From a tree to the λ it should aim at, asked whenever the tree has grown by a quarter.

    Raises:
        SettingError: if `num_parallel` is below 1, or the tree's completions are longer than this target's may be.
    """
    if num_parallel < 1:
        raise SettingError(f"num_parallel must be at least 1, but is {num_parallel}.")
    tree = Tree(target) if tree is None else _continued(tree, target)
    touched: Sequence[int] = range(len(tree))
    num_before, num_matched = len(tree), 0
    num_left = math.inf if num_rollouts is None else max(num_rollouts - num_kept, 1)
    if target.max_rollouts is not None:
        num_left = min(num_left, max(target.max_rollouts - num_kept, 1))
    while num_left > 0 and not tree.is_exhausted:
        # Rounds double from a single rollout: there is little yet to choose by.
        num = int(min(num_parallel, num_left, max(len(tree.completions), 1)))
        if num_kept and target.max_generated_tokens is not None:
            # Every token paid for is a node, and a rollout may be as long as a completion.
            num_tokens = target.max_generated_tokens - (len(tree) - num_before) - num_kept * target.max_new_tokens
            num = min(num, max(num_tokens // target.max_new_tokens, 0 if tree.completions else 1))
        if num == 0:
            break
        points = Counter(select(tree, touched, num))
        branches = yield Parallel(
            tuple(Rollouts(tree.prefix(node), count, tuple(tree.children[node]), distinct=True) for node, count in points.items())
        )
        if all(math.isnan(branch.log_unseen) for branch in branches):
            break
        written = [(node, rollout) for node, branch in zip(points, branches, strict=True) for rollout in branch.rollouts]
        completions = yield from score_written(tree, written)
        additions = [(node, rollout, reward_of(one)) for (node, rollout), one in zip(written, completions, strict=True)]
        unseen = {node: branch.log_unseen for node, branch in zip(points, branches, strict=True)}
        first = len(tree)
        touched = tree.extend(additions, {node: one for node, one in unseen.items() if not math.isnan(one)})
        if target.has_prefix_rewards and with_guesses:
            yield from _guess(tree, range(first, len(tree)))
            tree.back_up(touched)
        num_left -= len(written)
        if retarget is not None and len(tree.completions) >= GROWTH_BEFORE_REFRESH * num_matched:
            num_matched = len(tree.completions)
            tree.back_up_all(target.with_tilt(retarget(tree)))
            touched = range(len(tree))
    if retarget is not None and tree.completions:
        tree.back_up_all(target.with_tilt(retarget(tree)))
    return tree


def _guess(tree: Tree, nodes: Sequence[int]) -> Generator[Any, Any, None]:
    """Ask the reward what these prefixes promise."""
    inner = [node for node in nodes if tree.log_unseen[node] > -math.inf]
    if inner:
        prefixes = tuple(Completion(tree.prefix(node), tree.path_logprob[node], "unfinished") for node in inner)
        for node, guess in zip(inner, (yield PrefixRewards(prefixes)), strict=True):
            tree.set_guess(node, guess)


def _continued(tree: Tree, target: Target) -> Tree:
    """A tree of an earlier search, backed up for this target."""
    if max(tree.depth) > target.max_new_tokens or tree.target.max_new_tokens != target.max_new_tokens:
        raise SettingError(
            f"The tree was grown with max_new_tokens={tree.target.max_new_tokens}, but this search has {target.max_new_tokens}: a "
            "completion cut at one length is another event than one cut at the other. Use the same length, or no tree."
        )
    tree.back_up_all(target)
    return tree


def rescore(tree: Tree, num: int) -> Generator[Any, Any, list[int]]:
    """Score the best completions again and give them the mean, for rewards that are not the same twice.

    The highest of many noisy rewards is mostly luck; a few more calls for the few that matter cost no token.

    Args:
        tree: The rewards of those completions are replaced.
        num: Number of further scores of each.

    Returns:
        The indices of all completions, those scored again first, by their means; of the others only one reward is known.
    """
    order = best_first(tree.completions)
    best, others = order[:NUM_RESCORED], order[NUM_RESCORED:]
    completions = tuple(tree.completions[i] for i in best)
    sums = [reward_of(one) for one in completions]
    for _ in range(num):
        rewards = yield Rewards(completions)
        sums = [total + reward for total, reward in zip(sums, rewards, strict=True)]
    means = [reward_of(one) for one in tree.completions]
    for i, total in zip(best, sums, strict=True):
        means[i] = total / (num + 1)
    tree.back_up_all(tree.target, means)
    return sorted(best, key=lambda i: -means[i]) + others
