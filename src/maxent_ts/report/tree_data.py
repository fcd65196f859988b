"""A stored search tree as every view of it needs it: the page, the terminal, the picture in reports and notebooks.

What is called `tree` here is what `Tree.to_dict` makes, every node with its `text`, as `records.read_tree` returns it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["best_completion", "child_lists", "kept_nodes", "one_line", "value", "value_bounds", "with_texts"]


def child_lists(tree: Mapping[str, Any]) -> list[list[int]]:
    """For each node its children, the heaviest in the posterior first."""
    children: list[list[int]] = [[] for _ in tree["nodes"]]
    for index, node in enumerate(tree["nodes"]):
        if node["parent"] >= 0:
            children[node["parent"]].append(index)
    for found in children:
        found.sort(key=lambda index: -tree["nodes"][index]["mass"])
    return children


def best_completion(tree: Mapping[str, Any]) -> int:
    """Index of the completion of the highest reward, the likelier one of equals; -1 where there is none."""
    found = tree["completions"]
    return max(range(len(found)), key=lambda index: (found[index]["reward"], found[index]["logprob"]), default=-1)


def kept_nodes(tree: Mapping[str, Any], max_leaves: int) -> set[int]:
    """Indices of the heaviest completions' nodes and of the best one's, with everything above them."""
    nodes, best = tree["nodes"], best_completion(tree)
    leaves = sorted((index for index, node in enumerate(nodes) if node["completion"] is not None), key=lambda i: -nodes[i]["mass"])
    chosen = leaves[:max_leaves] + [index for index in leaves[max_leaves:] if nodes[index]["completion"] == best]
    kept: set[int] = set()
    for leaf in chosen:
        index = leaf
        while index >= 0:
            kept.add(index)
            index = nodes[index]["parent"]
    return kept


def value(tree: Mapping[str, Any], node: Mapping[str, Any]) -> float | None:
    """The soft value log W / λ of a node, in the reward's unit; None where λ is 0 or nothing below has been evaluated."""
    if tree["tilt"] == 0 or node["visits"] == 0 or node["log_value"] is None:
        return None
    return node["log_value"] / tree["tilt"]


def value_bounds(tree: Mapping[str, Any], node: Mapping[str, Any]) -> tuple[float, float] | None:
    """Between what bounds the true soft value lies: log(K + M·exp(λ r_min)) / λ and the same with r_max.

    Returns:
        Lower and upper bound in the reward's unit, infinite where the reward has no bound; None where λ is 0.
    """
    tilt = tree["tilt"]
    if tilt == 0:
        return None
    known, unknown = (-math.inf if node[name] is None else node[name] for name in ("log_known", "log_open"))
    low, high = tree["reward_range"]
    if unknown == -math.inf:
        return known / tilt, known / tilt
    lower = known if low is None else _log_add(known, unknown + tilt * low)
    upper = math.inf if high is None else _log_add(known, unknown + tilt * high)
    return lower / tilt, upper / tilt


def one_line(text: str) -> str:
    """Replace what a line of text cannot show."""
    return "".join(character if character.isprintable() else "⏎" if character == "\n" else "·" for character in text)


def with_texts(tree: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Add texts to a tree that has none, from the texts of its completions.

    The text at a node is what all completions below it begin with, so a branch between two tokens that begin with the same
    letters shows behind those letters. Completions without texts show as token ids.

    Args:
        tree: What `Tree.to_dict` returns; changed in place.
        texts: One for each completion.
    """
    nodes = tree["nodes"]
    shared: list[str | None] = [None for _ in nodes]
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        if node["completion"] is not None:
            shared[index] = texts[int(node["completion"])]
        above, own = node["parent"], shared[index]
        if above >= 0 and own is not None:
            other = shared[above]
            shared[above] = own if other is None else _shared_beginning(other, own)
    for index, node in enumerate(nodes):
        start = 0 if node["parent"] < 0 else len(shared[node["parent"]] or "")
        node["text"] = (shared[index] or "")[start:] if any(texts) else "".join(f"{token} " for token in node["tokens"])
    for completion, text in zip(tree["completions"], texts, strict=True):
        completion["text"] = text
    return tree


def _shared_beginning(first: str, second: str) -> str:
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))]


def _log_add(first: float, second: float) -> float:
    high = max(first, second)
    return high if high == -math.inf else high + math.log(math.exp(first - high) + math.exp(second - high))
