"""Ablations: where a run holds a grid of two settings of a method, quality over both."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.records import Record
from maxent_ts.report.drawing import INK, Drawing, new_figure, styled
from maxent_ts.report.tables import Column, Table
from maxent_ts.variants import METRICS, mean_per_item, variant_of

__all__ = ["Grid", "find_grids", "grid_drawing", "grid_table"]

MAX_GRIDS = 12
"""Shown for one task."""


@dataclass(frozen=True)
class Grid:
    """Mean quality of one method over two of its settings."""

    method: str
    metric: str
    rows: str
    """The setting down the side."""
    columns: str
    """The setting across."""
    fixed: Mapping[str, Any]
    """Other settings that vary in the run, and what they are here."""
    row_values: Sequence[Any]
    column_values: Sequence[Any]
    means: Sequence[Sequence[float | None]]
    """By row and column; None where the run has no such variant."""


def find_grids(groups: Mapping[str, Sequence[Record]], config: Mapping[str, Any], metrics: Sequence[str]) -> list[Grid]:
    """Find every pair of settings that vary together in a method.

    Args:
        groups: For each variant, its records.
        config: The configuration in run.json.
        metrics: Names in `METRICS`.

    Returns:
        A grid for each method, metric, pair of settings and value of the settings that vary besides. Only where both settings
        take two or more values, and at least three quarters of the grid is filled.
    """
    cells: dict[str, list[tuple[dict[str, str], Sequence[Record]]]] = {}
    for records in groups.values():
        variant = variant_of(records[0], config)
        cells.setdefault(variant.method, []).append((dict(variant.parts), records))
    found = []
    for method, members in cells.items():
        names = sorted({name for parts, _ in members for name in parts}, key=lambda name: (name == "num_rollouts", name))
        varying = [name for name in names if len({parts.get(name) for parts, _ in members}) > 1]
        for rows, columns in itertools.combinations(varying, 2):
            others = [name for name in varying if name not in (rows, columns)]
            for fixed in dict.fromkeys(tuple((name, parts.get(name)) for name in others) for parts, _ in members):
                inside = [(parts, records) for parts, records in members if all(parts.get(name) == value for name, value in fixed)]
                for metric in metrics:
                    grid = _grid(method, metric, rows, columns, dict(fixed), inside)
                    if grid is not None:
                        found.append(grid)
    return found[:MAX_GRIDS]


@styled
def grid_drawing(grid: Grid, name: str) -> Drawing:
    """Draw a grid as a heat map with its numbers."""
    means = np.array([[math.nan if value is None else value for value in row] for row in grid.means])
    figure, (axes,) = new_figure(1.9 + 0.75 * len(grid.column_values), 1.2 + 0.42 * len(grid.row_values))
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    axes.imshow(means, cmap="Blues", vmin=low - 0.25 * (high - low) - 1e-9, vmax=high + 1.1 * (high - low) + 1e-9, aspect="auto")
    for row, column in itertools.product(range(means.shape[0]), range(means.shape[1])):
        value = means[row, column]
        best = value == high
        text = "–" if math.isnan(value) else f"{value:.3f}"
        colour = INK if math.isnan(value) else "#0b1f3a"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5, fontweight="bold" if best else "normal")
    axes.set_xticks(range(len(grid.column_values)), [_shown(value) for value in grid.column_values])
    axes.set_yticks(range(len(grid.row_values)), [_shown(value) for value in grid.row_values])
    axes.set_xlabel(grid.columns)
    axes.set_ylabel(grid.rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return Drawing(name, _title(grid), figure)


def grid_table(grids: Sequence[Grid], name: str) -> Table:
    """Return all cells of some grids, one a row."""
    rows = []
    for grid in grids:
        fixed = ", ".join(f"{name}={_shown(value)}" for name, value in grid.fixed.items()) or None
        for value, means in zip(grid.row_values, grid.means, strict=True):
            for other, mean in zip(grid.column_values, means, strict=True):
                rows.append([grid.method, grid.metric, fixed, grid.rows, value, grid.columns, other, mean])
    names = ("method", "metric", "fixed", "setting", "value", "other setting", "its value", "mean")
    return Table(name, "Ablations", [Column(one) for one in names], rows)


def _grid(
    method: str,
    metric: str,
    rows: str,
    columns: str,
    fixed: Mapping[str, str | None],
    members: Sequence[tuple[dict[str, str], Sequence[Record]]],
) -> Grid | None:
    means: dict[tuple[Any, Any], float] = {}
    for parts, records in members:
        values = mean_per_item(records, METRICS[metric])
        if values:
            means[_value(parts.get(rows)), _value(parts.get(columns))] = math.fsum(values.values()) / len(values)
    row_values, column_values = (sorted({key[side] for key in means}, key=_order) for side in (0, 1))
    if len(row_values) < 2 or len(column_values) < 2 or len(means) < 0.75 * len(row_values) * len(column_values):
        return None
    return Grid(
        method,
        metric,
        rows,
        columns,
        {name: _value(value) for name, value in fixed.items()},
        row_values,
        column_values,
        [[means.get((row, column)) for column in column_values] for row in row_values],
    )


def _title(grid: Grid) -> str:
    fixed = "".join(f", {key}={_shown(value)}" for key, value in grid.fixed.items())
    return f"{grid.method}: mean {grid.metric}{fixed}"


def _value(text: str | None) -> Any:
    value = None if text is None else json.loads(text)
    return value if isinstance(value, int | float | str | None) else text


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
