"""Runs task × method × item, and records each as it is finished.

All searches of a task run side by side, so that the engine's batch stays full; each depends on nothing but its own item,
its method and the seed. The random streams of an item are the same for every method: what two methods draw alike they
draw alike, and paired differences lose that noise.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.engines.base import Engine
from maxent_ts.errors import DataError, MaxentError, SettingError
from maxent_ts.fingerprint import example_seed, fingerprint_examples, hardware, plain, versions
from maxent_ts.loading import load_engine, load_method, load_task
from maxent_ts.recording import example_record, filled_record, tree_with_texts
from maxent_ts.records import Record, Run, RunInfo, read_run
from maxent_ts.registry import METHODS_THAT_VOTE
from maxent_ts.rewards.base import Reward
from maxent_ts.rewards.combine import parse_rewards
from maxent_ts.run_directory import RunDirectory
from maxent_ts.search.base import SearchFactory
from maxent_ts.search.run import Event, SearchJob, SearchResult, run_searches
from maxent_ts.summary import summarize
from maxent_ts.tasks.base import Example, Task
from maxent_ts.types import Budget, Policy, Usage

__all__ = ["Silent", "TaskPlan", "Watcher", "Watchers", "evaluate", "plan"]


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

    def ended(self, summary: Mapping[str, Any] | None) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.ended(summary)


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task with its items, its reward, and the methods that apply to it."""

    task: Task
    examples: Sequence[Example]
    reward: Reward
    methods: Sequence[tuple[MethodConfig, SearchFactory]]
    skipped: Mapping[str, str]
    """Methods that do not apply, and why."""


def plan(config: RunConfig, *, tasks: Sequence[Task] | None = None) -> list[TaskPlan]:
    """Load the tasks, rewards and methods of a configuration; no model is touched.

    Args:
        config: What to run.
        tasks: Task objects in place of `config.tasks`, one for each name.

    Raises:
        MaxentError: if a name is unknown, a setting is wrong or the data cannot be read.
    """
    methods = [(method, load_method(method, num_rollouts=config.num_rollouts)) for method in config.methods]
    plans = []
    for index, name in enumerate(config.tasks):
        task = load_task(name) if tasks is None else tasks[index]
        examples = task.examples(data_dir=config.data_dir, limit=config.limit, seed=config.seed)
        _check_examples(task, examples)
        skipped = {method.name: "needs labels" for method, _ in methods if method.name in METHODS_THAT_VOTE and not task.labels}
        kept = [(method, factory) for method, factory in methods if method.name not in skipped]
        if not kept:
            raise SettingError(f"The task '{task.name}' has no labels, and {', '.join(skipped)} needs them. Name another --method.")
        specs = list(config.rewards or task.rewards)
        weights = list(config.reward_weights or (task.rewards.values() if not config.rewards else [1.0] * len(specs)))
        plans.append(TaskPlan(task, examples, parse_rewards(specs, weights), kept, skipped))
    return plans


def evaluate(
    config: RunConfig,
    *,
    engine: Engine | None = None,
    tasks: Sequence[Task] | None = None,
    watcher: Watcher | None = None,
    overwrite: bool = False,
) -> Run:
    """Run a configuration, or continue it where its run directory left off.

    A search that fails becomes a record with an `error`; the others go on, and a later start tries it again.

    Args:
        config: What to run, and where the records go.
        engine: An engine in place of the one the configuration names.
        tasks: Task objects in place of `config.tasks`.
        watcher: Told of progress.
        overwrite: Start over in a directory that holds another run.

    Returns:
        The run directory, read back, with its summary.

    Raises:
        MaxentError: if the run cannot start: see `plan`, `load_engine` and `RunDirectory`.
        KeyboardInterrupt: on Ctrl-C; what was finished by then is recorded.
    """
    watcher = watcher or Silent()
    plans = plan(config, tasks=tasks)
    engine = engine or load_engine(config)
    info = _describe(config, plans, engine)
    with _watched(watcher, config.output_dir), RunDirectory(config.output_dir, info, overwrite=overwrite) as directory:
        directory.write_examples(example_record(one.task, example) for one in plans for example in one.examples)
        watcher.started(info, sum(len(one.examples) * len(one.methods) for one in plans), len(directory.finished))
        for one in plans:
            _run_task(one, config, engine, directory, watcher)
        directory.write_summary(summarize(read_run(config.output_dir)))
        directory.finish(_now())
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


