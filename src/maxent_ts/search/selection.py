"""Where to branch next: rules that name as many nodes as there are rollouts to make.

A rollout from node s continues p after the prefix s with a first token not seen there. Nodes with nothing unseen are never
named. A node named m times gets m rollouts with distinct first tokens.

A rule of the kind `Score` gives every node a number, and the highest are taken. Scores are kept: after a round only the
paths that it touched are scored again, and everything only when what all scores rest on has changed. So the work of a
round does not grow with the tree, but for one numpy argmax.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from scipy.special import log_ndtr, ndtr

from maxent_ts.errors import SettingError
from maxent_ts.search.beliefs import Beliefs
from maxent_ts.tree import NO_PARENT, ROOT, Tree

__all__ = ["BranchOn", "ByImprovement", "ByUnseenValue", "Frontier", "Score", "Select", "by_bound"]

Select = Callable[[Tree, Sequence[int], int], list[int]]
"""`(tree, touched, num) -> nodes`; `touched` are the nodes that changed since the last call, parents before children."""

PENALTY_IN_FLIGHT = 1.0
"""What a rollout already chosen in this round takes from the score of its node, so that rollouts spread."""


NUM_COMPLETIONS_TO_JUDGE_BY = 4
"""Below this too little is known of the spread of rewards."""

WORTH = 0.3
"""An improvement counts from so many standard deviations of the model's rewards: without it, last words are polished."""


BranchOn = Literal["token", "segment", "entropy"]
BRANCH_ON: tuple[str, ...] = get_args(BranchOn)

SEGMENT_TOKENS = 8

DECIDED = 0.7

PENALTY_ELSEWHERE = 1e6
"""Nats: more than scores ever differ by."""


class Score(Protocol):
    """Gives nodes a number in nats; the highest is the best place to branch."""

    def is_stale(self, tree: Tree, touched: Sequence[int]) -> bool:
        """Take in what has changed, once a round; returns whether all scores must be made again."""
        ...

    def __call__(self, tree: Tree, nodes: Sequence[int]) -> np.ndarray:
        """Score nodes, parents before children: float64 [number of nodes]; what it gives exhausted nodes does not matter."""
        ...


class Frontier:
    """Select by the highest score. Keeps the scores of all nodes of one tree.

    Args:
        score: The rule.
        whole_draws: The share of tokens that goes, whatever the score, to where a fresh draw from the model would most
            probably leave the tree.
        branch_on: Nodes to prefer: "segment", those at every `SEGMENT_TOKENS`-th token; "entropy", those where the token that
            the model wrote first had a probability below `DECIDED`. The others come when these have nothing unseen left.
    """

    def __init__(self, score: Score, whole_draws: float = 0.0, branch_on: BranchOn = "token") -> None:
        if branch_on not in BRANCH_ON:
            raise SettingError(f"branch_on must be one of {', '.join(BRANCH_ON)}, but is {branch_on!r}.")
        self._branch_on = branch_on
        self._score = score
        self._whole_draws = whole_draws
        self._num_whole_draw_tokens = 0.0
        self._scores = np.full(1024, -np.inf)
        self._masses = np.full(1024, -np.inf)
        """log p(s) + log ρ(s): of a fresh draw leaving at s."""

    def __call__(self, tree: Tree, touched: Sequence[int], num: int) -> list[int]:
        """Name `num` nodes. `touched`: those whose values changed since the last call, parents before children."""
        if not tree.completions:
            return [ROOT] * num
        while len(tree) > len(self._scores):
            self._scores, self._masses = (
                np.pad(one, (0, len(one)), constant_values=-np.inf) for one in (self._scores, self._masses)
            )
        nodes = range(len(tree)) if self._score.is_stale(tree, touched) else touched
        indices = np.asarray(nodes, dtype=np.int64)
        self._masses[indices] = masses = log_unseen_mass(tree, nodes)
        scores = np.where(np.isneginf(masses), -np.inf, self._score(tree, nodes))
        if self._branch_on != "token":
            scores = scores - PENALTY_ELSEWHERE * self._is_elsewhere(tree, nodes)
        self._scores[indices] = scores
        points = []
        for _ in range(num):
            is_whole = self._num_whole_draw_tokens < self._whole_draws * len(tree)
            point = int(np.argmax((self._masses if is_whole else self._scores)[: len(tree)]))
            if is_whole:
                self._num_whole_draw_tokens += tree.mean_to_write(point)
            for one in (self._scores, self._masses):
                one[point] -= PENALTY_IN_FLIGHT
            points.append(point)
        return points

    def _is_elsewhere(self, tree: Tree, nodes: Sequence[int]) -> np.ndarray:
        """Whether nodes are not among those to branch on: bool [number of nodes]."""
        if self._branch_on == "segment":
            return np.array([tree.depth[node] % SEGMENT_TOKENS != 0 for node in nodes])
        first = [next(iter(tree.children[node].values()), ROOT) for node in nodes]
        return np.array([tree.logprob[one] > math.log(DECIDED) for one in first])


