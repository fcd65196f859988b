"""The tree of everything a search has paid for, and the soft Bellman backup on it.

A node s is a token prefix; its edge from the parent carries log p(a|s) of the model. For every node, in log space:

    ρ(s) = 1 - Σ_a p(a|s)                     prior mass not seen yet (sum over the children seen)
    U(s) = Σ_a p(a|s) W(sa) / Σ_a p(a|s)      value of what was not seen: the p-weighted mean of what was
    W(s) = Σ_a p(a|s) W(sa) + ρ(s) U(s)       soft value, estimates E_p[exp(λ r) | s]
    K(s) = Σ_a p(a|s) K(sa)                   the part of W known exactly
    R(s) = Σ_a p(a|s) R(sa) + ρ(s) U(s)       the rest, W - K, by its own recursion (no cancellation)
    M(s) = Σ_a p(a|s) M(sa) + ρ(s)            prior mass below s not evaluated yet
    leaf x: W = K = exp(λ r(x)), R = M = 0

Because ρ + Σp = 1, W(s) is simply U(s): along a chain without branches W stays the same. Where the reward has guessed ψ(s)
for the prefix itself (`set_guess`), U(s) is the mean of that mean and exp(λ ψ(s)), weighted by the completions below s and by
`GUESS_WEIGHT`.

The tree knows tokens, log-probabilities and rewards. It knows nothing of language models, and holds no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from maxent_ts.sums import FEW_CHILDREN, ChildTable, log_add, log_sum, log_sum_of_many
from maxent_ts.types import Completion, FinishReason, Rollout, Target, Tokens

__all__ = ["GUESS_WEIGHT", "NO_COMPLETION", "NO_PARENT", "ROOT", "Tree"]

GUESS_WEIGHT = 1.0
"""Of a reward's guess for a prefix, in completions."""

ROOT = 0
NO_PARENT = -1
NO_COMPLETION = -1

CHILD_COLUMNS = ("logprob", "log_value", "log_known", "log_open", "log_rest", "probability")
"""What the tree's `ChildTable`s hold of each child: log p(a|s), log of p(a|s) W(sa), p(a|s) K(sa), …, and p(a|s)."""


