"""TSQA, Sleep-CoT and ECG-QA-CoT: splits, files and answers."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

from maxent_ts.errors import DataError, MissingExtraError
from maxent_ts.tasks.ecg import EcgQaCot
from maxent_ts.tasks.sleep import SleepCot
from maxent_ts.tasks.tsqa import Tsqa

from ..task_data import ECG_IDS, tsqa_rows, write_csv, write_ecg, write_record, write_sleep, write_tsqa

TASKS = (Tsqa, SleepCot, EcgQaCot)


@pytest.mark.parametrize("task", TASKS)
def test_without_data_the_message_says_what_to_give(task, tmp_path):
    """Catches a traceback, and a silent download."""
    with pytest.raises(DataError, match="--data-dir"):
        task().examples()
    with pytest.raises(DataError, match="no such folder"):
        task().examples(data_dir=tmp_path / "nowhere")


def test_tsqas_test_part_is_that_of_datasets(tmp_path):
    """Catches another random split than the one that the published numbers were measured on."""
    datasets = pytest.importorskip("datasets")
    rows = tsqa_rows()
    upstream = datasets.Dataset.from_list(rows).train_test_split(test_size=0.1, seed=42)["test"]
    ours = Tsqa().examples(data_dir=write_tsqa(tmp_path))
    assert sorted(one.prompt.pre_prompt for one in ours) == sorted(question.strip() for question in upstream["Question"])
    assert [one.id for one in ours] == sorted((one.id for one in ours), key=lambda name: int(name.rpartition("/")[2]))
    assert all(rows[int(one.id.rpartition("/")[2])]["Question"].strip() == one.prompt.pre_prompt for one in ours)


def test_tsqa_reads_csv_jsonl_and_parquet_alike(tmp_path):
    """Catches a reader that parses numbers or orders rows in its own way."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rows = tsqa_rows()
    (tmp_path / "jsonl").mkdir()
    lists = [{**row, "Series": json.loads(row["Series"])} for row in rows]
    (tmp_path / "jsonl" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in lists) + "\n")
    (tmp_path / "parquet").mkdir()
    for part, some in enumerate((rows[:350], rows[350:])):
        parquet.write_table(pyarrow.Table.from_pylist(some), tmp_path / "parquet" / f"train-{part:05d}.parquet")
    expected = Tsqa().examples(data_dir=write_tsqa(tmp_path / "csv"))
    for kind in ("jsonl", "parquet"):
        assert Tsqa().examples(data_dir=tmp_path / kind) == expected


def test_tsqa_names_a_bad_row(tmp_path):
    """Catches a missing value or an answer that no choice equals."""
    folder = tmp_path / "a"
    rows = [{**row, "Answer": "(q) none of it"} for row in tsqa_rows(40)]
    write_csv(folder / "tsqa.csv", list(rows[0]), [list(row.values()) for row in rows])
    with pytest.raises(DataError, match=r"row \d+, column 'Answer', but found '\(q\) none"):
        Tsqa().examples(data_dir=folder)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.jsonl").write_text('{"Task": "trend"}\n')
    with pytest.raises(DataError, match=r"'Question' in .*x\.jsonl, row 1"):
        Tsqa().examples(data_dir=tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="there is none"):
        Tsqa().examples(data_dir=tmp_path / "c")


def test_a_hub_that_cannot_be_reached_gives_one_clear_error(tmp_path, monkeypatch):
    """Catches a traceback from the depths of the hub's client."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"'ChengsenWang/TSQA' cannot be fetched .*--data-dir"):
        Tsqa().examples(data_dir="ChengsenWang/TSQA")


def test_a_hub_id_is_read_from_what_the_hub_gives(tmp_path, monkeypatch):
    """Catches a hub id taken for a folder."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    folder = write_tsqa(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.chdir(tmp_path)
    assert Tsqa().examples(data_dir="ChengsenWang/TSQA") == Tsqa().examples(data_dir=folder)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("(b)", "(b)"),
        (" (B) rising", "(b)"),
        ("b", "(b)"),
        ("c.", "(c)"),
        ("a) upward", "(a)"),
        ("Because it grows. Answer: (a)", "(a)"),
        ("Answer: b", "(b)"),
        ("a rising trend", None),
        ("(d)", None),
        ("it is (b)", None),
        ("", None),
    ],
)
def test_the_choice_is_read_where_it_is_stated(text, label):
    """Catches the article "a" read as a choice, and a letter that happens to stand in the text."""
    assert Tsqa().answer(text) == label


def test_sleeps_test_part_is_that_of_pandas_and_scikit_learn(tmp_path):
    """Catches a split that is stratified after stage 4 has become stage 3, or by other labels."""
    pandas = pytest.importorskip("pandas")
    from sklearn.model_selection import train_test_split

    folder = write_sleep(tmp_path)
    frame = pandas.read_csv(folder / "sleep" / "sleep_cot.csv")
    _, test = train_test_split(frame, test_size=0.1, random_state=42, stratify=frame["label"])
    ours = SleepCot().examples(data_dir=folder)
    assert [one.id for one in ours] == [f"sleep_cot/{index}" for index in sorted(test.index)]
    assert "Non-REM stage 4" in set(test["label"])
    merged = test.sort_index()["label"].replace("Non-REM stage 4", "Non-REM stage 3").tolist()
    assert [one.target for one in ours] == merged
    assert [one.reference for one in ours] == test.sort_index()["rationale"].tolist()


