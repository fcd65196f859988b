"""What a search costs as it grows: tokens, seconds and nodes against completions, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from maxent_ts.records import Record
from maxent_ts.report.drawing import COLOURS, Axes, Drawing, new_figure, styled

__all__ = ["scaling_drawing"]

Groups = Mapping[str, Sequence[Record]]


@styled
def scaling_drawing(groups: Groups) -> Drawing:
    """Draw tokens, seconds and tree nodes against completions evaluated, both axes logarithmic."""
    figure, axes = new_figure(10.6, 3.2, 3)
    panels: list[tuple[str, Callable[[Record], float | None]]] = [
        ("generated tokens", lambda one: one.usage.get("generated_tokens")),
        ("seconds", lambda one: one.usage.get("seconds")),
        ("nodes of the tree", lambda one: None if one.tree is None else one.tree.get("nodes")),
    ]
    for one, (name, measure) in zip(axes, panels, strict=True):
        for index, (label, items) in enumerate(groups.items()):
            points = [(len(record.rewards), measure(record)) for record in items]
            kept = [(x, y) for x, y in points if x and y]
            if kept:
                colour = COLOURS[index % len(COLOURS)]
                x, y = np.array(kept).T
                one.plot(x, y, "o", color=colour, markersize=2.2, alpha=0.3)
                middle = [float(np.exp(np.log(values).mean())) for values in (x, y)]
                one.plot(*([value] for value in middle), "o", color=colour, markersize=5.5, label=label)
        _log_log(one)
        one.set(xlabel="completions evaluated", ylabel=name)
    for label, (tokens, spread) in _growth(groups).items():
        axes[0].plot(spread, tokens, color=COLOURS[list(groups).index(label) % len(COLOURS)], linewidth=1.1, alpha=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Drawing(
        "scaling",
        "Scaling: tokens, time and nodes against completions",
        figure,
        "A small dot is a search, a large one the geometric mean of a method. Lines follow the searches from their first "
        "completion to their last. Seconds run from a search's first request to its outcome, waiting for others included.",
    )


def _growth(groups: Groups) -> dict[str, tuple[list[float], list[int]]]:
    """Mean tokens after each number of completions that all of a method's searches reached."""
    found = {}
    for label, items in groups.items():
        paths = [[tokens for tokens, _ in one.trajectory] for one in items if len(one.trajectory) > 1]
        if any(len(set(path)) > 1 for path in paths):
            steps = range(min(map(len, paths)))
            found[label] = ([math.fsum(path[step] for path in paths) / len(paths) for step in steps], [step + 1 for step in steps])
    return found


def _log_log(axes: Axes) -> None:
    """Make both axes logarithmic, a decade long or more, with plain numbers."""
    axes.set(xscale="log", yscale="log")
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        middle, spread = math.sqrt(limits[0] * limits[1]), max(math.sqrt(limits[1] / limits[0]), math.sqrt(10))
        (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(middle / spread, middle * spread)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid()
