"""The figures of one task: quality against tokens, differences, distributions, diversity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from maxent_ts.metrics import mean_ci95
from maxent_ts.records import Record
from maxent_ts.report.drawing import COLOURS, INK, Axes, Drawing, new_figure, styled
from maxent_ts.report.measures import distinct_bigrams, distinct_share, length, perplexity
from maxent_ts.variants import METRICS, mean_per_item

__all__ = ["curves", "differences_drawing", "distributions_drawing", "diversity_drawing", "quality_drawing"]

Groups = Mapping[str, Sequence[Record]]
"""For each variant of a method, its records without failures."""


def curves(records: Groups) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Average the best reward so far over items.

    A curve starts where every item has a first reward, and an item that is over keeps its last.

    Args:
        records: For each variant, records without failures.

    Returns:
        For each variant with more than one completion: generated tokens, mean best reward, and half the width of its 95 %
        interval (Student's t; 0 for one item).
    """
    found = {}
    for label, items in records.items():
        paths = [one.trajectory for one in items if one.trajectory]
        if not paths or max(len(path) for path in paths) < 2:
            continue
        start = max(min(tokens for tokens, _ in path) for path in paths)
        grid = sorted({tokens for path in paths for tokens, _ in path if tokens >= start})
        values = [[_at(path, tokens) for path in paths] for tokens in grid]
        means = [math.fsum(row) / len(row) for row in values]
        found[label] = ([float(tokens) for tokens in grid], means, [_half_width(row) for row in values])
    return found


def returns_its_best(items: Sequence[Record]) -> bool:
    """Whether each record's completion is the best one that its search had found."""
    return all(one.reward == max(value for _, value in one.trajectory) for one in items if one.trajectory)


