"""Monte Carlo tree search over tokens: UCT and PUCT, with mean values and the model's own rollouts.

It looks for the highest reward and targets no distribution: its weights are visit counts, not an estimate of π.

Legend: N(s) visits, Q(s) the mean reward of the rollouts through s, scaled to [0, 1] by the rewards seen, P(a|s) the prior, c
`exploration`, C `widening`, α `widening_exponent`. A simulation walks from the root to a child that has no rollout yet:

    uct    at s with fewer than C·N(s)^α children, add one by a draw from p among the tokens not tried there;
           else go to the child of the largest Q(sa) + c·√(log N(s) / N(sa))
    puct   ask once for the `num_candidates` likeliest tokens after s (one generated token), P their p, normalised;
           go to the child of the largest Q(sa) + c·P(a|s)·√N(s) / (1 + N(sa)); a child not tried has its parent's Q

rolls out from there with p and adds the reward to N and Q on the way up. Only the child joins the tree, not the rest of the
rollout. Subtrees with nothing left to try are closed. Walks of one round see those before them as losses (virtual loss).

References: Kocsis & Szepesvári 2006, "Bandit based Monte-Carlo planning" (uct); Silver et al. 2017, "Mastering the game of Go
without human knowledge", methods (puct); Coulom 2007, "Computing Elo ratings of move patterns", for progressive widening.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import NextTokens, Parallel, Rewards, Rollouts, Search
from maxent_ts.search.completions import best_first, reward_of
from maxent_ts.types import Completion, FinishReason, Outcome, Rollout, Target, Tokens, TopTokens

__all__ = ["mcts"]

DEFAULT_EXPLORATION = {"uct": 0.1, "puct": 1.0}


def mcts(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    selection: Literal["uct", "puct"] = "puct",
    exploration: float | None = None,
    num_candidates: int = 10,
    widening: float = 2.0,
    widening_exponent: float = 0.5,
    num_return_sequences: int = 1,
) -> Search:
    """Search for the completion of the highest reward and return the best one evaluated.

    Args:
        rng: Unused; the draws belong to the engine.
        target: Gives `max_new_tokens`; its tilt is not read.
        num_rollouts: Simulations in all; None goes on until the budget is spent.
        num_parallel: Simulations per round.
        selection: The rule, see above.
        exploration: c, in units of the range of rewards seen; None takes what did well on six instances of
            `benchmarks/search_efficiency.py`: 0.1 for "uct", 1 for "puct".
        num_candidates: Children of a node. Of "puct" alone.
        widening: C. Of "uct" alone.
        widening_exponent: α. Of "uct" alone.
        num_return_sequences: Number of completions returned, best first.

    Raises:
        SettingError: if a setting is out of range.
    """
    if selection not in ("uct", "puct"):
        raise SettingError(f"selection must be 'uct' or 'puct', but is {selection!r}.")
    if min(num_parallel, num_candidates) < 1:
        raise SettingError(f"num_parallel and num_candidates must be at least 1, but are {num_parallel} and {num_candidates}.")
    exploration = DEFAULT_EXPLORATION[selection] if exploration is None else exploration
    if not (math.isfinite(exploration) and exploration >= 0):
        raise SettingError(f"exploration must be a finite number, at least 0, but is {exploration}.")
    if not (math.isfinite(widening) and widening > 0 and 0 < widening_exponent <= 1):
        raise SettingError(f"widening must be above 0, widening_exponent in (0, 1], but are {widening} and {widening_exponent}.")
    found, root = _Found(), _Node()
    num_left, is_affordable = math.inf if num_rollouts is None else num_rollouts, True
    while num_left > 0 and is_affordable and not root.is_closed:
        points: list[_Node] = []
        for _ in range(int(min(num_parallel, num_left)) if root.visits else 1):
            if selection == "uct":
                point = _walk_uct(root, found, exploration, widening, widening_exponent)
            else:
                point = yield from _walk_puct(root, found, exploration, num_candidates, target)
            if point is None:
                is_affordable = False
                break
            points.append(point)
            for node in point.path():
                node.in_flight += 1
        ends, is_refused = yield from _roll_out(points, adds_children=selection == "uct")
        for point in points:
            for node in point.path():
                node.in_flight = 0
        completions = yield from found.count([completion for _, completion in ends])
        for (node, _), completion in zip(ends, completions, strict=True):
            node.back_up(reward_of(completion))
        num_left -= len(ends)
        is_affordable = is_affordable and not is_refused
    weights = np.array(found.counts) / sum(found.counts)
    chosen = tuple(best_first(found.completions)[:num_return_sequences])
    info = {"simulations": float(sum(found.counts))}
    return Outcome(tuple(found.completions), tuple(float(one) for one in weights), chosen, info)


@dataclass(slots=True, eq=False)
class _Node:
    tokens: Tokens = ()
    logprob: float = 0.0
    """log p of all tokens, nats."""
    prior: float = 1.0
    parent: _Node | None = None
    finish_reason: FinishReason = "unfinished"
    children: dict[int, _Node] = field(default_factory=dict)
    visits: int = 0
    reward_sum: float = 0.0
    in_flight: int = 0
    """Simulations of this round through the node."""
    has_untried: bool = True
    """Whether there may be tokens that are no children yet."""
    is_closed: bool = False
    """Whether nothing is left to try at or below the node."""

    @property
    def num_tries(self) -> int:
        return self.visits + self.in_flight

    def path(self) -> Iterator[_Node]:
        node: _Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def open_children(self) -> list[_Node]:
        return [child for child in self.children.values() if not child.is_closed]

    def expand(self, answer: TopTokens, max_new_tokens: int) -> None:
        """Take the answer's tokens as all the children there will be."""
        self.has_untried = False
        total = sum(math.exp(logprob) for logprob in answer.logprobs)
        for token, logprob, is_end in zip(answer.tokens, answer.logprobs, answer.is_end, strict=True):
            tokens = (*self.tokens, token)
            reason: FinishReason = "eos" if is_end else "length" if len(tokens) == max_new_tokens else "unfinished"
            self.children[token] = _Node(tokens, self.logprob + logprob, math.exp(logprob) / total, self, reason)

    def add_child(self, rollout: Rollout) -> _Node:
        """Add the child that a rollout from here begins with."""
        token, reason = rollout.tokens[0], rollout.finish_reason if len(rollout.tokens) == 1 else "unfinished"
        self.children[token] = _Node((*self.tokens, token), self.logprob + rollout.logprobs[0], 1.0, self, reason)
        return self.children[token]

    def back_up(self, reward: float) -> None:
        """Add a rollout's reward from here to the root, and close what has nothing left to try."""
        for node in self.path():
            node.visits += 1
            node.reward_sum += reward
            node.close_if_done()

    def close_if_done(self) -> None:
        self.is_closed = self.finish_reason != "unfinished" or not (self.has_untried or self.open_children())


