"""Records grouped into what is compared: a method with its settings, λ and budget. Seeds are repetitions of the same thing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maxent_ts.records import Record, Run

__all__ = ["BUDGET_FIELDS", "METRICS", "Variant", "group_records", "mean_per_item", "metric_function", "variant_of"]

BUDGET_FIELDS = ("num_rollouts", "max_new_tokens")
"""What the budget of a search is made of."""


@dataclass(frozen=True)
class Variant:
    """A method as it took part: everything that its results depend on within a run, but for the seed."""

    method: str
    parts: tuple[tuple[str, str], ...]
    """Names and JSON values of its settings, `tilt`, `num_rollouts` and `max_new_tokens`."""
    budget: int | None
    """Generated tokens that one search may spend."""

    @property
    def values(self) -> dict[str, Any]:
        """The parts as values."""
        return {name: json.loads(value) for name, value in self.parts}

    def label(self, shown: Sequence[str]) -> str:
        """Return the method's name and some of its parts, such as `maxent[num_rollouts=10, tilt=2]`."""
        values, first = self.values, (*BUDGET_FIELDS, "tilt")
        names = [*(name for name in first if name in shown), *sorted(name for name in shown if name not in first)]
        text = ", ".join(f"{name}={_short(values[name])}" for name in names if name in values)
        return f"{self.method}[{text}]" if text else self.method


def variant_of(record: Record, config: Mapping[str, Any]) -> Variant:
    """Return what a record is a repetition of; what it does not say itself is the run's.

    Args:
        record: A record.
        config: The configuration in run.json.
    """
    own = {name: getattr(record, name, None) for name in (*BUDGET_FIELDS, "max_generated_tokens")}
    values = {name: config.get(name) if own[name] is None else own[name] for name in BUDGET_FIELDS}
    budget = own["max_generated_tokens"] or config.get("generated_tokens")
    parts = {**record.settings, "tilt": float(record.tilt), **values}
    return Variant(record.method, tuple((name, json.dumps(value, sort_keys=True)) for name, value in sorted(parts.items())), budget)


def group_records(run: Run, task: str) -> dict[str, list[Record]]:
    """Group a task's records by variant, failed ones included.

    Returns:
        For each variant its records, in the order of the run. A label is the method's name, with what tells it from
        the method's other variants in this run.
    """
    groups: dict[Variant, list[Record]] = {}
    for record in run.records:
        if record.task == task:
            groups.setdefault(variant_of(record, run.info.config), []).append(record)
    order = [method["name"] for method in run.info.config.get("methods", [])]
    ranked = sorted(groups, key=lambda one: order.index(one.method) if one.method in order else len(order))
    return {one.label(_telling(one, groups)): groups[one] for one in ranked}


def mean_per_item(records: Iterable[Record], metric: Callable[[Record], float | None]) -> dict[str, float]:
    """Average a metric over the seeds of each item; failed records and items without a value are left out.

    Returns:
        By item id.
    """
    values: dict[str, list[float]] = {}
    for record in records:
        value = metric(record) if record.error is None else None
        if value is not None:
            values.setdefault(record.example_id, []).append(value)
    return {item: math.fsum(some) / len(some) for item, some in values.items()}


def _reward(record: Record) -> float | None:
    return record.reward


def _accuracy(record: Record) -> float | None:
    return None if record.correct is None else float(record.correct)


METRICS: Mapping[str, Callable[[Record], float | None]] = {"reward": _reward, "accuracy": _accuracy}
"""What methods are compared by: the record's reward, and whether its answer is the target."""


def metric_function(name: str) -> Callable[[Record], float | None]:
    """Return one of `METRICS`, or what reads a measure of the task with this name."""
    return METRICS.get(name) or (lambda record: record.measures.get(name))


def _telling(variant: Variant, groups: Iterable[Variant]) -> list[str]:
    """Names of the parts that not all variants of the method share."""
    others: Sequence[dict[str, str]] = [dict(one.parts) for one in groups if one.method == variant.method]
    return [name for name, value in variant.parts if any(one.get(name) != value for one in others)]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
