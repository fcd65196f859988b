"""From records to the numbers of a comparison: means with intervals, paired differences, and what the reward knows.

Failed items are left out of every mean and counted. The same records give the same summary, whatever order they were
finished in.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maxent_ts import metrics
from maxent_ts.compare import compare_records, with_verdicts
from maxent_ts.config import VARIANT_FIELDS, MethodConfig
from maxent_ts.grading import Grading, answer_metrics, grading_of
from maxent_ts.published import reproductions
from maxent_ts.records import Record, Run
from maxent_ts.variants import BUDGET_FIELDS, Variant, group_records, variant_of

__all__ = ["budget_per_item", "compare_with_reference", "describe", "reward_and_correctness", "summarize"]

REFERENCE_METHODS = ("maxent", "maxent_sample")
"""Methods that are compared with all others, item by item: the first of them that takes part, in all its variants."""

METHODS_THAT_DRAW_FROM_THE_MODEL = ("best_of_n", "best_of_n_softmax", "sample")
"""Their completions are draws from p, so that reward and correctness can be related without a search in between."""


def summarize(run: Run) -> dict[str, Any]:
    """Return the content of `summary.json`.

    Returns:
        `tasks` holds, for each task and variant of a method, `n` (items without a failure), `n_failed`, `accuracy`, `macro_f1` and
        `valid_answer_rate` (null without labels; with `scores`, `classes`, `confusion` and `strata` as in
        `grading.answer_metrics`), `reward` (`mean`, `ci95`), `measures` (for each of the task's own metrics `mean`, `ci95` and `n`,
        the items to which it applies), and means per item: `generated_tokens`, `forwarded_tokens`, `rollouts`, `reward_calls`,
        `seconds_per_item` (from its first request to its outcome, waiting for batch-mates included).
        `over_seeds` holds, where a method was run with several seeds, the mean and the standard deviation of those means between
        seeds. `comparisons` holds paired differences of the reference method minus each other one (as in
        `compare.compare_records`, seeds averaged within an item, variants alike in λ and budget), with `p_holm` and `verdict`;
        `published` how the run compares with the number published for its very model, as in `published.reproductions`;
        `correlation` how the reward relates to being correct, `failures` the failed items.
    """
    tasks: dict[str, dict[str, Any]] = {}
    over_seeds: dict[str, dict[str, Any]] = {}
    comparisons: list[dict[str, Any]] = []
    correlation: dict[str, Any] = {}
    published: list[dict[str, Any]] = []
    for task, facts in run.info.data.items():
        labels = facts.get("labels", [])
        variants = [one for one in run.info.variants if one.label not in run.info.skipped.get(task, {})]
        by_variant = _by_variant(run, task, variants)
        grading = grading_of(run, task)
        tasks[task] = {label: describe(records, labels, grading) for label, records in by_variant.items()}
        over_seeds[task] = _over_seeds(variants, tasks[task])
        comparisons.extend(compare_with_reference(task, group_records(run, task), run.info.config, labelled=bool(labels)))
        published.extend(reproductions(run, task, by_variant))
        if labels:
            correlation[task] = reward_and_correctness(by_variant)
    return {
        "tasks": tasks,
        "over_seeds": {task: found for task, found in over_seeds.items() if found},
        "comparisons": comparisons,
        "correlation": correlation,
        "published": published,
        "skipped": run.info.skipped,
        "failures": [
            {"task": one.task, "method": one.variant, "example_id": one.example_id, "error": one.error}
            for one in run.records
            if one.error is not None
        ],
        "budget_per_item": budget_per_item(run),
    }


def reward_and_correctness(by_variant: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    """Relate the reward to being correct, over draws from the model itself.

    Returns:
        `method`, the variant whose completions were used (the first that drew), their number `n`, `accuracy` of a random one
        of them, `coefficient` (point-biserial correlation, over all), and `ranked_right`: among pairs of a correct and a wrong
        completion of the same item, the share in which the correct one has the higher reward (ties count half; 0.5 is
        chance), with `num_pairs`.
        None if no method drew from the model.
    """
    drawn = [
        [one for one in records if one.method == method and one.error is None and one.target is not None]
        for method in METHODS_THAT_DRAW_FROM_THE_MODEL
        for records in by_variant.values()
    ]
    records = next((one for one in drawn if one), None)
    if records is None:
        return None
    scored = [
        [(reward, answer == one.target) for reward, answer in zip(one.rewards, one.answers, strict=True) if reward is not None]
        for one in records
    ]
    flat = [pair for item in scored for pair in item]
    found = metrics.correlation([reward for reward, _ in flat], [correct for _, correct in flat])
    wins, num_pairs = 0.0, 0
    for item in scored:
        right = [reward for reward, correct in item if correct]
        wrong = [reward for reward, correct in item if not correct]
        wins += sum((one > other) + 0.5 * (one == other) for one in right for other in wrong)
        num_pairs += len(right) * len(wrong)
    return {
        "method": records[0].variant,
        "n": found.num_items,
        "coefficient": found.coefficient,
        "accuracy": sum(correct for _, correct in flat) / len(flat) if flat else None,
        "ranked_right": wins / num_pairs if num_pairs else None,
        "num_pairs": num_pairs,
    }


def budget_per_item(run: Run) -> dict[str, Any]:
    """What all variants share of budget, λ and seed; null where they differ."""
    names = ("generated_tokens", *VARIANT_FIELDS)
    found: dict[str, Any] = {name: run.info.config.get(name) for name in names}
    for one in run.info.variants:
        if one.num_rollouts is not None or one.max_new_tokens is not None:
            found["generated_tokens"] = None
        found.update({name: None for name in VARIANT_FIELDS if name in one.shown})
    return found


def _by_variant(run: Run, task: str, variants: Sequence[MethodConfig]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {one.label: [] for one in variants}
    for record in run.records:
        if record.task == task and record.variant in found:
            found[record.variant].append(record)
    return found


def _over_seeds(variants: Sequence[MethodConfig], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in variants:
        if "seed" in one.shown:
            groups.setdefault(one.label_without(["seed"]), []).append(rows[one.label])
    return {
        label: {
            "num_seeds": len(group),
            "reward": _spread([row["reward"]["mean"] for row in group]),
            "accuracy": _spread([row["accuracy"] for row in group]),
            "generated_tokens": _spread([row["generated_tokens"] for row in group]),
        }
        for label, group in groups.items()
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation; the latter needs two values."""
    kept = [value for value in values if value is not None]
    return {"mean": _mean(kept), "standard_deviation": statistics.stdev(kept) if len(kept) > 1 else None}


