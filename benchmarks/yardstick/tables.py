"""Rows into tables, and tables into gates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .measure import Row

__all__ = ["Means", "gates", "print_tables"]

METRICS = {
    "tv": "TV to π",
    "tv_of_weights": "TV to π of the weights that returned draws have, where the law above may leave the tree",
    "kl": "KL to π, nats",
    "log_z_error": "|log Ẑ - log Z|, nats",
    "reward_calls": "reward calls, prefix rewards included",
    "tokens_per_sample": "generated tokens per exact sample",
    "rewards_per_sample": "reward calls per exact sample",
    "right": "probability of the right first token",
    "reward_error": "|E_q[r] - E_π[r]|, in units of r",
    "best_share": "best reward found / highest possible",
}
RATIO_GATES = {
    "enumerable: 4^6 leaves, tilt 1, additive": {10: 0.45, 30: 0.40, 100: 0.25, 300: 0.10},
    "enumerable: 4^5 leaves, tilt 3, additive": {10: 0.75, 30: 0.70, 100: 0.20},
}
"""The highest TV of maxent_sample as a share of that of dts, by size."""
LARGE = "enumerable: 21845 leaves with EOS, tilt 8, additive"
EXPANDED = "enumerable: fully expanded"
OURS, REFERENCE, EXACT = "maxent_sample", "dts", "exact_sample"


class Means:
    """Means over models by table, metric, method and size."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.values: dict[tuple[str, str, str, int], list[float]] = {}
        self.errors: dict[tuple[str, str], str] = {}
        for row in rows:
            if row.error:
                self.errors.setdefault((row.table, row.method), row.error)
            for metric, value in row.values.items():
                self.values.setdefault((row.table, metric, row.method, row.size), []).append(value)

    def keys(self, table: str | None = None, metric: str | None = None) -> list[tuple[str, str, str, int]]:
        """The keys of a table and a metric, in order of appearance."""
        return [key for key in self.values if table in (None, key[0]) and metric in (None, key[1])]

    @property
    def tables(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(key[0] for key in self.values))

    def mean(self, table: str, metric: str, method: str, size: int) -> float | None:
        """The mean; None where nothing was measured."""
        values = self.values.get((table, metric, method, size))
        return float(np.mean(values)) if values else None

    def standard_error(self, table: str, metric: str, method: str, size: int) -> float:
        """Of the mean, over models; 0 for a single model."""
        values = self.values[table, metric, method, size]
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """{table: {metric: {method: {size: {"mean", "standard_error", "num_models"}}}}}, and the errors."""
        found: dict[str, Any] = {}
        for table, metric, method, size in self.values:
            cell = {
                "mean": self.mean(table, metric, method, size),
                "standard_error": self.standard_error(table, metric, method, size),
                "num_models": len(self.values[table, metric, method, size]),
            }
            found.setdefault(table, {}).setdefault(metric, {}).setdefault(method, {})[str(size)] = cell
        return {"tables": found, "errors": {f"{table}: {method}": error for (table, method), error in self.errors.items()}}


def print_tables(means: Means, console: Console) -> None:
    """Print one table for every metric of every setting: mean ± standard error, and for TV the ratio to dts."""
    for name in means.tables:
        for metric, title in METRICS.items():
            keys = means.keys(name, metric)
            if keys:
                _print_one(means, name, metric, title, console)
        for (table, method), error in means.errors.items():
            if table == name:
                console.print(f"{method} was not measured here: {error}", style="yellow", markup=False)


def _print_one(means: Means, name: str, metric: str, title: str, console: Console) -> None:
    keys = means.keys(name, metric)
    sizes = sorted({key[3] for key in keys})
    methods = list(dict.fromkeys(key[2] for key in keys))
    table = Table()
    table.add_column("rollouts' worth of tokens")
    for size in sizes:
        table.add_column(str(size) if size else "any", justify="right")
    for method in methods:
        cells = []
        for size in sizes:
            mean = means.mean(name, metric, method, size)
            if mean is None:
                cells.append("–")
                continue
            cell = f"{mean:.3g} ±{means.standard_error(name, metric, method, size):.1g}"
            reference = means.mean(name, metric, REFERENCE, size)
            if metric == "tv" and reference and method != REFERENCE:
                cell += f" ({mean / reference:.2f})"
            cells.append(cell)
        table.add_row(method, *cells, style="bold" if method == OURS else "")
    console.print(f"\n{name}: {title}", style="bold", markup=False, highlight=False)
    console.print(table)


def gates(means: Means, samplers: Sequence[str]) -> dict[str, Any]:
    """The goals that can be judged from what was measured: {name: {"value", "goal", "passed", …}}."""
    found: dict[str, Any] = {}
    for table, goals in RATIO_GATES.items():
        for size, goal in goals.items():
            ours, reference = means.mean(table, "tv", OURS, size), means.mean(table, "tv", REFERENCE, size)
            if ours is not None and reference:
                found[f"TV ratio to dts, {table.split(': ')[1]}, {size}"] = _at_most(ours / reference, goal)
    large = means.mean(LARGE, "tv", OURS, 2048)
    if large is not None:
        found["TV, 21845 leaves with EOS, tilt 8, additive, 2048"] = _at_most(large, 0.01)
    expanded = means.values.get((EXPANDED, "tv", OURS, 0))
    if expanded:
        found["TV, fully expanded"] = {"value": max(expanded), "goal": 1e-9, "passed": max(expanded) < 1e-9}
    rivals = [name for name in samplers if name not in (OURS, EXACT)]
    tables = [name for name in means.tables if ("tilt 3" in name or "tilt 8" in name) and "mean law" not in name]
    lost, num_cells = [], 0
    for table in tables:
        for _, _, _, size in [key for key in means.keys(table, "tv") if key[2] == OURS]:
            others = {name: value for name in rivals if (value := means.mean(table, "tv", name, size)) is not None}
            ours = means.mean(table, "tv", OURS, size)
            if not others or ours is None:
                continue
            num_cells += 1
            winner = min(others, key=lambda name: others[name])
            if others[winner] < ours:
                cell = {"table": table, "size": size, "winner": winner, "winner_tv": others[winner], "tv": ours}
                lost.append(cell)
    if num_cells:
        found["cells of tilt 3 and 8 where maxent_sample has not the lowest TV"] = {
            "value": len(lost),
            "goal": 0,
            "passed": not lost,
            "num_cells": num_cells,
            "lost": lost,
        }
    return found


def _at_most(value: float, goal: float) -> dict[str, Any]:
    return {"value": value, "goal": goal, "passed": value <= goal}
