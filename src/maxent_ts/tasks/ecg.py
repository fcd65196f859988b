"""OpenTSLM's stage 5: questions about twelve-lead ECGs (ECG-QA, Oh et al., arXiv 2306.15681, on PTB-XL)."""

from __future__ import annotations

import ast
import importlib.resources
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from maxent_ts.errors import DataError, MissingExtraError, PromptError
from maxent_ts.tasks.answers import stated_answer
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.files import Row, data_file, data_folder, read_rows
from maxent_ts.tasks.prompts import ECG_LEADS, ecg_prompt, ecg_segments
from maxent_ts.tasks.subset import stratified_subset
from maxent_ts.tasks.upstream import EcgScorer
from maxent_ts.types import SeriesSegment

__all__ = ["EcgQaCot"]

ECG_SAMPLING_RATE = 100.0
ECG_DECIMATION = 5
"""Every fifth of the recording's 500 points per second, without a filter: what OpenTSLM does."""
_ANSWERS_FILE = "answers_for_each_template.csv"

Recording = tuple[list[list[float]], tuple[SeriesSegment, ...]]
"""Millivolts of twelve leads at 100 Hz, and the same as the prompt has them."""


class EcgQaCot:
    """What does a twelve-lead ECG show? OpenTSLM's stage 5 (arXiv 2510.02410).

    Reads `ecg_qa_cot_test.csv` (`question`, `answer`, `template_id`, `clinical_context`, `ecg_id`, and `rationale` for the upstream
    scorer), the 500 Hz recordings of PTB-XL 1.0.3 that it names (`ptbxl/records500/…`, with the package `wfdb`), and
    `answers_for_each_template.csv` of ECG-QA; of that a copy ships with this package, used where the folder has none.

    The stratum is the question's template. Each example's labels are the answers of its template, and macro-F1 is the mean over
    templates. Examples of the same recording share its series in memory.
    """

    name = "ecg_qa_cot"
    rewards: Mapping[str, float] = {"format": 1.0}
    averages_strata = True
    """Macro-F1 is computed in each stratum and averaged."""

    def __init__(self) -> None:
        self._use(_read_answers(Path(str(importlib.resources.files("maxent_ts"))) / "assets" / "ecg_qa" / _ANSWERS_FILE))

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load test questions. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "ecg_qa_cot/0", …: the position in the file.

        Raises:
            DataError: if a file is missing or a row or recording cannot be used.
            MissingExtraError: if `wfdb` is not installed.
        """
        folder = data_folder(data_dir, self.name, "OpenTSLM's ECG-QA-CoT files and PTB-XL")
        answers = data_file(folder, "ecg_qa", "ecgqa", "ptbxl", _ANSWERS_FILE)
        if answers.is_file():
            self._use(_read_answers(answers))
        path = data_file(folder, "ecg_qa_cot", "ecg_qa_cot_test.csv")
        columns = ("question", "answer", "template_id", "clinical_context", "ecg_id")
        rows = list(read_rows(path, columns, optional=("rationale",)))
        chosen = stratified_subset([cells["template_id"].strip() for _, cells in rows], limit, seed)
        records = data_file(folder, "ptbxl", "records500")

        @cache
        def recording(ecg_id: int) -> Recording:
            return _read_recording(records / f"{ecg_id // 1000 * 1000:05d}" / f"{ecg_id:05d}_hr")

        return [self._example(path, rows[index], recording) for index in chosen]

    def answer(self, text: str) -> str | None:
        """Return the answer behind the last "Answer:", None if no template has it."""
        return self._by_name.get(stated_answer(text) or "")

    def _use(self, answers: Mapping[str, tuple[str, ...]]) -> None:
        self._answers = answers
        self.labels = tuple(sorted({answer for some in answers.values() for answer in some}))
        self.upstream = EcgScorer(answers)
        self._by_name = {label.lower(): label for label in self.labels}

    def _example(self, path: Path, row: Row, recording: Callable[[int], Recording]) -> Example:
        number, cells = row
        template = cells["template_id"].strip()
        series, segments = recording(_ecg_id(path, row))
        answers = self._answers.get(template, ())
        target = next((label for label in answers if label.lower() == cells["answer"].strip().lower()), cells["answer"].strip())
        return Example(
            id=f"{self.name}/{number - 1}",
            prompt=ecg_prompt(cells["question"], cells["clinical_context"], answers, segments),
            inputs={
                "series": series,
                "series_names": list(ECG_LEADS),
                "sampling_rate": ECG_SAMPLING_RATE,
                "labels": answers,
                "task": self.name,
            },
            target=target,
            stratum=template,
            reference=cells["rationale"] or None,
        )


def _ecg_id(path: Path, row: Row) -> int:
    """The cell is a number, or a list of one."""
    number, cells = row
    try:
        return int(cells["ecg_id"].strip().strip("[]"))
    except ValueError as error:
        raise DataError(
            f"Expected the number of a PTB-XL record in {path}, row {number}, column 'ecg_id', but found '{cells['ecg_id'][:30]}'."
        ) from error


def _read_answers(path: Path) -> dict[str, tuple[str, ...]]:
    found = {}
    for number, cells in read_rows(path, ("template_id", "classes")):
        try:
            classes = ast.literal_eval(cells["classes"])
            found[cells["template_id"].strip()] = tuple(str(one) for one in classes)
        except (ValueError, SyntaxError, TypeError) as error:
            raise DataError(f"Expected a list of answers in {path}, row {number}, column 'classes'.") from error
    return found


def _read_recording(path: Path) -> Recording:
    for suffix in (".hea", ".dat"):
        if not path.with_name(path.name + suffix).is_file():
            raise DataError(
                f"Expected the PTB-XL record {path}{suffix}, but it is not there. Unpack PTB-XL 1.0.3 so that the data directory "
                "holds ptbxl/records500."
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of wfdb's use of pandas, on import
            import wfdb
    except ModuleNotFoundError as error:
        raise MissingExtraError("wfdb", "ecg") from error
    try:
        signal = getattr(wfdb.rdrecord(str(path)), "p_signal", None)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"The PTB-XL record {path} cannot be read: {error}. Fetch it again.") from error
    if signal is None or signal.shape[1] != len(ECG_LEADS):
        raise DataError(f"Expected twelve leads in the PTB-XL record {path}, but its shape is {getattr(signal, 'shape', None)}.")
    leads = np.ascontiguousarray(signal.T if len(signal) <= 1000 else signal[::ECG_DECIMATION].T)
    try:
        return leads.tolist(), ecg_segments(leads)
    except PromptError as error:
        raise DataError(f"The PTB-XL record {path} cannot be used. {error}") from error
