"""What a report holds, before it becomes a page or files: for each task, sections of figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maxent_ts.grading import grading_of
from maxent_ts.published import published_rows, reproductions
from maxent_ts.records import Record, Run
from maxent_ts.report.drawing import Drawing
from maxent_ts.report.figures import (
    differences_drawing,
    distributions_drawing,
    diversity_drawing,
    quality_drawing,
)
from maxent_ts.report.grading import published_table, reproductions_table, scorers_table, strata_table
from maxent_ts.report.grids import find_grids, grid_drawing, grid_table
from maxent_ts.report.results import (
    class_table,
    confusion_drawing,
    diagnostics_table,
    distributions_table,
    duels_table,
    failures_table,
    marginals_table,
    measures_table,
    results_table,
)
from maxent_ts.report.scaling import scaling_drawing
from maxent_ts.report.tables import Table, comparison_table
from maxent_ts.summary import compare_with_reference, describe
from maxent_ts.variants import group_records

__all__ = ["Section", "TaskContents", "failures_section", "task_contents"]

EQUAL_BUDGET = (
    "Every method may generate the same number of tokens; greedy and sample need only one completion of it. ± is the 95 % interval "
    "of the mean (Student's t). Seconds run from an item's first request to its outcome, waiting for the items beside it included."
)

DIFFERENCES = (
    "Interval: percentile bootstrap over items, or the score interval of paired proportions where every value is 0 or 1. p: "
    "sign-flip permutation test; Holm: adjusted for all comparisons of one metric. Somebody is better only where the interval "
    "excludes 0 and Holm's p is at most 0.05. Detectable: the true difference that such a test finds in 80 % of samples of this "
    "size and spread; a smaller one would mostly go unnoticed here."
)


SCORERS = (
    "Clean is this package's reading of answers, upstream that of the data's authors with its quirks; both read the same texts. "
    "The other tables and figures use the scorer that the run was made with."
)

PUBLISHED = (
    "PASS: the published number lies in our 95 % interval, by the upstream scorer. It is compared for methods of one completion "
    "only, since that is what was published."
)

OTHER_MODELS = (
    "What others measured, with other models than this run's, on the whole test split: to be looked at beside these results, which "
    "reproduce none of them."
)

STRATA = "Macro-F1 is the mean over these strata."


@dataclass(frozen=True)
class Section:
    """Figures and tables on one question."""

    name: str
    """For links and files: letters, digits and hyphens."""
    title: str
    note: str = ""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class TaskContents:
    """One task's part of the report."""

    name: str
    groups: Mapping[str, Sequence[Record]]
    """For each variant, its records, failed ones included."""
    labels: Sequence[str]
    comparisons: Sequence[Mapping[str, Any]]
    sections: Sequence[Section] = field(default_factory=tuple)


def task_contents(run: Run, task: str) -> TaskContents:
    """Return the figures and tables of one task."""
    groups = group_records(run, task)
    labels = run.info.data.get(task, {}).get("labels", [])
    good = {label: [one for one in records if one.error is None] for label, records in groups.items()}
    good = {label: records for label, records in good.items() if records}
    metrics = [*(["reward"] if _has(good, "reward") else []), *(["accuracy"] if labels and _has(good, "accuracy") else [])]
    comparisons = compare_with_reference(task, groups, run.info.config, labelled=bool(labels))
    grading = grading_of(run, task)
    rows = {label: describe(records, labels, grading) for label, records in groups.items()}
    results = results_table(rows, labelled=bool(labels))
    sections = [Section("results", "Results", EQUAL_BUDGET, tables=[results])]
    if any(row["measures"] for row in rows.values()):
        sections.append(Section("measures", "The task's own metrics", tables=[measures_table(rows)]))
    if any(len(row["scores"]) > 1 for row in rows.values()):
        sections.append(Section("scorers", "By scorer", SCORERS, tables=[scorers_table(rows)]))
    published = published_rows(task) if run.info.config.get("data_dir") else []
    if published:
        compared = reproductions(run, task, groups)
        tables = [*([reproductions_table(compared)] if compared else []), published_table(published)]
        sections.append(Section("published", "Published numbers", PUBLISHED if compared else OTHER_MODELS, tables=tables))
    if metrics:
        sections.append(Section("quality", "Quality against tokens", drawings=[quality_drawing(good, metrics)]))
    if comparisons:
        drawings, tables = [differences_drawing(comparisons)], [comparison_table(comparisons, "differences")]
        sections.append(Section("differences", "Paired differences, item by item", DIFFERENCES, drawings, tables))
    if metrics and len(good) > 1:
        sections.append(Section("duels", "Wins, ties, losses", tables=[duels_table(good, metric) for metric in metrics]))
    sections += _ablations(good, run.info.config, metrics)
    if labels and _has(good, "accuracy"):
        sections.append(
            Section("classes", "Class by class", drawings=[confusion_drawing(good, labels)], tables=[class_table(good, labels)])
        )
    if any(row["strata"] for row in rows.values()):
        sections.append(Section("strata", "Stratum by stratum", STRATA, tables=[strata_table(rows)]))
    if good:
        drawings = [distributions_drawing(good), diversity_drawing(good)]
        sections.append(Section("distributions", "What was written", drawings=drawings, tables=[distributions_table(good)]))
        sections.append(Section("scaling", "Scaling", drawings=[scaling_drawing(good)]))
    if any(record.info for records in good.values() for record in records):
        tables = [diagnostics_table(good)]
        if any(record.marginals for records in good.values() for record in records):
            tables.append(marginals_table(good))
        sections.append(Section("diagnostics", tables[0].title, tables=tables))
    return TaskContents(task, groups, labels, comparisons, sections)


def failures_section(run: Run) -> Section:
    """Return all failed items."""
    failed = [
        {"task": one.task, "method": one.method, "example_id": one.example_id, "error": one.error}
        for one in run.records
        if one.error is not None
    ]
    return Section("failures", "Failures", tables=[failures_table(failed)] if failed else [])


def _ablations(good: Mapping[str, Sequence[Record]], config: Mapping[str, Any], metrics: Sequence[str]) -> list[Section]:
    grids = find_grids(good, config, metrics)
    if not grids:
        return []
    drawings = [grid_drawing(grid, f"ablation-{number}") for number, grid in enumerate(grids, start=1)]
    note = "Means over items for each pair of settings that this run varies; the highest of a grid is set in bold."
    return [Section("ablations", "Ablations", note, drawings, [grid_table(grids, "ablations")])]


def _has(groups: Mapping[str, Sequence[Record]], metric: str) -> bool:
    name = {"reward": "reward", "accuracy": "correct"}[metric]
    return any(getattr(record, name) is not None for records in groups.values() for record in records)
