"""`maxent-ts compare`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from maxent_ts.cli.shared import ComparisonFormat, note, write_json
from maxent_ts.cli.tables import console
from maxent_ts.compare import Comparison, compare_runs
from maxent_ts.report.tables import comparison_table
from maxent_ts.variants import METRICS

__all__ = ["parse_selection", "run_compare"]


ABOUT = (
    "difference: mean over items of (left − right), seeds of an item averaged first. detectable: the true difference that a test "
    "at 5 % finds in 80 % of samples of this size and spread. p: sign-flip permutation test; Holm: adjusted for all comparisons "
    "of a table. Somebody is better only where the interval excludes 0 and Holm's p is at most 0.05."
)

INTERVALS = {
    "bootstrap": "bootstrap over items",
    "score": "score interval of paired proportions (all values are 0 or 1)",
}


def parse_selection(text: str) -> tuple[Path, str | None]:
    """Split `runs/demo:maxent` into a run and a method; a directory of that very name comes first."""
    path, separator, method = text.rpartition(":")
    if Path(text).exists() or not separator or not path or not method:
        return Path(text), None
    return Path(path), method


def run_compare(
    *,
    runs: Sequence[str],
    metric: str | None,
    methods: Sequence[str],
    cluster_by: str,
    allow_unequal: bool,
    output_format: ComparisonFormat,
) -> None:
    """Compare and print."""
    found = compare_runs(
        [parse_selection(run) for run in runs],
        metrics=tuple(METRICS) if metric is None else (metric,),
        methods=methods,
        cluster_by=cluster_by,
        allow_unequal=allow_unequal,
    )
    for warning in found.warnings:
        note(f"Compared although unequal: {warning}")
    if output_format is ComparisonFormat.JSON:
        write_json({"comparisons": found.rows, "warnings": found.warnings})
    elif output_format is ComparisonFormat.TABLE:
        _print(found)
    else:
        sys.stdout.write(getattr(comparison_table(found.rows), output_format.value)())


def _print(found: Comparison) -> None:
    """Print a table for each task and metric, and what its columns are."""
    out = console()
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in found.rows):
        rows = [row for row in found.rows if (row["task"], row["metric"]) == (task, metric)]
        intervals = "; ".join(INTERVALS[name] for name in dict.fromkeys(row["interval"] for row in rows))
        out.print(_drawn(rows, f"{task}, {metric}: {_items(rows)}; interval: {intervals}"))
    out.print(ABOUT, style="dim")


def _items(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many items, how they are clustered, and what failed."""
    num, clusters = ({row[name] for row in rows} for name in ("n", "num_clusters"))
    text = f"{min(num)} to {max(num)} items" if len(num) > 1 else f"{max(num)} items"
    if clusters != num:
        text += f" in {max(clusters)} clusters"
    failed = {row[side]: row[count] for row in rows for side, count in (("method", "failed"), ("baseline", "baseline_failed"))}
    return text + "".join(f", {count} failed in {name}" for name, count in failed.items() if count)


def _drawn(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Draw the rows of one task and metric: what fits into a terminal; the other formats have every column."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column("comparison")
    for name in ("means", "difference", "95 % interval", "p", "Holm", "wins/ties/losses", "detect-\nable"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("verdict")
    for row in rows:
        drawn.add_row(
            f"{row['method']}\n− {row['baseline']}",
            f"{row['mean']:.3f}\n{row['baseline_mean']:.3f}",
            f"{row['difference']:+.3f}",
            "–" if row["ci95"] is None else f"[{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}]",
            f"{row['p_value']:.4f}",
            f"{row['p_holm']:.4f}",
            f"{row['wins']}/{row['ties']}/{row['losses']}",
            "–" if row["detectable"] is None else f"{row['detectable']:.3f}",
            row["verdict"],
        )
    return drawn
