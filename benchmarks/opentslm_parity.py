"""Whether prompts and upstream scores are OpenTSLM's own, by running its source files beside ours.

Needs a checkout of github.com/OpenTSLM/OpenTSLM (MIT) and gold texts of its test splits. Of the checkout only the prompt methods
of five data sets and four parsers are run, with stand-ins for what they import. Prompts are compared character by character and
series value by value, on random series; scores to twelve digits, on gold texts that are altered in the ways models alter them.

    python benchmarks/opentslm_parity.py --opentslm DIR [--gold ../shared/data/opentslm_gold_rationales_test200.parquet]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maxent_ts.grading import Grading, accuracy_and_f1
from maxent_ts.record import AnswerScore, Record
from maxent_ts.scoring import class_rules
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.ecg import EcgQaCot
from maxent_ts.tasks.opentslm import HarCot
from maxent_ts.tasks.prompts import ecg_prompt, ecg_segments, har_prompt, m4_prompt, sleep_prompt, tsqa_prompt
from maxent_ts.tasks.sleep import SleepCot
from maxent_ts.tasks.tsqa import Tsqa
from maxent_ts.types import TimeSeriesPrompt

DATASETS = "opentslm.time_series_datasets"
END = "<|end_of_text|>"
NUM_PROMPTS = 300
NUM_ROUNDS = 5


class Series:
    """Stands in for OpenTSLM's pair of a text and a series."""

    def __init__(self, text: str, values: Sequence[float]) -> None:
        self.text, self.values = text, list(values)


class Loader:
    """Stands in for the base class, of which only the methods that make prompts are used."""


