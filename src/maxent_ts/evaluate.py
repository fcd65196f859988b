"""Runs task × variant of a method × item, and records each as it is finished.

All searches of a task run side by side, so that the engine's batch stays full; each depends on nothing but its own item,
its method's variant and the seed. The random streams of an item are the same for every method: what two methods draw alike
they draw alike, and paired differences lose that noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from maxent_ts.config import RunConfig
from maxent_ts.engines.base import Engine
from maxent_ts.errors import SettingError
from maxent_ts.loading import load_engine
from maxent_ts.lock import check_writable
from maxent_ts.metering import Meter
from maxent_ts.planning import TaskPlan, now, plan
from maxent_ts.recording import example_record
from maxent_ts.records import Key, Record, Run, RunInfo, read_run
from maxent_ts.run_directory import RunDirectory
from maxent_ts.search.run import Event
from maxent_ts.searches import Executor, Finished, Item, LocalExecutor
from maxent_ts.summary import summarize
from maxent_ts.tasks.base import Task

__all__ = ["Estimate", "Silent", "Watcher", "Watchers", "evaluate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left of a run will cost, judged by a probe: its first items with every variant."""

    num_searches: int
    """In the probe."""
    num_left: int
    """Searches still to run."""
    generated_tokens: float
    """Of those: for each the mean of its variant in the probe."""
    generated_tokens_at_most: int
    seconds: float
    """At the probe's tokens per second."""


class Watcher(Protocol):
    """Told what an evaluation is doing."""

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        """There are `num_items` searches; `num_finished` have been recorded by an earlier start."""
        ...

    def event(self, event: Event) -> None:
        """The driver has news."""
        ...

    def recorded(self, record: Record) -> None:
        """A record is on disk."""
        ...

    def estimated(self, estimate: Estimate) -> None:
        """The probe is over."""
        ...

    def ended(self, summary: Mapping[str, Any] | None) -> None:
        """The run is over; without a summary if it was stopped or broke."""
        ...


class Silent:
    """A watcher that says nothing."""

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        """Do nothing."""

    def event(self, event: Event) -> None:
        """Do nothing."""

    def recorded(self, record: Record) -> None:
        """Do nothing."""

    def estimated(self, estimate: Estimate) -> None:
        """Do nothing."""

    def ended(self, summary: Mapping[str, Any] | None) -> None:
        """Do nothing."""


