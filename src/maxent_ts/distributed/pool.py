"""The workers of a run on a Ray cluster: fed with searches, asked for records, replaced when they are lost.

The process that calls this is the only one that writes the run directory. A search is given to one worker at a time; if that
is lost, with its node or alone, the search goes to another. So a search may run twice, and is returned once.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from maxent_ts.config import RunConfig
from maxent_ts.distributed.actor import Actor, Reply, Started
from maxent_ts.distributed.cluster import connected, num_places, resources_of_cluster
from maxent_ts.errors import EngineError, SettingError
from maxent_ts.identity import first_difference, run_identity, shown
from maxent_ts.metering import Meter
from maxent_ts.planning import TaskPlan, describe
from maxent_ts.records import RunInfo
from maxent_ts.search.run import Event, SearchJob, SearchResult
from maxent_ts.searches import Finished, Item, blank_record, failed_record, search_job
from maxent_ts.tasks.base import Task
from maxent_ts.types import Usage

__all__ = ["RayExecutor", "ray_executor"]

SECONDS_BETWEEN_LOOKS = 1.0
"""At the cluster's nodes, of which there may be more or fewer."""

SECONDS_TO_STOP = 5.0
"""That a worker has to say what it dropped, when a run is stopped."""

NUM_LOSSES_BEFORE_ALONE = 2
"""A search whose worker was lost so often has the next one for itself, so that it takes no other with it."""

NUM_LOSSES_ALONE = 4
"""A search whose worker was lost so often while it had that worker for itself has failed."""

NUM_FAILED_STARTS = 5
"""So many workers in a row lost while they load end the run."""


@contextmanager
def ray_executor(config: RunConfig, plans: Sequence[TaskPlan], tasks: Sequence[Task] | None) -> Iterator[RayExecutor]:
    """Yield an executor whose first worker is ready.

    Raises:
        MissingExtraError: if Ray is not installed.
        SettingError: if no cluster answers, or a worker has other data, files or versions than this process.
        EngineError: if no node can take a worker, or none can load.
    """
    assert config.ray is not None
    with connected(config.ray) as ray:
        executor = RayExecutor(ray, config, plans, tasks)
        try:
            executor.wait_for(1)
            yield executor
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"The Ray cluster was lost: {_first_line(error)}. What was finished is recorded; the same command "
                "continues from there."
            ) from error
        finally:
            executor.close()


@dataclass(eq=False)
class _Worker:
    handle: Any
    state: Literal["placing", "loading", "ready"]
    waits_for: Any
    """The object that its call under way will return; None if there is none."""
    held: dict[tuple[str, str], tuple[Item, SearchJob]] = field(default_factory=dict)
    """Searches that it was given and has not returned, by variant and example id."""
    is_for_one: bool = False
    """Whether it holds a search that has lost other workers."""
    num_last: int = 0
    """Searches in its last answer."""


