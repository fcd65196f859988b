"""A run on a Ray cluster is the run of one process, item by item, whatever is lost on the way.

The cluster is a real one of several nodes on this machine.
"""

from __future__ import annotations

import gzip
import os
import sys
import uuid

import pytest
from benchmarks.small_cluster import add_node, small_cluster

from maxent_ts.config import make_config
from maxent_ts.distributed import executor
from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import EngineError, MissingExtraError, SettingError
from maxent_ts.evaluate import Silent, evaluate
from maxent_ts.records import read_run

from .ray_fakes import mark
from .toy_runs import count_lines, essence

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves the pipes and logs of its processes open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # the same, told by pytest
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:Tip.*CUDA_VISIBLE_DEVICES:FutureWarning"),
]

FAKES = os.path.join(os.path.dirname(__file__), "ray_fakes.py")
METHODS = ("greedy", "best_of_n", "maxent")


def make(tmp_path, name="run", **changes):
    values = {
        "tasks": (f"{FAKES}:Letters",),
        "methods": tuple({"name": name} for name in METHODS),
        "engine": f"{FAKES}:make_engine",
        "model": "toy",
        "num_rollouts": 5,
        "max_new_tokens": 6,
        "tilt": 3.0,
        "max_concurrent": 4,
        "save_trees": 3,
        "ray": "auto",
        "output_dir": tmp_path / name,
    }
    return make_config(**{**values, **changes})


