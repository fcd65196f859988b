from __future__ import annotations

import pytest

from maxent_ts.errors import DataError, SettingError
from maxent_ts.tasks.prompts import m4_prompt
from maxent_ts.tasks.series import OwnSeries


def write(tmp_path, text):
    path = tmp_path / "own.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(*columns):
    return "\n".join(",".join(map(str, row)) for row in zip(*columns, strict=True)) + "\n"


def test_one_column_is_one_univariate_item(tmp_path):
    """Catches a time column read as a channel, and a prompt that the captioning checkpoints do not know."""
    path = write(tmp_path, "Time,load\n" + rows(("8:00", "8:05", "8:10", "8:15"), (1, 2, 4, 3)))
    (example,) = OwnSeries().examples(data_dir=path)
    assert example.id == "series/own"
    assert dict(example.inputs) == {"series": [[1.0, 2.0, 4.0, 3.0]], "series_names": ["load"], "labels": (), "task": "series"}
    assert example.prompt == m4_prompt([1, 2, 4, 3])
    assert example.target is None


def test_an_id_column_makes_items_of_any_lengths(tmp_path):
    """Catches items that must be of one length or in one piece, and channels in another order than the file's."""
    text = "b,id,a,label\n" + rows((1, 2, 3, 4, 5, 6, 7, 8, 9), "xyxyxyxyy", range(9), ["up", "down"] * 4 + ["down"])
    items = OwnSeries("Which way?", ("up", "down")).examples(data_dir=write(tmp_path, text))
    assert [(one.id, one.target, one.stratum) for one in items] == [("series/x", "up", "up"), ("series/y", "down", "down")]
    assert [[len(series) for series in one.inputs["series"]] for one in items] == [[4, 4], [5, 5]]
    assert items[0].inputs["series"] == [[1.0, 3.0, 5.0, 7.0], [0.0, 2.0, 4.0, 6.0]]
    assert items[0].inputs["series_names"] == ["b", "a"]
    assert all("up, down" in one.prompt.pre_prompt for one in items)


@pytest.mark.parametrize("cell", ["", "nan", "NA", "inf", "1,5", "n/a"])
def test_a_missing_value_is_refused_with_its_row(tmp_path, cell):
    """Catches a gap that is filled, skipped or passed on as NaN without a word."""
    text = f'id,load\na,1\na,2\na,"{cell}"\na,4\na,5\n'
    with pytest.raises(DataError, match=r"own\.csv, row 3, column 'load'"):
        OwnSeries().examples(data_dir=write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one channel"),
        ("id,time\na,1\n", "at least one channel"),
        ("load,load\n1,2\n", "names that differ"),
        ("load,\n1,2\n", "names that differ"),
        ("1.5,2.5\n1,2\n3,4\n", "it holds numbers: 1.5, 2.5"),
        ("load\n", "at least one row"),
        ("load,heat\n1,2\n3\n", "2 cells in .*, row 2"),
        ("load\n1\n2\n3\n", "at least 4 points"),
        ("id,load\na,1\n,2\n", "row 2, column 'id'"),
        ("load,label\n1,up\n2,up\n3,down\n4,up\n", "begins in row 1 has down, up"),
        ("load,label\n1,UP?\n2,UP?\n3,UP?\n4,UP?\n", "row 1, column 'label', but found 'UP\\?'"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path, text, message):
    """Catches a guess about what the user meant."""
    with pytest.raises(DataError, match=message):
        OwnSeries("Which way?", ("up", "down")).examples(data_dir=write(tmp_path, text))


def test_a_file_must_be_given_and_exist(tmp_path):
    """Catches a traceback for a mistyped name."""
    for place in (None, tmp_path / "no.csv", tmp_path):
        with pytest.raises(DataError, match="--series"):
            OwnSeries().examples(data_dir=place)


@pytest.mark.parametrize(("question", "labels"), [("?", ("up", "UP")), ("?", ("up", "")), ("", ("up", "down"))])
def test_labels_must_tell_answers_to_a_question_apart(question, labels):
    """Catches answers that no text could choose between."""
    with pytest.raises(SettingError):
        OwnSeries(question, labels)


def test_the_answer_is_one_of_the_users_labels_in_their_spelling():
    """Catches a parser that lower-cases what the file does not."""
    task = OwnSeries("?", ("Up", "Down Hill"))
    assert task.answer("It falls. Answer: down hill.") == "Down Hill"
    assert task.answer("Answer: sideways") is None


def test_without_labels_the_files_label_column_is_a_reference_only(tmp_path):
    """Catches an accuracy for free text."""
    (example,) = OwnSeries("Why?").examples(data_dir=write(tmp_path, "load,label\n" + rows((1, 2, 3, 4), ["a leak"] * 4)))
    assert (example.target, OwnSeries("Why?").labels) == ("a leak", ())
    assert example.prompt.post_prompt == "Why?"
