"""A table that can be read on a page, by a spreadsheet, in a README and in a paper."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Column", "Table", "comparison_table"]

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "λ": r"$\lambda$", "×": r"$\times$",
    "≤": r"$\le$", "✓": r"\checkmark{}", "–": "--",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A heading, and how its numbers are shown."""

    name: str
    digits: int | None = 3
    """Decimals of numbers that are not whole; None for four significant digits."""
    sign: bool = False
    """Whether positive numbers have a plus."""
    wraps: bool = False
    """For long texts."""


@dataclass(frozen=True)
class Table:
    """Rows of numbers, texts and None."""

    name: str
    """For files: letters, digits and hyphens."""
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    """How to read it."""

    def cell(self, row: Sequence[Any], index: int) -> str:
        """Return a cell as it is shown, on one line: a dash for what is missing."""
        value, column = row[index], self.columns[index]
        if value is None:
            return "–"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return re.sub(r"\s+", " ", str(value))
        form = ".0f" if isinstance(value, int) else ".4g" if column.digits is None else f".{column.digits}f"
        return f"{value:{'+' if column.sign else ''}{form}}"

    def is_number(self, index: int) -> bool:
        """Whether a column holds numbers only, so that it is set to the right."""
        values = [row[index] for row in self.rows if row[index] is not None]
        return all(isinstance(value, int | float) for value in values)

    def csv(self) -> str:
        """Return it with full precision and empty cells for what is missing."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        writer.writerows(self.rows)
        return file.getvalue()

    def markdown(self) -> str:
        """Return it as Markdown, numbers to the right."""
        lines = [
            [column.name for column in self.columns],
            ["---:" if self.is_number(index) else "---" for index in range(len(self.columns))],
            *([self.cell(row, index) for index in range(len(self.columns))] for row in self.rows),
        ]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def latex(self) -> str:
        """Return it as a LaTeX `tabular` with booktabs' rules."""
        form = "".join("r" if self.is_number(index) else "l" for index in range(len(self.columns)))
        lines = [
            [column.name for column in self.columns],
            *([self.cell(row, index) for index in range(len(self.columns))] for row in self.rows),
        ]
        head, *body = [" & ".join("".join(LATEX.get(one, one) for one in cell) for cell in line) + r" \\" for line in lines]
        return "\n".join(
            [rf"\begin{{tabular}}{{{form}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
        )


def comparison_table(rows: Sequence[Mapping[str, Any]], name: str = "comparison") -> Table:
    """Return paired differences as a table.

    Args:
        rows: As in `compare.Comparison`, or in the `comparisons` of summary.json.
        name: Of the table.
    """
    columns = {
        "task": Column("task"),
        "metric": Column("metric"),
        "method": Column("method"),
        "baseline": Column("− baseline"),
        "mean": Column("mean"),
        "baseline_mean": Column("of baseline"),
        "difference": Column("difference", sign=True),
        "low": Column("95 % low", sign=True),
        "high": Column("95 % high", sign=True),
        "interval": Column("interval"),
        "p_value": Column("p", digits=4),
        "p_holm": Column("p (Holm)", digits=4),
        "wins": Column("wins"),
        "ties": Column("ties"),
        "losses": Column("losses"),
        "n": Column("n"),
        "detectable": Column("detectable"),
        "verdict": Column("verdict", wraps=True),
    }

    cells = [{**row, **dict(zip(("low", "high"), row["ci95"] or (None, None), strict=True))} for row in rows]
    return Table(
        name, "Paired differences, item by item", tuple(columns.values()), [[row[key] for key in columns] for row in cells]
    )
