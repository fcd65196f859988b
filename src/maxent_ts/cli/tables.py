"""The comparison as tables in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = [
    "comparison_lines",
    "comparison_table",
    "console",
    "correlation_lines",
    "over_seeds_table",
    "print_summary",
    "provenance_lines",
    "published_lines",
]

WIDTH_WITHOUT_TERMINAL = 132

HEADINGS = ("n", "failed", "accuracy", "macro\nF1", "reward\n± 95 %", "gener.\ntokens", "forward\ntokens", "s/item")
"""Narrow enough, with the longest method's name, for a terminal of 80 columns."""

HEADLINE_BASELINES = ("best_of_n", "greedy")
"""Baselines whose paired differences are printed; the others are in summary.json and in the report."""

NUM_COMPARISONS_SHOWN = 12
"""More lines than this, as a sweep has, are read elsewhere."""


def console() -> Console:
    """Return a console on standard output that does not break tables when it is a file."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)


def print_summary(summary: Mapping[str, Any], rewards: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table for each task, the paired differences, and what the reward knows about being correct.

    Args:
        summary: `Run.summary`.
        rewards: `RunInfo.rewards`: parts that were fitted are named as such.
    """
    out = console()
    for task, methods in summary["tasks"].items():
        out.print(comparison_table(task, methods, summary["skipped"].get(task, {}), summary["budget_per_item"]["generated_tokens"]))
        measured = measures_table(task, methods)
        if measured is not None:
            out.print(measured)
        if task in summary["over_seeds"]:
            out.print(over_seeds_table(task, summary["over_seeds"][task]))
        compared = list(comparison_lines(summary, task))
        if len(compared) > NUM_COMPARISONS_SHOWN:
            compared = [f"{len(compared)} paired differences: see summary.json, or the page"]
        published = published_lines(summary, task)
        provenance = provenance_lines(rewards.get(task, {}))
        for line in [*compared, *published, *correlation_lines(summary, task), *provenance]:
            out.print(line, soft_wrap=True, markup=False)
        out.print()


def _table_of_methods(title: str) -> Table:
    """Return a table whose rows are methods, without further columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("method", no_wrap=True)
    return table


def comparison_table(task: str, methods: Mapping[str, Any], skipped: Mapping[str, str], budget: int | None) -> Table:
    """Return the table of one task; `budget` None where it differs between methods."""
    table = _table_of_methods(task if budget is None else f"{task}: at most {budget} generated tokens per item")
    for name in HEADINGS:
        table.add_column(name, justify="right", no_wrap=True)
    for method, row in methods.items():
        table.add_row(
            escape(method),
            str(row["n"]),
            str(row["n_failed"]),
            _number(row["accuracy"]),
            _number(row["macro_f1"]),
            _with_interval(row["reward"]),
            _number(row["generated_tokens"], 0),
            _number(row["forwarded_tokens"], 0),
            _number(row["seconds_per_item"], 2),
        )
    if skipped:
        table.caption = "left out: " + ", ".join(f"{method} ({reason})" for method, reason in skipped.items())
        table.caption_justify = "left"
    return table


def measures_table(task: str, methods: Mapping[str, Any]) -> Table | None:
    """Return the means of the task's own metrics; None if it has none."""
    names = list(dict.fromkeys(name for row in methods.values() for name in row["measures"]))
    if not names:
        return None
    table = _table_of_methods(f"{task}: what its own metrics say")
    for name in names:
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    for method, row in methods.items():
        table.add_row(escape(method), *(_number(row["measures"].get(name, {}).get("mean")) for name in names))
    return table


def over_seeds_table(task: str, rows: Mapping[str, Any]) -> Table:
    """Return the means over seeds, each with the standard deviation between seeds."""
    table = _table_of_methods(f"{task}: mean over seeds ± standard deviation between them")
    for name in ("seeds", "accuracy", "reward", "generated tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for method, row in rows.items():
        found = [_with_deviation(row[name], digits) for name, digits in (("accuracy", 3), ("reward", 3), ("generated_tokens", 0))]
        table.add_row(escape(method), str(row["num_seeds"]), *found)
    return table


def comparison_lines(summary: Mapping[str, Any], task: str, baselines: Sequence[str] | None = HEADLINE_BASELINES) -> Iterator[str]:
    """Yield a line for each paired difference; `baselines` are names of methods, None for all."""
    for row in summary["comparisons"]:
        if row["task"] == task and (baselines is None or row["baseline"].partition("[")[0] in baselines):
            interval = "" if row["ci95"] is None else f" [{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}]"
            yield (
                f"{row['metric']}: {row['method']} − {row['baseline']} = {row['difference']:+.3f}{interval}, "
                f"p = {row['p_value']:.3g} (Holm {row['p_holm']:.3g}), {row['wins']} wins, {row['ties']} ties, "
                f"{row['losses']} losses: {row['verdict']}"
            )


def correlation_lines(summary: Mapping[str, Any], task: str) -> Iterator[str]:
    """Yield what the reward knows about being correct."""
    found = summary["correlation"].get(task)
    if found is None:
        return
    coefficient = "undefined (all alike)" if found["coefficient"] is None else f"{found['coefficient']:+.2f}"
    line = f"reward and correctness over {found['n']} draws from the model ({found['method']}): correlation {coefficient}"
    if found["ranked_right"] is not None:
        line += (
            f"; of {found['num_pairs']} pairs of a right and a wrong draw of one item the reward ranks "
            f"{found['ranked_right']:.0%} right (chance: 50%)"
        )
    yield line


def published_lines(summary: Mapping[str, Any], task: str) -> Iterator[str]:
    """Yield a line for each number that was published for the run's model."""
    for row in summary.get("published", ()):
        if row["task"] == task:
            subset = "" if row["n"] == row["num_published_items"] else f" on {row['n']} of {row['num_published_items']} items"
            yield (
                f"{row['verdict']}: {row['metric']} of {row['method']} {row['ours']:.4f} "
                f"[{row['ci95'][0]:.4f}, {row['ci95'][1]:.4f}]{subset}, published {row['published']:.4f} "
                f"({row['model']}; {row['source']})"
            )


def provenance_lines(reward: Mapping[str, Any]) -> Iterator[str]:
    """Yield what must be known about parts of a reward that were fitted."""
    for name, facts in reward.get("provenance", {}).items():
        yield f"reward '{name}' is {facts['kind']} (fitted on {facts['trained_on']} sha256 {facts['sha256'][:12]})"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_deviation(found: Mapping[str, Any], digits: int) -> str:
    deviation = "" if found["standard_deviation"] is None else f" ± {_number(found['standard_deviation'], digits)}"
    return _number(found["mean"], digits) + deviation


def _with_interval(reward: Mapping[str, Any]) -> str:
    if reward["mean"] is None:
        return "–"
    if reward["ci95"] is None:
        return f"{reward['mean']:.3f}"
    return f"{reward['mean']:.3f} ± {(reward['ci95'][1] - reward['ci95'][0]) / 2:.3f}"
