"""Tables about how answers were graded: by scorer, by stratum, and beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maxent_ts.published import PublishedRow
from maxent_ts.report.tables import Column, Table

__all__ = ["published_table", "reproductions_table", "scorers_table", "strata_table"]

METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "valid_answer_rate": "valid answers"}


def scorers_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return accuracy, macro-F1 and the rate of valid answers by each scorer.

    Args:
        rows: For each variant, what `summary.describe` says.
    """
    body = [
        [label, scorer, *(scores[name] for name in METRICS)]
        for label, row in rows.items()
        for scorer, scores in row["scores"].items()
    ]
    return Table("scorers", "By scorer", [Column("method"), Column("scorer"), *map(Column, METRICS.values())], body)


def strata_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return accuracy and macro-F1 in each stratum.

    Args:
        rows: For each variant, what `summary.describe` says.
    """
    body = [
        [stratum, label, found["n"], found["accuracy"], found["macro_f1"]]
        for label, row in rows.items()
        for stratum, found in row["strata"].items()
    ]
    return Table("strata", "By stratum", [Column(name) for name in ("stratum", "method", "n", "accuracy", "macro-F1")], body)


def published_table(rows: Sequence[PublishedRow]) -> Table:
    """Return what was published on a task."""
    columns = [
        Column("model"),
        Column("macro-F1", 4),
        Column("accuracy", 4),
        Column("source", wraps=True),
        Column("note", wraps=True),
    ]
    return Table("published", "Published", columns, [[one.model, one.macro_f1, one.accuracy, one.source, one.note] for one in rows])


def reproductions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the numbers of the run beside those published for its model, as in `published.reproductions`."""
    columns = [Column(name) for name in ("method", "metric", "verdict")]
    columns += [Column(name, 4) for name in ("published", "ours", "95 % low", "95 % high")]
    columns += [Column("n"), Column("of"), Column("source", wraps=True)]
    body = [
        [
            row["method"],
            METRICS[row["metric"]],
            *(row[name] for name in ("verdict", "published", "ours")),
            *row["ci95"],
            row["n"],
            row["num_published_items"],
            f"{row['model']}; {row['source']}",
        ]
        for row in rows
    ]
    return Table("reproductions", "Reproduction", columns, body)