class _Found:
    """The evaluated completions, each once, and how many simulations ended in each."""

    def __init__(self) -> None:
        self.completions: list[Completion] = []
        self.counts: list[int] = []
        self.index: dict[Tokens, int] = {}
        self.lowest, self.highest = math.inf, -math.inf

    def count(self, completions: list[Completion]) -> Generator[Any, Any, list[Completion]]:
        """Score those not seen before and return all of them with rewards."""
        unseen = {one.tokens: one for one in completions if one.tokens not in self.index}
        rewards = (yield Rewards(tuple(unseen.values()))) if unseen else ()
        for one, reward in zip(unseen.values(), rewards, strict=True):
            self.index[one.tokens] = len(self.completions)
            self.completions.append(replace(one, reward=reward))
            self.counts.append(0)
            self.lowest, self.highest = min(self.lowest, reward), max(self.highest, reward)
        for one in completions:
            self.counts[self.index[one.tokens]] += 1
        return [self.completions[self.index[one.tokens]] for one in completions]

    def value(self, node: _Node) -> float:
        """Q in [0, 1]; a simulation in flight counts as the lowest reward seen."""
        if self.highest <= self.lowest:
            return 0.0
        return (node.reward_sum - node.visits * self.lowest) / (node.num_tries * (self.highest - self.lowest))


def _walk_uct(root: _Node, found: _Found, exploration: float, widening: float, exponent: float) -> _Node:
    """Return the node that takes another child."""
    node = root
    while True:
        children = node.open_children()
        # Walks of this round that ended here are children to be.
        num_children = len(node.children) + node.in_flight - sum(child.in_flight for child in node.children.values())
        if node.has_untried and (not children or num_children < widening * node.num_tries**exponent):
            return node
        scale = exploration * math.sqrt(math.log(node.num_tries))
        node = max(children, key=lambda child: found.value(child) + scale / math.sqrt(child.num_tries))


def _walk_puct(
    root: _Node, found: _Found, exploration: float, num_candidates: int, target: Target
) -> Generator[Any, Any, _Node | None]:
    """Return a node without a visit, asking for the children of those on the way; None when the budget is spent."""
    node = root
    while node.num_tries > 0 and node.finish_reason == "unfinished":
        if node.has_untried:
            answer = yield NextTokens(node.tokens, num_candidates)
            if not answer.tokens:
                return None
            node.expand(answer, target.max_new_tokens)
        scale, urgency = exploration * math.sqrt(node.num_tries), found.value(node)

        def bound(child: _Node, scale: float = scale, urgency: float = urgency) -> float:
            return (found.value(child) if child.num_tries else urgency) + scale * child.prior / (1 + child.num_tries)

        node = max(node.open_children(), key=bound)
    return node


def _roll_out(points: list[_Node], *, adds_children: bool) -> Generator[Any, Any, tuple[list[tuple[_Node, Completion]], bool]]:
    """Finish a simulation from every point.

    Returns:
        The deepest node of each simulation with the completion, without reward; and whether the budget refused them all.
    """
    ends = [(one, Completion(one.tokens, one.logprob, one.finish_reason)) for one in points if one.finish_reason != "unfinished"]
    counts = Counter(one for one in points if one.finish_reason == "unfinished")
    exclude = {one: tuple(one.children) if adds_children else () for one in counts}
    branches = yield Parallel(
        tuple(Rollouts(one.tokens, count, exclude[one], distinct=adds_children) for one, count in counts.items())
    )
    for point, branch in zip(counts, branches, strict=True):
        for rollout in branch.rollouts:
            tokens, logprob = point.tokens + rollout.tokens, point.logprob + sum(rollout.logprobs)
            node = point.add_child(rollout) if adds_children else point
            ends.append((node, Completion(tokens, logprob, rollout.finish_reason)))
        if adds_children and branch.log_unseen == -math.inf:
            point.has_untried = False
            for node in point.path():
                node.close_if_done()
    return ends, bool(branches) and all(math.isnan(branch.log_unseen) for branch in branches)
