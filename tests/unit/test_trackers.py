"""Trackers: what they are told, the real libraries on this machine alone, and that none can stop a run."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys

import pytest

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import MissingExtraError
from maxent_ts.evaluate import Silent, Watchers, evaluate
from maxent_ts.integrations import trackers

from .evaluation_fakes import LetterTask
from .toy_runs import FAKES

METHODS = ("greedy", "best_of_n")


class Remembering:
    """A backend that keeps what it is given, and raises at one of its three calls if told to."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def _note(self, *call):
        self.calls.append(call)
        if call[0] == self.fails_at:
            raise ConnectionError("the server\nis away")

    def start(self, name, config):
        self._note("start", name, dict(config))

    def log(self, values, step):
        self._note("log", dict(values), step)

    def finish(self):
        self._note("finish")


def run(path, watcher, **settings):
    config = RunConfig(
        tasks=("letters",),
        methods=tuple(MethodConfig(name=name) for name in METHODS),
        max_new_tokens=6,
        num_rollouts=4,
        output_dir=path / "run",
        **settings,
    )
    engine = TableEngine.random(num_tokens=6, concentration=0.5)
    return evaluate(config, engine=engine, tasks=[LetterTask()], watcher=watcher)


def test_every_record_is_a_step_and_the_summary_is_one_more(tmp_path):
    """Catches steps that are lost, numbers that are not the records', and a summary before the end."""

    class Keeping(Silent):
        def __init__(self):
            self.records = []

        def recorded(self, record):
            self.records.append(record)

    backend, kept = Remembering(), Keeping()
    found = run(tmp_path, Watchers(trackers.Tracker(backend, "remembering"), kept))
    (_, name, config), *logged, (_, summary, last), end = backend.calls
    assert (name, config["config.tilt"], config["num_items"], end) == ("run", 1.0, 24, ("finish",))
    assert [step for _, _, step in logged] == list(range(1, 25))
    for record, (_, values, _) in zip(kept.records, logged, strict=True):
        own = f"letters/{record.method}/"
        assert values[own + "reward"] == record.reward
        assert values[own + "generated_tokens"] == record.usage["generated_tokens"]
        assert values[own + "seconds"] == record.usage["seconds"]
        assert values[own + "failed"] == values["failed_items"] == 0.0
    assert last == 25
    assert summary["summary/letters/best_of_n/reward/mean"] == found.summary["tasks"]["letters"]["best_of_n"]["reward"]["mean"]
    assert all(type(value) is float for value in summary.values())


def test_failures_are_counted_and_a_failed_record_has_no_reward(tmp_path):
    """Catches a zero that looks like a bad reward."""
    backend = Remembering()
    found = run(tmp_path, trackers.Tracker(backend, "remembering"), rewards=(f"{FAKES}:fails_on_ee",))
    failed = sum(record.error is not None for record in found.records)
    assert failed
    logged = [values for kind, values, *_ in backend.calls[1:-2] if kind == "log"]
    assert logged[-1]["failed_items"] == failed
    assert sum(not any(name.endswith("/reward") for name in values) for values in logged) == failed


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_said_once_and_the_run_ends_well(tmp_path, caplog, call):
    """Catches a server that is away and takes the evaluation with it, or fills the log."""
    broken, whole = Remembering(fails_at=call), Remembering()
    watcher = Watchers(trackers.Tracker(broken, "broken"), trackers.Tracker(whole, "whole"))
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path, watcher)
    assert len(found.records) == 24
    assert found.info.status == "finished"
    assert [one.getMessage() for one in caplog.records] == [
        "The tracker broken failed and is left out from here on: ConnectionError: the server is away"
    ]
    assert [one[0] for one in broken.calls].count(call) == 1
    assert whole.calls[-1] == ("finish",)


def test_a_run_that_is_stopped_is_closed_without_a_summary_and_its_steps_go_on(tmp_path):
    """Catches a tracker's run that stays open after Ctrl-C, and a continued run that starts at step 1 again."""

    class Impatient(Silent):
        def recorded(self, record):
            raise KeyboardInterrupt

    backend = Remembering()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Watchers(trackers.Tracker(backend, "first"), Impatient()))
    assert [one[0] for one in backend.calls] == ["start", "log", "finish"]
    again = Remembering()
    run(tmp_path, trackers.Tracker(again, "second"))
    assert again.calls[1][2] == 2


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    """Catches an ImportError after hours, at the end of the first search."""
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingExtraError, match=r"maxent-ts\[trackio\]"):
        trackers.trackio()


READ_BACK = {
    "trackio": """
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("maxent-ts")
rows = SQLiteStorage.get_logs("maxent-ts", name)
print(json.dumps({"name": name, "rows": [{key: value for key, value in row.items() if "/" in key} for row in rows]}))
""",
    "wandb": """
import glob, struct, time
from wandb.proto import wandb_internal_pb2

def records(data):  # LevelDB's log: blocks of 32 KiB, and parts of a record marked whole, first, middle, last
    position, whole = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4) and position <= len(data):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""

found, deadline = [], time.monotonic() + 60
while not any(record.HasField("exit") for record in found) and time.monotonic() < deadline:
    time.sleep(0.05)  # wandb's service writes the file, and may still be at it
    found = list(records(open(glob.glob("wandb/offline-run-*/*.wandb")[0], "rb").read()))
names = [record.run.display_name for record in found if record.run.display_name]
items = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item} for record in found]
print(json.dumps({"name": names[-1], "rows": [{key: value for key, value in row.items() if "/" in key} for row in items]}))
""",
    "mlflow": """
import mlflow
client = mlflow.MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("maxent-ts").experiment_id])
assert run.data.params["config.tilt"] == "1.0" and run.info.status == "FINISHED"
rows = {}
for key in run.data.metrics:
    for one in client.get_metric_history(run.info.run_id, key):
        rows.setdefault(one.step, {})[key] = one.value
rows = [{key: value for key, value in rows[step].items() if "/" in key} for step in sorted(rows)]
print(json.dumps({"name": run.info.run_name, "rows": rows}))
""",
}


@pytest.mark.parametrize("name", READ_BACK)
def test_the_real_library_keeps_what_it_was_told(tmp_path, name):
    """Catches an adapter for an interface that the library does not have, and one that prints among the data."""
    pytest.importorskip(name)
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}

    arguments = ["eval", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--limit", "3"]
    arguments += ["--max-new-tokens", "6", "--num-rollouts", "4", "--method", "greedy", "--track", name, "--quiet"]
    arguments += ["--output-dir", "night", "--format", "json"]
    code = "import json\nfrom maxent_ts.cli import main\ntry:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
    command = [sys.executable, "-c", code + "print('---')" + READ_BACK[name], *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    summary, _, kept = (json.loads(part) if part != "---" else None for part in re.split("(?<=\n)(---)\n", done.stdout))
    assert kept["name"] == "night"
    *rows, last = [row for row in kept["rows"] if row]
    assert len(rows) == 3
    samples = [json.loads(line) for line in (tmp_path / "night" / "samples.jsonl").read_text().splitlines()]
    assert [row["letters/greedy/reward"] for row in rows] == pytest.approx([sample["reward"] for sample in samples])
    assert last["summary/letters/greedy/n"] == summary["tasks"]["letters"]["greedy"]["n"] == 3
