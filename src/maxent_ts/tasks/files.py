"""Reading tables of series, with messages that name the file, the row and the column.

Rows are counted from 1, without the header.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from maxent_ts.errors import DataError

__all__ = ["Row", "parse_series", "read_rows"]

MIN_POINTS = 4
"""One patch of OpenTSLM's encoder."""

MAX_CELL_CHARACTERS = 64 * 2**20

Row = tuple[int, dict[str, str]]
"""The row's number and its required cells."""


def read_rows(path: Path, columns: Sequence[str], hint: str = "") -> Iterator[Row]:
    """Yield the rows of a CSV file, only the named columns of each.

    A row that repeats the header (OpenTSLM's HAR files have some) is skipped and not counted.

    Args:
        path: The file, UTF-8.
        columns: Columns that must be there.
        hint: What to do if the file is missing.

    Raises:
        DataError: if the file is missing, unreadable, empty or without rows, or lacks a column or a cell.
    """
    if not path.is_file():
        raise DataError(f"Expected the file {path}, but it is not there. {hint}".rstrip())
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, None)
            if not header:
                raise DataError(f"Expected a header line with the columns {', '.join(columns)} in {path}, but the file is empty.")
            positions = _positions(path, header, columns)
            for cells in reader:
                if not cells or [cells[place] for place in positions.values() if place < len(cells)] == list(positions):
                    continue
                number += 1
                yield number, _pick(path, number, cells, positions)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"Expected {path} to be a CSV file in UTF-8, but row {number + 1} cannot be read: {error}.") from error
    if number == 0:
        raise DataError(f"Expected at least one row below the header of {path}, but there is none.")


def _positions(path: Path, header: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    names = [name.strip() for name in header]
    for column in columns:
        if column not in names:
            raise DataError(
                f"Expected the column '{column}' in {path}, but its columns are {', '.join(names)}. "
                "Rename the column that holds it, or choose another file."
            )
    return {column: names.index(column) for column in columns}


def _pick(path: Path, number: int, cells: Sequence[str], positions: dict[str, int]) -> dict[str, str]:
    for column, place in positions.items():
        if place >= len(cells) or not cells[place].strip():
            raise DataError(f"Expected a value in {path}, row {number}, column '{column}', but the cell is empty.")
    return {column: cells[place] for column, place in positions.items()}


def parse_series(cell: str, path: Path, number: int, column: str) -> list[float]:
    """Read a cell such as "[0.1, -9.8]".

    Returns:
        At least four finite numbers.

    Raises:
        DataError: if the cell is not a list, or an entry is not a finite number, or there are fewer than four.
    """
    where = f"{path}, row {number}, column '{column}'"
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise DataError(f"Expected a list of numbers such as [0.1, -9.8] in {where}, but the cell begins with '{text[:30]}'.")
    inside = text[1:-1].strip()
    values = []
    for position, entry in enumerate(inside.split(",") if inside else (), start=1):
        try:
            value = float(entry)
        except ValueError:
            raise DataError(
                f"Expected only numbers in the list in {where}, but entry {position} is '{entry.strip()[:30]}'. "
                "Correct or drop the row."
            ) from None
        if not math.isfinite(value):
            raise DataError(
                f"Expected only finite numbers in {where}, but entry {position} is {entry.strip()}. Fill the gap or drop the row."
            )
        values.append(value)
    if len(values) < MIN_POINTS:
        raise DataError(f"Expected at least {MIN_POINTS} points in {where}, but there are {len(values)}. Drop the row.")
    return values