@pytest.fixture(scope="module")
def cluster():
    """A head that computes nothing, and two nodes of one core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAXENT_TS_TEST_MARK", uuid.uuid4().hex)
        with small_cluster(2) as (ray, found):
            assert sorted(node["Resources"].get("CPU", 0) for node in ray.nodes()) == [0, 1, 1]
            yield found


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return evaluate(make(tmp_path_factory.mktemp("reference"), ray=None))


class At(Silent):
    """Does something when so many records are on disk."""

    def __init__(self, number, action):
        self.number, self.action = number, action

    def recorded(self, record):
        self.number -= 1
        if self.number == 0:
            self.action()


def check_equal(run, reference):
    assert essence(run) == essence(reference)
    assert [one.key for one in run.records] == [one.key for one in reference.records]
    assert count_lines(run.path / "samples.jsonl") == len(reference.records), "a search was recorded twice"
    assert run.info.status == "finished"


def test_the_records_are_those_of_one_process(cluster, reference, tmp_path):
    """Catches a field, item, tree or file that is lost or other on the way, and workers that are not all used."""
    run = evaluate(make(tmp_path))
    check_equal(run, reference)
    stored = [{file.name: gzip.decompress(file.read_bytes()) for _, _, file in one.trees()} for one in (run, reference)]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 3
    for name in ("config", "engine", "data", "rewards", "sources"):
        assert getattr(run.info, name) == getattr(reference.info, name)
    assert run.summary["tasks"]["letters"]["maxent"]["reward"] == reference.summary["tasks"]["letters"]["maxent"]["reward"]


def test_a_node_that_is_killed_costs_nothing_and_one_that_joins_is_used(cluster, reference, tmp_path):
    """Catches searches that are lost or recorded twice with a node, and a run that does not notice another one. Both nodes are
    killed, so that nothing could go on without the one that joins."""

    def replace_nodes():
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)
        add_node(cluster)

    run = evaluate(make(tmp_path), watcher=At(100, replace_nodes))
    check_equal(run, reference)
    add_node(cluster)


def test_a_worker_that_is_killed_costs_nothing(cluster, reference, tmp_path):
    """Catches searches that are lost or recorded twice with a process."""
    run = evaluate(make(tmp_path, rewards=(f"{FAKES}:kills_its_process_once",), ray_workers=1))
    assert mark().exists()
    mark().unlink()
    left_out = ("evidence",)
    assert essence(run, left_out) == essence(reference, left_out)
    assert count_lines(run.path / "samples.jsonl") == len(reference.records)


def test_a_search_that_ends_every_worker_fails_alone(cluster, tmp_path, monkeypatch):
    """Catches a run that never ends, and other searches that fail with it."""
    monkeypatch.setattr(executor, "NUM_LOSSES_BEFORE_ALONE", 1)
    monkeypatch.setattr(executor, "NUM_LOSSES_ALONE", 1)
    values = {"limit": 5, "methods": ({"name": "greedy"},)}
    run = evaluate(make(tmp_path, rewards=(f"{FAKES}:kills_its_process",), ray_workers=1, **values))
    errors = {one.example_id: one.error for one in run.records}
    assert [key for key, error in errors.items() if error] == ["item/4"]
    assert "2 workers were lost while they ran this search" in errors["item/4"]
    assert "workers were lost" in (run.path / "failures.log").read_text()


def test_a_failed_item_is_a_record_like_in_one_process(cluster, tmp_path):
    """Catches errors that end a worker, and tracebacks that stay there."""
    values = {"rewards": (f"{FAKES}:fails_on_ee",), "limit": 20}
    run, alone = evaluate(make(tmp_path, ray_workers=1, **values)), evaluate(make(tmp_path, "alone", ray=None, **values))
    assert essence(run) == essence(alone)
    assert any(one.error for one in run.records)
    assert "ValueError: two e in a row" in (run.path / "failures.log").read_text()


def test_a_run_that_is_stopped_goes_on_where_it_was_with_or_without_ray(cluster, reference, tmp_path):
    """Catches records that are lost with the driver, and searches that are run again."""

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(make(tmp_path), watcher=At(60, stop))
    num_before = count_lines(tmp_path / "run" / "samples.jsonl")
    assert 60 <= num_before < len(reference.records)
    info = read_run(tmp_path / "run").info
    assert (info.status, info.unrecorded_tokens > 0) == ("interrupted", True)
    evaluate(make(tmp_path, ray=None, max_total_tokens=5000))
    check_equal(evaluate(make(tmp_path)), reference)


def test_caps_hold(cluster, reference, tmp_path):
    """Catches workers that each spend what is there for all, and a cap on time that a slow worker outlives."""
    run = evaluate(make(tmp_path, max_total_tokens=900))
    assert run.info.status == "capped"
    spent = sum(one.usage["generated_tokens"] for one in run.records)
    assert 800 < spent + run.info.unrecorded_tokens <= 900
    known = essence(reference)
    assert essence(run) == {one.key: known[one.key] for one in run.records}
    run = evaluate(make(tmp_path, max_seconds=0.6, ray_workers=1))
    assert run.info.status == "capped"
    assert run.info.unrecorded_tokens > 0
    check_equal(evaluate(make(tmp_path, ray=None)), reference)


def test_without_room_for_a_worker_the_run_says_so_and_ends(cluster, tmp_path):
    """Catches a run that waits for ever."""
    with pytest.raises(EngineError, match=r"No node .* for 1 seconds: one needs 1 CPU and 1 GPU, .*1 CPU, 0 GPU.*--ray-num-gpus"):
        evaluate(make(tmp_path, ray_num_gpus=1, ray_timeout=1))


def test_workers_that_would_compute_something_else_are_refused(cluster, tmp_path):
    """Catches records of two engines in one run."""
    with pytest.raises(SettingError, match=r"would compute something else: engine\.process is"):
        evaluate(
            make(
                tmp_path,
                engine=f"{FAKES}:make_engine_of_this_process",
                rewards=(f"{FAKES}:kills_its_process_once",),
                ray_workers=1,
            )
        )
    mark().unlink()


def test_a_worker_that_cannot_start_says_why(cluster, tmp_path):
    """Catches a traceback of Ray's, or a run without end, where a name is wrong."""
    with pytest.raises(EngineError, match=r"could not start.*UnknownNameError.*no_such_engine"):
        evaluate(make(tmp_path, engine=f"{FAKES}:no_such_engine", ray_workers=1))


def test_the_command(cluster, tmp_path, run):
    """Catches options that go nowhere."""
    command = ["eval", f"{FAKES}:Letters", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "greedy"]
    command += ["--limit", "4", "--output-dir", tmp_path / "run", "--ray", "auto", "--ray-workers", "1"]
    code, out, err = run(*command, "--ray-num-cpus", "0.5")
    assert code == 0, err
    assert "letters" in out
    assert read_run(tmp_path / "run").info.execution["ray_num_cpus"] == 0.5


def test_what_cannot_be_sent_or_connected_is_refused_at_once(tmp_path, monkeypatch):
    """Catches an engine that is silently replaced by another, and Ray's own messages."""
    with pytest.raises(SettingError, match="made in this process"):
        evaluate(make(tmp_path), engine=TableEngine.random(num_tokens=6))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(SettingError, match=r"auto or the address.*ray://host"):
        evaluate(make(tmp_path, ray="ray://host:10001"))
    with pytest.raises(SettingError, match=r"No Ray cluster answers at '127.0.0.1:9'"):
        evaluate(make(tmp_path, ray="127.0.0.1:9"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"maxent-ts\[ray\]"):
        evaluate(make(tmp_path))