@styled
def quality_drawing(groups: Groups, metrics: Sequence[str]) -> Drawing:
    """Draw quality against generated tokens: curves of the best so far, and a dot for what each method returns."""
    figure, axes = new_figure(4.4 * len(metrics) + 2.2, 3.9, len(metrics))
    found = curves(groups)
    drawn: list[Any] = []
    for index, (label, items) in enumerate(groups.items()):
        colour = COLOURS[index % len(COLOURS)]
        if label in found and found[label] not in drawn and metrics[0] == "reward":
            drawn.append(found[label])
            tokens, means, halves = (np.array(one) for one in found[label])
            style = "-" if returns_its_best(items) else ":"
            axes[0].plot(tokens, means, style, color=colour, drawstyle="steps-post", linewidth=1.5)
            axes[0].fill_between(tokens, means - halves, means + halves, step="post", color=colour, alpha=0.1, linewidth=0)
        for one, metric in zip(axes, metrics, strict=True):
            values = list(mean_per_item(items, METRICS[metric]).values())
            spent = list(mean_per_item(items, lambda record: record.usage.get("generated_tokens")).values())
            if values and spent:
                place = math.fsum(spent) / len(spent), math.fsum(values) / len(values)
                marker = "osD^v"[index // len(COLOURS) % 5]
                one.errorbar(
                    *([value] for value in place),
                    yerr=_error(values),
                    fmt=marker,
                    color=colour,
                    label=label,
                    capsize=2.5,
                    markersize=5,
                )
    for one, metric in zip(axes, metrics, strict=True):
        one.set_xlabel("generated tokens per item")
        one.set_ylabel(f"mean {metric}")
        one.set_xlim(left=0)
        one.grid(axis="y")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Drawing(
        "quality",
        "Quality against generated tokens",
        figure,
        "A dot is what a method returns, at the tokens it used. A line is the mean of the best reward found so far (dotted where "
        "the method returns something else than its best), for methods of the same draws once. Bars and bands: 95 % interval of "
        "the mean over items (Student's t; Wilson's where every item is right or wrong).",
    )


@styled
def differences_drawing(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw paired differences with their intervals, one row per baseline and one panel per metric."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    names = list(dict.fromkeys(row["baseline"] for row in rows))
    figure, axes = new_figure(1.6 + 3.6 * len(metrics), 0.9 + 0.3 * len(names), len(metrics), sharey=True)
    for one, metric in zip(axes, metrics, strict=True):
        one.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for row in rows:
            if row["metric"] != metric:
                continue
            place = len(names) - 1 - names.index(row["baseline"])
            low, high = row["ci95"] if row["ci95"] is not None else (row["difference"], row["difference"])
            colour = {f"{row['method']} is better": COLOURS[2], f"{row['baseline']} is better": COLOURS[7]}.get(
                row["verdict"], COLOURS[-1]
            )
            one.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
            one.plot([row["difference"]], [place], "o", color=colour, markersize=5)
        one.set_ylim(-0.6, len(names) - 0.4)
        one.locator_params(axis="x", nbins=6)
        one.grid(axis="x")
        one.set_xlabel(f"{metric}: {rows[0]['method']} − baseline")
    axes[0].set_yticks(range(len(names)), [f"− {name}" for name in reversed(names)])
    return Drawing("differences", "Paired differences", figure)


@styled
def distributions_drawing(groups: Groups) -> Drawing:
    """Draw reward, length and perplexity of what each method returned, item by item."""
    figure, axes = new_figure(9.2, 0.9 + 0.36 * len(groups), 3, sharey=True)
    panels: list[tuple[str, Callable[[Record], float | None]]] = [
        ("reward", METRICS["reward"]),
        ("length, tokens", length),
        ("perplexity under p", perplexity),
    ]
    for one, (name, measure) in zip(axes, panels, strict=True):
        _boxes(one, groups, measure)
        one.set_xlabel(name)
    _name_rows(axes[0], groups)
    return Drawing(
        "distributions",
        "What was returned: reward, length, perplexity",
        figure,
        "Box: quartiles and median; whiskers: 5 % and 95 %; a dot is an item. Perplexity is exp(−log p(x) / length) under the "
        "model alone: low means that the model itself would have written it.",
    )


@styled
def diversity_drawing(groups: Groups) -> Drawing:
    """Draw how different the completions of one item are."""
    figure, axes = new_figure(7.4, 0.9 + 0.3 * len(groups), 2, sharey=True)
    panels = [("distinct completions / rollouts", distinct_share), ("distinct-2 of stored completions", distinct_bigrams)]
    for one, (name, measure) in zip(axes, panels, strict=True):
        for index, items in enumerate(groups.values()):
            values = list(mean_per_item(items, measure).values())
            if values:
                colour, place = COLOURS[index % len(COLOURS)], len(groups) - 1 - index
                mean = math.fsum(values) / len(values)
                one.errorbar([mean], [place], xerr=_half_width(values), fmt="o", color=colour, capsize=2.5, markersize=5)
        one.set_xlim(0, 1.06)
        one.grid(axis="x")
        one.set_xlabel(name)
    _name_rows(axes[0], groups)
    return Drawing(
        "diversity",
        "Diversity of an item's completions",
        figure,
        "Mean over items with its 95 % interval. Distinct-2 is the share of different word pairs among all word pairs of an item's "
        "stored completions (Li et al. 2016); methods of one completion have none.",
    )


def _name_rows(axes: Axes, groups: Groups) -> None:
    """Name the rows of a panel, the first on top."""
    axes.set_yticks(range(len(groups)), list(reversed(list(groups))))
    axes.set_ylim(-0.6, len(groups) - 0.4)


def _boxes(axes: Axes, groups: Groups, measure: Callable[[Record], float | None]) -> None:
    for index, items in enumerate(groups.values()):
        values = list(mean_per_item(items, measure).values())
        if not values:
            continue
        colour, place = COLOURS[index % len(COLOURS)], len(groups) - 1 - index
        # Spread by rank, so that the same records give the same figure.
        offsets = [0.3 * (((7 * rank) % 11) / 10 - 0.5) for rank in range(len(values))]
        axes.plot(sorted(values), [place + offset for offset in offsets], ".", color=colour, markersize=3, alpha=0.45)
        style: Any = {"color": colour, "linewidth": 1.1}
        axes.boxplot(
            [values],
            positions=[place],
            orientation="horizontal",
            widths=0.55,
            whis=(5, 95),
            showfliers=False,
            boxprops=style,
            whiskerprops=style,
            capprops=style,
            medianprops={"color": colour, "linewidth": 2.2},
            manage_ticks=False,
        )
    axes.grid(axis="x")


def _error(values: Sequence[float]) -> list[list[float]]:
    """How far the 95 % interval of the mean reaches down and up: Wilson's for values of 0 and 1, else Student's t."""
    from scipy.stats import binomtest

    mean = math.fsum(values) / len(values)
    if set(values) <= {0.0, 1.0}:
        interval = binomtest(round(math.fsum(values)), len(values)).proportion_ci(method="wilson")
        return [[mean - interval.low], [interval.high - mean]]
    return [[_half_width(values)]] * 2


def _half_width(values: Sequence[float]) -> float:
    interval = mean_ci95(values)
    return 0.0 if interval is None else (interval[1] - interval[0]) / 2


def _at(path: Sequence[tuple[int, float]], tokens: float) -> float:
    """The best reward an item had after so many tokens."""
    return max(value for spent, value in path if spent <= tokens)
