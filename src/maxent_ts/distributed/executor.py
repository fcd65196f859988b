"""A run on a Ray cluster: its searches, given to workers until each is finished.

The process that calls this is the only one that writes the run directory. A search is given to one worker at a time; if that
is lost, with its node or alone, the search goes to another. So a search may run twice, and is returned once.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from maxent_ts.config import RunConfig
from maxent_ts.distributed.actor import Reply
from maxent_ts.distributed.cluster import connected
from maxent_ts.distributed.workers import Worker, Workers, first_line
from maxent_ts.errors import EngineError
from maxent_ts.metering import Meter
from maxent_ts.planning import TaskPlan
from maxent_ts.records import RunInfo
from maxent_ts.search.run import Event, SearchJob, SearchResult
from maxent_ts.searches import Finished, Item, blank_record, failed_record, search_job
from maxent_ts.tasks.base import Task
from maxent_ts.types import Usage

__all__ = ["RayExecutor", "ray_executor"]

NUM_LOSSES_BEFORE_ALONE = 2
"""A search whose worker was lost so often has the next one for itself, so that it takes no other with it."""

NUM_LOSSES_ALONE = 4
"""A search whose worker was lost so often while it had that worker for itself has failed."""


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
        workers = Workers(ray, config, plans, tasks)
        try:
            workers.wait_for(1)
            yield RayExecutor(workers, config)
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"The Ray cluster was lost: {first_line(error)}. What was finished is recorded; the same command "
                "continues from there."
            ) from error
        finally:
            workers.close()


class RayExecutor:
    """Runs searches on workers of a Ray cluster.

    Args:
        workers: The first of which is ready.
        config: Of the run.
    """

    def __init__(self, workers: Workers, config: RunConfig) -> None:
        self._workers = workers
        self._config = config

    @property
    def info(self) -> RunInfo:
        """The run.json of a run that starts now: see `Workers.info`."""
        return self._workers.info

    def run(
        self, one: TaskPlan, items: Sequence[Item], meter: Meter, on_event: Callable[[Event], None]
    ) -> Generator[Sequence[Finished]]:
        """Yield what is finished, in the order in which it arrives."""
        pending = deque((item, search_job(self._config, one, item)) for item in items)
        losses: Counter[str] = Counter()
        generated = 0
        try:
            while pending or self._workers.num_held:
                self._workers.hire(len(pending) + self._workers.num_held)
                self._feed(one, pending, meter, losses)
                is_idle = not self._workers.num_held
                if is_idle and (meter.is_late or (self._workers.ready and not meter.admits(pending[0][1]))):
                    break  # nothing is under way and nothing may start
                found: list[Finished] = []
                for worker, reply in self._workers.collect():
                    found += self._received(worker, reply, meter)
                found += self._requeue(one, pending, meter, losses)
                if found:
                    generated += sum(done.record.generated_tokens for done in found)
                    on_event(Event("step", None, generated, self._workers.num_held))
                    yield found
        except BaseException:
            for tokens in self._workers.stop():
                meter.unrecorded_tokens += tokens
            raise
        meter.is_capped |= bool(pending)

    def _feed(self, one: TaskPlan, pending: deque[tuple[Item, SearchJob]], meter: Meter, losses: Counter[str]) -> None:
        """Give every worker that waits for nothing what it may hold, and ask it for what it has finished.

        A worker holds what runs side by side and as much again, or what it finishes within two calls, so that it never
        waits; towards the end no more than its share, so that all end together.
        """
        ready = self._workers.ready
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

    def _received(self, worker: Worker, reply: Reply, meter: Meter) -> list[Finished]:
        found = []
        for done in reply.finished:
            _, job = worker.held.pop((done.record.variant, done.record.example_id))
            meter.end(SearchResult(job, None, Usage(generated_tokens=done.record.generated_tokens)))
            found.append(done)
        meter.unrecorded_tokens += reply.unrecorded_tokens
        worker.num_last = len(found)
        if not worker.held:
            worker.is_for_one = False
        elif reply.is_late:  # it has dropped them
            self._give_up(worker, meter)
        return found

    def _requeue(self, one: TaskPlan, pending: deque[tuple[Item, SearchJob]], meter: Meter, losses: Counter[str]) -> list[Finished]:
        """Put the searches of lost workers back to the front; returns those that have failed for good."""
        failed = []
        for item, job in reversed(self._workers.lost):
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
        self._workers.lost.clear()
        return failed

    def _give_up(self, worker: Worker, meter: Meter) -> None:
        for _, job in worker.held.values():
            meter.end(SearchResult(job, None, Usage()))
        worker.held.clear()
        meter.is_capped = True
