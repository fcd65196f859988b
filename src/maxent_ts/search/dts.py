"""Diffusion Tree Sampling and Diffusion Tree Search, carried over from denoising steps to tokens.

Legend (the paper's x_t is a prefix s, one denoising step is one token): N(s) visits, m(sa) how often a was drawn after s,
n(s) = Σ_a m(sa) draws after s, V soft value, C and α the constants of progressive widening, λ the tilt.

    widen at s while n(s) < C·N(s)^α                                one more draw from p, and a rollout to the end
    else go to a child with weight m(sa)·exp(λ V(sa))               DTS, a Boltzmann policy
    or to the child of the largest V(sa) + c·√(log N(s) / N(sa))    DTS*, upper confidence bounds
    V(s) = (1/λ) log (1/n(s)) Σ_a m(sa)·exp(λ V(sa)),               V(x) = r(x) at the end

The children of a state are draws from p. Of noise no two draws coincide; of tokens they do, so a child stands for m draws. To
forget m, and average over distinct tokens, forgets p: `maxent_ts.search.ablations` keeps that as a warning. Every state of
every rollout joins the tree, and so every step of it is a draw.

A draw that repeats a token seen costs nothing here: its probability is known, so it is drawn from what the tree holds, and the
model is asked only for what is not in it. The law of the draws is p all the same.

Reference: Jain, Sareen, Pedramfar & Ravanbakhsh 2025, "Diffusion Tree Sampling", arXiv 2506.20701. Made from its abstract and
project page; the authors' code was not at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Rewards, Rollouts, Search
from maxent_ts.search.completions import best_first, reward_of
from maxent_ts.tree import NO_COMPLETION, ROOT, Tree
from maxent_ts.types import Completion, Outcome, Rollout, Target

__all__ = ["dts", "dts_star"]

SMALLEST_EXPONENT = 0.25
"""Below this a tree that has found a sharp peak walks to it all but endlessly before it may widen again."""

MAX_IDLE_WALKS = 2_000
"""Without `num_rollouts`, so many walks in succession that find nothing unseen end the growth: they cost no tokens, and once
all is seen would go on for ever."""


def dts(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    widening: float = 2.0,
    widening_exponent: float = 0.5,
    num_return_sequences: int = 1,
) -> Search:
    """Draw completions from the tree's estimate of π; exact in the limit of many walks.

    Args:
        rng: Walks, repeats draws, and draws what is returned.
        target: Gives λ.
        num_rollouts: Walks in all, those that find nothing unseen included; None goes on until the budget is spent.
        widening: C.
        widening_exponent: α, in [0.25, 1].
        num_return_sequences: Number of draws returned, with replacement.

    Raises:
        SettingError: if the constants of widening are out of range.
    """

    def boltzmann(draws: _Draws, node: int) -> int:
        # The shares sum to 1 by the backup itself: V(s) is their normaliser.
        left, child = rng.random(), ROOT
        for child in draws.tree.children[node].values():
            left -= draws.share(node, child)
            if left < 0:
                break
        return child

    draws = yield from _grow(rng, target, boltzmann, num_rollouts, widening, widening_exponent)
    weights = draws.law()
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights)
    return draws.outcome(weights, tuple(int(one) for one in chosen))


def dts_star(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    widening: float = 2.0,
    widening_exponent: float = 0.5,
    exploration: float = 0.1,
    num_return_sequences: int = 1,
) -> Search:
    """Search for the completion of the highest reward: DTS with upper confidence bounds on soft values.

    At λ = 0 the soft value is the mean over draws, its limit.

    Args:
        rng: Repeats draws.
        target: Gives λ.
        num_rollouts: Walks in all, those that find nothing unseen included; None goes on until the budget is spent.
        widening: C.
        widening_exponent: α, in [0.25, 1].
        exploration: c, in units of the range of rewards seen. 0.1 did better than 0.3 and 1 on six instances of
            `benchmarks/search_efficiency.py`.
        num_return_sequences: Number of completions returned, best first.

    Raises:
        SettingError: if a constant is out of range.
    """
    if not (math.isfinite(exploration) and exploration >= 0):
        raise SettingError(f"exploration must be a finite number, at least 0, but is {exploration}.")

    def highest_bound(draws: _Draws, node: int) -> int:
        visits = draws.tree.visits
        scale = exploration * draws.reward_range * math.sqrt(math.log(visits[node]))
        return max(draws.tree.children[node].values(), key=lambda child: draws.value[child] + scale / math.sqrt(visits[child]))

    draws = yield from _grow(rng, target, highest_bound, num_rollouts, widening, widening_exponent)
    return draws.outcome(draws.law(), tuple(best_first(draws.tree.completions)[:num_return_sequences]))


class _Draws:
    """A tree of draws from p: what `Tree` keeps of tokens, rewards and visits, and beside it m, n and V."""

    def __init__(self, target: Target) -> None:
        self.tree = Tree(target)
        self.tilt = target.tilt
        self.multiplicity = [0]
        self.num_draws = [0]
        self.value = [0.0]
        self.lowest, self.highest = math.inf, -math.inf

    @property
    def reward_range(self) -> float:
        """Highest minus lowest reward seen; 1 while all are equal."""
        return self.highest - self.lowest or 1.0

    def repeat(self, rng: np.random.Generator, node: int) -> int | None:
        """Draw the next token from p: the child if it is one seen, None if it is another, which the model has to write."""
        left, child = rng.random(), None
        for child in self.tree.children[node].values():
            left -= math.exp(self.tree.logprob[child])
            if left < 0:
                return child
        return child if self.tree.log_unseen[node] == -math.inf else None

    def add(self, node: int, rollout: Rollout) -> int:
        """Hang a rollout below a node and return the leaf it ends in."""
        leaf = self.tree.add(node, rollout)
        num_added = len(self.tree) - len(self.value)
        self.multiplicity += [0] * num_added
        self.num_draws += [0] * num_added
        self.value += [0.0] * num_added
        return leaf

    def count(self, start: int, leaf: int, completion: Completion) -> None:
        """Take in a walk to a scored completion whose steps below `start` were draws, and back its path up."""
        reward = reward_of(completion)
        self.tree.evaluate(leaf, reward, completion.finish_reason)
        self.lowest, self.highest = min(self.lowest, reward), max(self.highest, reward)
        self.value[leaf] = reward
        node, is_drawn = leaf, True
        while node != ROOT:
            is_drawn = is_drawn and node != start
            parent = self.tree.parent[node]
            self.multiplicity[node] += is_drawn
            self.num_draws[parent] += is_drawn
            self._back_up(parent)
            node = parent

    def _back_up(self, node: int) -> None:
        """V(s) = (1/λ) log (1/n) Σ m·exp(λ V); the mean over draws at λ = 0."""
        children = self.tree.children[node].values()
        high = max([self.value[child] for child in children])
        if self.tilt == 0:
            below = sum([self.multiplicity[child] * (self.value[child] - high) for child in children])
            self.value[node] = high + below / self.num_draws[node]
        else:
            # expm1 and log1p keep their digits for any small λ.
            below = sum([self.multiplicity[child] * math.expm1(self.tilt * (self.value[child] - high)) for child in children])
            self.value[node] = high + math.log1p(below / self.num_draws[node]) / self.tilt

    def share(self, node: int, child: int) -> float:
        """Probability of the child in a walk from the node: m·exp(λ V(child)) / (n·exp(λ V(node)))."""
        tilted = math.exp(self.tilt * (self.value[child] - self.value[node]))
        return self.multiplicity[child] / self.num_draws[node] * tilted

    def law(self) -> np.ndarray:
        """The probability of each completion in a walk to a leaf, float64 [completions]."""
        reached = np.ones(len(self.tree))
        weights = np.empty(len(self.tree.completions))
        for node in range(1, len(self.tree)):
            parent = self.tree.parent[node]
            reached[node] = reached[parent] * self.share(parent, node)
            if self.tree.completion[node] != NO_COMPLETION:
                weights[self.tree.completion[node]] = reached[node]
        return weights / weights.sum()

    def outcome(self, weights: np.ndarray, chosen: tuple[int, ...]) -> Outcome:
        """Without the tree: the values of `Tree` are weighted by p, not by draws, and would tell another law."""
        info = {"log_z": self.tilt * self.value[ROOT], "nodes": float(len(self.tree)), "walks": float(self.tree.visits[ROOT])}
        return Outcome(tuple(self.tree.completions), tuple(float(one) for one in weights), chosen, info)


def _grow(
    rng: np.random.Generator,
    target: Target,
    choose: Callable[[_Draws, int], int],
    num_rollouts: int | None,
    widening: float,
    exponent: float,
) -> Generator[Any, Any, _Draws]:
    """Select, widen, roll out, back up, until the rollouts, the budget or the unseen completions run out."""
    if not (math.isfinite(widening) and widening > 0):
        raise SettingError(f"widening must be a finite number above 0, but is {widening}.")
    if not SMALLEST_EXPONENT <= exponent <= 1:
        raise SettingError(f"widening_exponent must lie in [{SMALLEST_EXPONENT}, 1], but is {exponent}.")
    draws = _Draws(target)
    tree = draws.tree
    num_idle = 0
    while num_idle < MAX_IDLE_WALKS if num_rollouts is None else tree.visits[ROOT] < num_rollouts:
        num_idle += 1
        start = ROOT
        while tree.completion[start] == NO_COMPLETION and draws.num_draws[start] >= max(
            1.0, widening * tree.visits[start] ** exponent
        ):
            start = choose(draws, start)
        # The rollout: as long as p repeats itself it follows the tree; from there on the model writes.
        leaf, completion = start, None
        while tree.completion[leaf] == NO_COMPLETION and completion is None:
            child = draws.repeat(rng, leaf)
            if child is not None:
                leaf = child
                continue
            node = leaf
            branch = yield Rollouts(tree.prefix(node), exclude=tuple(tree.children[node]))
            if math.isnan(branch.log_unseen):
                return draws
            for rollout in branch.rollouts:
                leaf, num_idle = draws.add(node, rollout), 0
                completion = Completion(tree.prefix(leaf), tree.path_logprob[leaf], rollout.finish_reason)
                (reward,) = yield Rewards((completion,))
                completion = replace(completion, reward=reward)
            # The engine's own sum, in place of the one that `add` took from a difference.
            tree.set_unseen(node, branch.log_unseen)
        draws.count(start, leaf, completion or tree.completions[tree.completion[leaf]])
    return draws