def stand_in(name: str, **contents: Any) -> None:
    """Put a module of these contents where an import will find it, and empty ones for its parents."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)


def executed(path: Path) -> dict[str, Any]:
    """Run a source file and return its names."""
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


def import_stand_ins(answers_folder: Path) -> None:
    """Prepare what the source files import from their own package."""
    stand_in("opentslm.prompt.text_time_series_prompt", TextTimeSeriesPrompt=Series)
    stand_in(f"{DATASETS}.QADataset", QADataset=Loader)
    stand_in(f"{DATASETS}.util", extend_time_series_to_match_patch_size_and_aggregate=None)
    stand_in(f"{DATASETS}.har_cot.har_cot_loader", load_har_cot_splits=None)
    stand_in(f"{DATASETS}.m4.m4_loader", load_all_m4_data=None, create_combined_dataset=None)
    stand_in(f"{DATASETS}.sleep.sleepedf_cot_loader", load_sleepedf_cot_splits=None)
    stand_in(f"{DATASETS}.ecg_qa.ecgqa_cot_loader", load_ecg_qa_cot_splits=None)
    stand_in(f"{DATASETS}.ecg_qa.ecgqa_loader", get_ptbxl_ecg_path=None, ECG_QA_DIR=str(answers_folder))


def compare_prompts(sources: Path) -> int:
    """Compare prompts of all stages on random series, some constant or far from 0; returns how many were compared."""
    names = ("TSQADataset", "m4/M4QADataset", "har_cot/HARCoTQADataset", "sleep/SleepEDFCoTQADataset", "ecg_qa/ECGQACoTQADataset")
    classes = {path.rpartition("/")[2]: executed(sources / f"{path}.py")[path.rpartition("/")[2]] for path in names}
    ecg, answers = classes["ECGQACoTQADataset"], EcgQaCot()._answers
    rng = np.random.default_rng(0)
    for index in range(NUM_PROMPTS):
        spread, level = (300.0, 3.0, 0.1, 0.0)[index % 4], rng.choice([0.0, 5.0, 1000.0, 50_000.0])
        one, x, y, z = (rng.normal(level, spread, int(rng.integers(8, 600))).round(3).tolist() for _ in range(4))
        length = min(len(x), len(y), len(z))
        axes = (x[:length], y[:length], z[:length])
        row = {"Question": " What? (a) so ", "Task": "trend", "Series": json.dumps(one)}
        assert_equal(classes["TSQADataset"], row, tsqa_prompt(row["Question"], "trend", one))
        assert_equal(classes["M4QADataset"], {"series": one, "caption": "", "id": "M1"}, m4_prompt(one))
        assert_equal(classes["HARCoTQADataset"], dict(zip(("x_axis", "y_axis", "z_axis"), axes, strict=True)), har_prompt(*axes))
        assert_equal(classes["SleepEDFCoTQADataset"], {"time_series": one}, sleep_prompt(one))
        signal = rng.normal(0, 0.3, (5000, 12))
        ecg._ecg_data_cache, ecg._processed_ecg_cache = {"x": (signal, "", "")}, {}
        template = str(1 + index % 42)
        row = {"question": "Is it?", "question_type": "q", "template_id": int(template), "ecg_id": [1], "ecg_paths": ["x"]}
        segments = ecg_segments(signal[::5].T)
        assert_equal(ecg, {**row, "clinical_contexts": ["C"]}, ecg_prompt("Is it?", "C", answers[template], segments))
    return NUM_PROMPTS * len(names)


def assert_equal(upstream: type, row: dict[str, Any], ours: TimeSeriesPrompt) -> None:
    """Fail at the first character or value that differs."""
    made: Any = object.__new__(upstream)
    with contextlib.redirect_stdout(io.StringIO()):
        series = made._get_text_time_series_prompt_list(row)
        texts = (made._get_pre_prompt(row).strip(), made._get_post_prompt(row).strip())
    assert texts == (ours.pre_prompt, ours.post_prompt), upstream.__name__
    assert [one.text for one in series] == [one.text for one in ours.series], upstream.__name__
    assert [one.values for one in series] == [list(one.values) for one in ours.series], upstream.__name__


def altered(text: str, labels: Sequence[str], rng: random.Random) -> str:
    """Change a gold text as a model might."""
    label, (head, _, _) = rng.choice(labels), text.rpartition("Answer: ")
    endings = ("{0}", "{0}.", "{0}!<eos>", "{0}\nand more", "{0}<|end_of_text|>", "{0}. Answer: swimming", "")
    forms = [text, head, label, "", f"{head}Answer:{label}", f'{head}So "it" is. Answer: {label}', f"{head}Answer: {label.upper()}"]
    return rng.choice([*forms, *(f"{head}Answer: {ending.format(label)}" for ending in endings)])


def ours(task: Any, texts: Sequence[str], golds: Sequence[str], strata: Sequence[str]) -> tuple[float, float]:
    """Return accuracy and macro-F1 by our upstream scorer."""
    records, grading = [], Grading("upstream", class_rules(task), {str(i): one for i, one in enumerate(strata)})
    for index, (text, gold, stratum) in enumerate(zip(texts, golds, strata, strict=True)):
        score = task.upstream.score(text, Example(str(index), "", {}, None, stratum, gold))
        values = {"answer": score.answer, "target": score.target, "correct": score.correct}
        named = {"task": task.name, "method": "none", "settings": {}, "tilt": 1.0, "example_id": str(index), "seed": [0]}
        records.append(Record(**named, scores={"upstream": AnswerScore(**values)}))
    found = accuracy_and_f1(records, task.labels, grading, "upstream")
    return found["accuracy"] or 0.0, found["macro_f1"] or 0.0


def written(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Write predictions as OpenTSLM does."""
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def theirs(name: str, parsers: Path, folder: Path) -> Callable[[Sequence[str], Sequence[str], Sequence[str]], tuple[float, float]]:
    """Return a function that has OpenTSLM's parser score texts."""

    def rows(texts: Sequence[str], golds: Sequence[str]) -> list[dict[str, Any]]:
        return [{"generated": text, "gold": (gold + END).strip()} for text, gold in zip(texts, golds, strict=True)]

    def har(texts: Sequence[str], golds: Sequence[str], strata: Sequence[str]) -> tuple[float, float]:
        del strata
        run = executed(parsers / "parse_predictions.py")
        points = run["parse_rtf_jsonl"](written(folder, "har.jsonl", rows(texts, golds)), str(folder / "out"))
        f1 = run["calculate_f1_stats"](points, allowed_labels=set(run["SUPPORTED_LABELS"]))["macro_f1"]
        return run["calculate_accuracy_stats"](points)["accuracy_percentage"] / 100, f1

    def sleep(texts: Sequence[str], golds: Sequence[str], strata: Sequence[str]) -> tuple[float, float]:
        del strata
        run = executed(parsers / "sleep" / "parse_sleep_cot_data.py")
        points = run["parse_sleep_cot_jsonl"](written(folder, "sleep.jsonl", rows(texts, golds)), str(folder / "out"))
        return run["calculate_accuracy_stats"](points)["accuracy_percentage"] / 100, run["calculate_f1_stats"](points)["macro_f1"]

    def ecg(texts: Sequence[str], golds: Sequence[str], strata: Sequence[str]) -> tuple[float, float]:
        run = executed(parsers / "ecg_qa_cot" / "parse_ecg_qa_cot_data.py")
        lines = [
            {"generated_answer": one["generated"], "target_answer": one["gold"], "template_id": int(stratum), "ecg_id": [1]}
            for one, stratum in zip(rows(texts, golds), strata, strict=True)
        ]
        points = run["parse_ecg_qa_cot_jsonl"](written(folder, "ecg.jsonl", lines), str(folder / "out"))
        overall = run["calculate_template_f1_stats"](points)["overall"]
        return overall["accuracy"], overall["macro_f1"]

    def tsqa(texts: Sequence[str], golds: Sequence[str], strata: Sequence[str]) -> tuple[float, float]:
        del strata
        written(folder, "evaluation_results_openai-gpt-4o_tsqadataset.json", rows(texts, golds))
        with contextlib.chdir(folder):
            run = executed(parsers / "tsqa" / "parse_predictions.py")
        return run["accuracy"], run["f1_stats"]["macro_f1"]

    return {"har_cot": har, "sleep_cot": sleep, "ecg_qa_cot": ecg, "tsqa": tsqa}[name]


