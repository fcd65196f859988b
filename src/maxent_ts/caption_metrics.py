"""How good a caption of a time series is: judged against the series itself, and, as a legacy, against another caption.

Gold captions of series are often wrong (those of OpenTSLM's M4 data were written from plots by a vision model), so likeness to
one is no quality; what counts is whether the statements are true of the series, and whether they would be of another one.
Statements are found and judged as by the reward `claims` (see `maxent_ts.rewards.claims`), which a search may have maximised: the
shares below leave out its weighting and its saturation, but not its idea of truth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from maxent_ts.errors import MissingExtraError
from maxent_ts.rewards.claims import Judgement, judge_text
from maxent_ts.rewards.measure import measure
from maxent_ts.rewards.scene import Scene
from maxent_ts.rewards.truth import judge

__all__ = ["CHANGES", "caption_measures", "changed_series", "flips", "overlap_measures", "require_overlap"]

CHANGES = ("time_reversal", "variance", "amplitude", "peak_moved")
"""What `changed_series` makes, after ShapeShift's T_rev, T_var, T_amp and T_peak."""

AMPLITUDE = 3.0
NOISE = 1.0
"""Standard deviation of the added noise, in standard deviations of the series."""

TRUE_FROM, FALSE_TO = 0.75, 0.25
"""Degrees from which a statement is true, and to which it is false, as in `claims`."""

_WORD = re.compile(r"\w+")


def caption_measures(text: str, series: Sequence[float]) -> dict[str, float | None]:
    """Judge a caption against its series.

    Args:
        text: The caption.
        series: In its own unit, at least four finite numbers.

    Returns:
        `claim_precision`: mean degree of truth of the checkable statements. `claim_coverage`: share of the words that stand in a
        clause with a checkable statement. `numeric_fidelity`: mean degree of truth of the statements that give a number, against
        what they claim to measure. `claim_flip_rate`: share of the four changes of `changed_series` under which some statement
        turns from true to false, so what a caption cannot lose by being vague. None where there is nothing to average; a caption
        without statements has a flip rate of 0.
    """
    scene = _scene(series)
    judged = judge_text(text, scene)
    numbers = [one.degree for one in judged if one.statement.number is not None]
    return {
        "claim_precision": _mean([one.degree for one in judged]),
        "claim_coverage": _coverage(text, judged),
        "numeric_fidelity": _mean(numbers),
        "claim_flip_rate": _mean([float(flips(judged, _scene(other))) for other in changed_series(series).values()]),
    }


def changed_series(series: Sequence[float]) -> dict[str, list[float]]:
    """Return what a good caption of the series must not fit: one changed series for each of `CHANGES`.

    `time_reversal` runs backwards; `variance` adds noise to the second half; `amplitude` triples the deviations from the mean;
    `peak_moved` exchanges a tenth of the series around its maximum with the tenth half a length away.
    """
    values = np.asarray(series, dtype=np.float64)
    size = len(values)
    noisy = values.copy()
    noisy[size // 2 :] += NOISE * values.std() * np.random.default_rng(0).standard_normal(size - size // 2)
    moved = values.copy()
    width = max(size // 10, 1)
    start = min(max(int(values.argmax()) - width // 2, 0), size - width)
    other = start + size // 2 if start + size // 2 + width <= size else max(start - size // 2, 0)
    moved[start : start + width], moved[other : other + width] = values[other : other + width], values[start : start + width]
    found = (values[::-1], noisy, values.mean() + AMPLITUDE * (values - values.mean()), moved)
    return dict(zip(CHANGES, (one.tolist() for one in found), strict=True))


def flips(judged: Sequence[Judgement], other: Scene) -> bool:
    """Tell whether a statement that is true of its own series is false of another."""
    for one in judged:
        if one.degree < TRUE_FROM:
            continue
        verdict = judge(one.statement, other)
        if verdict is not None and verdict[0] <= FALSE_TO:
            return True
    return False


def overlap_measures(text: str, reference: str) -> dict[str, float | None]:
    """Return how much a caption shares with another, for comparison with older papers: `legacy_bleu` and `legacy_rouge_l`, 0 to 1.

    Sentence BLEU with sacrebleu's defaults (Post 2018), and ROUGE-L's F measure with stemming (Lin 2004).

    Raises:
        MissingExtraError: if sacrebleu or rouge-score is not installed.
    """
    require_overlap()
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import sentence_bleu

    rouge = RougeScorer(["rougeL"], use_stemmer=True).score(reference, text)["rougeL"].fmeasure
    return {"legacy_bleu": sentence_bleu(text, [reference]).score / 100, "legacy_rouge_l": float(rouge)}


def require_overlap() -> None:
    """Raise MissingExtraError unless the packages behind `overlap_measures` are installed."""
    for package in ("sacrebleu", "rouge_score"):
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise MissingExtraError(package.replace("_", "-"), "captions") from error


def _scene(series: Sequence[float]) -> Scene:
    return Scene((measure(series),), ("series",))


def _coverage(text: str, judged: Sequence[Judgement]) -> float | None:
    spans = [(one.statement.start, one.statement.end) for one in judged]
    words = [match.start() for match in _WORD.finditer(text)]
    return _mean([float(any(start <= word < end for start, end in spans)) for word in words])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
