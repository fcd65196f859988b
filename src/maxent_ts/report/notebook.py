"""What a notebook shows of a result: the answer, its cost, and the tree as a picture. No script, so it survives being saved."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from maxent_ts.report.tree_data import with_texts
from maxent_ts.report.tree_view import tree_svg

if TYPE_CHECKING:
    from maxent_ts.generation import Generation
    from maxent_ts.tree import Tree
    from maxent_ts.types import Outcome

__all__ = ["generation_html", "outcome_html", "tree_html"]

MAX_LEAVES = 20
NUM_ROWS = 10
"""Completions listed of a method without a tree."""

COLOURS = (
    "--ink: var(--jp-content-font-color1, var(--vscode-foreground, #1b1f24)); "
    "--muted: var(--jp-content-font-color2, var(--vscode-descriptionForeground, #59636e)); "
    "--accent: var(--jp-brand-color1, var(--vscode-textLink-foreground, #0b62c4))"
)
"""JupyterLab's and VS Code's own, in whatever theme they are."""


def generation_html(generation: Generation) -> str:
    """The answer, what it cost, and the outcome."""
    best, usage = generation.outcome.best, generation.usage
    facts = [
        *([] if best.reward is None else [f"reward {best.reward:z.3f}"]),
        f"log p {best.logprob:.2f} nats",
        f"{len(generation.completions)} completions",
        f"{usage.generated_tokens} generated tokens",
        f"{usage.seconds:.1f} s",
    ]
    return (
        f'<p style="margin: 0 0 .3em">{escape(best.text.strip()) or "(empty)"}</p>'
        f'<p style="margin: 0 0 .8em; opacity: .7">{", ".join(facts)}</p>{outcome_html(generation.outcome)}'
    )


def outcome_html(outcome: Outcome) -> str:
    """The tree with the completions' texts; without a tree, the heaviest completions as a table."""
    if outcome.tree is not None:
        return tree_html(outcome.tree, [one.text for one in outcome.completions])
    order = sorted(range(len(outcome.completions)), key=lambda index: -outcome.weights[index])
    rows = [
        f"<tr><td>{outcome.weights[index]:.3f}</td><td>{'–' if one.reward is None else f'{one.reward:.3f}'}</td>"
        f'<td>{one.logprob:.2f}</td><td style="text-align: left">{escape(one.text.strip())}</td></tr>'
        for index, one in ((index, outcome.completions[index]) for index in order[:NUM_ROWS])
    ]
    more = f"<p>and {len(order) - NUM_ROWS} more</p>" if len(order) > NUM_ROWS else ""
    head = "<tr><th>weight</th><th>reward</th><th>log p, nats</th><th>completion</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>{more}"


def tree_html(tree: Tree, texts: Sequence[str] | None = None) -> str:
    """The tree as an SVG that scrolls sideways.

    Args:
        tree: A tree.
        texts: Of its completions, in their order; token ids are shown without them.
    """
    found = with_texts(tree.to_dict(), texts if texts is not None else [one.text for one in tree.completions])
    return f'<div style="overflow-x: auto; {COLOURS}">{tree_svg(found, max_leaves=MAX_LEAVES)}</div>'
