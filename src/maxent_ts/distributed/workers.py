"""The workers of a run on a Ray cluster: asked for, started, compared with this process, and parted with when they are lost."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from maxent_ts.config import RunConfig
from maxent_ts.distributed.actor import Actor, Reply, Started
from maxent_ts.distributed.cluster import num_places, resources_of_cluster
from maxent_ts.errors import EngineError, SettingError
from maxent_ts.identity import first_difference, run_identity, shown
from maxent_ts.planning import TaskPlan, describe
from maxent_ts.records import RunInfo
from maxent_ts.search.run import SearchJob
from maxent_ts.searches import Item
from maxent_ts.tasks.base import Task

__all__ = ["Worker", "Workers", "first_line"]

SECONDS_BETWEEN_LOOKS = 1.0
"""At the cluster's nodes, of which there may be more or fewer."""

SECONDS_TO_STOP = 5.0
"""That a worker has to say what it dropped, when a run is stopped."""

NUM_FAILED_STARTS = 5
"""So many workers in a row lost while they load end the run."""


@dataclass(eq=False)
class Worker:
    """A worker, and what it was given."""

    handle: Any
    """Ray's, of its `Actor`."""
    state: Literal["placing", "loading", "ready"]
    waits_for: Any
    """The object that its call under way will return; None if there is none."""
    held: dict[tuple[str, str], tuple[Item, SearchJob]] = field(default_factory=dict)
    """Searches that it was given and has not returned, by variant and example id."""
    is_for_one: bool = False
    """Whether it holds a search that has lost other workers."""
    num_last: int = 0
    """Searches in its last answer."""


class Workers:
    """As many workers of a Ray cluster as there is work and room for.

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
        self._workers: list[Worker] = []
        self._info: RunInfo | None = None
        self._last_placed = time.perf_counter()
        self._last_look = -math.inf
        self._most = 1
        self._failed_starts = 0
        self.lost: list[tuple[Item, SearchJob]] = []
        """What workers held that were lost; whoever gives it to others empties the list."""

    @property
    def info(self) -> RunInfo:
        """The run.json of a run that starts now: that of the first worker, whose machine computes."""
        assert self._info is not None, "no worker is ready yet"
        return self._info

    @property
    def ready(self) -> list[Worker]:
        """Those that can be given searches."""
        return [worker for worker in self._workers if worker.state == "ready"]

    @property
    def num_held(self) -> int:
        """Searches that workers were given and have not returned."""
        return sum(len(worker.held) for worker in self._workers)

    def wait_for(self, num_workers: int) -> None:
        """Wait until so many workers are ready.

        Raises:
            SettingError: if a worker has other data, files or versions than this process.
            EngineError: if no node can take a worker, or none can load.
        """
        while len(self.ready) < num_workers:
            self.hire(num_workers)
            self.collect()

    def hire(self, num_searches: int) -> None:
        """Ask for as many workers as there is work for. Those that no node has room for yet wait: Ray adds nodes for them."""
        if time.perf_counter() - self._last_look > SECONDS_BETWEEN_LOOKS:
            self._last_look = time.perf_counter()
            self._most = self._config.ray_workers or max(1, num_places(self._ray, self._config))
        options = {"num_cpus": self._config.ray_num_cpus, "num_gpus": self._config.ray_num_gpus, "max_restarts": 0}
        build = self._ray.remote(Actor).options(**options)
        while len(self._workers) < min(self._most, num_searches):
            handle = build.remote(max(1, int(self._config.ray_num_cpus)), os.getcwd())
            self._workers.append(Worker(handle, "placing", handle.placed.remote()))

    def collect(self) -> list[tuple[Worker, Reply]]:
        """Wait a moment for answers, and move workers on; those that are lost leave what they held in `lost`.

        Raises:
            SettingError: as `wait_for`.
            EngineError: as `wait_for`, or if a worker fails outside of any search.
        """
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

    def stop(self) -> Iterator[int]:
        """Have all searches dropped; yields the tokens generated for them, as far as the workers say so in time."""
        held = [worker for worker in self.ready if worker.held]
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
                yield found.generated_tokens if isinstance(found, Reply) else found

    def close(self) -> None:
        """Let the workers go."""
        for worker in self._workers:
            self._ray.kill(worker.handle)
        self._workers.clear()

    def _lose(self, worker: Worker, error: Exception) -> None:
        """Part with a worker that answers no more; one that may come back would only hold its place."""
        self._workers.remove(worker)
        self._ray.kill(worker.handle)
        if worker.state == "loading":
            self._failed_starts += 1
            if self._failed_starts >= NUM_FAILED_STARTS:
                raise EngineError(
                    f"{self._failed_starts} Ray workers in a row ended while they loaded the engine; the last said: "
                    f"{first_line(error)}. Does the model fit the memory of a node? What was finished is recorded."
                )
        self.lost += worker.held.values()

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

    def _no_room(self) -> str:
        need = f"{self._config.ray_num_cpus:g} CPU and {self._config.ray_num_gpus:g} GPU"
        nodes = resources_of_cluster(self._ray)
        has = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes[:8]) or "none"
        return (
            f"No node of the Ray cluster could take a worker for {self._config.ray_timeout:g} seconds: one needs {need}, and the "
            f"{len(nodes)} living nodes have {has}, some of it perhaps in use. Add nodes, lower --ray-num-cpus or --ray-num-gpus, "
            "or wait longer with --ray-timeout. What was finished is recorded; the same command continues from there."
        )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, without its full stop; the name of its class if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
