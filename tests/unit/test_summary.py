"""The numbers of the comparison, checked by hand on small runs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from maxent_ts.records import ExampleRecord, Record, Run, RunInfo, read_run
from maxent_ts.run_directory import RunDirectory
from maxent_ts.summary import summarize

USAGE = {"generated_tokens": 10, "forwarded_tokens": 20, "prompt_tokens": 5, "rollouts": 2, "reward_calls": 2, "seconds": 0.5}


def make_record(method, example_id, reward=0.0, answer=None, target="a", error=None, rewards=(), answers=()):
    values = {"task": "t", "method": method, "settings": {}, "tilt": 1.0, "example_id": example_id, "seed": [0]}
    if error is not None:
        return Record(**values, error=error, target=target, usage=USAGE)
    return Record(
        **values,
        reward=reward,
        answer=answer,
        target=target,
        correct=None if target is None else answer == target,
        usage=USAGE,
        finish_reason="eos",
        rewards=list(rewards),
        answers=list(answers),
    )


def make_run(records, labels=("a", "b")):
    methods = list(dict.fromkeys(one.method for one in records))
    info = RunInfo(
        started="",
        config={"methods": [{"name": one} for one in methods], "generated_tokens": 10},
        engine={},
        rewards={},
        data={"t": {"labels": list(labels)}},
        versions={},
        hardware={},
    )
    ids = dict.fromkeys(one.example_id for one in records)
    examples = {("t", one): ExampleRecord(task="t", id=one, prompt="", target=None, stratum="") for one in ids}
    return Run(path=Path("x"), info=info, examples=examples, records=records, summary=None)


def test_means_leave_failed_items_out_and_count_them():
    """Catches a failed item that counts as reward 0 or as a wrong answer, and one that vanishes."""
    records = [
        make_record("greedy", "1", 1.0, "a"),
        make_record("greedy", "2", 3.0, "b"),
        make_record("greedy", "3", error="failed"),
    ]
    summary = summarize(make_run(records))
    row = summary["tasks"]["t"]["greedy"]
    assert (row["n"], row["n_failed"], row["accuracy"], row["reward"]["mean"]) == (2, 1, 0.5, 2.0)
    assert (row["generated_tokens"], row["forwarded_tokens"], row["seconds_per_item"]) == (10, 20, 0.5)
    assert summary["failures"] == [{"task": "t", "method": "greedy", "example_id": "3", "error": "failed"}]


def test_a_task_without_labels_has_no_accuracy():
    """Catches an accuracy of 0 where there is nothing to be right about."""
    row = summarize(make_run([make_record("greedy", "1", 1.0, None, None)], labels=()))["tasks"]["t"]["greedy"]
    assert row["accuracy"] is None
    assert row["macro_f1"] is None
    assert row["valid_answer_rate"] is None


def test_when_every_item_failed_there_are_no_means():
    """Catches a division by zero in the run where nothing worked."""
    summary = summarize(make_run([make_record("maxent", "1", error="x"), make_record("greedy", "1", error="x")]))
    row = summary["tasks"]["t"]["maxent"]
    assert (row["n"], row["n_failed"], row["reward"]["mean"], row["reward"]["ci95"], row["accuracy"]) == (0, 1, None, None, None)
    assert summary["comparisons"] == []


def test_differences_pair_the_items_that_both_methods_finished():
    """Catches pairs that are shifted by a failed item, and the wrong sign."""
    records = []
    for index in range(10):
        records.append(make_record("greedy", str(index), reward=float(index), answer="b"))
        error = "failed" if index == 0 else None
        records.append(make_record("maxent", str(index), reward=index + 0.5, answer="a", error=error))
    rows = {one["metric"]: one for one in summarize(make_run(records))["comparisons"]}
    assert rows["reward"]["n"] == 9
    assert rows["reward"]["difference"] == pytest.approx(0.5)
    assert rows["reward"]["ci95"] == pytest.approx([0.5, 0.5])
    assert (rows["reward"]["wins"], rows["reward"]["ties"], rows["reward"]["losses"]) == (9, 0, 0)
    assert rows["reward"]["verdict"] == "maxent is better"
    assert rows["accuracy"]["difference"] == 1.0


def test_the_order_of_finishing_does_not_matter(tmp_path):
    """Catches a bootstrap or a mean that follows the order of the lines."""
    rng = random.Random(0)
    records = [make_record(method, str(i), rng.random(), rng.choice("ab")) for i in range(20) for method in ("greedy", "maxent")]
    run = make_run(records)
    summaries = []
    for name in ("one", "other"):
        with RunDirectory(tmp_path / name, run.info.model_copy()) as directory:
            directory.write_examples(run.examples.values())
            for record in rng.sample(records, len(records)):
                directory.append(record)
        summaries.append(summarize(read_run(tmp_path / name)))
    assert summaries[0] == summaries[1] == summarize(run)


def test_reward_and_correctness_are_related_over_draws_from_the_model():
    """Catches a correlation over what a search selected, pairs across items, and ties that count as wins."""
    records = [
        make_record("maxent", "1", 9.0, "b", rewards=[9.0], answers=["b"]),
        make_record("best_of_n", "1", 1.0, "a", rewards=[1.0, 0.0, 1.0], answers=["a", "b", "b"]),
        make_record("best_of_n", "2", 5.0, "b", target="b", rewards=[5.0], answers=["b"]),
    ]
    found = summarize(make_run(records))["correlation"]["t"]
    assert (found["method"], found["n"], found["accuracy"], found["num_pairs"]) == ("best_of_n", 4, 0.5, 2)
    assert found["ranked_right"] == 0.75
    assert found["coefficient"] == pytest.approx(np.corrcoef([1, 0, 1, 5], [1, 0, 0, 1])[0, 1])
