"""What a configuration comes to: tasks with their items, rewards and methods, before any model is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.errors import DataError, SettingError
from maxent_ts.fingerprint import fingerprint_examples, fingerprint_sources, hardware, plain, versions
from maxent_ts.loading import load_method, load_task
from maxent_ts.records import RunInfo
from maxent_ts.registry import METHODS_THAT_VOTE
from maxent_ts.rewards.base import Reward, provenance
from maxent_ts.rewards.combine import parse_rewards
from maxent_ts.scoring import check_scorer, class_rules
from maxent_ts.search.base import SearchFactory
from maxent_ts.tasks.base import Example, Task

__all__ = ["TaskPlan", "describe", "now", "plan"]


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task with its items, its reward, and the methods that apply to it."""

    task: Task
    examples: Sequence[Example]
    whole: Sequence[Example]
    """All items of the run, of which `examples` may be a shard."""
    reward: Reward
    reward_parts: Mapping[str, float]
    """What the reward is the weighted sum of: names as the user gives them, with weights."""
    methods: Sequence[tuple[MethodConfig, SearchFactory]]
    """Variants of methods, with the run's values filled in."""
    skipped: Mapping[str, str]
    """Variants that do not apply, and why."""


def plan(config: RunConfig, *, tasks: Sequence[Task] | None = None) -> list[TaskPlan]:
    """Load the tasks, rewards and methods of a configuration; no model is touched.

    Args:
        config: What to run.
        tasks: Task objects in place of `config.tasks`, one for each name.

    Raises:
        MaxentError: if a name is unknown, a setting is wrong or the data cannot be read.
    """
    variants = [config.resolved(method) for method in config.methods]
    methods = [(one, load_method(one, num_rollouts=one.num_rollouts or config.num_rollouts)) for one in variants]
    plans = []
    for index, name in enumerate(config.tasks):
        task = load_task(name, config) if tasks is None else tasks[index]
        whole = task.examples(data_dir=config.data_dir, limit=config.limit, seed=config.seed)
        _check_examples(task, whole)
        examples = _shard(task, whole, config.shard)
        check_scorer(task, config.scorer)
        skipped = {one.label: "needs labels" for one in variants if one.name in METHODS_THAT_VOTE and not task.labels}
        kept = [(method, factory) for method, factory in methods if method.label not in skipped]
        if not kept:
            raise SettingError(f"The task '{task.name}' has no labels, and {', '.join(skipped)} needs them. Name another --method.")
        specs = list(config.rewards or task.rewards)
        weights = list(config.reward_weights or (task.rewards.values() if not config.rewards else [1.0] * len(specs)))
        parts = dict(zip(specs, weights, strict=True))
        plans.append(TaskPlan(task, examples, whole, parse_rewards(specs, weights), parts, kept, skipped))
    return plans


def _shard(task: Task, examples: Sequence[Example], shard: tuple[int, int] | None) -> Sequence[Example]:
    """Return every n-th item from the k-th on.

    By position and not by a hash of the id: the shards are equally long but for one item, and that all of them count along the
    same list is known, since each stores the fingerprint of the whole. Every n-th and not a block: tasks come sorted by
    label or length, and each shard gets its part of all of them.
    """
    if shard is None:
        return examples
    number, count = shard
    if count > len(examples):
        raise SettingError(
            f"The task '{task.name}' has {len(examples)} items here, too few for the {count} shards of --shard {number}/{count}: "
            f"some would be empty. Use at most {len(examples)} shards."
        )
    return examples[number - 1 :: count]


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


def describe(config: RunConfig, plans: Sequence[TaskPlan], engine: Mapping[str, Any]) -> RunInfo:
    """Return the run.json of a run that starts now.

    Args:
        config: What runs.
        plans: What that comes to.
        engine: `Engine.identity`.
    """
    execution = {name: value for name, value in config.model_dump(mode="json").items() if name not in config.meaning()}
    parts = [part for one in plans for part in one.reward_parts]
    return RunInfo(
        started=now(),
        config=config.meaning(),
        execution=execution,
        engine=plain(dict(engine)),
        rewards={
            one.task.name: {
                "name": one.reward.name,
                "range": plain(one.reward.range),
                "parts": dict(one.reward_parts),
                **({"provenance": plain(found)} if (found := provenance(one.reward)) else {}),
            }
            for one in plans
        },
        data={
            one.task.name: {
                "labels": list(one.task.labels),
                "classes": class_rules(one.task) if one.task.labels else {},
                **_fingerprint(one.examples),
                **({"whole": _fingerprint(one.whole)} if config.shard is not None else {}),
            }
            for one in plans
        },
        sources=fingerprint_sources([*config.tasks, config.engine, *(one.name for one in config.methods), *parts]),
        skipped={one.task.name: dict(one.skipped) for one in plans if one.skipped},
        versions=versions(),
        hardware=hardware(),
    )


def _fingerprint(examples: Sequence[Example]) -> dict[str, Any]:
    return {"num_items": len(examples), "sha256": fingerprint_examples(examples)}


def now() -> str:
    """Return the time as it is written in run.json: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