class RayExecutor:
    """Runs searches on workers of a Ray cluster.

    Args:
        ray: The module, connected.
        config: Of the run.
        plans: What that comes to here.
        tasks: Task objects in place of `config.tasks`, for the workers.
    """

    def __init__(self, ray: Any, config: RunConfig, plans: Sequence[TaskPlan], tasks: Sequence[Task] | None) -> None:
        self._ray = ray
        self._config = config
        self._plans = plans
        self._tasks = tasks
        self._workers: list[_Worker] = []
        self._info: RunInfo | None = None
        self._last_placed = time.perf_counter()
        self._last_look = -math.inf
        self._most = 1
        self._failed_starts = 0
        self._lost: list[tuple[Item, SearchJob]] = []

    @property
    def info(self) -> RunInfo:
        """The run.json of a run that starts now: that of the first worker, whose machine computes."""
        assert self._info is not None, "no worker is ready yet"
        return self._info

    def wait_for(self, num_workers: int) -> None:
        """Wait until so many workers are ready."""
        while len(self._ready()) < num_workers:
            self._hire(num_workers)
            self._collect()

    def close(self) -> None:
        """Let the workers go."""
        for worker in self._workers:
            self._ray.kill(worker.handle)
        self._workers.clear()

    def run(
        self, one: TaskPlan, items: Sequence[Item], meter: Meter, on_event: Callable[[Event], None]
    ) -> Generator[Sequence[Finished]]:
        """Yield what is finished, in the order in which it arrives."""
        pending = deque((item, search_job(self._config, one, item)) for item in items)
        losses: Counter[str] = Counter()
        generated = 0
        try:
            while pending or any(worker.held for worker in self._workers):
                num_held = sum(len(worker.held) for worker in self._workers)
                self._hire(len(pending) + num_held)
                self._feed(one, pending, meter, losses)
                nothing_runs = not any(worker.held for worker in self._workers)
                if nothing_runs and (meter.is_late or (self._ready() and not meter.admits(pending[0][1]))):
                    break  # nothing is under way and nothing may start
                found: list[Finished] = []
                for worker, reply in self._collect():
                    found += self._received(worker, reply, meter)
                found += self._requeue(one, pending, meter, losses)
                if found:
                    generated += sum(int(done.record.usage.get("generated_tokens", 0)) for done in found)
                    on_event(Event("step", None, generated, sum(len(worker.held) for worker in self._workers)))
                    yield found
        except BaseException:
            self._drop(meter)
            raise
        meter.is_capped |= bool(pending)

    def _ready(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.state == "ready"]

    def _hire(self, num_searches: int) -> None:
        """Ask for as many workers as there is work for. Those that no node has room for yet wait: Ray adds nodes for them."""
        if time.perf_counter() - self._last_look > SECONDS_BETWEEN_LOOKS:
            self._last_look = time.perf_counter()
            self._most = self._config.ray_workers or max(1, num_places(self._ray, self._config))
        options = {"num_cpus": self._config.ray_num_cpus, "num_gpus": self._config.ray_num_gpus, "max_restarts": 0}
        build = self._ray.remote(Actor).options(**options)
        while len(self._workers) < min(self._most, num_searches):
            handle = build.remote(max(1, int(self._config.ray_num_cpus)), os.getcwd())
            self._workers.append(_Worker(handle, "placing", handle.placed.remote()))

    def _feed(self, one: TaskPlan, pending: deque[tuple[Item, SearchJob]], meter: Meter, losses: Counter[str]) -> None:
        """Give every worker that waits for nothing what it may hold, and ask it for what it has finished.

        A worker holds what runs side by side and as much again, or what it finishes within two calls, so that it never
        waits; towards the end no more than its share, so that all end together.
        """
        ready = self._ready()
        share = math.ceil((len(pending) + sum(len(worker.held) for worker in ready)) / max(1, len(ready)))
        for worker in ready:
            if worker.waits_for is not None:
                continue
            keys = []
            most = max(1, min(share, 2 * max(self._config.max_concurrent, worker.num_last)))
            while pending and len(worker.held) < most and not worker.is_for_one:
                item, job = pending[0]
                is_suspect = losses[job.id] >= NUM_LOSSES_BEFORE_ALONE
                if (is_suspect and worker.held) or not meter.admits(job):
                    break
                pending.popleft()
                meter.begin(job)
                worker.is_for_one = is_suspect
                keys.append((item.method.label, item.example.id))
                worker.held[keys[-1]] = (item, job)
            if worker.held:
                worker.waits_for = worker.handle.exchange.remote(one.task.name, keys, meter.seconds_left)

    def _collect(self) -> list[tuple[_Worker, Reply]]:
        """Wait a moment for answers, and move workers on; those that are lost leave what they held in `_lost`."""
        by_ref = {worker.waits_for: worker for worker in self._workers if worker.waits_for is not None}
        if not by_ref:
            return []
        done, _ = self._ray.wait(list(by_ref), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
        if done:
            done, _ = self._ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        replies = []
        for ref in done:
            worker = by_ref[ref]
            worker.waits_for = None
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                raise EngineError(
                    f"A Ray worker failed outside of any search, with {type(error.cause).__name__}: {error.cause}. What was "
                    "finished is recorded; --debug shows where."
                ) from error
            except self._ray.exceptions.RayError as error:
                self._lose(worker, error)
                continue
            if worker.state == "placing":
                worker.state, worker.waits_for = "loading", worker.handle.start.remote(self._config, self._tasks)
            elif worker.state == "loading":
                self._check(answer)
                worker.state, self._failed_starts = "ready", 0
            else:
                replies.append((worker, answer))
        if any(worker.state != "placing" for worker in self._workers):
            self._last_placed = time.perf_counter()
        elif time.perf_counter() - self._last_placed > self._config.ray_timeout:
            raise EngineError(self._no_room())
        return replies

    def _received(self, worker: _Worker, reply: Reply, meter: Meter) -> list[Finished]:
        found = []
        for done in reply.finished:
            _, job = worker.held.pop((done.record.variant, done.record.example_id))
            meter.end(SearchResult(job, None, _usage(done)))
            found.append(done)
        meter.unrecorded_tokens += reply.unrecorded_tokens
        worker.num_last = len(found)
        if not worker.held:
            worker.is_for_one = False
        elif reply.is_late:  # it has dropped them
            self._give_up(worker, meter)
        return found

    def _lose(self, worker: _Worker, error: Exception) -> None:
        """Part with a worker that answers no more; one that may come back would only hold its place."""
        self._workers.remove(worker)
        self._ray.kill(worker.handle)
        if worker.state == "loading":
            self._failed_starts += 1
            if self._failed_starts >= NUM_FAILED_STARTS:
                raise EngineError(
                    f"{self._failed_starts} Ray workers in a row ended while they loaded the engine; the last said: "
                    f"{_first_line(error)}. Does the model fit the memory of a node? What was finished is recorded."
                )
        self._lost += worker.held.values()

    def _requeue(self, one: TaskPlan, pending: deque[tuple[Item, SearchJob]], meter: Meter, losses: Counter[str]) -> list[Finished]:
        """Put the searches of lost workers back to the front; returns those that have failed for good."""
        failed = []
        for item, job in reversed(self._lost):
            meter.end(SearchResult(job, None, Usage()))
            losses[job.id] += 1
            if losses[job.id] < NUM_LOSSES_BEFORE_ALONE + NUM_LOSSES_ALONE:
                pending.appendleft((item, job))
                continue
            error = EngineError(
                f"{losses[job.id]} workers were lost while they ran this search, the last {NUM_LOSSES_ALONE} with nothing else to "
                "do. It may need more memory than a worker has."
            )
            record = failed_record(blank_record(one, item, job), error, {"generated_tokens": 0})
            failed.append(Finished(record, trace=f"{type(error).__name__}: {error}\n"))
        self._lost.clear()
        return failed

    def _check(self, started: Started) -> None:
        """Refuse a worker that would not compute what this run computes."""
        if started.info is None:
            raise EngineError(f"A Ray worker could not start. It said: {started.error}")
        if self._info is None:
            ours = describe(self._config, self._plans, started.info.engine)
            self._info = started.info.model_copy(update={"started": ours.started})
            self._compare(run_identity(ours), run_identity(started.info), "this process")
        else:
            self._compare(run_identity(self._info), run_identity(started.info), "the first worker")

    def _compare(self, old: dict[str, Any], new: dict[str, Any], who: str) -> None:
        difference = first_difference(old, new)
        if difference is not None:
            where, ours, theirs = difference
            raise SettingError(
                f"A Ray worker would compute something else: {where} is {shown(ours)} for {who} and {shown(theirs)} for the "
                "worker. Give all nodes the same package versions, models, data and files."
            )

    def _give_up(self, worker: _Worker, meter: Meter) -> None:
        for _, job in worker.held.values():
            meter.end(SearchResult(job, None, Usage()))
        worker.held.clear()
        meter.is_capped = True

    def _drop(self, meter: Meter) -> None:
        """Count what workers generated for searches that will not be recorded, as far as they say so in time."""
        held = [worker for worker in self._ready() if worker.held]
        calls = {worker.handle.stop.remote(): None for worker in held}
        answers = {worker.waits_for: None for worker in held if worker.waits_for is not None}
        until = time.perf_counter() + SECONDS_TO_STOP
        for ref in [*answers, *calls]:
            done, _ = self._ray.wait([ref], timeout=max(0.0, until - time.perf_counter()))
            for one in done:
                try:
                    found = self._ray.get(one)
                except self._ray.exceptions.RayError:
                    continue
                if isinstance(found, Reply):
                    found = found.unrecorded_tokens + sum(_usage(one).generated_tokens for one in found.finished)
                meter.unrecorded_tokens += found

    def _no_room(self) -> str:
        need = f"{self._config.ray_num_cpus:g} CPU and {self._config.ray_num_gpus:g} GPU"
        nodes = resources_of_cluster(self._ray)
        has = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes[:8]) or "none"
        return (
            f"No node of the Ray cluster could take a worker for {self._config.ray_timeout:g} seconds: one needs {need}, and the "
            f"{len(nodes)} living nodes have {has}, some of it perhaps in use. Add nodes, lower --ray-num-cpus or --ray-num-gpus, "
            "or wait longer with --ray-timeout. What was finished is recorded; the same command continues from there."
        )


def _usage(done: Finished) -> Usage:
    return Usage(generated_tokens=int(done.record.usage.get("generated_tokens", 0)))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
