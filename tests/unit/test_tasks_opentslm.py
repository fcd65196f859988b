from __future__ import annotations

import csv
import importlib.resources
import json
import random
from pathlib import Path

import numpy as np
import pytest

from maxent_ts.errors import DataError
from maxent_ts.tasks.opentslm import HarCot, M4Caption

AXIS = json.dumps([round(float(value), 3) for value in np.random.default_rng(0).normal(size=16)])
HAR_HEADER = ["x_axis", "y_axis", "z_axis", "label", "rationale"]


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path.parent


def har_folder(tmp_path: Path, *rows: list[str], header: list[str] | None = None) -> Path:
    return write(tmp_path / "har_cot_test_cot.csv", [header or HAR_HEADER, *rows])


def har_row(x: str = AXIS, label: str = "walking") -> list[str]:
    return [x, AXIS, AXIS, label, 'It moves, then "rests".\nAnswer: walking']


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The signal is calm. Answer: lying", "lying"),
        ("Answer: Walking_Up.", "walking_up"),
        ("Answer:sitting<|end_of_text|>", "sitting"),
        ("Answer: sitting.<eos><pad>", "sitting"),
        ("Answer: **running**\n", "running"),
        ("Answer: walking. No, wait. Answer: walking_down", "walking_down"),
        ("Answer: walking up", None),
        ("Answer: walking because of the rhythm", None),
        ("Answer: swimming", None),
        ("Answer:", None),
        ("walking", None),
        ("", None),
    ],
)
def test_the_answer_is_the_label_behind_the_last_marker(text, label):
    """Catches substring matches ("walking" in "walking_up"), first-marker parsing, and a missed stop or special token."""
    assert HarCot().answer(text) == label


def test_captions_state_no_answer():
    """Catches an accuracy for free text."""
    assert M4Caption().answer("Answer: lying") is None


def test_a_har_file_is_read_and_repeated_headers_are_skipped(tmp_path):
    """Catches a header row in the middle of OpenTSLM's file read as data, and ids that shift because of it."""
    folder = har_folder(tmp_path, har_row(), HAR_HEADER, har_row(label="Sitting "))
    first, second = HarCot().examples(data_dir=folder)
    assert (first.id, second.id) == ("har_cot/0", "har_cot/1")
    assert (first.target, second.target) == ("walking", "sitting")
    assert first.inputs["series"] == [json.loads(AXIS)] * 3
    assert "rests" not in json.dumps(dict(first.inputs))


def test_columns_are_found_by_name(tmp_path):
    """Catches reading by position: OpenTSLM's files have a 'prompt' column in some splits."""
    folder = har_folder(tmp_path, ["?", "lying", AXIS, AXIS, AXIS], header=["prompt", "label", "z_axis", "y_axis", "x_axis"])
    assert HarCot().examples(data_dir=folder)[0].target == "lying"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("[1.0, 2.0, abc, 4.0]", "entry 3 is 'abc'"),
        ("[1.0, nan, 3.0, 4.0]", "entry 2 is nan"),
        ("[1.0, 2.0, 3.0, -inf]", "entry 4 is -inf"),
        ("1.0 2.0 3.0", "list of numbers"),
        ("[[1.0, 2.0], [3.0, 4.0]]", "entry 1 is"),
        ("[1.0, 2.0, 3.0]", "at least 4 points"),
        ("[]", "at least 4 points"),
        ("", "cell is empty"),
    ],
)
def test_a_bad_series_is_named_by_file_row_and_column(tmp_path, x, message):
    """Catches NaN reaching a prompt, and a traceback that leaves the user to search 8,000 rows."""
    folder = har_folder(tmp_path, har_row(), har_row(x=x))
    with pytest.raises(DataError, match=r"har_cot_test_cot\.csv, row 2, column 'x_axis'") as error:
        HarCot().examples(data_dir=folder)
    assert message in str(error.value)


def test_a_number_too_large_for_single_precision_is_named(tmp_path):
    """Catches a PromptError without a place, or an infinite mean in the prompt."""
    folder = har_folder(tmp_path, har_row(x="[1.0, 1e39, 3.0, 4.0]".replace("]", ", 5.0" * 12 + "]")))
    with pytest.raises(DataError, match=r"row 1.*x-axis.*position 1"):
        HarCot().examples(data_dir=folder)


def test_axes_of_unequal_length_are_refused(tmp_path):
    """Catches a prompt of three series that do not belong to one window."""
    with pytest.raises(DataError, match="4, 16, 16 points"):
        HarCot().examples(data_dir=har_folder(tmp_path, har_row(x="[1, 2, 3, 4]")))


def test_a_constant_axis_is_legal(tmp_path):
    """Catches an error or NaN for a sensor at rest."""
    (example,) = HarCot().examples(data_dir=har_folder(tmp_path, har_row(x=str([9.81] * 16))))
    assert np.isfinite(example.prompt.series[0].values).all()


def test_an_unknown_label_is_named(tmp_path):
    """Catches a target that no answer can ever equal."""
    with pytest.raises(DataError, match="row 2, column 'label', but found 'flying'"):
        HarCot().examples(data_dir=har_folder(tmp_path, har_row(), har_row(label="flying")))


def test_a_missing_label_column_is_named(tmp_path):
    """Catches a KeyError without the file's name and columns."""
    folder = har_folder(tmp_path, [AXIS, AXIS, AXIS], header=["x_axis", "y_axis", "z_axis"])
    with pytest.raises(DataError, match=r"column 'label' in .*har_cot_test_cot\.csv, but its columns are x_axis, y_axis, z_axis"):
        HarCot().examples(data_dir=folder)


