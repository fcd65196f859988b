"""Shards of a run hold every item once, and joined they are the run that one process would have made."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil

import pytest

from maxent_ts.config import make_config
from maxent_ts.errors import RunDirectoryError, SettingError
from maxent_ts.merging import merge
from maxent_ts.planning import plan
from maxent_ts.records import read_run

from .evaluation_fakes import NUM_ITEMS
from .toy_runs import FAKES, essence, make, run_toys

NUM_SHARDS = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_toys(make(tmp_path_factory.mktemp("whole"), save_trees=7))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    runs = [
        run_toys(make(place, name=f"{k}", shard=(k, NUM_SHARDS), save_trees=7, max_concurrent=k)) for k in range(1, NUM_SHARDS + 1)
    ]
    return [run.path for run in runs]


def trees(run):
    return {str(file.relative_to(run.path)): gzip.decompress(file.read_bytes()) for _, _, file in run.trees()}


@pytest.mark.parametrize("limit", [None, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_item_is_in_exactly_one_shard(limit, count):
    """Catches shards that overlap, leave items out, or are not equally long but for one item."""
    values = {"tasks": ("har_cot", f"{FAKES}:LetterTask"), "model": "toy", "limit": limit, "methods": ({"name": "greedy"},)}
    of_shards = [plan(make_config(**values, shard=(k, count))) for k in range(1, count + 1)]
    for index, one in enumerate(plan(make_config(**values))):
        parts = [[example.id for example in plans[index].examples] for plans in of_shards]
        assert sorted(itertools.chain(*parts)) == sorted(example.id for example in one.examples)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all([example.id for example in plans[index].whole] == [e.id for e in one.examples] for plans in of_shards)


def test_shards_joined_are_the_run_of_one_process(whole, shards, tmp_path):
    """Catches a record, item, tree or figure that is lost, double or other than in a run without shards."""
    joined = merge(shards[::-1], tmp_path / "joined")
    assert essence(joined) == essence(whole)
    assert [one.key for one in joined.records] == [one.key for one in whole.records]
    lines = (joined.path / "samples.jsonl").read_bytes().count(b"\n")
    assert lines == len(whole.records)
    assert list(joined.examples.values()) == list(whole.examples.values())
    assert trees(joined) == trees(whole)
    assert len(trees(joined)) == 7
    for name in ("config", "engine", "data", "rewards", "sources", "skipped"):
        assert getattr(joined.info, name) == getattr(whole.info, name)
    assert (joined.info.status, joined.info.num_searches) == ("finished", len(whole.records))
    assert [one["run"] for one in joined.info.shards] == [str(path) for path in shards]
    timeless = [json.loads(json.dumps(one.summary)) for one in (joined, whole)]
    for summary in timeless:
        for rows in summary["tasks"].values():
            for row in rows.values():
                del row["seconds_per_item"], row["forwarded_tokens"]
    assert timeless[0] == timeless[1]


def test_the_whole_command_continues_a_merged_run(shards, tmp_path):
    """Catches an identity that still says shard, so that a merged run could not be gone on with; nothing is left to run."""
    joined = merge(shards, tmp_path / "joined")
    before = (joined.path / "samples.jsonl").read_bytes()
    again = run_toys(make(tmp_path, name="joined", save_trees=7))
    assert (joined.path / "samples.jsonl").read_bytes() == before
    assert again.info.continued == joined.info.continued + 1
    assert again.info.shards == joined.info.shards
    assert merge(shards, tmp_path / "joined").summary == joined.summary
    assert (joined.path / "samples.jsonl").read_bytes() == before


def test_failures_and_their_tracebacks_are_joined_too(tmp_path):
    """Catches a failed item that becomes a missing one."""
    reward = {"rewards": (f"{FAKES}:fails_on_ee",)}
    alone = run_toys(make(tmp_path, **reward))
    runs = [run_toys(make(tmp_path, name=f"{k}", shard=(k, 2), **reward)) for k in (1, 2)]
    joined = merge([run.path for run in runs], tmp_path / "joined")
    assert essence(joined) == essence(alone)
    assert any(one.error for one in joined.records)
    log = (joined.path / "failures.log").read_text()
    assert log.count("ValueError: two e in a row\n") == (alone.path / "failures.log").read_text().count(
        "ValueError: two e in a row\n"
    )


def test_shards_that_do_not_make_a_run_are_refused(whole, shards, tmp_path):
    """Catches a merged run with items that are missing, double, or made with other settings."""
    place = tmp_path / "joined"
    with pytest.raises(RunDirectoryError, match=r"Of 5 shards 2 are missing: 2, 4"):
        merge([shards[0], shards[2], shards[4]], place)
    copy = tmp_path / "copy"
    shutil.copytree(shards[1], copy)
    with pytest.raises(RunDirectoryError, match=r"Shard 2/5 is given twice.*copy"):
        merge([*shards, copy], place)
    with pytest.raises(RunDirectoryError, match="not a shard but a whole run"):
        merge([whole.path], place)
    other = run_toys(make(tmp_path, name="other", shard=(2, 5), save_trees=7, tilt=2.0))
    with pytest.raises(RunDirectoryError, match=r"not of one run: config\.tilt is 3\.0 in .* and 2\.0 in"):
        merge([shards[0], other.path, *shards[2:]], place)
    of_two = run_toys(make(tmp_path, name="of_two", shard=(1, 2)))
    with pytest.raises(RunDirectoryError, match=r"a shard of 5 and .* of 2"):
        merge([*shards, of_two.path], place)
    capped = run_toys(make(tmp_path, name="capped", shard=(3, 5), save_trees=7, max_total_tokens=40))
    with pytest.raises(RunDirectoryError, match=r"Shard 3/5 in .* is not finished \(capped, \d of 10 searches\)"):
        merge([*shards[:2], capped.path, *shards[3:]], place)
    assert not place.exists()
    with pytest.raises(RunDirectoryError, match="another run: config"):
        merge(shards, shards[0])
    assert read_run(shards[0]).info.config["shard"] == [1, 5]


def test_a_shard_that_cannot_be_is_refused(tmp_path):
    """Catches numbers counted from 0, and shards without an item."""
    for shard in ((0, 3), (4, 3)):
        with pytest.raises(SettingError, match=f"1 ≤ k ≤ n.*{shard[0]}/{shard[1]}"):
            make(tmp_path, shard=shard)
    with pytest.raises(SettingError, match=f"{NUM_ITEMS} items here.*at most {NUM_ITEMS}"):
        run_toys(make(tmp_path, shard=(1, NUM_ITEMS + 1)))


def test_a_shard_is_continued_as_itself_and_not_as_another(tmp_path):
    """Catches a shard's directory that takes the items of another."""
    first = run_toys(make(tmp_path, shard=(1, 2), max_total_tokens=200))
    assert first.info.status == "capped"
    with pytest.raises(RunDirectoryError, match=r"config\.shard\[0\] was 1, now it is 2"):
        run_toys(make(tmp_path, shard=(2, 2)))
    assert run_toys(make(tmp_path, shard=(1, 2))).info.status == "finished"


def test_the_commands(run, tmp_path, monkeypatch):
    """Catches options that go nowhere, and directories of shards that collide."""
    monkeypatch.chdir(tmp_path)
    command = ["eval", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "greedy"]
    for k in (1, 2):
        code, _, err = run(*command, "--shard", f"{k}/2")
        assert code == 0, err
    found = sorted(tmp_path.glob("runs/*-shard-*-of-2"))
    assert len(found) == 2
    code, out, err = run("merge", *found, "--output-dir", "runs/joined")
    assert code == 0, err
    assert "letters" in out
    assert len(read_run(tmp_path / "runs/joined").records) == NUM_ITEMS
    code, _, err = run("merge", found[0], "--output-dir", "runs/half")
    assert (code, "Of 2 shards 1 is missing: 2" in err) == (2, True)
    code, _, err = run(*command, "--shard", "one/2")
    assert (code, "such as 3/8" in err) == (2, True)
