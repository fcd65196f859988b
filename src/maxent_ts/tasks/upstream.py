"""OpenTSLM's own ways to read answers and to count them, with their quirks: what published numbers were made with.

Written after `evaluation/opentslm/` of github.com/OpenTSLM/OpenTSLM at 2968f4b8 (MIT licence): `parse_predictions.py` (HAR),
`tsqa/`, `sleep/` and `ecg_qa_cot/`. The target is read from the gold text with the same parser, not taken from the label.
What the quirks are is listed in `docs/opentslm-tasks.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from maxent_ts.tasks.base import Example, Score

__all__ = ["EcgScorer", "HarScorer", "SleepScorer", "TsqaScorer", "sleep_stage"]

_MARKER = "Answer: "
_PUNCTUATION = ".,!?;:"
_QUOTED = re.compile(r'"(.*?)"')
_TSQA_LETTERS = 3


class HarScorer:
    """HAR-CoT: accuracy compares raw texts ("sitting." is not "sitting"), F1 lower-cased ones without final punctuation.

    Both are read from a line of JSON up to its first quotation mark, escaped or not. Macro-F1 always averages over all labels.
    """

    is_closed = False

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self.always: Mapping[str, tuple[str, ...]] = {"": self._labels}

    def score(self, text: str, example: Example) -> Score | None:
        """See `UpstreamScorer`."""
        if example.reference is None:
            return None
        found, target = (_har_answer(one) for one in (text, example.reference.strip()))
        return _compared(found, target, self._labels)


class TsqaScorer:
    """TSQA: the first three characters of either text, such as "(a)"."""

    is_closed = False

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self.always: Mapping[str, tuple[str, ...]] = {}

    def score(self, text: str, example: Example) -> Score | None:
        """See `UpstreamScorer`."""
        if example.reference is None:
            return None
        found, target = text.strip()[:_TSQA_LETTERS], example.reference.strip()[:_TSQA_LETTERS]
        return _compared(found, target, self._labels)


class SleepScorer:
    """Sleep-CoT: stages are found as substrings, in the whole text where there is no "Answer: "; stage 4 is stage 3.

    Macro-F1 averages over the stages that occur among the targets.
    """

    is_closed = False

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self.always: Mapping[str, tuple[str, ...]] = {}

    def score(self, text: str, example: Example) -> Score | None:
        """See `UpstreamScorer`."""
        if example.reference is None:
            return None
        found, target = (sleep_stage(_stated(one), self._labels) for one in (text, example.reference))
        return Score(found if found in self._labels or found == target else None, target, found == target)


class EcgScorer:
    """ECG-QA-CoT: lower-cased answers without final punctuation, among those of the question's template.

    A target that its template does not list counts as wrong and is left out of the template's macro-F1, which averages over all
    the template's answers, whether they occur or not.

    Args:
        answers: For each template, what it may be answered with.
    """

    is_closed = True

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self.always: Mapping[str, tuple[str, ...]] = {template: tuple(some) for template, some in answers.items()}
        self._spelling = {template: {one.lower().strip(): one for one in some} for template, some in answers.items()}

    def score(self, text: str, example: Example) -> Score | None:
        """See `UpstreamScorer`."""
        if example.reference is None:
            return None
        possible = self._spelling.get(example.stratum, {})
        answer, target = _normalised(_stated(text)), _normalised(_stated(example.reference))
        return Score(possible.get(answer), possible.get(target, target), answer == target and target in possible)


def sleep_stage(text: str, labels: Sequence[str]) -> str:
    """Return the stage that a text names by OpenTSLM's rules, or the text itself where they find none."""
    cleaned = _without_tokens(text.strip())
    lowered = cleaned.lower()
    if "non-rem" in lowered or "nrem" in lowered:
        lowered = lowered.replace("nrem", "non-rem").replace("non rem", "non-rem")
    if "non-rem" in lowered:
        for written, stage in (("stage 4", 3), ("stage 3", 3), ("stage 2", 2), ("stage 1", 1)):
            if written in lowered:
                return f"Non-REM stage {stage}"
    if "rem" in lowered and "sleep" in lowered:
        return "REM sleep"
    if lowered in ("wake", "awake"):
        return "Wake"
    if "movement" in lowered or lowered in ("mov", "mt"):
        return "Movement"
    return next((label for label in labels if label.lower() == lowered), cleaned)


def _har_answer(text: str) -> str:
    written = json.dumps(text, ensure_ascii=False)
    found = _QUOTED.match(written)
    inside = found.group(1) if found else ""
    if _MARKER not in inside:
        return inside.replace("<eos>", "")
    answer = inside.split(_MARKER)[-1].strip()
    return re.sub(r"<\|.*?\|>$", "", answer).strip().replace("<eos>", "")


def _compared(found: str, target: str, labels: Sequence[str]) -> Score:
    """Correct where the raw texts agree; what is answered is lower-cased, without final punctuation."""
    answer, wanted = _normalised(found), _normalised(target)
    return Score(answer if answer in labels or answer == wanted else None, wanted, found == target)


def _stated(text: str) -> str:
    """What stands behind the last "Answer: " without a final full stop; the text itself where there is none."""
    return _without_tokens(text.split(_MARKER)[-1].strip()) if _MARKER in text else text


def _without_tokens(text: str) -> str:
    return re.sub(r"\.$", "", re.sub(r"<\|.*?\|>|<eos>$", "", text).strip()).strip()


def _normalised(text: str) -> str:
    return text.lower().strip().rstrip(_PUNCTUATION)
