"""The report's figures, as SVG elements that sit inside the page and take its text colour."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from maxent_ts.errors import MissingExtraError
from maxent_ts.records import Record

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise MissingExtraError("matplotlib", "report") from error

__all__ = ["curves", "differences_figure", "reward_figure", "series_figure"]

INK = "#010203"
"""Drawn in this colour, replaced by the page's own text colour."""

COLOURS = ("#0b62c4", "#d1600a", "#1a8a5c", "#b83280", "#8a6d00", "#6b4fc8", "#12879b", "#c23b3b", "#5b6770")
"""Told apart on white and on black."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "maxent-ts",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib; the page shows its own font
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def curves(records: Mapping[str, Sequence[Record]]) -> dict[str, tuple[list[float], list[float]]]:
    """Average the best reward so far over items, for each method that returns the best it found.

    A curve starts where every item has a first reward, and an item that is over keeps its last.

    Args:
        records: For each method, records without failures.

    Returns:
        For each such method, generated tokens and mean best reward.
    """
    found = {}
    for method, items in records.items():
        paths = [one.trajectory for one in items if one.trajectory]
        returns_best = all(one.reward == max(value for _, value in one.trajectory) for one in items if one.trajectory)
        if not paths or not returns_best or max(len(path) for path in paths) < 2:
            continue
        start = max(min(tokens for tokens, _ in path) for path in paths)
        grid = sorted({tokens for path in paths for tokens, _ in path if tokens >= start})
        means = [math.fsum(_at(path, tokens) for path in paths) / len(paths) for tokens in grid]
        found[method] = ([float(tokens) for tokens in grid], means)
    return found


def reward_figure(records: Mapping[str, Sequence[Record]], rows: Mapping[str, Any]) -> str:
    """Draw reward against generated tokens: curves of the best so far, and a dot for what each method returns.

    Args:
        records: For each method, records without failures.
        rows: The task's part of summary.json.
    """
    found = curves(records)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for index, (method, row) in enumerate(rows.items()):
            colour = COLOURS[index % len(COLOURS)]
            mean, interval = row["reward"]["mean"], row["reward"]["ci95"]
            if mean is None:
                continue
            if method in found:
                axes.plot(*found[method], color=colour, drawstyle="steps-post")
            error = [[mean - interval[0]], [interval[1] - mean]] if interval is not None else None
            axes.errorbar(
                [row["generated_tokens"]], [mean], yerr=error, fmt="o", color=colour, label=method, capsize=3, markersize=5
            )
        axes.set_xlabel("generated tokens per item")
        axes.set_ylabel("mean reward")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure, "Mean reward against generated tokens per item")


def differences_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw paired differences with their intervals, one row per baseline, for one metric."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 0.9 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for index, row in enumerate(reversed(rows)):
            low, high = row["ci95"] if row["ci95"] is not None else (row["difference"], row["difference"])
            colour = COLOURS[0] if row["verdict"] == f"{row['method']} is better" else COLOURS[-1]
            colour = COLOURS[1] if row["verdict"] == f"{row['baseline']} is better" else colour
            axes.plot([low, high], [index, index], color=colour, linewidth=2.4, solid_capstyle="round")
            axes.plot([row["difference"]], [index], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [f"− {row['baseline']}" for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"{rows[0]['metric']}: {rows[0]['method']} − baseline, 95 % interval")
        return _svg(figure, f"Paired differences in {rows[0]['metric']}")


def series_figure(series: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Draw an item's time series on one pair of axes, in the data's own unit."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for index, values in enumerate(series):
            label = names[index] if index < len(names) else f"series {index + 1}"
            axes.plot(range(len(values)), values, color=COLOURS[index % len(COLOURS)], linewidth=1.2, label=label)
        axes.set_xlabel("time step")
        axes.margins(x=0)
        if len(series) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure, "Time series")


def _at(path: Sequence[tuple[int, float]], tokens: float) -> float:
    """The best reward an item had after so many tokens."""
    return max(value for spent, value in path if spent <= tokens)


def _svg(figure: Figure, label: str) -> str:
    """Return the figure as an element, with ids of its own and the page's colour for ink."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    prefix = f"figure-{hashlib.sha256(text.encode()).hexdigest()[:8]}-"  # figures that share ids are equal, so no harm is done
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace(INK, "currentColor").replace("'DejaVu Sans'", "system-ui, sans-serif")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    width = figure.get_size_inches()[0] * 96
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" style="width:100%;max-width:{width:.0f}px" ', 1)
