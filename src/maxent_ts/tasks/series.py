"""A user's own series as a task: any CSV file, a question, and possible answers or none."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maxent_ts.errors import DataError, SettingError
from maxent_ts.tasks.answers import stated_answer
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.files import MIN_POINTS, with_place
from maxent_ts.tasks.prompts import M4_QUESTION, own_prompt
from maxent_ts.tasks.subset import stratified_subset

__all__ = ["OwnSeries"]

ID_COLUMN = "id"
LABEL_COLUMN = "label"
_NO_CHANNELS = (ID_COLUMN, LABEL_COLUMN, "time", "timestamp", "date", "datetime")
"""Columns with a meaning of their own, whatever their case."""


@dataclass
class _Item:
    """What the rows of one id hold."""

    first_row: int
    channels: dict[str, list[float]]
    labels: set[str] = field(default_factory=set)


class OwnSeries:
    """Your own series: a CSV file, a question, and labels or none (`--series`, `--question`, `--labels`).

    The file has a header; a row is a step in time, a column a channel. These columns are no channels: `time`, `timestamp`, `date`
    and `datetime` are not read; `id`, if there is one, says which item a row belongs to, so that a file can hold many, of any
    lengths, univariate or not; `label`, if there is one, is the right answer, the same in all rows of an item. Without `id` the
    file is one item. Rows are taken in the order of the file.

    Args:
        question: What is asked about every item; by default a caption, in the words that OpenTSLM's captioning was trained with.
        labels: The possible answers; none for a free answer.
    """

    name = "series"

    def __init__(self, question: str = "", labels: Sequence[str] = ()) -> None:
        self.labels = tuple(label.strip() for label in labels)
        self._question = question.strip()
        self._by_name = {label.lower(): label for label in self.labels}
        if "" in self._by_name or len(self._by_name) < len(self.labels):
            raise SettingError(f"Labels must differ from each other, in more than case, and not be empty, but are {list(labels)}.")
        if self.labels and not self._question:
            raise SettingError("Labels are answers to a question. Give it with --question.")

    @property
    def rewards(self) -> Mapping[str, float]:
        """As for OpenTSLM's captions and activities."""
        return {"claims": 0.5, "format": 0.5}

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load the items of the file. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "series/{id}", or "series/{name of the file}" for a file of one item. The stratum is the label.

        Args:
            data_dir: The CSV file.
            limit: How many.
            seed: Of their choice.

        Raises:
            DataError: if the file is missing or has no channel, or a value is missing or no finite number; with the row.
        """
        if data_dir is None or not Path(data_dir).is_file():
            found = "none was given" if data_dir is None else f"there is none at {data_dir}"
            raise DataError(f"Expected a CSV file with a column for each channel, but {found}. Name it with --series FILE.csv.")
        path = Path(data_dir)
        items = _read_items(path)
        chosen = stratified_subset([self._label(path, item) or "" for item in items.values()], limit, seed)
        names = list(items)
        return [self._example(path, names[index], items[names[index]]) for index in chosen]

    def answer(self, text: str) -> str | None:
        """Return the label behind the last "Answer:", None if it is none of them."""
        return self._by_name.get(stated_answer(text) or "")

    def _label(self, path: Path, item: _Item) -> str | None:
        """The right answer, where the file has one and it is an answer to choose from."""
        if len(item.labels) > 1:
            raise DataError(
                f"Expected one '{LABEL_COLUMN}' for all rows of an item in {path}, but the item that begins in row "
                f"{item.first_row} has {', '.join(sorted(item.labels))}."
            )
        label = next(iter(item.labels), None)
        if label is None or not self.labels:
            return label
        if label.lower() not in self._by_name:
            raise DataError(
                f"Expected one of {', '.join(self.labels)} in {path}, row {item.first_row}, column '{LABEL_COLUMN}', but found "
                f"'{label}'. Add it to --labels, or rename the column."
            )
        return self._by_name[label.lower()]

    def _example(self, path: Path, name: str, item: _Item) -> Example:
        for channel, values in item.channels.items():
            if len(values) < MIN_POINTS:
                raise DataError(
                    f"Expected at least {MIN_POINTS} points of each channel in {path}, but '{channel}' of the item that begins "
                    f"in row {item.first_row} has {len(values)}. Drop the item."
                )
        label = self._label(path, item)
        prompt = with_place(path, item.first_row, own_prompt, item.channels, self._question or M4_QUESTION, self.labels)
        return Example(
            id=f"{self.name}/{name}",
            prompt=prompt,
            inputs={
                "series": list(item.channels.values()),
                "series_names": list(item.channels),
                "labels": self.labels,
                "task": self.name,
            },
            target=label,
            stratum=label or "",
        )


def _read_items(path: Path) -> dict[str, _Item]:
    """Read a file into items by id, in the order in which the ids first occur."""
    items: dict[str, _Item] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.lower() if name.lower() in _NO_CHANNELS else name for name in map(str.strip, next(reader, []))]
            channels = _channels(path, header)
            for number, cells in enumerate((cells for cells in reader if cells), start=1):
                if len(cells) != len(header):
                    raise DataError(
                        f"Expected {len(header)} cells in {path}, row {number}, as in the header, but there are {len(cells)}."
                    )
                row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                name = row.get(ID_COLUMN, path.stem)
                if not name:
                    raise DataError(f"Expected a value in {path}, row {number}, column '{ID_COLUMN}', but the cell is empty.")
                item = items.setdefault(name, _Item(number, {channel: [] for channel in channels}))
                for channel in channels:
                    item.channels[channel].append(_number(row[channel], path, number, channel))
                if row.get(LABEL_COLUMN):
                    item.labels.add(row[LABEL_COLUMN])
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"Expected {path} to be a CSV file in UTF-8, but it cannot be read: {error}.") from error
    if not items:
        raise DataError(f"Expected at least one row below the header of {path}, but there is none.")
    return items


def _channels(path: Path, header: Sequence[str]) -> list[str]:
    channels = [name for name in header if name not in _NO_CHANNELS]
    if not channels:
        raise DataError(f"Expected a header with the name of at least one channel in {path}, but it is '{','.join(header)}'.")
    if len(set(header)) < len(header) or "" in header:
        raise DataError(f"Expected columns with names that differ in {path}, but they are {', '.join(map(repr, header))}.")
    if all(_is_number(name) for name in channels):
        raise DataError(
            f"Expected a header with names in the first row of {path}, but it holds numbers: {', '.join(channels[:4])}. "
            "Put a line with the names of the channels above it."
        )
    return channels


def _number(cell: str, path: Path, number: int, channel: str) -> float:
    value = float(cell) if _is_number(cell) else math.nan
    if not math.isfinite(value):
        found = f"found '{cell[:30]}'" if cell else "the cell is empty"
        raise DataError(
            f"Expected a finite number in {path}, row {number}, column '{channel}', but {found}. Fill the gap or drop the row: "
            "a model cannot tell a gap from a value."
        )
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