class Watchers(Silent):
    """Several watchers as one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.started(info, num_items, num_finished)

    def event(self, event: Event) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.event(event)

    def recorded(self, record: Record) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.recorded(record)

    def estimated(self, estimate: Estimate) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.estimated(estimate)

    def ended(self, summary: Mapping[str, Any] | None) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.ended(summary)


def evaluate(
    config: RunConfig,
    *,
    engine: Engine | None = None,
    tasks: Sequence[Task] | None = None,
    watcher: Watcher | None = None,
    overwrite: bool = False,
    num_probe_items: int = 0,
) -> Run:
    """Run a configuration, or continue it where its run directory left off.

    A search that fails becomes a record with an `error`; the others go on, and a later start tries it again. A run that
    reaches `max_total_tokens` or `max_seconds` ends with the status "capped", and is continued by a start with a higher cap.

    Args:
        config: What to run, and where the records go.
        engine: An engine in place of the one the configuration names; not with `config.ray`.
        tasks: Task objects in place of `config.tasks`.
        watcher: Told of progress.
        overwrite: Start over in a directory that holds another run.
        num_probe_items: Items of each task that run first, with every variant, for an estimate of what the others will cost.
            They are part of the run, whose results do not depend on it.

    Returns:
        The run directory, read back, with its summary.

    Raises:
        MaxentError: if the run cannot start: see `plan`, `load_engine` and `RunDirectory`.
        RunDirectoryError: if the run directory can be written no longer; what was finished by then is recorded.
        KeyboardInterrupt: on Ctrl-C; what was finished by then is recorded.
    """
    watcher = watcher or Silent()
    plans = plan(config, tasks=tasks)
    check_writable(config.output_dir)
    with (
        _executor(config, plans, engine, tasks) as executor,
        _watched(watcher, config.output_dir),
        RunDirectory(config.output_dir, executor.info, overwrite=overwrite) as directory,
    ):
        directory.write_examples(example_record(one.task, example) for one in plans for example in one.examples)
        watcher.started(directory.info, sum(len(one.examples) * len(one.methods) for one in plans), len(directory.finished))
        meter = Meter(directory.generated_tokens, config.max_total_tokens, config.max_seconds)
        evaluation = _Evaluation(executor, directory, watcher, meter)
        try:
            if num_probe_items:
                evaluation.probe(plans, num_probe_items)
            for one in plans:
                evaluation.run(one)
        finally:
            meter.stop()
            directory.add_unrecorded(meter.unrecorded_tokens)
        directory.write_summary(summarize(read_run(config.output_dir)))
        directory.finish(now(), "capped" if meter.is_capped else "finished")
    return read_run(config.output_dir)


@contextmanager
def _executor(
    config: RunConfig, plans: Sequence[TaskPlan], engine: Engine | None, tasks: Sequence[Task] | None
) -> Iterator[Executor]:
    if config.ray is None:
        yield LocalExecutor(config, plans, engine or load_engine(config))
        return
    if engine is not None:
        raise SettingError(
            "An engine that was made in this process cannot run on a Ray cluster: its workers make their own from the "
            "configuration. Name it there (model=…, or engine='file.py:function'), or leave ray out."
        )
    from maxent_ts.distributed.executor import ray_executor

    with ray_executor(config, plans, tasks) as executor:
        yield executor


@contextmanager
def _watched(watcher: Watcher, output_dir: Path) -> Iterator[None]:
    """Tell a watcher how a run ended, whichever way it does."""
    try:
        yield
    except BaseException:
        watcher.ended(None)
        raise
    watcher.ended(read_run(output_dir).summary)


class _Evaluation:
    """One start of a run."""

    def __init__(self, executor: Executor, directory: RunDirectory, watcher: Watcher, meter: Meter) -> None:
        self._executor = executor
        self._directory = directory
        self._watcher = watcher
        self._meter = meter
        self._tokens: dict[Key, float] = {}
        """Of the searches recorded in this start, failed ones included: they are not tried again before the next start."""

    def probe(self, plans: Sequence[TaskPlan], num_items: int) -> None:
        """Run the first items of every task and estimate the cost of the others; nothing to say where nothing is left."""
        start = time.perf_counter()
        for one in plans:
            self.run(replace(one, examples=one.examples[:num_items]))
        seconds = time.perf_counter() - start
        total = sum(self._tokens.values())
        left = [(one.task.name, item.method) for one in plans for item in self._left(one)]
        if not left or not total or self._meter.is_capped:
            return
        by_variant: dict[tuple[str, str], list[float]] = {}
        for (task, variant, _), tokens in self._tokens.items():
            by_variant.setdefault((task, variant), []).append(tokens)
        means = {key: sum(values) / len(values) for key, values in by_variant.items()}
        expected = sum(means.get((task, method.label), total / len(self._tokens)) for task, method in left)
        at_most = sum(method.generated_tokens or 0 for _, method in left)
        self._watcher.estimated(Estimate(len(self._tokens), len(left), expected, at_most, expected * seconds / total))

    def run(self, one: TaskPlan) -> None:
        """Run and record what is not finished of a task, as far as the caps go."""
        with closing(self._executor.run(one, list(self._left(one)), self._meter, self._watcher.event)) as groups:
            for group in groups:
                self._record(group)

    def _record(self, group: Sequence[Finished]) -> None:
        for finished in group:
            if finished.trace is not None:
                self._directory.log_failure(finished.record.key, finished.trace)
            if finished.tree is not None:
                self._directory.write_tree(finished.record.key, finished.tree)
        self._directory.append(*(finished.record for finished in group))
        for finished in group:
            self._tokens[finished.record.key] = finished.record.usage["generated_tokens"]
            self._watcher.recorded(finished.record)

    def _left(self, one: TaskPlan) -> Iterator[Item]:
        """Yield what is neither finished nor was tried in this start, example by example."""
        for example in one.examples:
            for method, factory in one.methods:
                item = Item(method, factory, example)
                key = item.key(one.task.name)
                if key not in self._directory.finished and key not in self._tokens:
                    yield item
