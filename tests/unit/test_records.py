"""A run directory survives crashes, and never mixes two runs."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxent_ts.errors import RunDirectoryError
from maxent_ts.records import ExampleRecord, Record, RunInfo, read_run, read_tree, tree_path
from maxent_ts.run_directory import RunDirectory


def make_info(**changes):
    values = {
        "started": "2026-01-01T00:00:00+00:00",
        "config": {"methods": [{"name": "greedy"}, {"name": "maxent"}], "tilt": 1.0},
        "engine": {"engine": "table"},
        "rewards": {"t": {"name": "r"}},
        "data": {"t": {"num_items": 2, "sha256": "0"}},
        "versions": {"maxent-ts": "0"},
        "hardware": {},
    }
    return RunInfo(**{**values, **changes})


def make_record(example_id="1", method="greedy", **changes):
    return Record(task="t", method=method, settings={}, tilt=1.0, example_id=example_id, seed=[0, 1], **changes)


def test_a_finished_item_is_known_to_the_next_start(tmp_path):
    """Catches a resume that computes finished items again, or takes a failed one for finished."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record("1", reward=0.5))
        directory.append(make_record("2", error="failed"))
    with RunDirectory(tmp_path, make_info()) as directory:
        assert directory.finished == {("t", "greedy", "1")}
        directory.append(make_record("2", reward=0.25))
    run = read_run(tmp_path)
    assert [(one.example_id, one.reward, one.error) for one in run.records] == [("1", 0.5, None), ("2", 0.25, None)]
    assert run.info.continued == 1
    assert run.info.status == "interrupted"


def test_a_record_is_on_disk_before_the_search_goes_on(tmp_path, monkeypatch):
    """Catches records that a power cut takes from the operating system's cache."""
    synced = []
    with RunDirectory(tmp_path, make_info()) as directory:
        monkeypatch.setattr("os.fsync", lambda handle: synced.append((tmp_path / "samples.jsonl").read_bytes().count(b"\n")))
        directory.append(make_record("1"))
        directory.append(make_record("2"))
    assert synced[:2] == [1, 2]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(min_value=1, max_value=400))
def test_a_torn_last_line_is_dropped_and_what_follows_is_whole(tmp_path, cut):
    """Catches a new record glued to the half-written one, which would lose both."""
    path = tmp_path / str(cut)
    with RunDirectory(path, make_info()) as directory:
        directory.append(make_record("1", text="äöü"))
        directory.append(make_record("2", text="äöü"))
    content = (path / "samples.jsonl").read_bytes()
    last = len(content) - content.rfind(b"\n", 0, -1) - 1
    (path / "samples.jsonl").write_bytes(content[: -min(cut, last)])
    assert [one.example_id for one in read_run(path).records] == ["1"]
    with RunDirectory(path, make_info()) as directory:
        assert directory.finished == {("t", "greedy", "1")}
        directory.append(make_record("2"))
    assert [one.example_id for one in read_run(path).records] == ["1", "2"]


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    """Catches damage that is passed over in silence."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record("1"))
    file = tmp_path / "samples.jsonl"
    file.write_bytes(b'{"task": "t"}\n' + file.read_bytes())
    with pytest.raises(RunDirectoryError, match=r"Line 1 of .*samples\.jsonl"):
        read_run(tmp_path)
    with pytest.raises(RunDirectoryError, match="Line 1 of"):
        RunDirectory(tmp_path, make_info())
    RunDirectory(tmp_path, make_info(), overwrite=True).__exit__(None, None, None)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"config": {"methods": [{"name": "greedy"}, {"name": "maxent"}], "tilt": 2.0}}, "config.tilt was 1.0, now it is 2.0"),
        ({"config": {"methods": [{"name": "beam"}, {"name": "maxent"}], "tilt": 1.0}}, r"config.methods\[0\].name"),
        ({"engine": {"engine": "hf"}}, "engine.engine"),
        ({"data": {"t": {"num_items": 2, "sha256": "1"}}}, "data.t.sha256"),
        ({"versions": {"maxent-ts": "1"}}, "maxent_ts"),
    ],
)
def test_another_run_in_the_same_directory_is_refused_by_its_first_difference(tmp_path, changes, where):
    """Catches records of two configurations in one file."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record())
    with pytest.raises(RunDirectoryError, match=where) as caught:
        RunDirectory(tmp_path, make_info(**changes))
    assert "--overwrite" in str(caught.value)
    with RunDirectory(tmp_path, make_info(**changes), overwrite=True) as directory:
        assert directory.finished == set()
    assert read_run(tmp_path).records == []


def test_execution_and_hardware_may_change(tmp_path):
    """Catches a resume that is refused on another machine, or with a batch that fits into its memory."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record())
    engine = {"engine": "table", "max_batch_size": 2}
    with RunDirectory(tmp_path, make_info(execution={"batch_size": 2}, hardware={"cores": 64}, engine=engine)) as directory:
        assert len(directory.finished) == 1


def test_a_directory_with_other_files_is_never_touched(tmp_path):
    """Catches an --overwrite that deletes somebody's work."""
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
            RunDirectory(tmp_path, make_info(), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "run.json").exists()


def test_two_writers_do_not_share_a_directory(tmp_path):
    """Catches interleaved records of two processes."""
    with RunDirectory(tmp_path, make_info()), pytest.raises(RunDirectoryError, match="Another process"):
        RunDirectory(tmp_path, make_info())
    RunDirectory(tmp_path, make_info()).__exit__(None, None, None)


def test_a_path_that_cannot_be_a_directory_is_a_clear_error(tmp_path):
    """Catches an OSError without advice."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="--output-dir"):
        RunDirectory(tmp_path / "file" / "run", make_info())
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        read_run(tmp_path)


def test_numbers_that_json_lacks_come_back_as_they_were(tmp_path):
    """Catches an infinite bracket that turns into null, or into JSON that other readers reject."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record(info={"log_z_lower": -math.inf, "log_z_upper": math.inf, "k_hat": math.nan}))
    line = (tmp_path / "samples.jsonl").read_text()
    json.loads(line, parse_constant=pytest.fail)
    info = read_run(tmp_path).records[0].info
    assert (info["log_z_lower"], info["log_z_upper"]) == (-math.inf, math.inf)
    assert math.isnan(info["k_hat"])


def test_records_are_read_in_the_order_of_items_and_methods(tmp_path):
    """Catches a summary that depends on which search was finished first."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.write_examples(ExampleRecord(task="t", id=one, prompt="", target=None, stratum="") for one in ("b", "a"))
        for example_id, method in (("a", "maxent"), ("b", "maxent"), ("a", "greedy"), ("b", "greedy")):
            directory.append(make_record(example_id, method))
    found = [(one.example_id, one.method) for one in read_run(tmp_path).records]
    assert found == [("b", "greedy"), ("b", "maxent"), ("a", "greedy"), ("a", "maxent")]


def test_a_tree_is_found_again_whatever_the_item_s_id(tmp_path):
    """Catches ids that leave the directory or clash as file names."""
    with RunDirectory(tmp_path, make_info()) as directory:
        for example_id in ("../x", "a/b", "a b"):
            directory.write_tree(("t", "maxent", example_id), {"nodes": []})
    found = [read_tree(file)["example_id"] for _, _, file in read_run(tmp_path).trees()]
    assert sorted(found) == ["../x", "a b", "a/b"]
    tree_path(tmp_path, "t", "maxent", "a b").write_bytes(b"no gzip")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        read_tree(tree_path(tmp_path, "t", "maxent", "a b"))
