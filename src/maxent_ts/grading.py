"""Accuracy, macro-F1 and what belongs to them, by the rules of one scorer or of all that a task has. From records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from maxent_ts import metrics
from maxent_ts.records import Record, Run

__all__ = ["Grading", "accuracy_and_f1", "answer_metrics", "grading_of"]


@dataclass(frozen=True, slots=True)
class Grading:
    """How the answers of a task are graded in a run."""

    scorer: str = "clean"
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By scorer, as in `scoring.class_rules`. A scorer without rules averages over the labels that occur."""
    strata: Mapping[str, str] = field(default_factory=dict)
    """By item."""


class Graded(Protocol):
    """A score, or a record, which has that of the run's scorer."""

    @property
    def answer(self) -> str | None: ...
    @property
    def target(self) -> str | None: ...
    @property
    def correct(self) -> bool | None: ...


Item = tuple[str, Graded]


def grading_of(run: Run, task: str) -> Grading:
    """Return how a run grades a task."""
    strata = {example_id: one.stratum for (name, example_id), one in run.examples.items() if name == task}
    return Grading(run.info.config.get("scorer", "clean"), run.info.data.get(task, {}).get("classes") or {}, strata)


def answer_metrics(records: Sequence[Record], labels: Sequence[str], grading: Grading) -> dict[str, Any]:
    """Return what there is to say about answers.

    Args:
        records: Those without an error.
        labels: The task's labels; none if its targets are not labels.
        grading: By what rules.

    Returns:
        `accuracy`, `macro_f1` and `valid_answer_rate` by the run's scorer (null without labels, or where no item has a target).
        `scores`: the same by each scorer. `classes`: precision, recall, F1 and support of each label; `confusion`: counts by target
        and answer; `strata`: n, accuracy and macro-F1 of each stratum, where macro-F1 is the mean over strata.
    """
    if not labels:
        return {
            "accuracy": None,
            "macro_f1": None,
            "valid_answer_rate": None,
            "scores": {},
            "classes": {},
            "confusion": {},
            "strata": {},
        }
    own = [(one.example_id, one) for one in records if one.target is not None]
    answers, targets = [one.answer for _, one in own], [str(one.target) for _, one in own]
    accuracy, macro_f1, strata = _graded(own, labels, grading, grading.scorer)
    names = dict.fromkeys(name for one in records for name in one.scores)
    return {
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "valid_answer_rate": metrics.valid_answer_rate([one.answer for one in records]),
        "scores": {name: accuracy_and_f1(records, labels, grading, name) for name in names},
        "classes": metrics.class_report(answers, targets, labels),
        "confusion": metrics.confusion(answers, targets, labels),
        "strata": strata,
    }


def accuracy_and_f1(records: Sequence[Record], labels: Sequence[str], grading: Grading, scorer: str) -> dict[str, float | None]:
    """Return `accuracy`, `macro_f1` and `valid_answer_rate` by the scores that records have of a scorer."""
    scored: list[Item] = [(one.example_id, one.scores[scorer]) for one in records if scorer in one.scores]
    accuracy, macro_f1, _ = _graded(scored, labels, grading, scorer)
    valid = metrics.valid_answer_rate([one.answer for _, one in scored])
    return {"accuracy": accuracy, "macro_f1": macro_f1, "valid_answer_rate": valid}


def _graded(
    items: Sequence[Item], labels: Sequence[str], grading: Grading, scorer: str
) -> tuple[float | None, float | None, dict[str, Any]]:
    rule = grading.rules.get(scorer, {})
    if not rule.get("by_stratum"):
        return _accuracy(items), _macro_f1(items, labels, rule, ""), {}
    groups: dict[str, list[Item]] = {}
    for example_id, one in items:
        groups.setdefault(grading.strata.get(example_id, ""), []).append((example_id, one))
    strata = {
        name: {"n": len(groups[name]), "accuracy": _accuracy(groups[name]), "macro_f1": _macro_f1(groups[name], labels, rule, name)}
        for name in sorted(groups, key=lambda name: (len(name), name))
    }
    scores = [one["macro_f1"] for one in strata.values() if one["macro_f1"] is not None]
    return _accuracy(items), sum(scores) / len(scores) if scores else None, strata


def _accuracy(items: Sequence[Item]) -> float | None:
    correct = [one.correct for _, one in items if one.correct is not None]
    return sum(correct) / len(correct) if correct else None


def _macro_f1(items: Sequence[Item], labels: Sequence[str], rule: Mapping[str, Any], stratum: str) -> float | None:
    always = rule.get("always", {}).get(stratum, ())
    pairs = [(one.answer, str(one.target)) for _, one in items]
    match rule.get("targets", "labels"):
        case "none":
            labels, pairs = (), [pair for pair in pairs if pair[1] in always]
        case "all":
            labels = sorted({target for _, target in pairs})
    return metrics.macro_f1([answer for answer, _ in pairs], [target for _, target in pairs], labels, always)
