"""Files in the layouts that tasks read, written for tests: OpenTSLM's, and a user's own.

Labels and texts are real (`tests/data/opentslm`), series are those of the embedded sample or drawn at random, so that they do
not belong together: good to test readers, parsers and metrics with, and nothing else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maxent_ts import registry
from maxent_ts.tasks.ecg import EcgQaCot
from maxent_ts.tasks.prompts import ECG_LEADS

GOLD_TEXTS = json.loads((Path(__file__).parent / "data" / "opentslm" / "gold_texts.json").read_text(encoding="utf-8"))
ECG_TEMPLATES = ("1", "2", "19", "30", "41")
ECG_IDS = (7, 1043, 21001)
ECG_POINTS = 5000


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def tsqa_rows(num_rows: int = 600) -> list[dict[str, str]]:
    rng = np.random.default_rng(1)
    kinds = ("trend", "season", "volatility", "outlier")
    return [
        {
            "Task": kinds[index % 4],
            "Size": "64",
            "Question": f" Is the {kinds[index % 4]} of series {index} (a) low, (b) high or (c) neither? ",
            "Answer": "({})".format("abc"[int(rng.integers(3))]),
            "Label": "?",
            "Series": json.dumps(rng.normal(3.0, 2.0, 24).round(3).tolist()),
        }
        for index in range(num_rows)
    ]


def write_tsqa(folder: Path) -> Path:
    rows = tsqa_rows()
    return write_csv(folder / "tsqa.csv", list(rows[0]), [list(row.values()) for row in rows]).parent


def write_sleep(folder: Path, num_rows: int = 600) -> Path:
    rng = np.random.default_rng(2)
    rows = []
    for index in range(num_rows):
        gold = GOLD_TEXTS["sleep_cot"][index % 30]
        series = rng.integers(-99, 99, 1500).tolist()
        rows.append([json.dumps([series]), gold["label"], gold["text"]])
    write_csv(folder / "sleep" / "sleep_cot.csv", ["time_series", "label", "rationale"], rows)
    return folder


def write_record(folder: Path, ecg_id: int) -> np.ndarray:
    """Write a recording in PTB-XL's layout, WFDB format 16. Returns the stored integers (microvolts), shape [points, leads]."""
    values = np.random.default_rng(ecg_id).normal(0, 300, (ECG_POINTS, len(ECG_LEADS))).astype("<i2")
    place = folder / f"{ecg_id // 1000 * 1000:05d}"
    place.mkdir(parents=True, exist_ok=True)
    name = f"{ecg_id:05d}_hr"
    (place / f"{name}.dat").write_bytes(values.tobytes())
    lines = [f"{name} {len(ECG_LEADS)} 500 {ECG_POINTS}"]
    for index, lead in enumerate(ECG_LEADS):
        lines.append(f"{name}.dat 16 1000.0(0)/mV 16 0 {values[0, index]} {_checksum(values[:, index])} 0 {lead}")
    (place / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return values


def _checksum(values: np.ndarray) -> int:
    total = int(values.astype(np.int64).sum()) & 0xFFFF
    return total - 0x10000 if total >= 0x8000 else total


def write_ecg(folder: Path) -> Path:
    answers = EcgQaCot()._answers
    rows = []
    for index in range(60):
        template = ECG_TEMPLATES[index % len(ECG_TEMPLATES)]
        answer = answers[template][index % len(answers[template])]
        rationale = f'The ECG is as "expected" in most leads. Answer: {answer}{"." if index % 2 else ""}'
        ecg_id = ECG_IDS[index % len(ECG_IDS)]
        context = "76-year-old male patient. 12-lead ECG."
        rows.append([f"Question {index}?", answer, template, "single-query", context, rationale, f"[{ecg_id}]"])
    header = ["question", "answer", "template_id", "question_type", "clinical_context", "rationale", "ecg_id"]
    write_csv(folder / "ecg_qa_cot" / "ecg_qa_cot_test.csv", header, rows)
    for ecg_id in ECG_IDS:
        write_record(folder / "ptbxl" / "records500", ecg_id)
    return folder


def write_series(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    rows = [
        [f"machine {item}", step, *rng.normal(size=2).round(3).tolist(), ("rising", "falling")[item % 2]]
        for item in range(60)
        for step in range(20 + item % 5)
    ]
    return write_csv(folder / "own.csv", ["id", "time", "load", "heat", "label"], rows)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "tsqa": write_tsqa,
    "sleep_cot": write_sleep,
    "ecg_qa_cot": write_ecg,
    "series": write_series,
}
"""For the tasks that ship without data; the others have an embedded sample."""

ARGUMENTS: dict[str, dict[str, Any]] = {"series": {"question": "Does the load rise?", "labels": ("rising", "falling")}}


def make_task(name: str) -> Any:
    return registry.load(registry.TASKS, name, "task")(**ARGUMENTS.get(name, {}))


def make_data(name: str, folder: Path) -> Path | None:
    """Return a data directory for a task; None for one with an embedded sample."""
    return WRITERS[name](folder) if name in WRITERS else None
