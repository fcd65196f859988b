"""What is computed from answers, targets and rewards once a search is over. Nothing here is seen by a search.

scipy and scikit-learn are imported where they are used: the command line's help must not wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError

__all__ = [
    "Correlation",
    "accuracy",
    "class_report",
    "confusion",
    "correlation",
    "macro_f1",
    "mean_ci95",
    "proportion_ci95",
    "valid_answer_rate",
]


def accuracy(answers: Sequence[str | None], targets: Sequence[str]) -> float | None:
    """Return the share of answers equal to their target; no answer counts as wrong. None without items."""
    _same_length(answers, targets)
    if not targets:
        return None
    return sum(answer == target for answer, target in zip(answers, targets, strict=True)) / len(targets)


def macro_f1(
    answers: Sequence[str | None], targets: Sequence[str], labels: Sequence[str], always: Sequence[str] = ()
) -> float | None:
    """Return the unweighted mean of the F1 scores of the labels that occur among the targets.

    An answer that is missing or not a label is a miss of its target's class and no false alarm of any class, as in OpenTSLM's
    evaluation. Labels without a target are left out of the mean: they could only score 0, and OpenTSLM's own test set has all
    of its labels, so that there the two agree. Answering such a label counts as a miss all the same.

    Args:
        answers: What was answered.
        targets: The gold labels, one each.
        labels: The task's labels.
        always: Labels that are part of the mean whether they occur or not.

    Returns:
        A number in [0, 1]; None without items, or if there is no label to average over.
    """
    from sklearn.metrics import f1_score

    _same_length(answers, targets)
    counted = [*always, *(label for label in labels if label in set(targets) and label not in always)]
    if not counted or not targets:
        return None
    predicted = ["" if answer is None else answer for answer in answers]
    score = f1_score(list(targets), predicted, labels=counted, average="macro", zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return float(score)


def class_report(answers: Sequence[str | None], targets: Sequence[str], labels: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Return precision, recall, F1 and number of items (`support`) of each label among the targets or the answers."""
    from sklearn.metrics import precision_recall_fscore_support

    _same_length(answers, targets)
    seen = {*answers, *targets}
    present = [label for label in labels if label in seen]
    if not present:
        return {}
    predicted = ["" if answer is None else answer for answer in answers]
    columns: Any = precision_recall_fscore_support(list(targets), predicted, labels=present, zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return {
        label: {"precision": float(row[0]), "recall": float(row[1]), "f1": float(row[2]), "support": int(row[3])}
        for label, row in zip(present, np.transpose(columns), strict=True)
    }


def confusion(answers: Sequence[str | None], targets: Sequence[str], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return for each target how often each answer was given, counts above 0 only; "none" stands for no valid answer."""
    _same_length(answers, targets)
    found: dict[str, dict[str, int]] = {}
    for answer, target in zip(answers, targets, strict=True):
        row = found.setdefault(target, {})
        column = answer if answer is not None and answer in labels else "none"
        row[column] = row.get(column, 0) + 1
    return {target: dict(sorted(found[target].items())) for target in sorted(found)}


def valid_answer_rate(answers: Sequence[str | None]) -> float | None:
    """Return the share of items with a valid answer, right or wrong. None without items."""
    return sum(answer is not None for answer in answers) / len(answers) if answers else None


def mean_ci95(values: Sequence[float]) -> tuple[float, float] | None:
    """Return a 95 % confidence interval for the mean: mean ± t · standard error, with Student's t of n − 1.

    Returns:
        (low, high), of zero width if all values are equal; None for fewer than two values.
    """
    from scipy.special import stdtrit

    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return None
    half = float(stdtrit(sample.size - 1, 0.975)) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    mean = float(sample.mean())
    return mean - half, mean + half


def proportion_ci95(num_hits: int, num_items: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for a proportion; it has a width even where all or none are hits."""
    from scipy.stats import binomtest

    interval = binomtest(num_hits, num_items).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class Correlation:
    """Whether what was rewarded was right."""

    coefficient: float | None
    """Point-biserial correlation in [-1, 1]; None where it is undefined."""
    num_items: int


def correlation(rewards: Sequence[float], correct: Sequence[bool]) -> Correlation:
    """Return the point-biserial (that is, Pearson) correlation of rewards with being correct.

    Args:
        rewards: One finite number per item.
        correct: Whether the item's answer is its target.

    Returns:
        The coefficient with the number of items; None in its place if all rewards are equal, or all or no answers correct.
    """
    _same_length(rewards, correct)
    x = np.asarray(rewards, dtype=np.float64)
    y = np.asarray(correct, dtype=np.float64)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(None, int(x.size))
    x = (x - x.min()) / np.ptp(x)
    x, y = x - x.mean(), y - y.mean()
    coefficient = float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))
    return Correlation(min(1.0, max(-1.0, coefficient)), int(x.size))


def _same_length(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise SettingError(f"Expected two sequences of equal length, one value per item, but got {len(first)} and {len(second)}.")