def test_sleep_reads_the_files_own_folder_too(tmp_path):
    """Catches a loader that knows OpenTSLM's tree only."""
    folder = write_sleep(tmp_path)
    assert SleepCot().examples(data_dir=folder / "sleep") == SleepCot().examples(data_dir=folder)


def test_sleep_parses_no_series_outside_of_the_test_part(tmp_path):
    """Catches a start that takes minutes for data of which a tenth is used."""
    folder = write_sleep(tmp_path)
    expected = SleepCot().examples(data_dir=folder)
    path = folder / "sleep" / "sleep_cot.csv"
    used = {int(one.id.rpartition("/")[2]) for one in expected}
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    write_csv(path, header, [row if index in used else ["[[broken", *row[1:]] for index, row in enumerate(rows)])
    assert SleepCot().examples(data_dir=folder) == expected


def test_sleep_refuses_what_is_no_stage_and_files_too_small_to_split(tmp_path):
    """Catches a KeyError, and scikit-learn's own message without a file."""
    series = json.dumps([[1.0, 2.0, 3.0, 4.0]])
    path = write_csv(tmp_path / "sleep_cot.csv", ["time_series", "label"], [[series, "Wake"], [series, "dreaming"]])
    with pytest.raises(DataError, match="row 2, column 'label', but found 'dreaming'"):
        SleepCot().examples(data_dir=path.parent)
    write_csv(path, ["time_series", "label"], [[series, "Wake"], [series, "REM sleep"]])
    with pytest.raises(DataError, match="test split cannot be drawn"):
        SleepCot().examples(data_dir=path.parent)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("Slow waves. Answer: Non-REM stage 3", "Non-REM stage 3"),
        ("Answer: non-rem stage 4.", "Non-REM stage 3"),
        ("Answer: N2", "Non-REM stage 2"),
        ("Answer: REM", "REM sleep"),
        ("Answer: awake<|end_of_text|>", "Wake"),
        ("Answer: Movement", "Movement"),
        ("Answer: not Wake", None),
        ("It is REM sleep", None),
    ],
)
def test_a_stage_is_read_behind_the_marker(text, stage):
    """Catches substring matches, which OpenTSLM's parser makes, in the clean one."""
    assert SleepCot().answer(text) == stage


def test_an_ecg_has_every_fifth_point_of_its_twelve_leads(tmp_path):
    """Catches leads and points exchanged, a filter, or stored integers taken for millivolts."""
    pytest.importorskip("wfdb")
    folder = write_ecg(tmp_path)
    examples = EcgQaCot().examples(data_dir=folder)
    stored = write_record(tmp_path / "again", ECG_IDS[1])
    of_this = [one for index, one in enumerate(examples) if index % len(ECG_IDS) == 1]
    for one in of_this:
        assert np.allclose(one.inputs["series"], stored[::5].T / 1000, rtol=0, atol=1e-12)
        assert (len(one.inputs["series"]), len(one.inputs["series"][0])) == (12, 1000)
    assert all(one.inputs["series"] is of_this[0].inputs["series"] for one in of_this), "a recording is in memory once"
    assert of_this[0].prompt.series[0].text.startswith("This is ECG Lead I, it has mean ")


def test_an_ecg_question_offers_the_answers_of_its_template(tmp_path):
    """Catches the union of all answers as the choice, and a template's answers under another's number."""
    pytest.importorskip("wfdb")
    examples = EcgQaCot().examples(data_dir=write_ecg(tmp_path))
    by_template = {one.stratum: one.inputs["labels"] for one in examples}
    assert by_template["2"] == ("no", "yes")
    assert by_template["1"] == ("no", "not sure", "yes")
    assert "lead aVR" in by_template["19"]


def test_a_table_of_answers_in_the_data_directory_comes_first(tmp_path):
    """Catches a prompt with other answers than those of the user's copy of ECG-QA."""
    pytest.importorskip("wfdb")
    folder = write_ecg(tmp_path)
    classes = [[template, "['no', 'yes', 'perhaps']"] for template in (1, 2, 19, 30, 41)]
    write_csv(folder / "ecg_qa" / "ecgqa" / "ptbxl" / "answers_for_each_template.csv", ["template_id", "classes"], classes)
    task = EcgQaCot()
    assert {one.inputs["labels"] for one in task.examples(data_dir=folder)} == {("no", "yes", "perhaps")}
    assert task.labels == ("no", "perhaps", "yes")


def test_a_missing_recording_is_named(tmp_path):
    """Catches wfdb's own error, and a question without its ECG."""
    pytest.importorskip("wfdb")
    folder = write_ecg(tmp_path)
    (folder / "ptbxl" / "records500" / "21000" / "21001_hr.dat").unlink()
    with pytest.raises(DataError, match=r"21001_hr\.dat, but it is not there.*ptbxl/records500"):
        EcgQaCot().examples(data_dir=folder)


def test_without_wfdb_the_extra_is_named(tmp_path, monkeypatch):
    """Catches a ModuleNotFoundError."""
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(MissingExtraError, match=r"maxent-ts\[ecg\]"):
        EcgQaCot().examples(data_dir=write_ecg(tmp_path), limit=1)


def test_a_bad_ecg_number_is_named(tmp_path):
    """Catches a comparison question, which has two recordings, read as one."""
    header = ["question", "answer", "template_id", "clinical_context", "ecg_id"]
    write_csv(tmp_path / "ecg_qa_cot_test.csv", header, [["Q?", "yes", "2", "C", "[12, 13]"]])
    with pytest.raises(DataError, match=r"row 1, column 'ecg_id', but found '\[12, 13\]'"):
        EcgQaCot().examples(data_dir=tmp_path)
