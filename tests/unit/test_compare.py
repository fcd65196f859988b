"""Runs compared item by item: what pairs up, what is refused, and the numbers, by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maxent_ts.cli.app import app
from maxent_ts.cli.comparison import parse_selection
from maxent_ts.compare import compare_records, compare_runs, with_verdicts
from maxent_ts.errors import SettingError
from maxent_ts.records import ExampleRecord, Record, Run, RunInfo
from maxent_ts.run_directory import RunDirectory
from maxent_ts.variants import group_records

NUM_ITEMS = 20


def write_run(path, rewards, *, labels=("a", "b"), budget=100, reward_name="claims", failed=(), prompt="p"):
    """Write a run; `rewards` has for each method a reward for each item."""
    methods = list(rewards)
    info = RunInfo(
        started="",
        config={
            "methods": [{"name": one} for one in methods],
            "generated_tokens": budget,
            "num_rollouts": 10,
            "max_new_tokens": 10,
        },
        engine={},
        rewards={"t": {"name": reward_name}},
        data={"t": {"labels": list(labels)}},
        versions={},
        hardware={},
    )
    with RunDirectory(path, info) as directory:
        num_items = len(next(iter(rewards.values())))
        directory.write_examples(
            ExampleRecord(task="t", id=f"item/{index}", prompt=prompt, target="a", stratum="xy"[index % 2])
            for index in range(num_items)
        )
        for method, values in rewards.items():
            for index, reward in enumerate(values):
                record = make_record(method, index, reward)
                record.usage = {"generated_tokens": 90}
                if index in failed:
                    record.error, record.reward = "broke", None
                elif labels:
                    record.answer, record.target = "a" if reward > 0.5 else "b", "a"
                    record.correct = record.answer == record.target
                directory.append(record)
    return path


@pytest.fixture
def two(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.random(NUM_ITEMS)
    write_run(tmp_path / "one", {"greedy": base, "maxent": base + 0.1 * rng.random(NUM_ITEMS)})
    write_run(tmp_path / "other", {"greedy": base, "maxent": base + 0.3 + 0.1 * rng.random(NUM_ITEMS)})
    return tmp_path / "one", tmp_path / "other"


def test_methods_are_compared_with_themselves_the_first_run_being_the_baseline(two):
    """Catches a wrong sign, a pairing across methods, and Holm over the wrong family."""
    found = compare_runs([(path, None) for path in two])
    assert found.warnings == []
    rows = {(row["metric"], row["method"]): row for row in found.rows}
    assert set(rows) == {(metric, f"other:{method}") for metric in ("reward", "accuracy") for method in ("greedy", "maxent")}
    maxent, greedy = rows["reward", "other:maxent"], rows["reward", "other:greedy"]
    assert maxent["baseline"] == "one:maxent"
    assert 0.2 < maxent["ci95"][0] < maxent["difference"] < maxent["ci95"][1] < 0.4
    assert maxent["difference"] == pytest.approx(maxent["mean"] - maxent["baseline_mean"])
    assert maxent["verdict"] == "other:maxent is better"
    assert maxent["p_holm"] == pytest.approx(2 * maxent["p_value"]), "two comparisons of this metric"
    assert (greedy["difference"], greedy["p_value"], greedy["verdict"]) == (0.0, 1.0, "no difference beyond noise")
    assert (maxent["n"], maxent["wins"], maxent["generated_tokens"]) == (NUM_ITEMS, NUM_ITEMS, 90)


def test_a_method_named_for_each_run_makes_one_comparison(two):
    """Catches the selection of a method that is ignored, and a run that cannot be compared with itself."""
    found = compare_runs([(two[0], "greedy"), (two[0], "maxent")], metrics=("reward",))
    assert [(row["baseline"], row["method"]) for row in found.rows] == [("one:greedy", "one:maxent")]


def make_record(method, item, reward, seed=0, tilt=1.0, **settings):
    values = {"task": "t", "method": method, "settings": settings, "tilt": tilt, "example_id": f"item/{item}", "seed": [seed, item]}
    return Record(**values, reward=float(reward))


def test_seeds_are_averaged_within_an_item_first():
    """Catches seeds counted as items, which would make any difference significant."""
    base = np.random.default_rng(1).random(8)
    ours = [make_record("maxent", item, base[item] + 1, seed) for seed in range(3) for item in range(8)]
    theirs = [make_record("maxent", item, base[item] + 0.2 * seed, seed) for seed in range(2) for item in range(8)]
    row = compare_records(ours, theirs, "reward")
    assert (row["n"], row["num_clusters"]) == (8, 8)
    assert row["difference"] == pytest.approx(0.9)
    assert row["p_value"] == pytest.approx(2 / 2**8)


def test_variants_of_a_method_are_told_apart_by_what_varies_and_seeds_are_not():
    """Catches two settings averaged into one row, a seed taken for a setting, and labels full of what all share."""
    records = [
        make_record("maxent", item, 0.5, seed, tilt, selection="bound", num_parallel=2)
        for item in (0, 1)
        for seed in (0, 1)
        for tilt in (1.0, 2.5)
    ]
    info = RunInfo(
        started="",
        config={"methods": [{"name": "greedy"}, {"name": "maxent"}]},
        engine={},
        rewards={},
        data={},
        versions={},
        hardware={},
    )
    run = Run(path=Path("x"), info=info, examples={}, records=[*records, make_record("greedy", 0, 1)], summary=None)
    groups = group_records(run, "t")
    assert {label: len(found) for label, found in groups.items()} == {"greedy": 1, "maxent[tilt=1]": 4, "maxent[tilt=2.5]": 4}
    assert next(iter(groups)) == "greedy", "in the order of the configuration"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": {"maxent": [0.5] * (NUM_ITEMS - 3)}}, "20 and 17 items, 3 in one only, such as 'item/17'"),
        ({"budget": 50}, "budgets of 100 and 50 generated tokens"),
        ({"reward_name": "format"}, "the reward is claims in one and format in the other"),
        ({"prompt": "another"}, "20 items have the same id but another prompt"),
    ],
)
def test_what_makes_a_comparison_unfair_is_refused_unless_told(tmp_path, change, message):
    """Catches two numbers side by side that were not measured on the same items, at the same cost, by the same reward."""
    rewards = {"maxent": [0.1 * index for index in range(NUM_ITEMS)]}
    one = write_run(tmp_path / "one", rewards)
    other = write_run(tmp_path / "other", **{"rewards": rewards, **change})
    with pytest.raises(SettingError, match=message):
        compare_runs([(one, None), (other, None)])
    found = compare_runs([(one, None), (other, None)], allow_unequal=True)
    assert len(found.warnings) == 1
    assert message in found.warnings[0]
    assert found.rows[0]["n"] == min(NUM_ITEMS, len(change.get("rewards", rewards)["maxent"]))


def test_failed_items_are_left_out_of_the_pairs_and_counted(tmp_path):
    """Catches a failure that counts as 0, and one that nobody hears of."""
    one = write_run(tmp_path / "one", {"maxent": [0.5] * NUM_ITEMS})
    other = write_run(tmp_path / "other", {"maxent": [0.75] * NUM_ITEMS}, failed=(3,))
    (row,) = compare_runs([(one, None), (other, None)], metrics=("reward",)).rows
    assert (row["n"], row["failed"], row["baseline_failed"], row["difference"]) == (NUM_ITEMS - 1, 1, 0, 0.25)


def test_items_of_a_stratum_can_be_resampled_together(two):
    """Catches an option that changes nothing."""
    (row,) = compare_runs([(path, "maxent") for path in two], metrics=("reward",), cluster_by="stratum").rows
    assert (row["n"], row["num_clusters"]) == (NUM_ITEMS, 2)


def test_a_task_without_labels_has_no_accuracy_to_compare(tmp_path):
    """Catches a row of zeros."""
    paths = [write_run(tmp_path / name, {"maxent": [0.5] * 5}, labels=()) for name in ("one", "other")]
    assert [row["metric"] for row in compare_runs([(path, None) for path in paths]).rows] == ["reward"]
    with pytest.raises(SettingError, match="Nothing in these runs pairs up"):
        compare_runs([(path, None) for path in paths], metrics=("accuracy",))


@pytest.mark.parametrize(
    ("selections", "options", "message"),
    [
        (1, {}, "two or more runs"),
        (2, {"metrics": ("speed",)}, "by reward or accuracy, not by 'speed'"),
        (2, {"cluster_by": "colour"}, "not by 'colour'"),
        (2, {"methods": ("beam",)}, "Nothing in these runs pairs up"),
    ],
)
def test_bad_requests_are_explained(two, selections, options, message):
    """Catches a traceback, and an empty table that looks like a result."""
    with pytest.raises(SettingError, match=message):
        compare_runs([(path, None) for path in two[:selections]], **options)


@pytest.mark.parametrize(
    ("interval", "p_value", "expected"),
    [
        ([0.1, 0.2], 0.01, "maxent is better"),
        ([-0.2, -0.1], 0.01, "greedy is better"),
        ([-0.1, 0.2], 0.01, "no difference beyond noise"),
        ([0.1, 0.2], 0.3, "no difference beyond noise"),
        ([0.1, 0.2], 0.03, "no difference beyond noise"),
        (None, 1.0, "too few items to tell"),
    ],
)
def test_somebody_wins_only_where_interval_and_adjusted_test_agree(interval, p_value, expected):
    """Catches a winner announced on one of two contradicting figures, or on one of many comparisons."""
    row = {"method": "maxent", "baseline": "greedy", "ci95": interval, "p_value": p_value}
    assert with_verdicts([row, {**row, "p_value": 1.0}])[0]["verdict"] == expected


def test_records_without_a_common_item_have_no_difference(tmp_path):
    """Catches a mean of nothing."""
    assert compare_records([], [], "reward") is None


def test_the_command_prints_every_format(two):
    """Catches a format that loses columns or precision, and warnings among the data."""
    arguments = ["compare", *map(str, two), "--metric", "reward", "--format"]
    printed = {name: CliRunner().invoke(app, [*arguments, name]).stdout for name in ("table", "markdown", "csv", "latex", "json")}
    rows = json.loads(printed["json"])["comparisons"]
    table = list(csv.DictReader(io.StringIO(printed["csv"])))
    assert [float(one["difference"]) for one in table] == [one["difference"] for one in rows]
    assert [float(one["95 % low"]) for one in table] == [one["ci95"][0] for one in rows]
    for row in rows:
        for name in ("table", "markdown", "latex"):
            assert f"{row['difference']:+.3f}" in printed[name]
            assert row["method"] in printed[name]
    assert printed["latex"].startswith("\\begin{tabular}")
    assert len({line.count("|") for line in printed["markdown"].splitlines()}) == 1
    failed = CliRunner().invoke(app, ["compare", str(two[0]), str(two[0] / "nothing")])
    assert failed.exit_code == 2
    assert "not a run directory" in failed.stderr


def test_a_method_is_split_from_a_path(tmp_path):
    """Catches a drive letter or a directory with a colon taken for a method."""
    (tmp_path / "with:colon").mkdir()
    assert parse_selection(str(tmp_path / "with:colon")) == (tmp_path / "with:colon", None)
    assert parse_selection("runs/demo:maxent[tilt=2]") == (parse_selection("runs/demo")[0], "maxent[tilt=2]")