class ByUnseenValue:
    """The posterior mass that lies outside the tree at a node, seen with some optimism.

        log p(s) + log ρ(s) + λ (m(s) + c √(V(s) + var m(s)))

    With m(s) the mean reward to come by `Beliefs`, and the root of what is undecided or unknown about a reward there, c times over.
    With U(s) in place of exp(λ m(s)), and without the last term, it would be π restricted to what is unseen; but U(s) knows only
    the completions below s, and at a large λ only the best of them.

    Args:
        optimism: c.
    """

    def __init__(self, optimism: float = 0.5) -> None:
        self.beliefs = Beliefs()
        self._optimism = optimism

    def is_stale(self, tree: Tree, touched: Sequence[int]) -> bool:
        """Whether all beliefs have changed."""
        return self.beliefs.update(tree, touched)

    def __call__(self, tree: Tree, nodes: Sequence[int]) -> np.ndarray:
        """Score nodes."""
        indices = np.asarray(nodes, dtype=np.int64)
        rewards = self.beliefs.mean[indices]
        if len(tree.completions) >= NUM_COMPLETIONS_TO_JUDGE_BY:
            rewards = rewards + self._optimism * self.beliefs.spread(indices)
        return log_unseen_mass(tree, nodes) + tree.target.tilt * rewards


class ByImprovement:
    """The expected improvement over the best reward so far, weighed against its cost.

    The reward r of a rollout from s is taken as normal, with the mean of `Beliefs` and a variance of two parts: what is
    not yet known about that mean, and what the tokens still to be written will decide. With r* the best reward and a little
    (`WORTH`), c(s) the tokens still to be written and ρ(s) the chance that the model itself would leave the tree at s, it is

        log E[max(r − r*, 0)] − ½ log c(s) + ½ log ρ(s)

    Both halves were chosen on training data of the embedded tasks (docs/algorithm.md); 1 for the cost resamples last words
    only, 0 forgets that tokens are paid for.

    Reference: expected improvement is Mockus 1978's criterion of Bayesian optimisation.
    """

    def __init__(self) -> None:
        self.beliefs = Beliefs()
        self._best = -math.inf

    def is_stale(self, tree: Tree, touched: Sequence[int]) -> bool:
        """Whether the best reward or all beliefs have changed."""
        is_better = tree.best_reward[ROOT] > self._best
        self._best = tree.best_reward[ROOT]
        return self.beliefs.update(tree, touched) or is_better

    def __call__(self, tree: Tree, nodes: Sequence[int]) -> np.ndarray:
        """Score nodes."""
        if len(tree.completions) < NUM_COMPLETIONS_TO_JUDGE_BY:
            return log_unseen_mass(tree, nodes)
        indices = np.asarray(nodes, dtype=np.int64)
        beliefs = self.beliefs
        spread = beliefs.spread(indices)
        aim = self._best + WORTH * math.sqrt(beliefs.undecided[ROOT] + beliefs.variance[ROOT])
        log_gain = np.log(spread) + log_expected_excess((beliefs.mean[indices] - aim) / spread)
        log_unseen = np.array([tree.log_unseen[node] for node in nodes])
        return log_gain - 0.5 * np.log(beliefs.to_write[indices]) + 0.5 * log_unseen


