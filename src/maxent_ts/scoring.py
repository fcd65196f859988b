"""Which answers count as right: this package's reading of texts, and that of the data's authors beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from maxent_ts.errors import SettingError
from maxent_ts.record import AnswerScore
from maxent_ts.tasks.base import Example, Score, Task, UpstreamScorer

__all__ = ["check_scorer", "class_rules", "graded_fields"]


def check_scorer(task: Task, scorer: str) -> None:
    """Refuse a scorer that a task does not have.

    Raises:
        SettingError: if the task has labels but no upstream scorer, and that is asked for.
    """
    if scorer == "upstream" and task.labels and _upstream(task) is None:
        raise SettingError(
            f"The task '{task.name}' has no upstream scorer: that is the parser of the data's own authors, and this data has none "
            "that is known here. Leave --scorer out, or take the task out."
        )


def class_rules(task: Task) -> dict[str, dict[str, Any]]:
    """Return for every scorer of a task which classes macro-F1 averages over, as it is written in run.json.

    Returns:
        By scorer: `by_stratum` (the mean of the strata's macro-F1), `always` (for each stratum, "" for all items, classes that
        count even if they do not occur), and `targets`, which of the targets' classes count beside: "labels" of the task, "all", or
        "none"; with "none", items with another target are left out.
    """
    by_stratum = bool(getattr(task, "averages_strata", False))
    rules: dict[str, dict[str, Any]] = {"clean": {"by_stratum": by_stratum, "always": {}, "targets": "labels"}}
    if (upstream := _upstream(task)) is not None:
        always = {name: list(some) for name, some in upstream.always.items()}
        rules["upstream"] = {"by_stratum": by_stratum, "always": always, "targets": "none" if upstream.is_closed else "all"}
    return rules


def graded_fields(task: Task, example: Example, texts: Sequence[str], first: int, scorer: str) -> dict[str, Any]:
    """Return the fields of a record that say what its completions answer.

    Args:
        task: The task.
        example: The item.
        texts: Of all completions.
        first: Which of them the method chose.
        scorer: "clean" or "upstream".
    """
    if not task.labels:
        return {}
    every = {"clean": [_clean(task, example, text) for text in texts]}
    found: dict[str, Score] = {}
    if example.target is not None:
        answer = every["clean"][first]
        found["clean"] = Score(answer, example.target, answer == example.target)
    upstream = _upstream(task)
    scores = [None if upstream is None else upstream.score(text, example) for text in texts]
    if (chosen := scores[first]) is not None:
        found["upstream"] = chosen
        every["upstream"] = [None if one is None else one.answer for one in scores]
    fields: dict[str, Any] = {
        "answers": every.get(scorer, [None] * len(texts)),
        "scores": {name: AnswerScore(**asdict(one)) for name, one in found.items()},
        "correct": found[scorer].correct if scorer in found else None,
    }
    fields["answer"] = fields["answers"][first]
    if scorer == "upstream":
        fields["target"] = found[scorer].target if scorer in found else None
    return fields


def _clean(task: Task, example: Example, text: str) -> str | None:
    """An answer that this item does not offer is none."""
    answer = task.answer(text)
    return answer if answer in example.inputs.get("labels", task.labels) else None


def _upstream(task: Task) -> UpstreamScorer | None:
    return getattr(task, "upstream", None)
