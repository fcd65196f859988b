"""`maxent-ts list`: read from the source files, so that nothing heavy is imported for it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib import resources
from typing import Any

from rich.table import Table

from maxent_ts import registry
from maxent_ts.cli.shared import Format, write_json
from maxent_ts.errors import UnknownNameError

__all__ = ["listing", "run_list"]

KINDS: Mapping[str, Mapping[str, str]] = {
    "methods": registry.METHODS,
    "tasks": registry.TASKS,
    "rewards": registry.REWARDS,
    "engines": registry.ENGINES,
    "trackers": registry.TRACKERS,
}


def run_list(kind: str | None, output_format: Format) -> None:
    """Print what there is of one kind, or of all; `schema` is the JSON Schema of a record."""
    if kind == "schema":
        from maxent_ts.record import record_schema

        write_json(record_schema())
        return
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(registry.unknown_name("list", kind, [*KINDS, "schema"]))
    found = {one: listing(one) for one in ([kind] if kind else KINDS)}
    if output_format is Format.JSON:
        write_json(found)
        return
    from maxent_ts.cli.tables import console

    out = console()
    for title, rows in found.items():
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for row in rows:
            settings = ", ".join(f"{name}={default}" for name, default in row["settings"].items())
            table.add_row(row["name"], row["description"] + (f" [dim]({settings})[/dim]" if settings else ""))
        out.print(table)
        out.print()


def listing(kind: str) -> list[dict[str, Any]]:
    """Return name, first line of the description, and settings with their defaults of everything of a kind."""
    return [{"name": name, **_described(place)} for name, place in KINDS[kind].items()]


def _described(place: str) -> dict[str, Any]:
    module, attribute = place.split(":")
    source = resources.files("maxent_ts").joinpath(*module.split(".")[1:-1], module.rsplit(".", 1)[1] + ".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == attribute:
            description = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
            return {"description": description, "settings": _settings(node)}
    raise UnknownNameError(
        f"The registry names {place}, but there is no '{attribute}' in that file. This is a fault of the package."
    )


def _settings(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    if isinstance(node, ast.ClassDef):
        return {}
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {argument.arg: "required" if default is None else ast.unparse(default) for argument, default in pairs}
