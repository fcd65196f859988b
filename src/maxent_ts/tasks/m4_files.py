"""Series with their official continuation, in the file layouts of the M4 competition.

A folder holds `{Frequency}-train.csv` and `{Frequency}-test.csv` (a header line, then id and values, empty cells behind the last
value), as published by the organisers; or Parquet files with the columns `id`, `frequency`, `train`, `test`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maxent_ts.errors import DataError, MissingExtraError

__all__ = ["SplitSeries", "read_split_series"]

MAX_CELL_CHARACTERS = 2**20


@dataclass(frozen=True, slots=True)
class SplitSeries:
    """A series cut where the forecast begins."""

    id: str
    frequency: str
    past: tuple[float, ...]
    future: tuple[float, ...]


def read_split_series(folder: Path, frequencies: Sequence[str]) -> list[SplitSeries]:
    """Read every series of the given frequencies that a folder holds.

    Returns:
        By frequency in the order given, then in the order of the files.

    Raises:
        DataError: if there is no file, a test part is missing, or a value is not a finite number.
        MissingExtraError: if there are Parquet files only, and pyarrow is not installed.
    """
    found: list[SplitSeries] = []
    for frequency in frequencies:
        train, test = (folder / f"{frequency}-{part}.csv" for part in ("train", "test"))
        if not train.is_file():
            continue
        futures = dict(_wide_rows(test))
        for name, past in _wide_rows(train):
            if name not in futures:
                raise DataError(
                    f"Expected the continuation of '{name}' in {test}, but it has no such row. Add it, or drop the series."
                )
            found.append(SplitSeries(name, frequency, past, futures[name]))
    if found:
        return found
    found = [one for path in sorted(folder.glob("*.parquet")) for one in _parquet_rows(path)]
    order = {name: index for index, name in enumerate(frequencies)}
    found = sorted((one for one in found if one.frequency in order), key=lambda one: order[one.frequency])
    if not found:
        raise DataError(
            f"Expected series in M4's layout in {folder}, {{Frequency}}-train.csv with {{Frequency}}-test.csv for any of "
            f"{', '.join(frequencies)}, or Parquet files with the columns id, frequency, train and test, but there are none."
        )
    return found


def _wide_rows(path: Path) -> Iterator[tuple[str, tuple[float, ...]]]:
    if not path.is_file():
        raise DataError(f"Expected the file {path}, but it is not there. M4's training and test files belong together.")
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            next(reader, None)
            for number, cells in enumerate(reader, start=1):
                while cells and not cells[-1].strip():
                    cells.pop()
                if cells:
                    where = f"{path}, row {number}"
                    yield cells[0].strip(), _numbers(cells[1:], where)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"Expected {path} to be a CSV file in UTF-8, but it cannot be read: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[SplitSeries]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    try:
        rows: Sequence[Mapping[str, object]] = read_table(path, columns=["id", "frequency", "train", "test"]).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"Expected {path} to be a Parquet file with the columns id, frequency, train and test: {error}.") from error
    for number, row in enumerate(rows, start=1):
        parts = []
        for column in ("train", "test"):
            values = row[column]
            if not isinstance(values, list):
                raise DataError(f"Expected a list of numbers in {path}, row {number}, column '{column}'.")
            parts.append(_numbers(values, f"{path}, row {number}, column '{column}'"))
        yield SplitSeries(str(row["id"]), str(row["frequency"]), *parts)


def _numbers(cells: Sequence[object], where: str) -> tuple[float, ...]:
    values = []
    for position, cell in enumerate(cells, start=1):
        try:
            value = float(cell)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            raise DataError(f"Expected only numbers in {where}, but value {position} is '{str(cell)[:30]}'.") from None
        if not math.isfinite(value):
            raise DataError(
                f"Expected only finite numbers in {where}, but value {position} is {cell}. Fill the gap or drop the series."
            )
        values.append(value)
    if not values:
        raise DataError(f"Expected values in {where}, but there are none.")
    return tuple(values)
