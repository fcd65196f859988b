"""VGB, value-guided backtracking: a reversible random walk on the tree of prefixes that goes up as well as down.

Legend: s a prefix, s⁻ its parent, sa its child by token a; V̂(s) an estimate of E_p[exp(λ r) | s], exact at a finished s.
From s the walk goes to s⁻ with weight V̂(s) and to sa with weight p(a|s)·V̂(sa).

Times p(s), the weight of an edge is p(sa)·V̂(sa) seen from either end: the walk is reversible, its law at s is the sum of
the edges there, and at a leaf, which has one edge, that is p(x)·exp(λ r(x)). So among leaves the law is π whatever V̂ is;
what V̂ decides is how fast the walk gets about.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import NextTokens, Parallel, PrefixRewards, Rollouts, Search
from maxent_ts.search.completions import draw, reward_of, score
from maxent_ts.types import Completion, Outcome, Target, Tokens

__all__ = ["vgb"]

EVERY_TOKEN = 1 << 30
ROOT = 0
NO_PARENT = -1
STEPS_PER_PREFIX = 1000


def vgb(
    rng: np.random.Generator,
    target: Target,
    *,
    num_steps: int | None = None,
    num_completions: int = 1,
    num_candidates: int | None = None,
    burn_in: float = 0.25,
    num_return_sequences: int = 1,
) -> Search:
    """Draw from π by a walk that steps down by value and steps back by value.

    V̂ is exp(λ ψ) of the prefix reward where there is one. Else it is one step late: V̂(sa) is the mean of exp(λ r) over
    `num_completions` completions drawn from s when the walk first stands there, the same for every a (the paper's example
    3.2: it cannot tell which token to take, yet it tells that the last one was bad, and the walk steps back).

    Cost: where the walk stands for the first time it pays one token for the next-token distribution, one (prefix) reward for
    each child, and without prefix rewards the completions. Where it has been before it pays nothing, hence `num_steps`.
    Before it starts one completion is drawn from p, so that there is an answer under every budget. The paper's walk also
    stays put half of the time, so that its position at a given time has a limit; holding times are the same everywhere and
    change no average over time, so they are left out.

    The weights are the time spent in leaves, each visit of a prefix shared among its finished children as the next step
    would be (Rao-Blackwell).

    Reference: Rohatgi et al. 2025, "Taming imperfect process verifiers: a sampling perspective on backtracking", arXiv
    2510.03149, algorithm 1; it generalises the walk of Sinclair and Jerrum 1989.

    Args:
        rng: Walks, and draws what is returned.
        target: Gives λ, `max_new_tokens`, and whether there are prefix rewards.
        num_steps: Steps at most; the walk ends earlier when the budget is spent. None is a thousand for each prefix it has
            come to: by then what it has paid for is well walked.
        num_completions: Without prefix rewards, completions per estimate of V̂.
        num_candidates: Children considered at each prefix, the likeliest. None takes every token: only then is π the limit,
            unless the sampling policy itself has no more tokens.
        burn_in: Share of the steps that is left out, in [0, 1).
        num_return_sequences: Number of draws returned, with replacement.
    """
    for name, value in (("num_steps", num_steps), ("num_completions", num_completions), ("num_candidates", num_candidates)):
        if value is not None and value < 1:
            raise SettingError(f"{name} must be at least 1, but is {value}.")
    if not 0 <= burn_in < 1:
        raise SettingError(f"burn_in must lie in [0, 1), but is {burn_in}.")
    walk = Walk(target, num_completions, EVERY_TOKEN if num_candidates is None else num_candidates)
    drawn = yield from walk.score((yield from draw(1)))
    visits: list[int] = []
    index = num_taken = 0
    while num_taken < (num_steps or STEPS_PER_PREFIX * len(walk.nodes)) and (
        yield from walk.expand(index, drawn if index == ROOT else [])
    ):
        visits.append(index)
        node = walk.nodes[index]
        place = bisect_right(node.cumulative, rng.random() * node.cumulative[-1])
        if place == len(node.children):
            index = node.parent
        elif node.children[place].finish_reason == "unfinished":
            index = walk.child(index, place)
        else:
            num_taken += 1  # To a leaf and back: it has no other neighbour.
        num_taken += 1
    weights = walk.leaf_weights(visits[int(burn_in * len(visits)) :])
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights)
    info = {"num_steps": float(num_taken), "num_prefixes": float(len(set(visits)))}
    return Outcome(tuple(walk.completions), tuple(weights.tolist()), tuple(int(one) for one in chosen), info)


@dataclass(slots=True)
class Node:
    """An unfinished prefix, and its children once the walk has stood there."""

    tokens: Tokens
    logprob: float
    parent: int
    log_value: float
    """log V̂, nats."""
    children: list[Completion] = field(default_factory=list)
    log_weights: list[float] = field(default_factory=list)
    """log of p(a|s)·V̂(sa), one per child."""
    cumulative: list[float] = field(default_factory=list)
    """Running sums of the children's weights, then the parent's, relative to the largest."""
    nodes: dict[int, int] = field(default_factory=dict)
    """Nodes of the unfinished children the walk has gone to, by place in `children`."""


class Walk:
    """The tree as far as the walk has seen it."""

    def __init__(self, target: Target, num_completions: int, num_candidates: int) -> None:
        self.target = target
        self.num_completions = num_completions
        self.num_candidates = num_candidates
        # The root has no parent, so its own V̂ is never used.
        self.nodes = [Node((), 0.0, NO_PARENT, -math.inf)]
        self.completions: list[Completion] = []
        self._places: dict[Tokens, int] = {}

    def score(self, completions: Sequence[Completion]) -> Generator[Any, Any, list[Completion]]:
        """Return finished completions with rewards, asked for once each."""
        fresh = {one.tokens: one for one in completions if one.tokens not in self._places}
        if fresh:
            for one in (yield from score(tuple(fresh.values()))):
                self._places[one.tokens] = len(self.completions)
                self.completions.append(one)
        return [self.completions[self._places[one.tokens]] for one in completions]

    def expand(self, index: int, drawn: list[Completion]) -> Generator[Any, Any, bool]:
        """Look at the children of a node; False if the budget does not allow it. `drawn` are completions already drawn there."""
        node = self.nodes[index]
        if node.cumulative:
            return True
        num = 0 if self.target.has_prefix_rewards else self.num_completions - len(drawn)
        requests = (NextTokens(node.tokens, self.num_candidates), *([Rollouts(node.tokens, num)] if num > 0 else []))
        following, *branches = yield Parallel(requests)
        if not following.tokens or any(not branch.rollouts for branch in branches):
            return False
        for token, logprob, is_end in zip(following.tokens, following.logprobs, following.is_end, strict=True):
            tokens = (*node.tokens, token)
            reason = "eos" if is_end else "length" if len(tokens) == self.target.max_new_tokens else "unfinished"
            node.children.append(Completion(tokens, node.logprob + logprob, reason))
        rollouts = [rollout for branch in branches for rollout in branch.rollouts]
        fresh = [Completion(node.tokens + one.tokens, node.logprob + sum(one.logprobs), one.finish_reason) for one in rollouts]
        log_values = yield from self._log_values(node, [*drawn, *fresh])
        node.log_weights = [logprob + value for logprob, value in zip(following.logprobs, log_values, strict=True)]
        logs = [*node.log_weights, node.log_value]
        high = max(logs)
        node.cumulative = list(accumulate(math.exp(one - high) for one in logs))
        return True

    def _log_values(self, node: Node, drawn: list[Completion]) -> Generator[Any, Any, list[float]]:
        """Return log V̂ of every child: exact at the finished ones, an estimate at the others."""
        tilt = self.target.tilt
        finished = [one for one in node.children if one.finish_reason != "unfinished"]
        unfinished = tuple(one for one in node.children if one.finish_reason == "unfinished")
        scored = yield from self.score([*finished, *drawn])
        log_values = {one.tokens: tilt * reward_of(one) for one in scored[: len(finished)]}
        if unfinished and self.target.has_prefix_rewards:
            values = yield PrefixRewards(unfinished)
            log_values |= {one.tokens: tilt * value for one, value in zip(unfinished, values, strict=True)}
        elif unfinished:
            late = np.logaddexp.reduce([tilt * reward_of(one) for one in scored[len(finished) :]]) - math.log(len(drawn))
            log_values |= {one.tokens: float(late) for one in unfinished}
        return [log_values[one.tokens] for one in node.children]

    def child(self, index: int, place: int) -> int:
        """Return the node of an unfinished child, making it on the first visit."""
        node = self.nodes[index]
        if place not in node.nodes:
            one = node.children[place]
            log_value = node.log_weights[place] - (one.logprob - node.logprob)
            node.nodes[place] = len(self.nodes)
            self.nodes.append(Node(one.tokens, one.logprob, index, log_value))
        return node.nodes[place]

    def leaf_weights(self, visits: list[int]) -> np.ndarray:
        """Share the visits of prefixes among their finished children: float64 [number of completions], summing to 1."""
        weights = np.zeros(len(self.completions))
        for index, count in Counter(visits).items():
            node = self.nodes[index]
            log_sum = np.logaddexp.reduce([*node.log_weights, node.log_value])
            for child, log_weight in zip(node.children, node.log_weights, strict=True):
                if child.finish_reason != "unfinished":
                    weights[self._places[child.tokens]] += count * math.exp(log_weight - log_sum)
        if weights.sum() == 0.0:
            weights[0] = 1.0  # It has not been next to a leaf: what stands is the completion drawn before it set out.
        return weights / weights.sum()
