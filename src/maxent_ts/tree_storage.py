"""A search tree as plain JSON values, a chain without branches being one node, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from maxent_ts.errors import DataError
from maxent_ts.tree import NO_COMPLETION, NO_PARENT, ROOT, Tree
from maxent_ts.types import Rollout, Target

__all__ = ["from_dict", "to_dict"]


def to_dict(tree: Tree) -> dict[str, Any]:
    """Return a tree as plain JSON values.

    Returns:
        `{"tilt", "max_new_tokens", "reward_range", "nodes": [{"parent", "tokens", "logprobs", "logprob", "first_logprob",
        "log_value", "log_unseen", "log_known", "log_open", "guesses", "mass", "visits", "best_reward", "completion"}],
        "completions": [{"tokens", "logprob", "reward", "finish_reason"}]}`. `logprobs` are those of the node's tokens, `logprob`
        their sum, `first_logprob` the first of them, by which siblings compare; `guesses` are what the reward promised after each
        token; `mass` is the node's share of the posterior, `completion` null inside the tree, and infinite numbers are null.
        Nodes come depth first, completions in order of arrival.
    """
    log_weights = tree.log_weights()
    mass = np.zeros(len(tree))
    for node in reversed(range(len(tree))):
        if tree.completion[node] != NO_COMPLETION:
            mass[node] += math.exp(log_weights[tree.completion[node]])
        if tree.parent[node] != NO_PARENT:
            mass[tree.parent[node]] += mass[node]
    nodes: list[dict[str, Any]] = []
    stack: list[tuple[int, int]] = [(ROOT, NO_PARENT)]
    while stack:
        node, parent = stack.pop()
        chain = [] if node == ROOT else [node]
        while node != ROOT and len(tree.children[node]) == 1:
            (node,) = tree.children[node].values()
            chain.append(node)
        logprobs = [tree.logprob[one] for one in chain]
        completion = tree.completion[node]
        nodes.append(
            {
                "parent": parent,
                "tokens": [tree.token[one] for one in chain],
                "logprobs": logprobs,
                "logprob": sum(logprobs),
                "first_logprob": logprobs[0] if logprobs else 0.0,
                "log_value": _finite(tree.log_value[node]),
                "log_unseen": _finite(tree.log_unseen[node]),
                "log_known": _finite(tree.log_known[node]),
                "log_open": _finite(tree.log_open[node]),
                "guesses": [tree.guess[one] for one in chain],
                "mass": float(mass[node]),
                "visits": tree.visits[node],
                "best_reward": _finite(tree.best_reward[node]),
                "completion": None if completion == NO_COMPLETION else completion,
            }
        )
        index = len(nodes) - 1
        stack.extend((child, index) for child in reversed(tree.children[node].values()))
    completions = [
        {"tokens": list(one.tokens), "logprob": one.logprob, "reward": one.reward, "finish_reason": one.finish_reason}
        for one in tree.completions
    ]
    reward_range = [_finite(bound) for bound in tree.target.reward_range]
    return {
        "tilt": tree.target.tilt,
        "max_new_tokens": tree.target.max_new_tokens,
        "reward_range": reward_range,
        "nodes": nodes,
        "completions": completions,
    }


def from_dict(stored: Mapping[str, Any]) -> Tree:
    """Build a tree again from what `to_dict` returned.

    Raises:
        DataError: if it is no such dictionary, or one that an earlier version stored without what it takes.
    """
    try:
        low, high = stored["reward_range"]
        bounds = (-math.inf if low is None else low, math.inf if high is None else high)
        tree = Tree(Target(stored["tilt"], stored["max_new_tokens"], bounds))
        last: list[int] = []
        for one in stored["nodes"]:
            node = ROOT if one["parent"] == NO_PARENT else last[one["parent"]]
            if one["tokens"]:
                node = tree.add(node, Rollout(tuple(one["tokens"]), tuple(one["logprobs"]), "length"))
            for above, guess in zip(tree.path(node), reversed(one["guesses"]), strict=False):
                tree.guess[above] = guess
            last.append(node)
        pairs = zip(stored["nodes"], last, strict=True)
        leaves = {one["completion"]: (node, one["visits"]) for one, node in pairs if one["completion"] is not None}
        for index, one in enumerate(stored["completions"]):
            leaf, visits = leaves[index]
            for _ in range(visits):
                tree.evaluate(leaf, one["reward"], one["finish_reason"])
        for one, node in zip(stored["nodes"], last, strict=True):
            tree.set_unseen(node, -math.inf if one["log_unseen"] is None else one["log_unseen"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"This is not a search tree that can go on: {type(error).__name__} {error}. Expected what Tree.to_dict returns, with "
            "the log-probability of every token; trees stored by version 0.1.0 lack them. Grow the tree again."
        ) from error
    tree.back_up_all(tree.target)
    return tree


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
