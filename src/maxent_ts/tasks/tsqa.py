"""OpenTSLM's stage 1: multiple-choice questions about synthetic series (TSQA, Wang et al., ChatTime, arXiv 2412.11376)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxent_ts.errors import DataError, MissingExtraError
from maxent_ts.tasks.answers import stated_answer
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.files import Row, data_folder, parse_series, read_rows, with_place
from maxent_ts.tasks.prompts import tsqa_prompt
from maxent_ts.tasks.subset import stratified_subset, upstream_test_split
from maxent_ts.tasks.upstream import TsqaScorer

__all__ = ["TSQA_LABELS", "Tsqa"]

TSQA_LABELS = ("(a)", "(b)", "(c)")
TSQA_COLUMNS = ("Task", "Question", "Answer", "Series")
TSQA_HUB_ID = "ChengsenWang/TSQA"

_SUFFIXES = (".parquet", ".jsonl", ".csv")
_CHOICE = re.compile(r"\W*([a-z])(?:\).*|\W*)", re.DOTALL)
"""A letter that is all there is, or that a parenthesis closes: an "a" that begins a sentence is no answer."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Tsqa:
    """Which of three statements about a synthetic series is true? OpenTSLM's stage 1 (arXiv 2510.02410).

    Reads the columns `Task`, `Question`, `Answer` ("(b)", perhaps with words behind it) and `Series` (a JSON list) of all the
    .parquet, .jsonl or .csv files of a folder, in the order of their names. The data directory may also be a data set's hub id,
    "ChengsenWang/TSQA". The examples are OpenTSLM's test split: `train_test_split(0.1, seed=42)` of all rows. The stratum is
    `Task`.
    """

    name = "tsqa"
    labels = TSQA_LABELS
    rewards: Mapping[str, float] = {"logprob": 1.0}
    upstream = TsqaScorer(TSQA_LABELS)

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load test questions. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "tsqa/0", …: the position among all rows, those of the other splits included.

        Raises:
            DataError: if there is no file, a row cannot be used, or the hub cannot be reached.
        """
        rows = _rows(_tsqa_folder(data_dir))
        test = [(index, *rows[index]) for index in upstream_test_split(len(rows))]
        chosen = stratified_subset([cells["Task"] for _, _, (_, cells) in test], limit, seed)
        return [self._example(*test[position]) for position in chosen]

    def answer(self, text: str) -> str | None:
        """Return the choice that a text begins with, or that stands behind its last "Answer:"; None if there is none."""
        stated = stated_answer(text)
        found = _CHOICE.fullmatch(text.lower() if stated is None else stated)
        label = f"({found.group(1)})" if found else None
        return label if label in self.labels else None

    def _example(self, index: int, path: Path, row: Row) -> Example:
        number, cells = row
        series = parse_series(cells["Series"], path, number, "Series")
        target = self.answer(cells["Answer"])
        if target is None:
            raise DataError(
                f"Expected an answer that begins with one of {', '.join(self.labels)} in {path}, row {number}, column 'Answer', "
                f"but found '{cells['Answer'][:30]}'."
            )
        return Example(
            id=f"{self.name}/{index}",
            prompt=with_place(path, number, tsqa_prompt, cells["Question"], cells["Task"], series),
            inputs={"series": [series], "series_names": ["series"], "labels": self.labels, "task": self.name},
            target=target,
            stratum=cells["Task"],
            reference=cells["Answer"],
        )


def _tsqa_folder(data_dir: Path | None) -> Path:
    if data_dir is not None and not Path(data_dir).exists() and _HUB_ID.fullmatch(Path(data_dir).as_posix()):
        return _downloaded(Path(data_dir).as_posix())
    return data_folder(data_dir, "tsqa", f"TSQA's files, or the hub id {TSQA_HUB_ID},")


def _downloaded(hub_id: str) -> Path:
    """Return the folder of a data set of the hub, fetched unless it is in the cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise MissingExtraError("huggingface_hub", "hf") from error
    try:
        return Path(snapshot_download(hub_id, repo_type="dataset", allow_patterns=[f"*{suffix}" for suffix in _SUFFIXES]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise DataError(
            f"The data set '{hub_id}' cannot be fetched from the hub ({type(error).__name__}), and no copy of it is in the cache. "
            "Without a network, fetch its files elsewhere and give their folder with --data-dir."
        ) from error


def _rows(folder: Path) -> list[tuple[Path, Row]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    if not files:
        raise DataError(f"Expected TSQA's files in {folder}, ending in {', '.join(_SUFFIXES)}, but there is none.")
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".csv": lambda path: read_rows(path, TSQA_COLUMNS)}
    return [(path, row) for path in files for row in readers[path.suffix](path)]


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    try:
        table = parquet.read_table(path, columns=list(TSQA_COLUMNS))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"Expected a Parquet file in {path}, but it cannot be read: {error}.") from error
    return [(number, _cells(path, number, values)) for number, values in enumerate(table.to_pylist(), start=1)]


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate((line for line in file if line.strip()), start=1):
            try:
                values = json.loads(line)
            except ValueError as error:
                raise DataError(f"Expected one JSON object a line in {path}, but row {number} cannot be read: {error}.") from error
            rows.append((number, _cells(path, number, values)))
    return rows


def _cells(path: Path, number: int, values: Any) -> dict[str, str]:
    """Return the cells as a CSV file would have them; a series may be a list or the text of one."""
    missing = next((name for name in TSQA_COLUMNS if not isinstance(values, dict) or values.get(name) in (None, "")), None)
    if missing is not None:
        raise DataError(f"Expected a value for '{missing}' in {path}, row {number}, but there is none.")
    return {name: values[name] if isinstance(values[name], str) else json.dumps(values[name]) for name in TSQA_COLUMNS}