def _run_task(one: TaskPlan, config: RunConfig, engine: Engine, directory: RunDirectory, watcher: Watcher) -> None:
    items = {
        job.id: (job, method, example)
        for job, method, example in _jobs(one, config)
        if (one.task.name, method.name, example.id) not in directory.finished
    }
    with_tree = {example.id for example in one.examples[: config.save_trees]}
    for result in _results([job for job, _, _ in items.values()], engine, one, config, watcher):
        job, method, example = items[result.job.id]
        record = Record(
            task=one.task.name,
            method=method.name,
            settings=plain(job.method.keywords if isinstance(job.method, partial) else {}),
            tilt=job.tilt,
            example_id=example.id,
            seed=list(job.seed),
            target=example.target,
        )
        try:
            if result.error is not None:
                raise result.error
            assert result.outcome is not None
            record = filled_record(record, one.task, one.reward, example, result.outcome, result)
            if result.outcome.tree is not None and example.id in with_tree:
                directory.write_tree(record.key, tree_with_texts(plain(result.outcome.tree.to_dict()), engine))
        except Exception as error:  # noqa: BLE001 - one item must not end the others; the traceback goes to failures.log
            record.error = str(error) if isinstance(error, MaxentError) else f"{type(error).__name__}: {error}"
            record.usage = asdict(result.usage)
            directory.log_failure(record.key, "".join(traceback.format_exception(error)))
        directory.append(record)
        watcher.recorded(record)


def _jobs(one: TaskPlan, config: RunConfig) -> Iterator[tuple[SearchJob, MethodConfig, Example]]:
    """Yield all searches of a task, item by item."""
    policy = Policy(config.max_new_tokens, config.temperature, config.top_k, config.top_p, config.stop_strings)
    for example in one.examples:
        for method, factory in one.methods:
            job = SearchJob(
                id=f"{one.task.name}/{method.name}/{example.id}",
                prompt=example.prompt,
                policy=policy,
                method=factory,
                tilt=config.tilt if method.tilt is None else method.tilt,
                budget=Budget(generated_tokens=config.generated_tokens),
                seed=(config.seed, example_seed(example.id)),
                inputs=example.inputs,
            )
            yield job, method, example


def _results(
    jobs: Sequence[SearchJob], engine: Engine, one: TaskPlan, config: RunConfig, watcher: Watcher
) -> Iterator[SearchResult]:
    """Run searches side by side. If something breaks the driver itself, run those it had begun one by one, then the rest."""

    def run(some: Iterator[SearchJob]) -> Iterator[SearchResult]:
        answer = one.task.answer if one.task.labels else None
        return run_searches(
            some, engine, one.reward, answer_fn=answer, max_concurrent=config.max_concurrent, on_event=watcher.event
        )

    source = iter(jobs)
    while True:
        begun: dict[str, SearchJob] = {}
        try:
            for result in run(_noting(source, begun)):
                del begun[result.job.id]
                yield result
            return
        except Exception:
            if not begun:
                raise
        for job in begun.values():
            try:
                yield from run(iter([job]))
            except Exception as error:  # noqa: BLE001 - as above
                yield SearchResult(job, None, Usage(), error)


def _noting(source: Iterator[SearchJob], begun: dict[str, SearchJob]) -> Iterator[SearchJob]:
    for job in source:
        begun[job.id] = job
        yield job


def _check_examples(task: Task, examples: Sequence[Example]) -> None:
    if not examples:
        raise DataError(f"The task '{task.name}' has no items here. Check --data-dir and --limit.")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(
                f"Two items of the task '{task.name}' have the id '{example.id}'. Ids name the records; make them unique."
            )
        seen.add(example.id)


def _describe(config: RunConfig, plans: Sequence[TaskPlan], engine: Engine) -> RunInfo:
    execution = {name: value for name, value in config.model_dump(mode="json").items() if name not in config.meaning()}
    return RunInfo(
        started=_now(),
        config=config.meaning(),
        execution=execution,
        engine=plain(dict(engine.identity)),
        rewards={one.task.name: {"name": one.reward.name, "range": plain(one.reward.range)} for one in plans},
        data={
            one.task.name: {
                "num_items": len(one.examples),
                "labels": list(one.task.labels),
                "sha256": fingerprint_examples(one.examples),
            }
            for one in plans
        },
        skipped={one.task.name: dict(one.skipped) for one in plans if one.skipped},
        versions=versions(),
        hardware=hardware(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