def describe(records: Sequence[Record], labels: Sequence[str], grading: Grading | None = None) -> dict[str, Any]:
    """Return the row of one method on one task, as in `summarize`.

    Args:
        records: Its records, failed ones included.
        labels: The task's labels; none if its targets are not labels.
        grading: How answers are graded: `grading_of`. Without it, by this package's rules.
    """
    good = [one for one in records if one.error is None]
    rewards = [one.reward for one in good if one.reward is not None]
    interval = metrics.mean_ci95(rewards)
    return {
        "n": len(good),
        "n_failed": len(records) - len(good),
        **answer_metrics(good, labels, grading or Grading()),
        "reward": {"mean": _mean(rewards), "ci95": None if interval is None else list(interval)},
        "measures": _measures(good),
        "generated_tokens": _mean_usage(good, "generated_tokens"),
        "forwarded_tokens": _mean_usage(good, "forwarded_tokens"),
        "rollouts": _mean_usage(good, "rollouts"),
        "reward_calls": _mean_usage(good, "reward_calls"),
        "seconds_per_item": _mean_usage(good, "seconds"),
        "truncated_rate": _mean([float(one.finish_reason == "length") for one in good]),
    }


def _measures(records: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for one in records:
        for name, value in one.measures.items():
            found.setdefault(name, []).extend([] if value is None else [value])
    intervals = {name: metrics.mean_ci95(values) for name, values in found.items()}
    return {
        name: {"mean": _mean(values), "ci95": None if (pair := intervals[name]) is None else list(pair), "n": len(values)}
        for name, values in found.items()
    }


def compare_with_reference(
    task: str, groups: Mapping[str, Sequence[Record]], config: Mapping[str, Any], *, labelled: bool
) -> list[dict[str, Any]]:
    """Return the paired differences of the reference method minus each other one, as in `summarize`.

    Args:
        task: The task's name.
        groups: For each variant, its records: `variants.group_records`.
        config: The configuration in run.json.
        labelled: Whether the task has labels, and so an accuracy.
    """
    variants = {label: variant_of(records[0], config) for label, records in groups.items()}
    methods = [one.method for one in variants.values()]
    reference = next((name for name in REFERENCE_METHODS if name in methods), None)
    pairs = [
        (ours, theirs)
        for ours, one in variants.items()
        for theirs, other in variants.items()
        if one.method == reference != other.method and _are_alike(one, other, variants.values())
    ]
    rows: list[dict[str, Any]] = []
    for metric in ("reward", "accuracy") if labelled else ("reward",):
        found = {pair: compare_records(groups[pair[0]], groups[pair[1]], metric) for pair in pairs}
        named = [
            {"task": task, "method": ours, "baseline": theirs, "metric": metric, **row}
            for (ours, theirs), row in found.items()
            if row is not None
        ]
        rows.extend(with_verdicts(named))
    return rows


def _are_alike(reference: Variant, baseline: Variant, variants: Iterable[Variant]) -> bool:
    """Whether the baseline has the reference's λ and budget, in all along which the run varies the baseline."""
    others = [one.values for one in variants if one.method == baseline.method]
    ours, theirs = reference.values, baseline.values
    return all(
        ours.get(name) == theirs.get(name)
        for name in ("tilt", *BUDGET_FIELDS)
        if any(other.get(name) != theirs.get(name) for other in others)
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean_usage(records: Sequence[Record], name: str) -> float | None:
    return _mean([one.usage[name] for one in records])