def compare_scores(parsers: Path, gold_file: Path, folder: Path) -> dict[str, int]:
    """Compare accuracy and macro-F1 on altered gold texts; returns how many texts of each task were scored."""
    ecg_task, frame, rng = EcgQaCot(), pd.read_parquet(gold_file), random.Random(0)
    har_labels, sleep_labels = list(HarCot.labels), list(SleepCot.labels)
    possible = types.SimpleNamespace(get_possible_answers_for_template=lambda template: list(ecg_task._answers[str(template)]))
    stand_in(f"{DATASETS}.har_cot.HARCoTQADataset", HARCoTQADataset=types.SimpleNamespace(get_labels=lambda: har_labels))
    stand_in(f"{DATASETS}.sleep.SleepEDFCoTQADataset", SleepEDFCoTQADataset=types.SimpleNamespace(get_labels=lambda: sleep_labels))
    stand_in(f"{DATASETS}.ecg_qa.ECGQACoTQADataset", ECGQACoTQADataset=possible)
    template_of = {answers: template for template, answers in reversed(list(ecg_task._answers.items()))}
    counts = {}
    for task in (Tsqa(), HarCot(), SleepCot(), ecg_task):
        rows = frame[frame["dataset"] == task.name]
        golds = [str(text) for text in rows["gold_text"]]
        strata = [template_of[tuple(one)] for one in rows["label_vocab"]] if task is ecg_task else [""] * len(golds)
        for _ in range(NUM_ROUNDS):
            texts = [altered(text, [*task.labels, "NREM2", "awake", "mt"], rng) for text in golds]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                expected = theirs(task.name, parsers, folder)(texts, golds, strata)
            found = ours(task, texts, golds, strata)
            assert np.allclose(found, expected, rtol=0, atol=1e-12), (task.name, found, expected)
        counts[task.name] = NUM_ROUNDS * len(golds)
    return counts


def main() -> None:
    """Compare, and print what was compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--opentslm", type=Path, required=True, help="A checkout of OpenTSLM.")
    parser.add_argument("--gold", type=Path, default=Path("../shared/data/opentslm_gold_rationales_test200.parquet"))
    arguments = parser.parse_args()
    opentslm, gold = arguments.opentslm.resolve(), arguments.gold.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers = folder / "ecgqa" / "ptbxl"
        answers.mkdir(parents=True)
        shutil.copy(
            Path(str(sys.modules["maxent_ts"].__path__[0])) / "assets" / "ecg_qa" / "answers_for_each_template.csv",
            os.fspath(answers),
        )
        import_stand_ins(folder)
        num_prompts = compare_prompts(opentslm / "src" / "opentslm" / "time_series_datasets")
        print(f"prompts: {num_prompts} compared, all equal")
        for task, count in compare_scores(opentslm / "evaluation" / "opentslm", gold, folder).items():
            print(f"{task}: accuracy and macro-F1 equal in {NUM_ROUNDS} rounds, {count} texts")


if __name__ == "__main__":
    main()
