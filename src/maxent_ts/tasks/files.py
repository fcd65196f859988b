"""Reading tables of series, with messages that name the file, the row and the column.

Rows are counted from 1, without the header.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maxent_ts.errors import DataError, PromptError
from maxent_ts.types import TimeSeriesPrompt

__all__ = ["Row", "data_file", "data_folder", "parse_series", "read_rows", "with_place"]

MIN_POINTS = 4
"""One patch of OpenTSLM's encoder."""

MAX_CELL_CHARACTERS = 64 * 2**20

Row = tuple[int, dict[str, str]]
"""The row's number and its required cells."""


def data_folder(data_dir: Path | None, task: str, contents: str) -> Path:
    """Return the user's data folder, for a task that no sample ships for.

    Args:
        data_dir: What the user gave.
        task: The task's name, for messages.
        contents: What the folder must hold, in words.

    Raises:
        DataError: if none was given, or it is no folder.
    """
    if data_dir is None:
        raise DataError(f"The task '{task}' ships without data. Give a folder that holds {contents}, with --data-dir.")
    if not Path(data_dir).is_dir():
        raise DataError(f"Expected a folder that holds {contents} at {data_dir}, but there is no such folder.")
    return Path(data_dir)


def data_file(folder: Path, *parts: str) -> Path:
    """Return where a file lies in a data folder: at OpenTSLM's own place, or in the folder itself.

    Args:
        folder: The data folder, such as OpenTSLM's `data/`, or the subfolder of one data set.
        parts: OpenTSLM's path below `data/`, such as "sleep", "sleep_cot.csv".

    Returns:
        The first place from the full path to the bare name that exists; the bare name where none does.
    """
    places = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((place for place in places if place.exists()), places[-1])


def read_rows(path: Path, columns: Sequence[str], hint: str = "", *, optional: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a CSV file, only the named columns of each.

    A row that repeats the header (OpenTSLM's HAR files have some) is skipped and not counted.

    Args:
        path: The file, UTF-8.
        columns: Columns that must be there.
        hint: What to do if the file is missing.
        optional: Columns that may be missing, or have empty cells: "" then.

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
            names = [name.strip() for name in header]
            others = {column: names.index(column) for column in optional if column in names}
            for cells in reader:
                if not cells or [cells[place] for place in positions.values() if place < len(cells)] == list(positions):
                    continue
                number += 1
                spare = {
                    column: cells[others[column]] if others.get(column, len(cells)) < len(cells) else "" for column in optional
                }
                yield number, {**spare, **_pick(path, number, cells, positions)}
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


def with_place(path: Path, number: int, build: Callable[..., TimeSeriesPrompt], *parts: Any) -> TimeSeriesPrompt:
    """Build a prompt from a row.

    Raises:
        DataError: if that cannot be done, with the file and the row.
    """
    try:
        return build(*parts)
    except PromptError as error:
        raise DataError(f"No prompt can be made of {path}, row {number}. {error}") from error
