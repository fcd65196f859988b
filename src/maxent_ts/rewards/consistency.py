"""A reward for a rationale that fits its own answer: do the words, and the series, go with the label stated behind "Answer:"?

Labels have traits: activities move or keep still, sleep stages have slow waves or have none. Two parts, each in [0, 1], of equal
weight; one that says nothing about the trait is left out:

    words    (1 + s) / 2, or (1 − s) / 2 for a label without the trait, with s = (n₊ − n₋) / (n₊ + n₋): of the words before the
             answer that speak of the trait, n₊ claim it and n₋ deny it. "No", "little" and the like near a word turn it round.
    signal   The measured trait m, or 1 − m. Moving: the mean of two ramps, the largest standard deviation of the series from 0.4
             to 1.5 m/s², and the autocorrelation of that series at its best lag from 0.3 to 0.6. Slow waves: not measured.

A text without a valid answer gets 0. Where nothing can be judged (a label without a known trait, a rationale without such words)
the value is 1/2. The marks of the ramps were set on UCI HAR's training subjects; no label of a test item is used.

Agreement with the answers of other rollouts is no function of one text, so no reward: the methods `majority_vote` and
`weighted_vote` count it, the latter with exp(λ r) votes for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from maxent_ts.errors import DataError, RewardError
from maxent_ts.rewards.base import Evidence, missing_column
from maxent_ts.rewards.measure import measure
from maxent_ts.rewards.scene import ramp
from maxent_ts.rewards.text import rationale_and_label

__all__ = ["TRAITS", "Consistency", "Trait"]

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")
_NEAR = 4
"""Words on either side among which a word is sought that turns another round."""

_NONE = r"no|not|without|lack(?:s|ing)?|absen(?:t|ce)|never|nor|neither"
_LITTLE = (
    rf"{_NONE}|little|small|low|lower|minimal\w*|slight\w*|limited|minor|narrow|"
    r"weak\w*|gentl[ey]|subtle|negligible|less|barely|hardly|mild|modest"
)
_MUCH = (
    r"large|larger|high|higher|strong\w*|big|vigorous\w*|pronounced|significant\w*|substantial\w*|intens[ei]\w*|considerabl[ey]|"
    r"wide\w*"
)


@dataclass(frozen=True)
class Trait:
    """Something that labels have or lack, and the words that speak of it."""

    name: str
    having: frozenset[str]
    """Labels with the trait, lower case."""
    lacking: frozenset[str]
    claiming: re.Pattern[str]
    """Words that claim it; near a word for little or none they deny it."""
    denying: re.Pattern[str]
    """Words that deny it; near a word for none they claim it."""
    amounts: re.Pattern[str]
    """Words that claim it near a word for much, deny it near one for little or none, and say nothing alone."""
    signal: Callable[[Sequence[Any], float | None], float] | None
    """How much of it the series have, 0 to 1."""


def _movement(series: Sequence[Any], sampling_rate: float | None) -> float:
    busiest = max((measure(one, sampling_rate) for one in series), key=lambda one: one.std)
    return 0.5 * ramp(busiest.std, 0.4, 1.5) + 0.5 * ramp(busiest.period.strength, 0.3, 0.6)


TRAITS = (
    Trait(
        "moving",
        frozenset({"biking", "running", "walking", "walking_down", "walking_up"}),
        frozenset({"lying", "sitting", "standing"}),
        re.compile(
            r"rhythm\w*|periodic\w*|repetiti\w+|cycl\w+|oscillat\w+|strid\w+|steps?|gait|dynamic\w*|vigorous\w*|impacts?|cadence"
        ),
        re.compile(r"still\w*|stationary|motionless|static|rest|resting|flat|stable|stability|inactiv\w+|immobil\w+|calm|quiet"),
        re.compile(
            r"vari(?:es|ation\w*|ability|ance)|fluctuat\w+|movements?|motions?|spread|swings?|amplitudes?|activity|peaks?|intensity"
        ),
        _movement,
    ),
    Trait(
        "slow waves",
        frozenset({"n3", "n4", "non-rem stage 3", "non-rem stage 4"}),
        frozenset({"wake", "n1", "non-rem stage 1", "rem", "rem sleep"}),
        re.compile(r"slow(?:er)?|slow-wave|delta|deep(?:er)?|high-amplitude|low-frequency|synchroni[sz]\w+"),
        re.compile(r"fast(?:er)?|rapid|alpha|beta|theta|high-frequency|low-amplitude|desynchroni[sz]\w+|irregular|mixed"),
        re.compile(r"amplitudes?"),
        None,
    ),
)


class Consistency:
    """Whether the rationale and the series fit the answer that the text states; see the module's docstring.

    Columns it reads: `labels` (possible answers), and if present `series` (m/s² for activities) and `sampling_rate` (Hz).
    """

    name = "consistency"
    range = (0.0, 1.0)

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion.

        Raises:
            RewardError: if there is no column `labels`, or a series cannot be measured.
        """
        explained = self.explain(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [one["value"] for one in explained]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the value with its parts, the label, its trait, and the words that speak for and against it."""
        del prompts, completion_ids
        if "labels" not in columns:
            raise missing_column(
                "The reward 'consistency' looks for an answer among the column 'labels', which this task does not have.", columns
            )
        nothing: list[Any] = [None] * len(completions)
        rows = zip(
            completions, columns["labels"], columns.get("series") or nothing, columns.get("sampling_rate") or nothing, strict=True
        )
        return [_explained(text, labels or (), series, rate) for text, labels, series, rate in rows]


def _explained(text: str, labels: Sequence[str], series: Sequence[Any] | None, sampling_rate: float | None) -> Evidence:
    rationale, label = rationale_and_label(text, labels)
    if label is None:
        return {"value": 0.0, "parts": {}, "label": None}
    known = [trait for trait in TRAITS if label.lower() in trait.having | trait.lacking]
    if not known:
        return {"value": 0.5, "parts": {}, "label": label}
    (trait,) = known
    has = label.lower() in trait.having
    parts: dict[str, dict[str, Any]] = {}
    claiming, denying = _words_about(rationale, trait)
    if claiming or denying:
        share = len(claiming) / (len(claiming) + len(denying))
        parts["words"] = {"value": share if has else 1.0 - share, "claiming": list(claiming), "denying": list(denying)}
    if trait.signal is not None and series:
        try:
            measured = trait.signal(series, None if sampling_rate is None else float(sampling_rate))
        except (DataError, TypeError) as error:
            raise RewardError(f"The reward 'consistency' cannot measure a series: {error}") from error
        parts["signal"] = {"value": measured if has else 1.0 - measured, "measured": measured}
    value = sum(part["value"] for part in parts.values()) / len(parts) if parts else 0.5
    return {"value": value, "parts": parts, "label": label, "trait": trait.name, "has_trait": has}


@lru_cache(maxsize=4096)
def _words_about(rationale: str, trait: Trait) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words that claim and that deny a trait, each with the word that decides its direction."""
    claiming: list[str] = []
    denying: list[str] = []
    for sentence in _SENTENCE_END.split(rationale.lower()):
        words = _WORD.findall(sentence)
        for index, word in enumerate(words):
            before = words[max(0, index - _NEAR) : index]
            after = words[index + 1 : index + 1 + _NEAR]
            if trait.claiming.fullmatch(word):
                turned = _nearest(_LITTLE, before, [])
                (denying if turned else claiming).append(f"{turned} {word}" if turned else word)
            elif trait.denying.fullmatch(word):
                turned = _nearest(_NONE, before, [])
                (claiming if turned else denying).append(f"{turned} {word}" if turned else word)
            elif trait.amounts.fullmatch(word):
                # "No significant movement": what is nearest says how much, and a negation before it that there is none.
                amount = _nearest(_NONE, before, []) or _nearest(f"{_LITTLE}|{_MUCH}", before, after)
                if amount:
                    (claiming if re.fullmatch(_MUCH, amount) else denying).append(f"{amount} {word}")
    return tuple(claiming), tuple(denying)


def _nearest(pattern: str, before: Sequence[str], after: Sequence[str]) -> str | None:
    """Return the nearest word that matches, one before rather than one after at the same distance."""
    for distance in range(_NEAR):
        for word in (before[-1 - distance : len(before) - distance], after[distance : distance + 1]):
            if word and re.fullmatch(pattern, word[0]):
                return word[0]
    return None