def log_unseen_mass(tree: Tree, nodes: Sequence[int]) -> np.ndarray:
    """Return log p(s) + log ρ(s), nats, float64 [number of nodes]: of a fresh draw from the model leaving the tree at s."""
    return np.array([tree.path_logprob[node] + tree.log_unseen[node] for node in nodes])


def log_expected_excess(z: np.ndarray) -> np.ndarray:
    """Log E[max(x, 0)] of x ~ normal(z, 1) = log(φ(z) + z Φ(z)), also far below 0 where the two cancel."""
    log_density = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    near = np.maximum(z, -5.0)
    direct = np.log(np.exp(-0.5 * near * near) / math.sqrt(2 * math.pi) + near * ndtr(near))
    # Below -5: φ(z) + zΦ(z) = φ(z)·(1 + z·Φ(z)/φ(z)), and 1 + z·Φ/φ = 1/z² − 3/z⁴ + … ; Φ/φ from log_ndtr keeps its digits.
    far = np.minimum(z, -5.0)
    mills = np.exp(log_ndtr(far) + 0.5 * far * far + 0.5 * math.log(2 * math.pi))
    tail = log_density + np.log(np.maximum(1.0 + far * mills, 1.0 / (far * far + 3.0)))
    return np.where(z > -5.0, direct, tail)


def by_bound(exploration: float) -> Select:
    """PUCT on soft values: go to the child, or leave, by the larger of V + c·prior·√n(s) / (1 + n).

    V = log W / λ is scaled to [0, 1] by the rewards seen; the prior of leaving is ρ(s). Rollouts chosen in the same round
    count as visits, so that they spread.

    Reference: Silver et al. 2017, "Mastering the game of Go without human knowledge", methods.

    Args:
        exploration: c, in units of the range of rewards seen.
    """

    def select(tree: Tree, touched: Sequence[int], num: int) -> list[int]:
        in_flight: Counter[int] = Counter()
        points: list[int] = []
        for _ in range(num):
            points.append(_descend(tree, exploration, in_flight, Counter(points)))
        return points

    return select


def _descend(tree: Tree, exploration: float, in_flight: Counter[int], num_leaving: Counter[int]) -> int:
    """One walk of `by_bound`."""
    rewards = [one.reward for one in tree.completions if one.reward is not None]
    low, high = min(rewards, default=0.0), max(rewards, default=0.0)
    scale = 1.0 / (high - low) if high > low and tree.target.tilt > 0 else 0.0
    node = ROOT
    while node != NO_PARENT:
        in_flight[node] += 1
        bonus = exploration * math.sqrt(tree.visits[node] + in_flight[node])

        def bound(one: int, log_prior: float, count: int, bonus: float = bonus) -> float:
            value = (tree.log_value[one] / tree.target.tilt - low) * scale if scale else 0.0
            return value + bonus * math.exp(log_prior) / (1 + count)

        # Leaving has been tried once for every child.
        arms = [(bound(node, tree.log_unseen[node], len(tree.children[node]) + num_leaving[node]), node)]
        for child in tree.children[node].values():
            if tree.log_open[child] > -math.inf:
                arms.append((bound(child, tree.logprob[child], tree.visits[child] + in_flight[child]), child))
        if tree.log_unseen[node] == -math.inf:
            arms = arms[1:]
        _, chosen = max(arms, key=lambda arm: arm[0])
        if chosen == node:
            return node
        node = chosen
    return ROOT
