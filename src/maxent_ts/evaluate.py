"""Runs task × variant of a method × item, and records each as it is finished.

All searches of a task run side by side, so that the engine's batch stays full; each depends on nothing but its own item,
its method's variant and the seed. The random streams of an item are the same for every method: what two methods draw alike
they draw alike, and paired differences lose that noise.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.engines.base import Engine
from maxent_ts.errors import MaxentError
from maxent_ts.fingerprint import example_seed, plain
from maxent_ts.loading import load_engine
from maxent_ts.lock import check_writable
from maxent_ts.metering import Meter, metered_searches
from maxent_ts.planning import TaskPlan, describe, now, plan
from maxent_ts.recording import example_record, filled_record, tree_with_texts, with_evidence
from maxent_ts.records import Key, Record, Run, RunInfo, read_run
from maxent_ts.run_directory import RunDirectory
from maxent_ts.search.base import SearchFactory
from maxent_ts.search.run import Event, SearchJob, SearchResult, run_searches
from maxent_ts.summary import summarize
from maxent_ts.tasks.base import Example, Task
from maxent_ts.types import Budget

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
        engine: An engine in place of the one the configuration names.
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
    engine = engine or load_engine(config)
    info = describe(config, plans, engine.identity)
    with _watched(watcher, config.output_dir), RunDirectory(config.output_dir, info, overwrite=overwrite) as directory:
        directory.write_examples(example_record(one.task, example) for one in plans for example in one.examples)
        watcher.started(info, sum(len(one.examples) * len(one.methods) for one in plans), len(directory.finished))
        meter = Meter(directory.generated_tokens, config.max_total_tokens, config.max_seconds)
        evaluation = _Evaluation(config, engine, directory, watcher, meter)
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

    def __init__(self, config: RunConfig, engine: Engine, directory: RunDirectory, watcher: Watcher, meter: Meter) -> None:
        self._config = config
        self._engine = engine
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
        left = [(one.task.name, method) for one in plans for method, _, _ in self._left(one)]
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
        items = {job.id: (job, method, example) for job, method, example in self._jobs(one)}
        with_tree = {example.id for example in one.whole[: self._config.save_trees]}
        for result in self._results([job for job, _, _ in items.values()], one):
            job, method, example = items[result.job.id]
            record = Record(
                task=one.task.name,
                variant=method.label,
                method=method.name,
                settings=plain(job.method.keywords if isinstance(job.method, partial) else {}),
                tilt=job.tilt,
                num_rollouts=method.num_rollouts,
                max_new_tokens=job.policy.max_new_tokens,
                max_generated_tokens=job.budget.generated_tokens,
                example_id=example.id,
                seed=list(job.seed),
                target=example.target,
            )
            tree = None
            try:
                if result.error is not None:
                    raise result.error
                assert result.outcome is not None
                record = filled_record(record, one.task, one.reward, example, result.outcome, result, self._config.scorer)
                if result.outcome.tree is not None and example.id in with_tree:
                    tree = tree_with_texts(plain(result.outcome.tree.to_dict()), self._engine)
                    tree = with_evidence(tree, result.outcome, one.reward, example, result)
            except Exception as error:  # noqa: BLE001 - one item must not end the others; the traceback goes to failures.log
                record.error = str(error) if isinstance(error, MaxentError) else f"{type(error).__name__}: {error}"
                record.usage = asdict(result.usage)
                self._directory.log_failure(record.key, "".join(traceback.format_exception(error)))
            if tree is not None:
                self._directory.write_tree(record.key, tree)
            self._directory.append(record)
            self._tokens[record.key] = record.usage["generated_tokens"]
            self._watcher.recorded(record)

    def _left(self, one: TaskPlan) -> Iterator[tuple[MethodConfig, SearchFactory, Example]]:
        """Yield what is neither finished nor was tried in this start, item by item."""
        for example in one.examples:
            for method, factory in one.methods:
                key = (one.task.name, method.label, example.id)
                if key not in self._directory.finished and key not in self._tokens:
                    yield method, factory, example

    def _jobs(self, one: TaskPlan) -> Iterator[tuple[SearchJob, MethodConfig, Example]]:
        config = self._config
        for method, factory, example in self._left(one):
            assert method.max_new_tokens is not None
            assert method.tilt is not None
            assert method.seed is not None
            job = SearchJob(
                id=f"{one.task.name}/{method.label}/{example.id}",
                prompt=example.prompt,
                policy=config.policy(method.max_new_tokens),
                method=factory,
                tilt=method.tilt,
                budget=Budget(generated_tokens=method.generated_tokens),
                seed=(method.seed, example_seed(example.id)),
                inputs=example.inputs,
            )
            yield job, method, example

    def _results(self, jobs: Sequence[SearchJob], one: TaskPlan) -> Iterator[SearchResult]:
        answer = one.task.answer if one.task.labels else None
        max_concurrent = self._config.max_concurrent

        def on_event(event: Event) -> None:
            self._watcher.event(event)
            self._meter.event(event)

        def run(some: Iterator[SearchJob]) -> Iterator[SearchResult]:
            return run_searches(some, self._engine, one.reward, answer_fn=answer, max_concurrent=max_concurrent, on_event=on_event)

        return metered_searches(jobs, run, self._meter)
