"""Scorers side by side: in records, in means, in a rescored run, and beside what was published."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from maxent_ts.cli import main
from maxent_ts.cli.tables import published_lines
from maxent_ts.config import make_config
from maxent_ts.errors import SettingError
from maxent_ts.evaluate import evaluate
from maxent_ts.grading import Grading, accuracy_and_f1, answer_metrics, grading_of
from maxent_ts.planning import plan
from maxent_ts.published import TEST_ITEMS, published_rows, reproductions
from maxent_ts.record import AnswerScore, Record
from maxent_ts.records import ExampleRecord
from maxent_ts.registry import TASKS
from maxent_ts.report.html import render_report
from maxent_ts.rescore import rescore
from maxent_ts.scoring import graded_fields
from maxent_ts.tasks.base import Example, Score

from ..task_data import make_data, write_csv
from .evaluation_fakes import LetterTask, WordTable
from .test_summary import make_run

AXIS = json.dumps([0.1, 0.2, 0.4, 0.8] * 4)


class CapitalB:
    """Wants a capital B."""

    always: Mapping[str, tuple[str, ...]] = {"": ("a", "b", "z")}
    is_closed = False

    def score(self, text, example):
        return None if example.reference is None else Score(text[-1:].lower() or None, "b", text.endswith("B"))


class TwoScorers(LetterTask):
    """Upstream wants a capital B where we do not."""

    upstream = CapitalB()

    def answer(self, text):
        return super().answer(text.lower())


def item(reference="B", target="b", labels=("a", "b")):
    return Example("1", "", {"labels": labels}, target, "", reference)


def test_a_record_has_both_scores_and_follows_one():
    """Catches a run whose accuracy is another scorer's than its answers are."""
    clean = graded_fields(TwoScorers(), item(), ["xb", "xB"], 0, "clean")
    assert (clean["answer"], clean["correct"], clean["answers"]) == ("b", True, ["b", "b"])
    assert "target" not in clean
    assert clean["scores"]["upstream"] == AnswerScore(answer="b", target="b", correct=False)
    upstream = graded_fields(TwoScorers(), item(), ["xb", "xB"], 1, "upstream")
    assert (upstream["answer"], upstream["target"], upstream["correct"]) == ("b", "b", True)
    assert upstream["scores"] == graded_fields(TwoScorers(), item(), ["xb", "xB"], 1, "clean")["scores"]


def test_an_answer_that_the_item_does_not_offer_is_none():
    """Catches a valid answer to another question counted as valid here."""
    assert graded_fields(TwoScorers(), item(labels=("a",)), ["xb"], 0, "clean")["answer"] is None


def test_without_a_gold_text_the_upstream_scorer_says_nothing():
    """Catches an accuracy by a scorer that had nothing to compare with."""
    fields = graded_fields(TwoScorers(), item(reference=None), ["xB"], 0, "upstream")
    assert (fields["answer"], fields["target"], fields["correct"]) == (None, None, None)
    assert set(fields["scores"]) == {"clean"}


def test_a_task_without_an_upstream_scorer_says_so():
    """Catches clean scores under the name of upstream."""
    config = make_config(tasks=("letters",), scorer="upstream")
    with pytest.raises(SettingError, match="no upstream scorer"):
        plan(config, tasks=[LetterTask()])


def record(example_id, answer, target, correct=None, scorer="upstream"):
    right = answer == target if correct is None else correct
    score = AnswerScore(answer=answer, target=target, correct=right)
    values = {"task": "t", "method": "greedy", "settings": {}, "tilt": 1.0, "example_id": example_id, "seed": [0]}
    return Record(**values, answer=answer, target=target, correct=right, scores={scorer: score}, text="x")


def test_macro_f1_counts_the_classes_that_the_scorer_counts():
    """Catches one rule for all: HAR averages over all its labels, Sleep over those that occur, ECG over a template's."""
    records = [record("1", "a", "a"), record("2", None, "b"), record("3", "a", "odd")]
    labels = ("a", "b", "c")

    def f1(**rule):
        return accuracy_and_f1(records, labels, Grading("upstream", {"upstream": rule}), "upstream")["macro_f1"]

    assert f1(targets="labels") == pytest.approx((2 / 3 + 0) / 2)
    assert f1(targets="all") == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert f1(targets="all", always={"": labels}) == pytest.approx((2 / 3 + 0 + 0 + 0) / 4)
    # The target that is no class is left out, and with it the false alarm for "a".
    assert f1(targets="none", always={"": labels}) == pytest.approx((1 + 0 + 0) / 3)


