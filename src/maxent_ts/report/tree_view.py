"""A search tree drawn as the text it holds: what completions share is written once, and every branch leads to a row of its own.

The darker a piece of text, the more of the posterior's mass lies below it. One SVG, no script, readable on light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from maxent_ts.report.tree_data import best_completion, child_lists, kept_nodes, one_line, value

__all__ = ["tree_svg"]

ROW = 22
"""Height of one completion's row, pixels."""
CHARACTER = 6.6
"""Width of a character, pixels; the SVG's `textLength` enforces it whatever font there is."""
GAP = 14
"""Room for the curve between a node and its children, pixels."""
MARGIN = 8
LABEL = 170
"""Room for reward and weight behind a completion, pixels."""

STYLE = """
.tree-text { font: 11px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: var(--ink, #1b1f24); }
.tree-label { font: 11px system-ui, sans-serif; fill: var(--muted, #59636e); }
.tree-best .tree-label { fill: var(--accent, #0b62c4); font-weight: 600; }
.tree-node { fill: var(--accent, #0b62c4); }
.tree-edge { fill: none; stroke: var(--accent, #0b62c4); }
"""


@dataclass
class _Node:
    text: str
    mass: float
    children: list[int]
    completion: int | None
    source: Mapping[str, Any]
    x: float = 0.0
    y: float = 0.0


def tree_svg(tree: Mapping[str, Any], *, max_leaves: int = 40) -> str:
    """Draw a stored search tree.

    Args:
        tree: What `records.read_tree` returns.
        max_leaves: Completions drawn: the heaviest, and the one of the highest reward.

    Returns:
        An `<svg>` element that stands alone as a file, and takes the page's colours inside a page.
    """
    nodes = _nodes(tree)
    kept = kept_nodes(tree, max_leaves)
    if not kept:
        return ""
    order = [index for index in range(len(nodes)) if index in kept]
    for index in order:
        nodes[index].children = [child for child in nodes[index].children if child in kept]
    rows = _place(nodes, order)
    width = max(nodes[index].x + _width(nodes[index].text) for index in order) + LABEL + MARGIN
    height = rows * ROW + 2 * MARGIN
    best = best_completion(tree)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tree" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="Search tree"><style>{STYLE}</style>'
    ]
    parts += [_edge(nodes[index], nodes[child]) for index in order for child in nodes[index].children]
    parts += [_drawn(nodes[index], tree, best) for index in order]
    return "\n".join([*parts, "</svg>"])


def _nodes(tree: Mapping[str, Any]) -> list[_Node]:
    pairs = zip(tree["nodes"], child_lists(tree), strict=True)
    return [_Node(one_line(node["text"]), node["mass"], children, node["completion"], node) for node, children in pairs]


def _place(nodes: Sequence[_Node], order: Sequence[int]) -> int:
    """Give every node its place; heavier branches come first. Returns the number of rows."""
    rows = 0
    stack = [order[0]]
    while stack:
        node = nodes[stack.pop()]
        if not node.children:
            node.y = MARGIN + (rows + 0.5) * ROW
            rows += 1
        stack.extend(reversed(node.children))
    for index in reversed(order):
        node = nodes[index]
        if node.children:
            node.y = nodes[node.children[0]].y
    nodes[order[0]].x = MARGIN
    for index in order:
        for child in nodes[index].children:
            nodes[child].x = nodes[index].x + _width(nodes[index].text) + GAP
    return rows


def _edge(parent: _Node, child: _Node) -> str:
    start, end = parent.x + _width(parent.text), child.x
    middle = (start + end) / 2
    return (
        f'<path class="tree-edge" stroke-width="{1 + 4 * child.mass:.2f}" stroke-opacity="{0.25 + 0.6 * child.mass:.2f}" '
        f'd="M{start:.1f} {parent.y:.1f} C{middle:.1f} {parent.y:.1f} {middle:.1f} {child.y:.1f} {end:.1f} {child.y:.1f}"/>'
    )


def _drawn(node: _Node, tree: Mapping[str, Any], best: int) -> str:
    width = _width(node.text)
    title = (
        f"{node.mass:.1%} of the posterior below, log p of this piece {node.source['logprob']:.2f}, {node.source['visits']} visits"
    )
    soft_value = value(tree, node.source)
    if soft_value is not None:
        title += f", soft value {soft_value:.3f}"
    parts = [
        f"<g{' class=' + chr(34) + 'tree-best' + chr(34) if node.completion == best else ''}><title>{escape(title)}</title>",
        f'<rect class="tree-node" x="{node.x:.1f}" y="{node.y - ROW / 2 + 2:.1f}" width="{max(width, 3):.1f}" height="{ROW - 4}" '
        f'rx="3" fill-opacity="{0.05 + 0.4 * node.mass:.3f}"/>',
    ]
    if node.text:
        parts.append(
            f'<text class="tree-text" xml:space="preserve" x="{node.x + CHARACTER / 2:.1f}" y="{node.y + 4:.1f}" '
            f'textLength="{len(node.text) * CHARACTER:.1f}" lengthAdjust="spacingAndGlyphs">{escape(node.text)}</text>'
        )
    if node.completion is not None:
        completion = tree["completions"][node.completion]
        cut = " (cut)" if completion["finish_reason"] == "length" else ""
        parts.append(
            f'<text class="tree-label" x="{node.x + width + 6:.1f}" y="{node.y + 4:.1f}">r = {completion["reward"]:.3f}, '
            f"π = {node.mass:.3f}{cut}</text>"
        )
    return "".join([*parts, "</g>"])


def _width(text: str) -> float:
    return (len(text) + 1) * CHARACTER if text else 0.0
