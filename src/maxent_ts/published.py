"""Published numbers on the tasks, and whether a run reproduces the one that was measured with its model.

The numbers lie in `assets/published/opentslm.csv`, each with its source. A number is compared only with a run of the very
checkpoint it was measured with, on the user's copy of the data, by the upstream scorer; everything else is shown as what it is:
what others got with another model.
"""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from maxent_ts.grading import Grading, accuracy_and_f1, grading_of
from maxent_ts.metrics import proportion_ci95
from maxent_ts.records import Record, Run
from maxent_ts.registry import METHODS_OF_ONE_COMPLETION

__all__ = ["PublishedRow", "published_rows", "reproductions"]

SCORER = "upstream"
NUM_RESAMPLES = 499
"""Of the bootstrap of macro-F1."""

TEST_ITEMS: Mapping[str, int] = {"tsqa": 4800, "har_cot": 8222, "sleep_cot": 930, "ecg_qa_cot": 41093}
"""Items of the test splits: arXiv 2510.02410v3, Table 4."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One model's published result on one task."""

    source: str
    model: str
    """As the source calls it."""
    checkpoint: str
    """Hub id of what it was measured with; "" where there is none to run."""
    task: str
    macro_f1: float | None
    """In [0, 1]; None where only the other was published."""
    accuracy: float | None
    note: str


def published_rows(task: str) -> list[PublishedRow]:
    """Return what was published on a task, in the order of the file."""
    text = importlib.resources.files("maxent_ts").joinpath("assets", "published", "opentslm.csv").read_text(encoding="utf-8")
    return [
        PublishedRow(
            **{name: row[name] for name in ("source", "model", "checkpoint", "task", "note")},
            macro_f1=float(row["macro_f1"]) / 100 if row["macro_f1"] else None,
            accuracy=float(row["accuracy"]) / 100 if row["accuracy"] else None,
        )
        for row in csv.DictReader(text.splitlines())
        if row["task"] == task
    ]


def reproductions(run: Run, task: str, by_variant: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """Compare a run with the number published for its model, if there is one.

    Args:
        run: The run. Its model must be the row's checkpoint, by hub id or in a folder that is named like it, and its data the
            user's: the embedded samples are other data.
        task: The task.
        by_variant: For each variant of a method its records. Methods of more than one completion are left out: the published
            numbers are of one.

    Returns:
        For each variant and metric `source`, `model`, `method`, `metric`, `published`, `ours`, `ci95`, `verdict` ("PASS" where the
        published number lies in our 95 % interval, else "FAIL"), `n`, and `num_published_items`. The interval of an accuracy is
        Wilson's, that of a macro-F1 the percentile bootstrap's over items.
    """
    row = _row_of(run, task)
    if row is None:
        return []
    labels, grading = run.info.data[task].get("labels", []), grading_of(run, task)
    found: list[dict[str, Any]] = []
    for label, records in by_variant.items():
        scored = [one for one in records if one.error is None and SCORER in one.scores]
        if not scored or scored[0].method not in METHODS_OF_ONE_COMPLETION:
            continue
        ours = accuracy_and_f1(scored, labels, grading, SCORER)
        num_correct = sum(one.scores[SCORER].correct for one in scored)
        intervals = {"accuracy": proportion_ci95(num_correct, len(scored)), "macro_f1": _f1_interval(scored, labels, grading)}
        for metric, published in (("accuracy", row.accuracy), ("macro_f1", row.macro_f1)):
            low, high = intervals[metric]
            if published is not None:
                found.append(
                    {
                        "source": row.source,
                        "model": row.model,
                        "task": task,
                        "method": label,
                        "metric": metric,
                        "published": published,
                        "ours": ours[metric],
                        "ci95": [low, high],
                        "verdict": "PASS" if low <= published <= high else "FAIL",
                        "n": len(scored),
                        "num_published_items": TEST_ITEMS[task],
                        "note": row.note,
                    }
                )
    return found


def _row_of(run: Run, task: str) -> PublishedRow | None:
    model = str(run.info.config.get("model", ""))
    names = {model, "/".join(PurePath(model).parts[-2:])}
    if not run.info.config.get("data_dir"):
        return None
    return next((row for row in published_rows(task) if row.checkpoint in names), None)


def _f1_interval(records: Sequence[Record], labels: Sequence[str], grading: Grading) -> tuple[float, float]:
    import numpy as np
    from scipy import stats

    def macro_f1(indices: np.ndarray) -> float:
        score = accuracy_and_f1([records[int(index)] for index in indices], labels, grading, SCORER)["macro_f1"]
        return 0.0 if score is None else score

    if len(records) < 2:
        return 0.0, 1.0
    interval = stats.bootstrap(
        (np.arange(len(records)),),
        macro_f1,
        n_resamples=NUM_RESAMPLES,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(0),  # pyright: ignore[reportCallIssue] (named rng from scipy 1.15 on)
    ).confidence_interval
    return float(interval.low), float(interval.high)
