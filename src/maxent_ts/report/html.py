"""One self-contained page about a run: no network, readable without a script, light and dark. Made from the run directory alone."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from maxent_ts.errors import RunDirectoryError
from maxent_ts.records import Run, read_run, read_tree
from maxent_ts.report.contents import Section, TaskContents, failures_section, task_contents
from maxent_ts.report.drawing import svg
from maxent_ts.report.export import TABLE_FORMATS, export_files
from maxent_ts.report.items import MAX_ITEMS, items
from maxent_ts.report.tables import Table
from maxent_ts.report.tree_view import tree_svg
from maxent_ts.summary import budget_per_item, reward_and_correctness

__all__ = ["render_report", "write_report"]

BEST_IS_HIGHEST = frozenset({"reward", "accuracy", "macro-F1"})
"""Columns whose highest number is set in bold."""

MEDIA_TYPES = {"csv": "text/csv", "markdown": "text/markdown", "latex": "application/x-tex"}


def write_report(run_dir: Path, output: Path | None = None, *, export: Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run_dir: A run directory, finished or not.
        output: Where the page goes; `report.html` in the run directory if left out.
        export: A directory for each figure as SVG and PDF and each table as CSV, Markdown and LaTeX; none if left out.

    Raises:
        RunDirectoryError: if the directory is no run, is damaged, has no records yet, or something cannot be written.
        MissingExtraError: if matplotlib is not installed.
    """
    run = read_run(run_dir)
    output = output or run_dir / "report.html"
    tasks, failures = _contents(run)
    page = _render(run, tasks, failures)
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"The page '{output}' cannot be written: {error}. Name another with --output.") from error
    if export is not None:
        export_files(export, tasks, [failures])
    return output


def render_report(run: Run) -> str:
    """Return the page of a run as text.

    Raises:
        RunDirectoryError: if there are no records yet.
    """
    return _render(run, *_contents(run))


def _contents(run: Run) -> tuple[list[TaskContents], Section]:
    if not run.records:
        raise RunDirectoryError(f"The run '{run.path}' has no finished items yet. Continue it with the command that started it.")
    return [task_contents(run, task) for task in run.info.data], failures_section(run)


def _render(run: Run, tasks: list[TaskContents], failures: Section) -> str:
    files = resources.files("maxent_ts.report")
    style, script, page = (files.joinpath(f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js", "html"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.from_string(page).render(
        name=run.path.resolve().name,
        info=run.info,
        style=Markup(style),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        budget=budget_per_item(run),
        tasks=[_task(run, contents) for contents in tasks],
        failures=_section(failures),
        num_failed=sum(record.error is not None for record in run.records),
        num_planned=sum(
            facts.get("num_items", 0) * (len(run.info.config["methods"]) - len(run.info.skipped.get(task, {})))
            for task, facts in run.info.data.items()
        ),
        num_recorded=len(run.records),
        max_items=MAX_ITEMS,
    )


def _task(run: Run, contents: TaskContents) -> dict[str, Any]:
    return {
        "name": contents.name,
        "methods": list(contents.groups),
        "labelled": bool(contents.labels),
        "skipped": run.info.skipped.get(contents.name, {}),
        "reward": run.info.rewards.get(contents.name, {}),
        "sections": [_section(section) for section in contents.sections],
        "headlines": [row for row in contents.comparisons if row["baseline"].partition("[")[0] in ("best_of_n", "greedy")],
        "correlation": reward_and_correctness(contents.groups) if contents.labels else None,
        "items": items(run, contents.name, contents.groups),
        "num_items": len({record.example_id for records in contents.groups.values() for record in records}),
        "trees": [_tree(file) for task, _, file in run.trees() if task == contents.name],
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "title": section.title,
        "note": section.note,
        "drawings": [{"name": one.name, "title": one.title, "note": one.note, "svg": Markup(svg(one))} for one in section.drawings],
        "tables": [_table(table) for table in section.tables],
    }


def _table(table: Table) -> dict[str, Any]:
    """Return a table with each cell as it is shown, sorted by, and coloured."""
    best = {
        index: max((row[index] for row in table.rows if row[index] is not None), default=None)
        for index, column in enumerate(table.columns)
        if column.name in BEST_IS_HIGHEST and len(table.rows) > 1
    }
    rows = [
        [
            {
                "text": table.cell(row, index),
                "value": row[index],
                "best": index in best and best[index] is not None and row[index] == best[index],
                "shade": _shade(table, row, index),
            }
            for index in range(len(table.columns))
        ]
        for row in table.rows
    ]
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "columns": [{"name": one.name, "number": table.is_number(i), "wraps": one.wraps} for i, one in enumerate(table.columns)],
        "rows": rows,
        "files": [_file(table, method, ending) for method, ending in TABLE_FORMATS.items()],
    }


def _shade(table: Table, row: Any, index: int) -> str:
    """How strongly a cell of wins/ties/losses leans to one side, in [−1, 1] as text; empty for other cells."""
    if not table.name.startswith("duels") or index == 0:
        return ""
    if row[index] is None:
        return "0.00"
    wins, ties, losses = map(int, row[index].split("/"))
    return f"{(wins - losses) / max(wins + ties + losses, 1):.2f}"


def _file(table: Table, method: str, ending: str) -> dict[str, str]:
    content = base64.b64encode(getattr(table, method)().encode()).decode()
    return {"name": ending, "file": f"{table.name}.{ending}", "address": f"data:{MEDIA_TYPES[method]};base64,{content}"}


def _tree(file: Path) -> dict[str, Any]:
    tree = read_tree(file)
    return {
        "method": tree["method"],
        "example_id": tree["example_id"],
        "num_completions": len(tree["completions"]),
        "tilt": tree["tilt"],
        "svg": Markup(tree_svg(tree)),
    }


def _number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
