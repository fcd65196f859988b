"""The searches of a task over one engine, and what is to be written down about each.

This part of an evaluation may run anywhere; what it yields is written by one process, in `evaluate`.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.engines.base import Engine
from maxent_ts.errors import MaxentError
from maxent_ts.fingerprint import example_seed, plain
from maxent_ts.metering import Meter, metered_searches
from maxent_ts.planning import TaskPlan, describe
from maxent_ts.recording import filled_record, tree_with_texts, with_evidence
from maxent_ts.records import Key, Record, RunInfo
from maxent_ts.search.base import SearchFactory
from maxent_ts.search.run import Event, SearchJob, SearchResult, run_searches
from maxent_ts.tasks.base import Example
from maxent_ts.types import Budget

__all__ = ["Executor", "Finished", "Item", "LocalExecutor", "Searches", "blank_record", "failed_record", "search_job"]


@dataclass(frozen=True, slots=True)
class Item:
    """One search of a task: a variant of a method on an example."""

    method: MethodConfig
    factory: SearchFactory
    example: Example

    def key(self, task: str) -> Key:
        """What names its record."""
        return (task, self.method.label, self.example.id)


@dataclass(frozen=True, slots=True)
class Finished:
    """What there is to write about a search that is over."""

    record: Record
    tree: dict[str, Any] | None = None
    """To be stored, if the run keeps this one."""
    trace: str | None = None
    """The traceback, if it failed."""


class Executor(Protocol):
    """Runs searches: here, or on other machines."""

    @property
    def info(self) -> RunInfo:
        """The run.json of a run that starts now on this executor."""
        ...

    def run(
        self, one: TaskPlan, items: Sequence[Item], meter: Meter, on_event: Callable[[Event], None]
    ) -> Generator[Sequence[Finished]]:
        """Yield what is finished, each search once, as far as the caps of `meter` go."""
        ...


class LocalExecutor:
    """Runs searches in this process."""

    def __init__(self, config: RunConfig, plans: Sequence[TaskPlan], engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self.info = describe(config, plans, engine.identity)

    def run(
        self, one: TaskPlan, items: Sequence[Item], meter: Meter, on_event: Callable[[Event], None]
    ) -> Generator[Sequence[Finished]]:
        """Yield every search as it is finished."""
        searches = Searches(self._config, one, self._engine, meter, on_event)
        searches.add(items)
        for finished in searches.run():
            yield [finished]


class Searches:
    """Searches of one task over one engine. More may be added while others run.

    Args:
        config: Of the run.
        one: The task.
        engine: Answers the rollouts of all of them.
        meter: Keeps the caps.
        on_event: Told of progress.
    """

    def __init__(
        self, config: RunConfig, one: TaskPlan, engine: Engine, meter: Meter, on_event: Callable[[Event], None] | None = None
    ) -> None:
        self._config = config
        self._one = one
        self._engine = engine
        self._meter = meter
        self._on_event = on_event
        self._pending: deque[SearchJob] = deque()
        self._items: dict[str, Item] = {}
        self._with_tree = {example.id for example in one.whole[: config.save_trees]}

    def add(self, items: Iterable[Item]) -> None:
        """Put searches at the end of the queue."""
        for item in items:
            job = search_job(self._config, self._one, item)
            self._items[job.id] = item
            self._pending.append(job)

    def run(self) -> Iterator[Finished]:
        """Yield what is finished, until the queue is empty or a cap is reached."""
        for result in metered_searches(self._pending, self._run, self._meter):
            yield self._finished(result)

    def _run(self, jobs: Iterator[SearchJob]) -> Iterator[SearchResult]:
        one = self._one
        answer = one.task.answer if one.task.labels else None
        return run_searches(
            jobs,
            self._engine,
            one.reward,
            answer_fn=answer,
            max_concurrent=self._config.max_concurrent,
            on_event=self._event,
        )

    def _event(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)
        self._meter.event(event)

    def _finished(self, result: SearchResult) -> Finished:
        item, one = self._items.pop(result.job.id), self._one
        record = blank_record(one, item, result.job)
        tree = None
        try:
            if result.error is not None:
                raise result.error
            assert result.outcome is not None
            record = filled_record(record, one.task, one.reward, item.example, result.outcome, result, self._config.scorer)
            if result.outcome.tree is not None and item.example.id in self._with_tree:
                tree = tree_with_texts(plain(result.outcome.tree.to_dict()), self._engine)
                tree = with_evidence(tree, result.outcome, one.reward, item.example, result)
        except Exception as error:  # noqa: BLE001 - one item must not end the others; the traceback goes to failures.log
            trace = "".join(traceback.format_exception(error))
            return Finished(failed_record(record, error, asdict(result.usage)), trace=trace)
        return Finished(record, tree)


def search_job(config: RunConfig, one: TaskPlan, item: Item) -> SearchJob:
    """Return the search of an item."""
    method = item.method
    assert method.max_new_tokens is not None
    assert method.tilt is not None
    assert method.seed is not None
    return SearchJob(
        id="/".join(item.key(one.task.name)),
        prompt=item.example.prompt,
        policy=config.policy(method.max_new_tokens),
        method=item.factory,
        tilt=method.tilt,
        budget=Budget(generated_tokens=method.generated_tokens),
        seed=(method.seed, example_seed(item.example.id)),
        inputs=item.example.inputs,
    )


def blank_record(one: TaskPlan, item: Item, job: SearchJob) -> Record:
    """Return the record of a search before there is anything to say about its outcome."""
    return Record(
        task=one.task.name,
        variant=item.method.label,
        method=item.method.name,
        settings=plain(job.method.keywords if isinstance(job.method, partial) else {}),
        tilt=job.tilt,
        num_rollouts=item.method.num_rollouts,
        max_new_tokens=job.policy.max_new_tokens,
        max_generated_tokens=job.budget.generated_tokens,
        example_id=item.example.id,
        seed=list(job.seed),
        target=item.example.target,
    )


def failed_record(record: Record, error: Exception, usage: Mapping[str, Any]) -> Record:
    """Return the record of a search that failed, with what it cost."""
    message = str(error) if isinstance(error, MaxentError) else f"{type(error).__name__}: {error}"
    return record.model_copy(update={"error": message, "usage": dict(usage)})
