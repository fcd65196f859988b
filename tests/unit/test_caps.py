"""Caps are kept whatever the searches do, and a capped run goes on to the results it would have had without."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from maxent_ts.cli import main
from maxent_ts.evaluate import Silent
from maxent_ts.metering import Meter, metered_searches
from maxent_ts.records import Record, read_run
from maxent_ts.search.run import Event, SearchJob, SearchResult
from maxent_ts.types import Budget, Policy, Usage

from .test_evaluate import FailsOnce
from .toy_runs import FAKES, count_lines, essence, make, run_toys

METHODS = ("greedy", "best_of_n", "maxent")
BUDGET = 30


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run_toys(make(tmp_path_factory.mktemp("reference"), methods=METHODS))


def num_tokens(run):
    return sum(one.usage["generated_tokens"] for one in run.records)


@pytest.mark.parametrize("max_concurrent", [1, 3, 16])
def test_the_cap_on_tokens_is_never_exceeded_and_nearly_used(reference, tmp_path, max_concurrent):
    """Catches searches that start together and overrun the cap, and a run that stops long before it."""
    for cap in (1, 36, 100, 333, num_tokens(reference) - 40):
        run = run_toys(make(tmp_path, name=str(cap), methods=METHODS, max_total_tokens=cap, max_concurrent=max_concurrent))
        assert cap - BUDGET < num_tokens(run) <= cap
        assert run.info.status == "capped"
        assert run.info.unrecorded_tokens == 0
        known = essence(reference)
        assert essence(run) == {record.key: known[record.key] for record in run.records}


def test_a_higher_cap_goes_on_and_none_finishes(reference, tmp_path):
    """Catches a cap that counts this start alone, and a search that is repeated or changed by the cap."""
    for cap in (100, 100, 400, 600):
        run = run_toys(make(tmp_path, methods=METHODS, max_total_tokens=cap))
        assert num_tokens(run) <= cap
        assert run.info.status == "capped"
        assert run.summary is not None
    run = run_toys(make(tmp_path, methods=METHODS))
    assert run.info.status == "finished"
    assert essence(run) == essence(reference)
    assert count_lines(run.path / "samples.jsonl") == len(reference.records)


def test_a_cap_that_is_just_enough_is_no_cap(reference, tmp_path):
    """Catches a run that did everything and is called capped."""
    run = run_toys(make(tmp_path, methods=METHODS, max_total_tokens=int(num_tokens(reference)) + BUDGET))
    assert run.info.status == "finished"
    assert essence(run) == essence(reference)


def test_tokens_of_searches_that_were_stopped_count(tmp_path):
    """Catches a cap that is exceeded by interrupting again and again."""

    class Impatient(Silent):
        num = 0

        def event(self, event):
            self.num += 1
            if self.num == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toys(make(tmp_path, methods=METHODS, max_total_tokens=500), watcher=Impatient())
    stopped = read_run(tmp_path / "run")
    assert stopped.info.unrecorded_tokens > 0
    run = run_toys(make(tmp_path, methods=METHODS, max_total_tokens=500))
    assert run.info.unrecorded_tokens == stopped.info.unrecorded_tokens
    assert 500 - BUDGET < num_tokens(run) + run.info.unrecorded_tokens <= 500


def test_tokens_of_failed_searches_and_of_a_broken_driver_count(tmp_path):
    """Catches failures that are free."""
    engine = FailsOnce.random(num_tokens=6, concentration=0.5)
    run = run_toys(make(tmp_path, methods=METHODS, max_total_tokens=600), engine=engine)
    assert engine.num_steps > 40
    assert run.info.unrecorded_tokens > 0
    assert num_tokens(run) + run.info.unrecorded_tokens <= 600
    failing = make(tmp_path, name="failing", methods=METHODS, max_total_tokens=200, rewards=(f"{FAKES}:fails_on_ee",))
    for _ in range(4):
        run_toys(failing)
    lines = (tmp_path / "failing" / "samples.jsonl").read_text().splitlines()
    assert sum(Record.model_validate_json(line).usage["generated_tokens"] for line in lines) <= 200


def test_time_that_is_up_ends_the_run_between_two_steps(reference, tmp_path, monkeypatch):
    """Catches a half-finished search that is recorded, and a time cap that waits for all searches under way."""
    ticks = itertools.count()
    monkeypatch.setattr("maxent_ts.metering.perf_counter", lambda: float(next(ticks)))
    seen = []
    for _ in range(60):
        run = run_toys(make(tmp_path, methods=METHODS, max_seconds=60.0, max_concurrent=2))
        known = essence(reference)
        assert essence(run) == {record.key: known[record.key] for record in run.records}
        seen.append(run.info.status)
        if run.info.status == "finished":
            break
    assert seen[0] == "capped"
    assert seen[-1] == "finished"
    assert essence(run) == essence(reference)
    assert count_lines(run.path / "samples.jsonl") == len(reference.records)


def make_job(number, budget=10):
    return SearchJob(str(number), "a", Policy(5), lambda rng, target: None, budget=Budget(generated_tokens=budget))


def test_a_search_without_a_budget_may_not_start_under_a_cap():
    """Catches a search that generates without end within a run that promised one."""
    assert Meter(0, None, None).admits(make_job(1, None))
    assert not Meter(0, 10**9, None).admits(make_job(1, None))


def test_room_that_a_cheap_search_leaves_is_used():
    """Catches a driver that was refused once and is never asked again."""
    meter = Meter(0, 25, None)

    def run(source):
        for job in list(source):
            yield SearchResult(job, None, Usage(generated_tokens=5))

    assert [one.job.id for one in metered_searches(deque(map(make_job, range(9))), run, meter)] == ["0", "1", "2", "3"]
    assert meter.is_capped


def test_a_step_after_the_deadline_stops_the_searches_and_counts_them(monkeypatch):
    """Catches tokens that are lost from the account when time is up."""
    now = [0.0]
    monkeypatch.setattr("maxent_ts.metering.perf_counter", lambda: now[0])
    meter = Meter(0, 100, 10.0)

    def run(source):
        first, second = next(source), next(source)
        meter.event(Event("step", None, 7, 2))
        yield SearchResult(first, None, Usage(generated_tokens=4))
        now[0] = 11.0
        meter.event(Event("step", None, 9, 1))
        yield SearchResult(second, None, Usage(generated_tokens=5))

    assert [one.job.id for one in metered_searches(deque(map(make_job, range(3))), run, meter)] == ["0"]
    assert (meter.is_capped, meter.unrecorded_tokens) == (True, 5)


def test_the_command_says_that_and_where_it_was_capped(capsys, tmp_path):
    """Catches a capped run that looks like a finished one."""
    command = ["eval", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "greedy"]
    command += ["--method", "best_of_n", "--num-rollouts", "4", "--max-new-tokens", "6", "--output-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as left:
        main([*command, "--max-total-tokens", "100"])
    assert left.value.code == 0
    err = capsys.readouterr().err
    num_records = len(read_run(tmp_path / "run").records)
    assert f"Capped: {num_records} of 24 searches were run" in err
    with pytest.raises(SystemExit):
        main(command)
    assert "Capped" not in capsys.readouterr().err
    assert read_run(tmp_path / "run").info.status == "finished"
