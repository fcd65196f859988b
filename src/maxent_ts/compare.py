"""Two or more runs compared item by item, from their records alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxent_ts.errors import SettingError
from maxent_ts.paired import SIGNIFICANCE, holm, paired_difference
from maxent_ts.records import Record, Run, read_run
from maxent_ts.variants import METRICS, Variant, group_records, mean_per_item, metric_function, variant_of

__all__ = ["Comparison", "compare_records", "compare_runs", "verdict", "with_verdicts"]


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found."""

    rows: list[dict[str, Any]]
    """For each task, metric and pair: `task`, `metric`, `method` and `baseline` (names with their runs), what `compare_records`
    and `with_verdicts` give, `generated_tokens` (mean per search) and `failed` (searches), and these two of the baseline."""
    warnings: list[str]
    """What was unequal, and compared because the user said so."""


@dataclass(frozen=True)
class _Entrant:
    """A variant of a method in a run, on one task."""

    run: Run
    run_name: str
    label: str
    records: list[Record]

    @property
    def name(self) -> str:
        return f"{self.run_name}:{self.label}"

    @property
    def method(self) -> str:
        return self.records[0].method

    @property
    def variant(self) -> Variant:
        return variant_of(self.records[0], self.run.info.config)


def compare_records(
    ours: Sequence[Record],
    theirs: Sequence[Record],
    metric: str,
    *,
    clusters: Mapping[str, Hashable] | None = None,
) -> dict[str, Any] | None:
    """Compare two sets of records on the items that both finished; seeds are averaged within an item first.

    Args:
        ours: Records of one variant on one task.
        theirs: Records of the other.
        metric: A name in `METRICS`, or of a measure of the task.
        clusters: What each item belongs to; items are their own clusters if left out.

    Returns:
        `mean` and `baseline_mean` over those items, `difference` (ours − theirs), `ci95`, `interval`, `p_value`, `n`,
        `num_clusters` and `detectable` as in `PairedDifference`, and `wins`, `ties` and `losses` of ours by item; None if no
        item has a value in both.
    """
    first, second = (mean_per_item(records, metric_function(metric)) for records in (ours, theirs))
    shared = [item for item in first if item in second]
    pairs = [(first[item], second[item]) for item in shared]
    found = paired_difference(
        [a for a, _ in pairs], [b for _, b in pairs], clusters=None if clusters is None else [clusters[item] for item in shared]
    )
    if found is None:
        return None
    return {
        "mean": math.fsum(a for a, _ in pairs) / len(pairs),
        "baseline_mean": math.fsum(b for _, b in pairs) / len(pairs),
        "difference": found.mean,
        "ci95": None if found.ci95 is None else list(found.ci95),
        "interval": found.interval,
        "p_value": found.p_value,
        "n": found.num_pairs,
        "num_clusters": found.num_clusters,
        "detectable": found.detectable,
        "wins": sum(a > b for a, b in pairs),
        "ties": sum(a == b for a, b in pairs),
        "losses": sum(a < b for a, b in pairs),
    }


