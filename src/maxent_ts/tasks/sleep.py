"""OpenTSLM's stage 4: sleep stages from half a minute of EEG (Sleep-EDF, channel Fpz-Cz)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maxent_ts.errors import DataError
from maxent_ts.tasks.answers import stated_answer
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.files import Row, data_file, data_folder, parse_series, read_rows, with_place
from maxent_ts.tasks.prompts import sleep_prompt
from maxent_ts.tasks.subset import SPLIT_SEED, TEST_SHARE, stratified_subset
from maxent_ts.tasks.upstream import SleepScorer

__all__ = ["SLEEP_LABELS", "SleepCot"]

SLEEP_LABELS = ("Wake", "Non-REM stage 1", "Non-REM stage 2", "Non-REM stage 3", "REM sleep", "Movement")
"""What the prompt lists. Stage 4 of the data is stage 3 here, as in OpenTSLM's evaluation."""

SLEEP_SAMPLING_RATE = 50.0

_OTHER_NAMES = {
    "w": "Wake",
    "awake": "Wake",
    **{f"{prefix}{stage}": f"Non-REM stage {min(stage, 3)}" for prefix in ("n", "nrem") for stage in (1, 2, 3, 4)},
    "non-rem stage 4": "Non-REM stage 3",
    "rem": "REM sleep",
}
"""Names of the same stages that data and models use, in lower case."""


class SleepCot:
    """Which sleep stage does 30 s of EEG show? OpenTSLM's stage 4 (arXiv 2510.02410).

    Reads `sleep_cot.csv`: `time_series` ([[…]], 1500 points at 50 Hz), `label` and, for the upstream scorer, `rationale`. The
    examples are OpenTSLM's test split, a tenth drawn with scikit-learn's seed 42 in proportion to the labels, by window: windows of
    one sleeper are on both sides of it. Only series of that split are parsed. The target is the stage, stage 4 counted as 3; the
    stratum too.
    """

    name = "sleep_cot"
    labels = SLEEP_LABELS
    rewards: Mapping[str, float] = {"format": 1.0}
    upstream = SleepScorer(SLEEP_LABELS)

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load test windows. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "sleep_cot/0", …: the position in the file, which holds all splits.

        Raises:
            DataError: if the file is missing, a label or series in it cannot be used, or it has too few rows to be split.
        """
        path = data_file(data_folder(data_dir, self.name, "OpenTSLM's sleep_cot.csv"), "sleep", "sleep_cot.csv")
        hint = "Point the data directory at the folder that holds OpenTSLM's Sleep-CoT file."
        rows = list(read_rows(path, ("time_series", "label"), hint, optional=("rationale",)))
        stages = [_stage(path, row) for row in rows]
        test = _test_split(path, [cells["label"] for _, cells in rows])
        chosen = stratified_subset([stages[index] for index in test], limit, seed)
        return [self._example(path, rows[test[position]], stages[test[position]]) for position in chosen]

    def answer(self, text: str) -> str | None:
        """Return the stage behind the last "Answer:", None if it is none; stage 4 is stage 3."""
        return _named(stated_answer(text))

    def _example(self, path: Path, row: Row, stage: str) -> Example:
        number, cells = row
        # The cell is a list that holds one list.
        text = cells["time_series"].strip()
        nested = text.startswith("[[") and text.endswith("]]")
        series = parse_series(text[1:-1] if nested else text, path, number, "time_series")
        return Example(
            id=f"{self.name}/{number - 1}",
            prompt=with_place(path, number, sleep_prompt, series),
            inputs={
                "series": [series],
                "series_names": ["EEG"],
                "sampling_rate": SLEEP_SAMPLING_RATE,
                "labels": self.labels,
                "task": self.name,
            },
            target=stage,
            stratum=stage,
            reference=cells["rationale"] or None,
        )


def _named(name: str | None) -> str | None:
    if name is None:
        return None
    return next((label for label in SLEEP_LABELS if label.lower() == name), _OTHER_NAMES.get(name))


def _stage(path: Path, row: Row) -> str:
    number, cells = row
    stage = _named(cells["label"].strip().lower())
    if stage is None:
        raise DataError(
            f"Expected a sleep stage such as {', '.join(SLEEP_LABELS)} in {path}, row {number}, column 'label', "
            f"but found '{cells['label'][:30]}'."
        )
    return stage


def _test_split(path: Path, labels: Sequence[str]) -> list[int]:
    """Return the rows of the test part, ascending. Drawn in proportion to the file's own labels, stage 4 apart from stage 3."""
    from sklearn.model_selection import train_test_split

    try:
        _, test = train_test_split(range(len(labels)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=list(labels))
    except ValueError as error:
        raise DataError(
            f"OpenTSLM's test split cannot be drawn from {path}: {error} Give the whole file, which holds all splits."
        ) from error
    return sorted(test)
