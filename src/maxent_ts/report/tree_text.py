"""A stored search tree in a terminal: what completions share is written once, and branches hang below where they leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from maxent_ts.report.tree_data import best_completion, child_lists, kept_nodes, one_line, value, value_bounds

__all__ = ["tree_text"]

CUT = " (cut)"


def tree_text(tree: Mapping[str, Any], *, max_leaves: int = 40) -> Tree:
    """Return a search tree as something that rich prints.

    Args:
        tree: What `records.read_tree` returns.
        max_leaves: Completions shown: the heaviest, and the one of the highest reward.
    """
    kept, best, children = kept_nodes(tree, max_leaves), best_completion(tree), child_lists(tree)
    root = Tree(_root(tree, max_leaves), guide_style="dim")
    branches = {0: root}
    stack = [0]
    while stack:
        index = stack.pop()
        shown = [child for child in children[index] if child in kept]
        for child in shown:
            branches[child] = branches[index].add(_label(tree, child, best))
        stack.extend(shown)
    return root


def _root(tree: Mapping[str, Any], max_leaves: int) -> Text:
    num = len(tree["completions"])
    label = Text(f"{num} completions", style="bold")
    if num > max_leaves:
        label.append(f", the {max_leaves} heaviest and the best of them")
    label.append(f"  λ = {tree['tilt']:g}", style="dim")
    soft_value, bounds = value(tree, tree["nodes"][0]), value_bounds(tree, tree["nodes"][0])
    if soft_value is not None and bounds is not None:
        low, high = (f"{bound:z.3f}".replace("inf", "∞") for bound in bounds)
        label.append(f", value {soft_value:z.3f}, for certain between {low} and {high}", style="dim")
    return label


def _label(tree: Mapping[str, Any], index: int, best: int) -> Text:
    node = tree["nodes"][index]
    label = Text(one_line(node["text"].strip()) or "(end)")
    if node["completion"] is None:
        soft_value = value(tree, node)
        label.append(f"  {node['mass']:.1%}" + ("" if soft_value is None else f", value {soft_value:z.3f}"), style="dim")
        return label
    completion = tree["completions"][node["completion"]]
    cut = CUT if completion["finish_reason"] == "length" else ""
    numbers = f" r = {completion['reward']:z.3f}, {node['mass']:.1%}, log p = {completion['logprob']:.2f} nats{cut}"
    unbroken = numbers.replace(" ", "\N{NO-BREAK SPACE}")
    label.append(" ").append(unbroken, style="bold cyan" if node["completion"] == best else "cyan")
    if node["completion"] == best:
        label.append(" ★", style="bold cyan")
    return label
