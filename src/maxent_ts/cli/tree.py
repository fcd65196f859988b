"""`maxent-ts tree`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from maxent_ts.cli.tables import console
from maxent_ts.errors import SettingError
from maxent_ts.records import read_run
from maxent_ts.report.tree_choice import choose_tree
from maxent_ts.report.tree_page import write_tree_page
from maxent_ts.report.tree_text import tree_text

__all__ = ["run_tree"]


def run_tree(run_dir: Path, *, item: str | None, task: str | None, method: str | None, output: Path | None, as_text: bool) -> None:
    """Write the page of a stored search tree and print its path, or print the tree."""
    if as_text and output is not None:
        raise SettingError("--text prints the tree, so there is no page to write to --output. Leave one of them out.")
    run = read_run(run_dir)
    stored = choose_tree(run, item=item, task=task, method=method)
    if not as_text:
        typer.echo(str(write_tree_page(run, stored, output)))
        return
    out = console()
    out.print(f"{stored.task} item {stored.number} ({stored.example_id}), {stored.method}", markup=False)
    out.print(tree_text(stored.tree), soft_wrap=False)
    sys.stdout.flush()
