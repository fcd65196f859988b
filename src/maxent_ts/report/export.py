"""A report's figures and tables as files, for papers and spreadsheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maxent_ts.errors import RunDirectoryError
from maxent_ts.report.contents import Section, TaskContents
from maxent_ts.report.drawing import save

__all__ = ["export_files"]

TABLE_FORMATS = {"csv": "csv", "markdown": "md", "latex": "tex"}
"""Method of `Table` and ending of the file."""


def export_files(folder: Path, tasks: Sequence[TaskContents], others: Sequence[Section]) -> list[Path]:
    """Write each figure as SVG and PDF, and each table as CSV, Markdown and LaTeX (with booktabs' rules).

    Args:
        folder: Made if it is not there; files of the same names are replaced.
        tasks: Their files are named `<task>-<name>`.
        others: Sections that belong to no task.

    Returns:
        The files.

    Raises:
        RunDirectoryError: if they cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for prefix, sections in [*((_safe(task.name), task.sections) for task in tasks), ("", others)]:
            for section in sections:
                for drawing in section.drawings:
                    for form in ("svg", "pdf"):
                        written.append(folder / f"{prefix}-{drawing.name}.{form}".lstrip("-"))
                        written[-1].write_bytes(save(drawing.figure, form))
                for table in section.tables:
                    for method, ending in TABLE_FORMATS.items():
                        written.append(folder / f"{prefix}-{table.name}.{ending}".lstrip("-"))
                        written[-1].write_text(getattr(table, method)(), encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(
            f"Figures and tables cannot be written to '{folder}': {error}. Name another with --export."
        ) from error
    return written


def _safe(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