def with_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add `p_holm`, the p value adjusted for all of these rows, and `verdict`."""
    adjusted = holm([row["p_value"] for row in rows])
    found = [{**row, "p_holm": p_holm} for row, p_holm in zip(rows, adjusted, strict=True)]
    return [{**row, "verdict": verdict(row["method"], row["baseline"], row)} for row in found]


def verdict(name: str, baseline: str, row: Mapping[str, Any]) -> str:
    """Say in words what a paired difference shows: somebody wins only where the interval and the adjusted test agree.

    Of a task's measure it is not known here whether more of it is better.
    """
    interval = row["ci95"]
    if interval is None:
        return "too few items to tell"
    if row["p_holm"] <= SIGNIFICANCE and (interval[0] > 0 or interval[1] < 0):
        return f"{name if interval[0] > 0 else baseline} {'is better' if row.get('metric', 'reward') in METRICS else 'has more'}"
    return "no difference beyond noise"


def compare_runs(
    selections: Sequence[tuple[Path, str | None]],
    *,
    metrics: Sequence[str] = tuple(METRICS),
    methods: Sequence[str] = (),
    cluster_by: str = "example",
    allow_unequal: bool = False,
) -> Comparison:
    """Compare the later runs with the first one.

    Compared are the variants that have the same label in both runs, and a method that has one variant in each, whatever its
    settings. Where a method is named for both, as in ("runs/a", "best_of_n") and ("runs/a", "maxent"), it is those two.

    Args:
        selections: Run directories, each with the one method to take from it, or None for all.
        metrics: Names in `METRICS` or of measures of the tasks; one that a task does not have is passed over.
        methods: Only these methods.
        cluster_by: What is resampled together: "example" or "stratum".
        allow_unequal: Compare on the items that both have where items, budgets or rewards differ.

    Returns:
        The rows, Holm's adjustment being over all pairs of a task and metric.

    Raises:
        RunDirectoryError: if a directory is no run or is damaged.
        SettingError: if fewer than two runs are given, nothing pairs up, or items, budgets or rewards differ.
    """
    if cluster_by not in ("example", "stratum"):
        raise SettingError(f"Items are clustered by example or stratum, not by '{cluster_by}'.")
    if len(selections) < 2:
        raise SettingError("A comparison takes two or more runs, such as: maxent-ts compare runs/a runs/b")
    runs = {path: read_run(path) for path, _ in selections}
    *known, last = [*METRICS, *sorted({name for run in runs.values() for record in run.records for name in record.measures})]
    for name in metrics:
        if name not in (*known, last):
            raise SettingError(f"A comparison is by {', '.join(known)} or {last}, not by '{name}'.")
    names = _names([path for path, _ in selections])
    rows: list[dict[str, Any]] = []
    warnings: list[str] = []
    (base, base_method), *others = selections
    for task in runs[base].info.data:
        pairs: list[tuple[_Entrant, _Entrant]] = []
        for path, method in others:
            first = _entrants(runs[base], names[base], task, base_method, methods)
            second = _entrants(runs[path], names[path], task, method, methods)
            pairs += _pairs(first, second, named=base_method is not None and method is not None)
        for first, second in pairs:
            _check(task, first, second, warnings, allow_unequal=allow_unequal)
        for metric in metrics:
            found = [_row(task, metric, first, second, cluster_by) for first, second in pairs]
            rows.extend(with_verdicts([row for row in found if row is not None]))
    if not rows:
        tasks = "; ".join(f"{name} has {', '.join(runs[path].info.data) or 'none'}" for path, name in names.items())
        raise SettingError(
            f"Nothing in these runs pairs up: no task and method has a value of {' or '.join(metrics)} in both. Tasks: {tasks}. "
            "Name a method for each run to compare different ones: maxent-ts compare runs/a:best_of_n runs/a:maxent"
        )
    return Comparison(rows, warnings)


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """The last part of each path, or all of it where two end alike."""
    distinct = list(dict.fromkeys(paths))
    last = [path.resolve().name for path in distinct]
    return {path: name if last.count(name) == 1 else str(path) for path, name in zip(distinct, last, strict=True)}


def _entrants(run: Run, name: str, task: str, method: str | None, methods: Sequence[str]) -> list[_Entrant]:
    groups = {label: records for label, records in group_records(run, task).items() if method in (None, label, records[0].method)}
    return [
        _Entrant(run, name, label, records)
        for label, records in groups.items()
        if not methods or label in methods or records[0].method in methods
    ]


def _pairs(first: Sequence[_Entrant], second: Sequence[_Entrant], *, named: bool) -> list[tuple[_Entrant, _Entrant]]:
    """What of one run is compared with what of the other; `named` if a method was named for both."""
    if named and len(first) == len(second) == 1:
        return [(first[0], second[0])]

    def alike(one: _Entrant, other: _Entrant) -> bool:
        alone = all([a.method for a in side].count(one.method) == 1 for side in (first, second))
        return one.method == other.method and (alone or one.label == other.label or one.variant == other.variant)

    return [(one, other) for one in first for other in second if alike(one, other)]


def _check(task: str, first: _Entrant, second: _Entrant, warnings: list[str], *, allow_unequal: bool) -> None:
    """Refuse, or note, what makes a comparison unfair."""
    for what in _inequalities(task, first, second):
        if not allow_unequal:
            raise SettingError(
                f"{first.name} and {second.name} cannot be compared on {task}: {what}. "
                "Compare them on what they share all the same with --allow-unequal."
            )
        text = f"{task}, {first.name} and {second.name}: {what}."
        if text not in warnings:
            warnings.append(text)


def _inequalities(task: str, first: _Entrant, second: _Entrant) -> list[str]:
    found = []
    items = [{record.example_id for record in one.records} for one in (first, second)]
    only_first, only_second = sorted(items[0] - items[1]), sorted(items[1] - items[0])
    if only_first or only_second:
        example = f"such as '{(only_first or only_second)[0]}'"
        found.append(f"{len(items[0])} and {len(items[1])} items, {len(only_first) + len(only_second)} in one only, {example}")
    changed = [item for item in sorted(items[0] & items[1]) if _content(first.run, task, item) != _content(second.run, task, item)]
    if changed:
        found.append(f"{len(changed)} items have the same id but another prompt or series, such as '{changed[0]}'")
    budgets = [one.variant.budget for one in (first, second)]
    if budgets[0] != budgets[1]:
        found.append(f"budgets of {budgets[0]} and {budgets[1]} generated tokens for an item")
    rewards = [one.run.info.rewards.get(task, {}).get("name") for one in (first, second)]
    if rewards[0] != rewards[1]:
        found.append(f"the reward is {rewards[0]} in one and {rewards[1]} in the other")
    return found


def _content(run: Run, task: str, item: str) -> Any:
    example = run.examples.get((task, item))
    return None if example is None else (example.prompt, example.series, example.target)


def _row(task: str, metric: str, first: _Entrant, second: _Entrant, cluster_by: str) -> dict[str, Any] | None:
    clusters = None
    if cluster_by == "stratum":
        clusters = {item: example.stratum for (of, item), example in first.run.examples.items() if of == task}
    found = compare_records(second.records, first.records, metric, clusters=clusters)
    if found is None:
        return None
    tokens = {}
    for prefix, entrant in (("", second), ("baseline_", first)):
        spent = mean_per_item(entrant.records, lambda one: one.usage.get("generated_tokens"))
        tokens[f"{prefix}generated_tokens"] = sum(spent.values()) / len(spent) if spent else None
        tokens[f"{prefix}failed"] = sum(record.error is not None for record in entrant.records)
    return {"task": task, "metric": metric, "method": second.name, "baseline": first.name, **found, **tokens}