def test_macro_f1_by_stratum_is_the_mean_over_strata():
    """Catches yes-or-no questions pooled with questions of thirty answers."""
    records = [record("1", "yes", "yes"), record("2", "yes", "yes"), record("3", "none", "lead I"), record("4", "none", "none")]
    rule = {"by_stratum": True, "always": {"2": ["no", "yes"], "19": ["lead I", "none"]}, "targets": "none"}
    strata = {"1": "2", "2": "2", "3": "19", "4": "19"}
    found = answer_metrics(records, ("yes", "no", "lead I", "none"), Grading("upstream", {"upstream": rule}, strata))
    assert found["macro_f1"] == pytest.approx((0.5 + (2 / 3 + 0) / 2) / 2)
    assert found["strata"]["2"] == {"n": 2, "accuracy": 1.0, "macro_f1": 0.5}
    assert found["accuracy"] == 0.75
    assert found["scores"]["upstream"]["macro_f1"] == found["macro_f1"]


def test_classes_and_confusion_are_counted():
    """Catches rows and columns exchanged, and a missing answer that vanishes."""
    found = answer_metrics([record("1", "a", "a"), record("2", "a", "b"), record("3", None, "b")], ("a", "b"), Grading())
    assert found["confusion"] == {"a": {"a": 1}, "b": {"a": 1, "none": 1}}
    assert found["classes"]["a"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert found["classes"]["b"]["support"] == 2


def har_folder(tmp_path, num=24):
    """Rationales with and without a full stop, so that the two scorers differ."""
    labels = ("sitting", "walking", "lying")
    rows = [[AXIS] * 3 + [labels[i % 3], f"Calm. Answer: {labels[i % 3]}{'.' if i % 2 else ''}"] for i in range(num)]
    header = ["x_axis", "y_axis", "z_axis", "label", "rationale"]
    return write_csv(tmp_path / "data" / "har_cot" / "har_cot_test_cot.csv", header, rows).parents[1]


class Sitting(WordTable):
    """Always says the same, without a full stop."""

    def decode(self, tokens):
        return "Calm. Answer: sitting"


def run_har(tmp_path, model="OpenTSLM/llama-3.2-1b-har-sp", **rest):
    methods = ({"name": "greedy"}, {"name": "best_of_n"})
    config = make_config(
        tasks=("har_cot",), methods=methods, model=model, num_rollouts=3, max_new_tokens=5, output_dir=tmp_path / "run", **rest
    )
    return evaluate(config, engine=Sitting())


def test_a_run_is_scored_by_both_and_rescored_by_either(tmp_path):
    """Catches scores that follow the scorer, searches that do, and a rescored run that keeps the old one's answers."""
    run = run_har(tmp_path, data_dir=har_folder(tmp_path))
    row = run.summary["tasks"]["har_cot"]["greedy"]
    assert row["accuracy"] == row["scores"]["clean"]["accuracy"] == pytest.approx(1 / 3)
    assert row["scores"]["upstream"]["accuracy"] == pytest.approx(1 / 6)
    assert row["scores"]["clean"]["macro_f1"] == pytest.approx(0.5 / 3)
    assert row["scores"]["upstream"]["macro_f1"] == pytest.approx(0.5 / 8), "upstream averages over all eight labels"
    again = rescore(run.path, tmp_path / "upstream", scorer="upstream")
    scored = again.summary["tasks"]["har_cot"]["greedy"]
    assert (scored["accuracy"], scored["scores"]) == (row["scores"]["upstream"]["accuracy"], row["scores"])
    assert [one.texts for one in again.records] == [one.texts for one in run.records]
    back = rescore(again.path, tmp_path / "back", scorer="clean")
    assert [one.model_dump() for one in back.records] == [one.model_dump() for one in run.records]


def test_the_published_number_is_shown_for_its_own_checkpoint_only(tmp_path):
    """Catches another model's result labelled as a reproduction, and one on other data or of another method."""
    folder = har_folder(tmp_path)
    run = run_har(tmp_path, data_dir=folder)
    found = run.summary["published"]
    assert {(row["method"], row["metric"]) for row in found} == {("greedy", "accuracy"), ("greedy", "macro_f1")}
    accuracy = next(row for row in found if row["metric"] == "accuracy")
    assert (accuracy["published"], accuracy["ours"], accuracy["verdict"]) == (0.7148, pytest.approx(1 / 6), "FAIL")
    assert accuracy["ci95"][0] < 1 / 6 < accuracy["ci95"][1] < 0.7148
    (line, _) = published_lines(run.summary, "har_cot")
    assert line.startswith("FAIL: accuracy of greedy 0.1667 [")
    assert "on 24 of 8222 items" in line
    for model, data_dir in (("OpenTSLM/llama-3.2-1b-har-flamingo-mine", folder), ("OpenTSLM/llama-3.2-1b-har-sp", None)):
        other = run_har(tmp_path / f"{model[-4:]}", model=model, data_dir=data_dir, limit=4)
        assert other.summary["published"] == []


def test_a_published_number_inside_the_interval_passes(tmp_path):
    """Catches a verdict by the distance of two numbers instead of by the interval."""
    run = run_har(tmp_path, data_dir=har_folder(tmp_path))
    for one in run.records:
        one.scores["upstream"] = AnswerScore(answer="sitting", target="sitting", correct=int(one.example_id[8:]) % 4 != 0)
    rows = reproductions(run, "har_cot", {"greedy": [one for one in run.records if one.method == "greedy"]})
    assert {row["metric"]: row["verdict"] for row in rows}["accuracy"] == "PASS"


def test_the_report_says_what_is_whose(tmp_path):
    """Catches published numbers on the page of a run on other data, and a missing section on the page of one that has them."""
    folder = har_folder(tmp_path)
    own = render_report(run_har(tmp_path / "a", data_dir=folder))
    assert "By scorer" in own
    assert "FAIL" in own
    assert "OpenTSLM-SP, Llama-1B" in own
    other = render_report(run_har(tmp_path / "b", data_dir=folder, model="mine"))
    assert "reproduce none of them" in other
    assert "FAIL" not in other
    assert "Published numbers" not in render_report(run_har(tmp_path / "c", limit=4))


def test_published_rows_are_complete_and_of_known_tasks():
    """Catches a slip in the file: a task that does not exist, a share above one, a row without a source."""
    rows = {task: published_rows(task) for task in TASKS}
    assert set(TEST_ITEMS) == {task for task, found in rows.items() if found}
    for task, found in rows.items():
        assert all(one.source and one.model and one.task == task for one in found)
        assert all(0 <= value <= 1 for one in found for value in (one.macro_f1, one.accuracy) if value is not None)
    table = [one for one in rows["har_cot"] if one.source.endswith("Table 2")]
    assert len(table) == 16
    assert len({one.checkpoint for found in rows.values() for one in found if one.checkpoint}) == 32
    first = next(one for one in table if one.checkpoint == "OpenTSLM/llama-3.2-1b-har-sp")
    assert (first.macro_f1, first.accuracy) == (0.6544, 0.7148)


def test_strata_come_from_the_items(tmp_path):
    """Catches templates looked up by something else than the item's id."""
    run = make_run([record("1", "a", "a")])
    run.examples[("t", "1")] = ExampleRecord(task="t", id="1", prompt="", target=None, stratum="7")
    assert grading_of(run, "t").strata == {"1": "7"}


@pytest.mark.parametrize("name", ["tsqa", "sleep_cot", "ecg_qa_cot", "series"])
def test_the_command_line_evaluates_every_task(name, tmp_path, capsys):
    """Catches a task that works in Python only, and options that do not reach it."""
    where = make_data(name, tmp_path)
    own = ["--series", str(where), "--question", "Does it rise?", "--labels", "rising, falling"]
    source = own if name == "series" else [name, "--data-dir", str(where), "--scorer", "upstream"]
    engine = f"{__file__.replace('test_grading', 'evaluation_fakes')}:make_word_engine"
    arguments = ["eval", *source, "--engine", engine, "--method", "greedy", "--method", "majority_vote", "--limit", "6"]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--preset", "quick", "--format", "json", "--output-dir", str(tmp_path / "run"), "--quiet"])
    assert stopped.value.code in (0, None)
    summary = json.loads(capsys.readouterr().out)
    row = summary["tasks"][name]["greedy"]
    assert (row["n"], row["n_failed"]) == (6, 0)
    assert set(row["scores"]) == ({"clean"} if name == "series" else {"clean", "upstream"})
    assert bool(row["strata"]) == (name == "ecg_qa_cot")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "Name what to evaluate"),
        (["eval", "har_cot", "--series", "x.csv"], "takes the place of a task"),
        (["eval", "har_cot", "--question", "?"], "series of your own"),
        (["eval", "--series", "x.csv"], "there is none at x.csv"),
        (["eval", "har_cot", "--scorer", "kind"], "scorer"),
        (["generate", "a prompt", "--series", "x.csv"], "exactly one of them"),
    ],
)
def test_options_that_do_not_go_together_are_explained(arguments, message, capsys):
    """Catches an option that is ignored."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