class Tree:
    """Nodes as parallel lists, one entry per token paid for; a parent's index is below its children's.

    Attributes:
        target: What the weights aim at.
        parent: Index of the parent, `NO_PARENT` for the root.
        token: The token on the edge from the parent.
        logprob: log p(token | parent), nats.
        path_logprob: log p(prefix), nats.
        depth: Number of tokens.
        children: Token to node index, in order of appearance.
        log_unseen: log ρ.
        log_value: log W.
        log_outside: log U; at a leaf the same as `log_value`.
        guess: ψ, the reward's guess of log E_p[exp(λ r) | s] / λ; None where it made none.
        log_rest: log R.
        log_known: log K.
        log_open: log M.
        visits: Completions evaluated at or below the node.
        reward_sum: Sum of their rewards.
        length_sum: Sum of their lengths in tokens, counted from the root.
        best_reward: The highest reward at or below the node; -inf before any.
        completion: Index into `completions` at a leaf, else `NO_COMPLETION`.
        completions: The evaluated leaves in order of arrival.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.parent: list[int] = []
        self.token: list[int] = []
        self.logprob: list[float] = []
        self.path_logprob: list[float] = []
        self.depth: list[int] = []
        self.children: list[dict[int, int]] = []
        self.log_unseen: list[float] = []
        self.log_value: list[float] = []
        self.log_outside: list[float] = []
        self.guess: list[float | None] = []
        self.log_rest: list[float] = []
        self.log_known: list[float] = []
        self.log_open: list[float] = []
        self.visits: list[int] = []
        self.reward_sum: list[float] = []
        self.length_sum: list[int] = []
        self.best_reward: list[float] = []
        self.completion: list[int] = []
        self.completions: list[Completion] = []
        self._tables: dict[int, ChildTable] = {}
        self._append(NO_PARENT, -1, 0.0)

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.parent)

    @property
    def is_exhausted(self) -> bool:
        """Whether every completion with positive probability has been evaluated."""
        return self.log_open[ROOT] == -math.inf

    def prefix(self, node: int) -> Tokens:
        """The tokens from the root to a node."""
        tokens = []
        while node != ROOT:
            tokens.append(self.token[node])
            node = self.parent[node]
        return tuple(reversed(tokens))

    def path(self, node: int) -> Iterator[int]:
        """The nodes from a node up to the root, both included."""
        while node != NO_PARENT:
            yield node
            node = self.parent[node]

    def add(self, node: int, rollout: Rollout) -> int:
        """Hang a rollout below a node and return its last node: a leaf that waits for its reward.

        Tokens already in the tree are followed, not doubled.
        """
        for token, logprob in zip(rollout.tokens, rollout.logprobs, strict=True):
            child = self.children[node].get(token)
            if child is None:
                child = self._append(node, token, logprob)
                self.children[node][token] = child
                self.log_unseen[node] = self._log_one_minus_seen(node)
            node = child
        return node

    def set_unseen(self, node: int, log_unseen: float) -> None:
        """Replace log ρ by the engine's own sum over the unseen tokens, which does not suffer from cancellation."""
        self.log_unseen[node] = log_unseen

    def set_guess(self, node: int, guess: float) -> None:
        """Note what the reward promises for a prefix, in its own unit; `back_up` it afterwards."""
        self.guess[node] = guess

    def evaluate(self, leaf: int, reward: float, finish_reason: FinishReason) -> Completion:
        """Make a node an evaluated leaf. Call `back_up` afterwards. A leaf evaluated before keeps its completion."""
        if self.completion[leaf] == NO_COMPLETION:
            completion = Completion(self.prefix(leaf), self.path_logprob[leaf], finish_reason, reward)
            self.completion[leaf] = len(self.completions)
            self.completions.append(completion)
            self._set_leaf(leaf, reward)
        for node in self.path(leaf):
            self.visits[node] += 1
            self.reward_sum[node] += reward
            self.length_sum[node] += self.depth[leaf]
            self.best_reward[node] = max(self.best_reward[node], reward)
        return self.completions[self.completion[leaf]]

    def extend(self, additions: Sequence[tuple[int, Rollout, float]], log_unseen: Mapping[int, float] | None = None) -> list[int]:
        """Hang rollouts with their rewards below nodes, and back up.

        Args:
            additions: (node, rollout, reward).
            log_unseen: log ρ at nodes after that, for `set_unseen`.

        Returns:
            The nodes that changed, parents first.
        """
        leaves = []
        for node, rollout, reward in additions:
            leaves.append(self.add(node, rollout))
            self.evaluate(leaves[-1], reward, rollout.finish_reason)
        for node, value in (log_unseen or {}).items():
            self.set_unseen(node, value)
        return self.back_up([*(log_unseen or ()), *leaves])

    def back_up(self, nodes: Sequence[int]) -> list[int]:
        """Recompute the paths from these nodes to the root, deeper nodes first. Returns the nodes on them, parents first."""
        touched: set[int] = set()
        for node in nodes:
            while node != NO_PARENT and node not in touched:
                touched.add(node)
                node = self.parent[node]
        ordered = sorted(touched)
        for node in reversed(ordered):
            self._back_up_one(node)
        return ordered

    def log_leave(self, node: int) -> float:
        """Return log of ρ(s)·U(s): the share of W that lies outside the tree at this node."""
        return self.log_unseen[node] + self.log_outside[node]

    def back_up_all(self, target: Target, rewards: Sequence[float] | None = None) -> None:
        """Recompute every node for another target, or other rewards; no model call is needed.

        Args:
            target: The new target.
            rewards: One per entry of `completions`; None keeps them.
        """
        self.target = target
        self._tables.clear()
        if rewards is not None:
            pairs = zip(self.completions, rewards, strict=True)
            self.completions = [
                Completion(one.tokens, one.logprob, one.finish_reason, float(reward), one.text) for one, reward in pairs
            ]
        for node in reversed(range(len(self))):
            self.best_reward[node] = max((self.best_reward[child] for child in self.children[node].values()), default=-math.inf)
            self.reward_sum[node] = sum(self.reward_sum[child] for child in self.children[node].values())
            if self.completion[node] != NO_COMPLETION:
                reward = self.completions[self.completion[node]].reward
                assert reward is not None
                self._set_leaf(node, reward)
                self.best_reward[node] = reward
                self.reward_sum[node] = reward * self.visits[node]
            else:
                self._back_up_one(node)

    def mean_to_write(self, node: int) -> float:
        """Tokens that a completion from a node still takes, by the mean length of those evaluated below it; at least 1."""
        return max(self.length_sum[node] / self.visits[node] - self.depth[node], 1.0)

    def log_weights(self) -> np.ndarray:
        """The weight of every completion in a walk that never leaves the tree, normalised: child ∝ p·W among those seen.

        Equal to p(x)·exp(λ r(x)) / Π_s Σ_a p(a|s) along the path: what a node has not seen is spread over what it has.
        When all is seen this is π. Order as `completions`.

        Returns:
            float64 array of shape [number of completions], logs of weights that sum to 1.
        """
        log_share = np.zeros(len(self))
        for node in range(len(self)):
            children = list(self.children[node].values())
            if children:
                scores = np.array([self.logprob[child] + self.log_value[child] for child in children])
                log_share[children] = log_share[node] + scores - np.logaddexp.reduce(scores)
        log_weights = np.empty(len(self.completions))
        for node, completion in enumerate(self.completion):
            if completion != NO_COMPLETION:
                log_weights[completion] = log_share[node]
        return log_weights

    def log_posterior(self) -> np.ndarray:
        """Log of p(x)·exp(λ r(x)) / W(root) for every completion: its share of the frozen tree's law, which may leave the tree.

        Returns:
            float64 array of shape [number of completions], logs of numbers that sum to K(root) / W(root).
        """
        return np.array([one.logprob + self.target.tilt * (one.reward or 0.0) for one in self.completions]) - self.log_value[ROOT]

    def log_partition(self) -> tuple[float, float, float]:
        """Estimate and bracket of log Z.

        Returns:
            (lower, estimate, upper) in nats. The bracket holds whenever the rewards keep `target.reward_range`; where a
            bound of it is infinite, so may be the bracket's.
        """
        low, high = self.target.reward_range
        known, unknown = self.log_known[ROOT], self.log_open[ROOT]
        if unknown == -math.inf:
            return known, known, known
        lower = np.logaddexp(known, unknown + _scale(self.target.tilt, low))
        upper = np.logaddexp(known, unknown + _scale(self.target.tilt, high))
        return float(lower), self.log_value[ROOT], float(upper)

    def statistics(self) -> dict[str, float]:
        """Size and shape: nodes, leaves, branching nodes, mean children of those, depth of the deepest leaf."""
        branching = [len(one) for one in self.children if len(one) > 1]
        return {
            "nodes": len(self),
            "leaves": len(self.completions),
            "branching_nodes": len(branching),
            "mean_branching": float(np.mean(branching)) if branching else 1.0,
            "depth": max(self.depth),
        }

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain JSON values: see `maxent_ts.tree_storage`."""
        from maxent_ts.tree_storage import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Tree:
        """Build the tree again from what `to_dict` returned.

        Raises:
            DataError: if it is no such dictionary, or one that an earlier version stored without what it takes.
        """
        from maxent_ts.tree_storage import from_dict

        return from_dict(stored)

    def _repr_html_(self) -> str:
        """The tree as a picture, for notebooks."""
        from maxent_ts.report.notebook import tree_html

        return tree_html(self)

    def _append(self, parent: int, token: int, logprob: float) -> int:
        self.parent.append(parent)
        self.token.append(token)
        self.logprob.append(logprob)
        self.path_logprob.append(logprob if parent == NO_PARENT else self.path_logprob[parent] + logprob)
        self.depth.append(0 if parent == NO_PARENT else self.depth[parent] + 1)
        self.children.append({})
        self.log_unseen.append(0.0)
        self.log_value.append(0.0)
        self.log_outside.append(0.0)
        self.guess.append(None)
        self.log_rest.append(0.0)
        self.log_known.append(-math.inf)
        self.log_open.append(0.0)
        self.visits.append(0)
        self.reward_sum.append(0.0)
        self.length_sum.append(0)
        self.best_reward.append(-math.inf)
        self.completion.append(NO_COMPLETION)
        return len(self.parent) - 1

    def _set_leaf(self, leaf: int, reward: float) -> None:
        self.log_value[leaf] = self.log_outside[leaf] = self.log_known[leaf] = self.target.tilt * reward
        self.log_rest[leaf] = self.log_open[leaf] = self.log_unseen[leaf] = -math.inf
        self._note_at_parent(leaf)

    def _back_up_one(self, node: int) -> None:
        children = self.children[node]
        if self.completion[node] != NO_COMPLETION or not children:
            return
        if len(children) == 1 and self.guess[node] is None:  # most nodes: what one rollout wrote
            (child,) = children.values()
            logprob = self.logprob[child]
            self.log_value[node] = self.log_outside[node] = logprob + self.log_value[child] - logprob
            self.log_known[node] = logprob + self.log_known[child]
            self.log_open[node] = log_add(self.log_unseen[node], logprob + self.log_open[child])
            self.log_rest[node] = log_add(self.log_leave(node), logprob + self.log_rest[child])
        else:
            self._back_up_branching(node)
        self._note_at_parent(node)

    def _back_up_branching(self, node: int) -> None:
        log_seen, log_inside = self._log_total(node, "logprob"), self._log_total(node, "log_value")
        self.log_value[node] = self.log_outside[node] = log_inside - log_seen
        guess = self.guess[node]
        if guess is not None:
            weights = math.log(max(self.visits[node], 1)), math.log(GUESS_WEIGHT)
            terms = [weights[0] + log_inside - log_seen, weights[1] + self.target.tilt * guess]
            self.log_outside[node] = log_sum(terms) - log_sum(list(weights))
            self.log_value[node] = log_sum([log_inside, self.log_leave(node)])
        self.log_known[node] = self._log_total(node, "log_known")
        self.log_open[node] = self._log_total(node, "log_open", self.log_unseen[node])
        self.log_rest[node] = self._log_total(node, "log_rest", self.log_leave(node))

    def _log_total(self, node: int, column: str, first: float | None = None) -> float:
        """Log of Σ_a p(a|s)·exp(column of sa), or of Σ_a p(a|s) for "logprob"; with `first` as one more term before those."""
        children = self.children[node].values()
        if len(children) > FEW_CHILDREN:
            return log_sum_of_many(self._table(node).column(CHILD_COLUMNS.index(column), first))
        if column == "logprob":
            terms = [self.logprob[child] for child in children]
        else:
            below = getattr(self, column)
            terms = [self.logprob[child] + below[child] for child in children]
        return log_sum(terms if first is None else [first, *terms])

    def _table(self, node: int) -> ChildTable:
        """What all children of a node are now."""
        table = self._tables.get(node)
        if table is None:
            table = self._tables[node] = ChildTable(len(CHILD_COLUMNS))
        if len(table) < len(self.children[node]):
            for child in table.missing(self.children[node]):
                table.append(child, self._child_row(child))
        return table

    def _note_at_parent(self, node: int) -> None:
        """Keep the parent's table, where it has one, at what a node is now."""
        table = self._tables.get(self.parent[node])
        if table is not None:
            table.replace(node, self._child_row(node))

    def _child_row(self, child: int) -> tuple[float, ...]:
        logprob = self.logprob[child]
        values = (self.log_value, self.log_known, self.log_open, self.log_rest)
        return (logprob, *(logprob + column[child] for column in values), math.exp(logprob))

    def _log_one_minus_seen(self, node: int) -> float:
        """Return log ρ as 1 - Σ_a p(a|s), -inf where rounding leaves nothing."""
        children = self.children[node].values()
        if len(children) == 1:
            rest = -math.expm1(self.logprob[next(iter(children))])
        elif len(children) > FEW_CHILDREN:
            rest = 1.0 - sum(self._table(node).column(CHILD_COLUMNS.index("probability")).tolist())
        else:
            rest = 1.0 - sum([math.exp(self.logprob[child]) for child in children])
        return math.log(rest) if rest > 0 else -math.inf


def _scale(tilt: float, reward: float) -> float:
    """Tilt times reward, 0 at tilt 0 even for infinite bounds."""
    return 0.0 if tilt == 0 else tilt * reward