def test_a_row_cut_short_is_named(tmp_path):
    """Catches an IndexError on a file whose download broke off."""
    with pytest.raises(DataError, match="row 2, column 'label', but the cell is empty"):
        HarCot().examples(data_dir=har_folder(tmp_path, har_row(), [AXIS, AXIS, AXIS]))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"x_axis,y_axis,z_axis,label\n", "at least one row"), (b"x_axis,y_axis,z_axis,label\n\xff\xfe", "UTF-8")],
)
def test_an_unusable_file_is_named(tmp_path, content, message):
    """Catches zero examples passed off as an evaluation, and a UnicodeDecodeError."""
    (tmp_path / "har_cot_test_cot.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"har_cot_test_cot\.csv") as error:
        HarCot().examples(data_dir=tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(("task", "file"), [(HarCot(), "har_cot_test_cot.csv"), (M4Caption(), "m4_series_")])
def test_missing_files_and_folders_are_named(tmp_path, task, file):
    """Catches a fall-back to the embedded sample when the user named a folder."""
    with pytest.raises(DataError, match=file):
        task.examples(data_dir=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        task.examples(data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("task", [HarCot(), M4Caption()])
def test_a_distribution_without_the_sample_says_so(tmp_path, monkeypatch, task):
    """Catches a bare FileNotFoundError where a distributor left the excerpt out."""
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match="left it out"):
        task.examples()


def m4_folder(tmp_path: Path, num_by_frequency: dict[str, int], captions: bool) -> Path:
    for frequency, number in num_by_frequency.items():
        ids = [f"series-{frequency[0]}{index}" for index in range(number)]
        write(tmp_path / f"m4_series_{frequency}.csv", [["id", "series"], *[[name, AXIS] for name in ids]])
        if captions:
            random.Random(0).shuffle(ids)
            write(
                tmp_path / f"m4_captions_{frequency}.csv", [["id", "caption"], *[[name, f"About {name}, rising."] for name in ids]]
            )
    return tmp_path


def test_with_captions_only_opentslms_test_split_is_used(tmp_path):
    """Catches evaluation on training series: the split is the one `datasets` draws with seed 42, over all frequencies in order."""
    folder = m4_folder(tmp_path, {"Weekly": 30, "Hourly": 75}, captions=True)
    examples = M4Caption().examples(data_dir=folder)
    everything = [f"m4_caption/Hourly/series-H{index}" for index in range(75)]
    everything += [f"m4_caption/Weekly/series-W{index}" for index in range(30)]
    expected = {everything[index] for index in np.random.default_rng(42).permutation(105)[:11]}
    assert {example.id for example in examples} == expected
    for example in examples:
        assert example.target == f"About {example.id.split('/')[-1]}, rising."


def test_without_captions_every_series_is_an_example_and_has_no_target(tmp_path):
    """Catches a made-up target, and a tenth of a user's own series silently taken for all of them."""
    examples = M4Caption().examples(data_dir=m4_folder(tmp_path, {"Daily": 20}, captions=False))
    assert len(examples) == 20
    assert {example.target for example in examples} == {None}
    assert {example.stratum for example in examples} == {"Daily"}


def test_an_id_that_comes_twice_stays_apart(tmp_path):
    """Catches two examples that share one record and one random stream."""
    write(tmp_path / "m4_series_Daily.csv", [["id", "series"], ["a", AXIS], ["b", AXIS], ["a", AXIS]])
    assert [example.id for example in M4Caption().examples(data_dir=tmp_path)] == [
        "m4_caption/Daily/a",
        "m4_caption/Daily/b",
        "m4_caption/Daily/a#1",
    ]


def test_captions_for_only_some_frequencies_are_refused(tmp_path):
    """Catches a mixture of test split and whole files, which would be neither."""
    folder = m4_folder(tmp_path, {"Weekly": 5, "Hourly": 5}, captions=True)
    (folder / "m4_captions_Weekly.csv").unlink()
    with pytest.raises(DataError, match=r"m4_captions_Weekly\.csv"):
        M4Caption().examples(data_dir=folder)


def test_captions_of_other_series_are_refused(tmp_path):
    """Catches files of two different releases side by side."""
    folder = m4_folder(tmp_path, {"Weekly": 5}, captions=True)
    write(folder / "m4_captions_Weekly.csv", [["id", "caption"], ["series-X1", "Flat."]])
    with pytest.raises(DataError, match="common ids"):
        M4Caption().examples(data_dir=folder)


def test_a_bad_m4_series_is_named(tmp_path):
    """Catches a message that names the wrong file among several."""
    write(tmp_path / "m4_series_Daily.csv", [["id", "series"], ["a", AXIS], ["b", "[1, 2, NaN, 4]"]])
    with pytest.raises(DataError, match=r"m4_series_Daily\.csv, row 2, column 'series'.*entry 3"):
        M4Caption().examples(data_dir=tmp_path)


def test_a_series_of_fifty_thousand_points_is_read(tmp_path):
    """Catches the csv module's limit of 131,072 characters a cell."""
    write(tmp_path / "m4_series_Daily.csv", [["id", "series"], ["a", str([0.5, 1.5] * 25_000)]])
    (example,) = M4Caption().examples(data_dir=tmp_path)
    assert len(example.inputs["series"][0]) == 50_000
