"""The tables of one task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maxent_ts.records import Record
from maxent_ts.report.drawing import COLOURS, INK, Drawing, new_figure, styled
from maxent_ts.report.measures import distinct_bigrams, distinct_share, length, perplexity
from maxent_ts.report.tables import Column, Table
from maxent_ts.variants import METRICS, mean_per_item

__all__ = [
    "class_table",
    "confusion_drawing",
    "diagnostics_table",
    "distributions_table",
    "duels_table",
    "failures_table",
    "marginals_table",
    "measures_table",
    "results_table",
]

Groups = Mapping[str, Sequence[Record]]

NO_ANSWER = "none"


def results_table(rows: Mapping[str, Mapping[str, Any]], *, labelled: bool) -> Table:
    """Return what `summary.describe` says about each variant."""
    columns = [Column("method"), Column("n"), Column("failed")]
    if labelled:
        columns += [Column("accuracy"), Column("macro-F1"), Column("valid answers")]
    columns += [Column("reward"), Column("± 95 %"), Column("generated tokens", 0), Column("forwarded tokens", 0)]
    columns += [Column("rollouts", 1), Column("reward calls", 1), Column("cut at max length", 2), Column("s / item", 2)]
    names = ("generated_tokens", "forwarded_tokens", "rollouts", "reward_calls", "truncated_rate", "seconds_per_item")
    body = []
    for label, row in rows.items():
        interval = row["reward"]["ci95"]
        graded = [row["accuracy"], row["macro_f1"], row["valid_answer_rate"]] if labelled else []
        half = None if interval is None else (interval[1] - interval[0]) / 2
        body.append([label, row["n"], row["n_failed"], *graded, row["reward"]["mean"], half, *(row[name] for name in names)])
    return Table("results", "Methods at equal budget", columns, body)


def measures_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the means of the task's own metrics for each variant, each with half of its 95 % interval."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row["measures"]))
    columns = [Column("method")]
    for name in names:
        columns += [Column(name), Column("± 95 %"), Column("n")]
    body = []
    for label, row in rows.items():
        cells: list[Any] = [label]
        for name in names:
            found = row["measures"].get(name, {"mean": None, "ci95": None, "n": 0})
            half = None if found["ci95"] is None else (found["ci95"][1] - found["ci95"][0]) / 2
            cells += [found["mean"], half, found["n"]]
        body.append(cells)
    note = "Means over the items to which a measure applies (n); they take no part in the search."
    return Table("measures", "What the task's own metrics say", columns, body, note)


def duels_table(groups: Groups, metric: str) -> Table:
    """Return for each two variants on how many items the one in the row has more, as much, and less."""
    values = {label: mean_per_item(records, METRICS[metric]) for label, records in groups.items()}
    rows = []
    for label, ours in values.items():
        row: list[Any] = [label]
        for other, theirs in values.items():
            pairs = [(ours[item], theirs[item]) for item in ours if item in theirs]
            counts = (sum(a > b for a, b in pairs), sum(a == b for a, b in pairs), sum(a < b for a, b in pairs))
            row.append(None if label == other or not pairs else "/".join(map(str, counts)))
        rows.append(row)
    note = f"Items on which the row's method has more, equal, and less {metric} than the column's."
    return Table(f"duels-{metric}", f"Wins / ties / losses in {metric}", [Column("method"), *map(Column, values)], rows, note)


def distributions_table(groups: Groups) -> Table:
    """Return quartiles of reward, length and perplexity, and means of the measures of diversity."""
    columns = [Column("method")]
    columns += [
        Column(f"{name} {part}", digits)
        for name, digits in (("reward", 3), ("length", 1), ("perplexity", 2))
        for part in ("25 %", "median", "75 %")
    ]
    columns += [Column("distinct / rollouts"), Column("distinct-2")]
    rows = []
    for label, records in groups.items():
        row: list[Any] = [label]
        for measure in (METRICS["reward"], length, perplexity):
            values = list(mean_per_item(records, measure).values())
            row += [float(value) for value in np.percentile(values, (25, 50, 75))] if values else [None] * 3
        rows.append([*row, *(_mean(mean_per_item(records, measure).values()) for measure in (distinct_share, distinct_bigrams))])
    return Table("distributions", "Quartiles over items, and diversity", columns, rows)


def diagnostics_table(groups: Groups) -> Table:
    """Return the mean of every diagnostic that any record has, whatever its name."""
    names = list(dict.fromkeys(name for records in groups.values() for record in records for name in record.info))
    labels = [label for label, records in groups.items() if any(record.info for record in records)]
    rows = []
    for name in names:
        row: list[Any] = [name]
        for label in labels:
            found = [record.info[name] for record in groups[label] if name in record.info]
            row.append(_mean([value for value in found if math.isfinite(value)]))
        rows.append(row)
    note = "Means over items of what each method says about its own search; values that are not finite are left out."
    return Table(
        "diagnostics",
        "Certificates and diagnostics",
        [Column("diagnostic"), *(Column(label, None) for label in labels)],
        rows,
        note,
    )


def marginals_table(groups: Groups) -> Table:
    """Return what the estimates of π(answer) say about the answers that were returned, and how sure they are."""
    names = ("items", "π(returned answer)", "width of interval", "accuracy", "π(target)")
    rows = []
    for label, records in groups.items():
        found = [record for record in records if record.marginals]
        if not found:
            continue
        graded = [record for record in found if record.target is not None]
        returned = [record.marginals[record.answer] for record in found if record.answer in record.marginals]
        rows.append(
            [
                label,
                len(found),
                _mean(probability for probability, _, _ in returned),
                _mean(high - low for _, low, high in returned),
                _mean(float(record.answer == record.target) for record in graded),
                # An answer that nothing evaluated gives has no entry, and so an estimate of 0.
                _mean(record.marginals.get(str(record.target), [0.0])[0] for record in graded),
            ]
        )
    note = (
        "Means over the items for which the method estimated π(answer) from fresh draws. Where π knows what is right, the "
        "probability of the returned answer is near the accuracy."
    )
    return Table("marginals", "Probabilities of answers", [Column("method"), *map(Column, names)], rows, note)


def class_table(groups: Groups, labels: Sequence[str]) -> Table:
    """Return precision, recall and F1 of each class for each variant."""
    columns = [
        Column("class"),
        Column("method"),
        *(Column(name) for name in ("items", "answers", "hits", "precision", "recall", "F1")),
    ]
    rows: list[list[Any]] = []
    for label, (name, records) in itertools.product(labels, groups.items()):
        graded = [record for record in records if record.target is not None]
        items = sum(record.target == label for record in graded)
        answers = sum(record.answer == label for record in graded)
        hits = sum(record.target == record.answer == label for record in graded)
        if items or answers:
            shares = [hits / answers if answers else None, hits / items if items else None, 2 * hits / (items + answers)]
            rows.append([label, name, items, answers, hits, *shares])
    return Table("classes", "By class", columns, rows)


@styled
def confusion_drawing(groups: Groups, labels: Sequence[str]) -> Drawing:
    """Draw for each variant how often each target got each answer."""
    present = [
        label for label in labels if any(label in (one.target, one.answer) for records in groups.values() for one in records)
    ]
    answers = [*present, NO_ANSWER]
    columns = min(3, len(groups))
    num_rows = -(-len(groups) // columns)
    figure, axes = new_figure(1.2 + 2.75 * columns, 1.0 + 2.35 * num_rows, columns, num_rows, sharex=True, sharey=True)
    for one in axes[len(groups) :]:
        one.set_axis_off()
    for index, (label, records) in enumerate(groups.items()):
        counts = np.zeros((len(present), len(answers)), dtype=int)
        for record in records:
            if record.target in present:
                answer = record.answer if record.answer in present else NO_ANSWER
                counts[present.index(record.target), answers.index(answer)] += 1
        one = axes[index]
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = COLOURS[2] if answers[column] == present[row] else COLOURS[7]
            one.add_patch(_square(column, row, colour, 0.12 + 0.6 * float(shares[row, column])))
            one.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7.5, color=INK)
        one.set(xlim=(-0.5, len(answers) - 0.5), ylim=(len(present) - 0.5, -0.5))
        one.set_xticks(range(len(answers)), answers, rotation=90, fontsize=7.5)
        one.set_yticks(range(len(present)), present, fontsize=7.5)
        one.set_title(label)
        one.spines[:].set_visible(False)
        one.tick_params(length=0)
    return Drawing(
        "confusion", "Targets (rows) and answers (columns)", figure, "Green: right; red: wrong; 'none': no valid answer."
    )


def failures_table(failures: Sequence[Mapping[str, Any]]) -> Table:
    """Return the failed items with their errors."""
    columns = [Column("task"), Column("method"), Column("item"), Column("error", wraps=True)]
    return Table(
        "failures", "Failures", columns, [[one["task"], one["method"], one["example_id"], one["error"]] for one in failures]
    )


def _square(x: float, y: float, colour: str, strength: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, facecolor=colour, alpha=strength, linewidth=0)


def _mean(values: Any) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None
