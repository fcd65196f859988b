"""One self-contained page about a run: no network, no script, light and dark. Made from the run directory alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from maxent_ts.errors import RunDirectoryError
from maxent_ts.records import ExampleRecord, Record, Run, read_run, read_tree
from maxent_ts.report.figures import differences_figure, reward_figure, series_figure
from maxent_ts.report.tree_view import tree_svg
from maxent_ts.summary import summarize

__all__ = ["render_report", "write_report"]

NUM_EXAMPLES = 3
"""Items shown for each task."""


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run_dir: A run directory, finished or not.
        output: Where the page goes; `report.html` in the run directory if left out.

    Raises:
        RunDirectoryError: if the directory is no run, is damaged, has no records yet, or the page cannot be written.
        MissingExtraError: if matplotlib is not installed.
    """
    run = read_run(run_dir)
    output = output or run_dir / "report.html"
    page = render_report(run)
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"The page '{output}' cannot be written: {error}. Name another with --output.") from error
    return output


def render_report(run: Run) -> str:
    """Return the page of a run as text.

    Raises:
        RunDirectoryError: if there are no records yet.
    """
    if not run.records:
        raise RunDirectoryError(f"The run '{run.path}' has no finished items yet. Continue it with the command that started it.")
    summary = summarize(run)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    template = environment.from_string(resources.files("maxent_ts.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        name=run.path.resolve().name,
        info=run.info,
        budget=summary["budget_per_item"],
        tasks=[_task(run, summary, task) for task in summary["tasks"]],
        failures=summary["failures"],
        num_planned=sum(
            facts.get("num_items", 0) * (len(run.info.config["methods"]) - len(run.info.skipped.get(task, {})))
            for task, facts in run.info.data.items()
        ),
        num_recorded=len(run.records),
    )


def _task(run: Run, summary: Mapping[str, Any], task: str) -> dict[str, Any]:
    rows = summary["tasks"][task]
    good: dict[str, list[Record]] = {variant: [] for variant in rows}
    for record in run.records:
        if record.task == task and record.error is None and record.variant in good:
            good[record.variant].append(record)
    comparisons = [one for one in summary["comparisons"] if one["task"] == task]
    by_metric = {metric: [one for one in comparisons if one["metric"] == metric] for metric in ("reward", "accuracy")}
    return {
        "name": task,
        "rows": rows,
        "highest": max((row["reward"]["mean"] for row in rows.values() if row["reward"]["mean"] is not None), default=None),
        "skipped": summary["skipped"].get(task, {}),
        "reward": run.info.rewards.get(task, {}),
        "comparisons": comparisons,
        "difference_figures": [Markup(differences_figure(found)) for found in by_metric.values() if found],
        "reward_figure": Markup(reward_figure(good, rows)),
        "correlation": summary["correlation"].get(task),
        "examples": _examples(run, task, good),
        "trees": [_tree(file) for tree_task, _, file in run.trees() if tree_task == task],
    }


def _examples(run: Run, task: str, good: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """The first items that some method finished, with what each method made of them."""
    shown = []
    for (example_task, example_id), example in run.examples.items():
        records = [one for items in good.values() for one in items if one.example_id == example_id]
        if example_task == task and records:
            shown.append({"example": example, "figure": _series(example), "records": [_shown(one) for one in records]})
        if len(shown) == NUM_EXAMPLES:
            break
    return shown


def _series(example: ExampleRecord) -> Markup:
    return Markup(series_figure(example.series, example.series_names) if example.series else "")


def _shown(record: Record) -> dict[str, Any]:
    parts = record.evidence.get("parts", {})
    return {
        "record": record,
        "parts": {name: part.get("value") if isinstance(part, Mapping) else part for name, part in parts.items()},
        "statements": list(_statements(record.evidence)),
    }


def _statements(evidence: Any) -> Any:
    """Yield every judged statement in a reward's evidence, wherever the reward put it."""
    if isinstance(evidence, Mapping):
        for name, value in evidence.items():
            if name == "statements" and isinstance(value, list):
                yield from (one for one in value if isinstance(one, Mapping) and "text" in one)
            else:
                yield from _statements(value)


def _tree(file: Path) -> dict[str, Any]:
    tree = read_tree(file)
    return {
        "method": tree["method"],
        "example_id": tree["example_id"],
        "num_nodes": len(tree["nodes"]),
        "num_completions": len(tree["completions"]),
        "tilt": tree["tilt"],
        "svg": Markup(tree_svg(tree)),
    }


def _number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
