"""A rule-based writer of training texts: it measures a series and words what it measured.

Every statement is true by construction. Wording and choice of facts vary with the random generator. Texts are short, because
the model they train spends one token on each word, digit and punctuation mark: `token_estimate` counts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from maxent_ts.rewards.claims import FULL_COVERAGE
from maxent_ts.rewards.informativeness import informativeness
from maxent_ts.rewards.measure import Measured, measure
from maxent_ts.rewards.places import Place
from maxent_ts.rewards.reader import read
from maxent_ts.rewards.scene import Scene
from maxent_ts.rewards.statements import Statement
from maxent_ts.rewards.truth import judge

__all__ = ["MAX_TOKENS", "SAMPLING_RATE", "token_estimate", "write_caption", "write_rationale"]

SAMPLING_RATE = 50.0
"""Points per second of the accelerometer windows."""

MAX_TOKENS = 46
"""Bound on `token_estimate`; leaves room for the end-of-sequence token within 48."""

_PIECE = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")


def token_estimate(text: str) -> int:
    """Count words, digits and punctuation marks: the tokens of a small vocabulary trained on these texts."""
    return len(_PIECE.findall(text))


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _one_decimal(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def write_rationale(axes: Mapping[str, np.ndarray], label: str, rng: np.random.Generator) -> str:
    """Write a rationale for a window of acceleration that ends in "Answer: <label>".

    Args:
        axes: Acceleration in m/s² for the keys x, y and z, sampled at `SAMPLING_RATE`.
        label: The activity; named in the last sentence only.
        rng: Chooses facts and wording.
    """
    series = {name: measure(values, SAMPLING_RATE) for name, values in axes.items()}
    for attempt in range(40):
        sentences = _posture_and_movement(series, rng, brief=attempt >= 20)
        text = " ".join(_sentence(sentence) for sentence in sentences) + f" Answer: {label}"
        if token_estimate(text) <= MAX_TOKENS:
            return text
    raise ValueError(f"No rationale within {MAX_TOKENS} tokens was found for the label '{label}'. Use a shorter label.")


def _posture_and_movement(series: Mapping[str, Measured], rng: np.random.Generator, *, brief: bool) -> list[str]:
    posture = _posture(series, rng)
    movement = _movement(series, rng, brief=brief)
    return [posture, movement] if rng.random() < 0.75 else [movement, posture]


def _posture(series: Mapping[str, Measured], rng: np.random.Generator) -> str:
    order = sorted(series, key=lambda name: -abs(series[name].mean))
    gravity, tilt = order[0], order[1]
    mean, tilt_mean = _one_decimal(series[gravity].mean), _one_decimal(series[tilt].mean)
    first = _pick(
        rng,
        [
            f"gravity rests on the {gravity} axis with mean {mean}",
            f"gravity lies along the {gravity} axis at {mean}",
            f"the {gravity} axis carries gravity with mean {mean}",
            f"the {gravity} axis carries gravity at {mean}",
            f"the {gravity} axis averages {mean} and carries gravity",
            f"gravity acts on the {gravity} axis, mean {mean}",
        ],
    )
    second = _pick(
        rng,
        [
            f"and the {tilt} axis averages {tilt_mean}",
            f"while the {tilt} axis averages {tilt_mean}",
            f"and the {tilt} axis has mean {tilt_mean}",
            f"and the {tilt} axis is near {tilt_mean}",
        ],
    )
    return f"{first} {second}"


def _movement(series: Mapping[str, Measured], rng: np.random.Generator, *, brief: bool) -> str:
    """Word how much, on which axis and how regularly the body moves."""
    busiest = max(series, key=lambda name: series[name].std)
    widest = series[busiest]
    if widest.std < 0.3:
        return _stillness(series, busiest, rng, brief=brief)
    std = _one_decimal(widest.std)
    size = "large" if widest.std >= 1.6 else "moderate"
    parts = [
        _pick(
            rng,
            [
                f"the {busiest} axis varies most, std {std}",
                f"the {busiest} axis varies most with std {std}",
                f"the {busiest} axis has the largest std of {std}",
                f"{size} variation is strongest on {busiest}, std {std}",
                f"variation is {size} and strongest on {busiest}, std {std}",
            ],
        )
    ]
    frequency = _one_decimal(widest.frequency)
    if widest.period.strength >= 0.7 and widest.period.concentration >= 0.2:
        parts.append(
            _pick(
                rng,
                [
                    f"a rhythm near {frequency} Hz",
                    f"repeating at {frequency} Hz",
                    f"with rhythm at {frequency} Hz",
                    f"rhythmic near {frequency} Hz",
                ],
            )
        )
    elif widest.period.strength < 0.42:
        parts.append(_pick(rng, ["without a clear rhythm", "with no clear rhythm"]))
    extras = [f"peaks reach {widest.maximum:.0f}", f"peaking at {widest.maximum:.0f}", f"a maximum of {widest.maximum:.0f}"]
    if not brief and rng.random() < 0.6:
        parts.append(_pick(rng, extras))
    return ", ".join(parts)


def _stillness(series: Mapping[str, Measured], busiest: str, rng: np.random.Generator, *, brief: bool) -> str:
    parts = [
        _pick(
            rng,
            [
                "all axes are nearly constant",
                "variation is very small on all axes",
                "every axis stays almost constant",
                "the signal is steady with very low variability",
                "all axes stay steady",
            ],
        )
    ]
    if all(one.period.strength < 0.42 for one in series.values()) and rng.random() < 0.5:
        parts.append(_pick(rng, ["without rhythm", "with no rhythm", "without any clear rhythm"]))
    elif not brief and rng.random() < 0.5:
        second = max((name for name in series if name != busiest), key=lambda name: series[name].std)
        if series[busiest].std > 1.2 * series[second].std:
            parts.append(f"the {busiest} axis varies most")
    if rng.random() < 0.5:
        parts.append(_pick(rng, ["suggesting a still body", "so the body is still", "a still posture"]))
    return ", ".join(parts)


_PARTS = (("beginning", 0.0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("end", 2 / 3, 1.0))
_COURSE_PARTS = (
    ("in the first half", 0.0, 0.5),
    ("in the second half", 0.5, 1.0),
    *((_at, *_part[1:]) for _at, _part in zip(("at the beginning", "in the middle", "toward the end"), _PARTS, strict=True)),
)
_CERTAIN = 0.99
"""Degree of truth from which on a course is written down."""

_MIN_TOPICS = 4
"""Things said in a caption, at least."""


@dataclass(frozen=True)
class _Fact:
    """Something true, in words, and the topics it speaks of: no topic comes up twice in a caption."""

    text: str
    topics: frozenset[str]


def _part_of(position: float) -> str | None:
    """Name the third that a position lies in, None too close to a border between two."""
    for name, low, high in _PARTS:
        if (low + 0.03 if low > 0.0 else 0.0) <= position <= (high - 0.03 if high < 1.0 else 1.0):
            return name
    return None


def _number(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0.0:
        return "0"
    digits = 2 - int(np.floor(np.log10(abs(value))))
    rounded = round(value, digits)
    return f"{rounded:.{digits}f}".rstrip("0").rstrip(".") if digits > 0 else f"{rounded:.0f}"


def write_caption(values: np.ndarray, rng: np.random.Generator) -> str:
    """Write a caption of up to three sentences on trend, level, extrema, variability and rhythm.

    Args:
        values: The series in its own unit, at least four points.
        rng: Chooses facts and wording.
    """
    series = measure(values)
    if series.is_constant:
        level = _number(series.mean)
        return _pick(
            rng,
            [
                f"The series is constant at {level}. The minimum is {level} and the maximum is {level}.",
                f"The values stay constant at {level}, the minimum is {level} and the maximum is {level}.",
            ],
        )
    for _ in range(200):
        facts = _choose(series, rng)
        if facts:
            text = " ".join(_sentence(sentence) for sentence in _join(facts, rng))
            if token_estimate(text) <= MAX_TOKENS and _says(text) >= FULL_COVERAGE:
                return text
    raise ValueError(f"No caption that says enough within {MAX_TOKENS} tokens was found. Scale the values to fewer digits.")


def _says(text: str) -> float:
    """Return how much a text says, each statement once."""
    statements = {statement.slot: statement for statement in read(text)}
    return sum(informativeness(statement) for statement in statements.values())


def _choose(series: Measured, rng: np.random.Generator) -> list[str]:
    """Choose facts about different topics, a trend first if there is one; empty if they speak of too few."""
    facts = _facts(series, rng)
    order = [facts[int(index)] for index in rng.permutation(len(facts))]
    order.sort(key=lambda fact: "course" not in fact.topics)
    topics: set[str] = set()
    chosen: list[str] = []
    wanted = _MIN_TOPICS + int(rng.integers(0, 2))
    for fact in order:
        if len(topics) < wanted and not topics & fact.topics:
            topics |= fact.topics
            chosen.append(fact.text)
    return chosen if len(topics) >= _MIN_TOPICS else []


def _join(facts: list[str], rng: np.random.Generator) -> list[str]:
    """Put facts into sentences of one or two."""
    sentences: list[str] = []
    while facts:
        if len(facts) > 1 and (rng.random() < 0.7 or len(facts) > 3):
            sentences.append(facts[0] + _pick(rng, [" and ", ", and ", ", while "]) + facts[1])
            facts = facts[2:]
        else:
            sentences.append(facts[0])
            facts = facts[1:]
    return sentences


def _facts(series: Measured, rng: np.random.Generator) -> list[_Fact]:
    facts = [_level_fact(series, rng), _spread_fact(series, rng)]
    course = _course_fact(series, rng)
    if course is not None:
        facts.append(course)
    for extreme, words in (
        ("maximum", ("the peak", "the highest point", "the maximum")),
        ("minimum", ("the lowest point", "the trough", "the minimum")),
    ):
        facts.append(_extreme_fact(series, extreme, _pick(rng, words), rng))
    rhythm = series.period
    steps = f"{rhythm.steps:.0f}"
    if rhythm.strength > 0.7:
        wordings = [
            f"the pattern repeats about every {steps} steps",
            f"a cycle returns every {steps} steps",
            f"there is a period of about {steps} steps",
        ]
        facts.append(_Fact(_pick(rng, wordings), frozenset({"rhythm", "period"})))
    elif rhythm.strength < 0.4:
        facts.append(_Fact(_pick(rng, ["there is no clear periodicity", "no regular cycle appears"]), frozenset({"rhythm"})))
    if series.volatility_ratio > 1.8:
        facts.append(
            _Fact(_pick(rng, ["fluctuations grow over time", "variability increases toward the end"]), frozenset({"change"}))
        )
    elif series.volatility_ratio < 1 / 1.8:
        facts.append(
            _Fact(_pick(rng, ["fluctuations shrink over time", "variability decreases toward the end"]), frozenset({"change"}))
        )
    if series.roughness < 0.04:
        facts.append(_Fact(_pick(rng, ["the curve is smooth", "the line is smooth"]), frozenset({"texture"})))
    elif series.roughness > 0.5 and len(series) >= 24:
        facts.append(_Fact(_pick(rng, ["the values are noisy", "the line is noisy and jagged"]), frozenset({"texture"})))
    if 0 < len(series.spikes) <= 3:
        facts.append(_Fact(_pick(rng, ["a sharp spike stands out", "there is a sudden spike"]), frozenset({"spike"})))
    return facts


def _course_fact(series: Measured, rng: np.random.Generator) -> _Fact | None:
    """Word the trend of the whole series or, where it has none, the courses of its parts."""
    trend = series.trend
    subject = _pick(rng, ["the series", "the values", "the level"])
    ending = "" if subject == "the values" else "s"
    if abs(trend.rank_correlation) > 0.75:
        how = "steadily" if abs(trend.rank_correlation) > 0.95 else "overall"
        verbs = (
            ["rise", "increase", "climb", "trend upward"]
            if trend.rank_correlation > 0
            else ["fall", "decrease", "decline", "trend downward"]
        )
        verb, _, direction = _pick(rng, verbs).partition(" ")
        return _Fact(f"{subject} {verb}{ending} {direction + ' ' if direction else ''}{how}", frozenset({"course"}))
    courses = [(low, high, f"{_pick(rng, verbs)}{ending} {words}") for low, high, words, verbs in _certain_courses(series)]
    if courses and rng.random() < 0.7:
        first = courses[int(rng.integers(len(courses)))]
        later = [course for course in courses if course[0] >= first[1] - 1e-9]
        if later and rng.random() < 0.7:
            second = later[int(rng.integers(len(later)))]
            return _Fact(f"{subject} {first[2]} and {second[2]}", frozenset({"course", "second course"}))
        return _Fact(f"{subject} {first[2]}", frozenset({"course"}))
    if abs(trend.strength) < 0.12 and abs(trend.rank_correlation) < 0.25:
        wordings = [
            f"{subject} show{ending} no clear trend",
            "there is no overall trend",
            f"{subject} move{ending} without a trend",
        ]
        return _Fact(_pick(rng, wordings), frozenset({"course"}))
    return None


@lru_cache(maxsize=4096)
def _certain_courses(series: Measured) -> tuple[tuple[float, float, str, tuple[str, ...]], ...]:
    """Return the parts that rise or fall for certain: their ends, what they are called, and the verbs for what they do."""
    scene = Scene((series,), ("series",))
    found = []
    for words, low, high in _COURSE_PARTS:
        for value, verbs in (("up", ("rise", "increase", "climb")), ("down", ("fall", "decrease", "decline"))):
            verdict = judge(Statement("trend", value, Place(low, high, "in", explicit=True)), scene)
            if verdict is not None and verdict[0] >= _CERTAIN:
                found.append((low, high, words, verbs))
    return tuple(found)


def _extreme_fact(series: Measured, extreme: str, word: str, rng: np.random.Generator) -> _Fact:
    positions = series.where(extreme)
    parts = {_part_of(position) for position in positions}
    value = _number(series.maximum if extreme == "maximum" else series.minimum)
    part = next(iter(parts))
    if len(parts) == 1 and part is not None:
        at = "in the" if part == "middle" else _pick(rng, ["near the", "at the"])
        if rng.random() < 0.5:
            return _Fact(f"{word} comes {at} {part}", frozenset({f"{extreme} place"}))
        return _Fact(f"{word} of {value} lies {at} {part}", frozenset({extreme, f"{extreme} place"}))
    if max(positions) - min(positions) < 0.04:
        return _Fact(f"{word} comes about {round(20 * positions[0]) * 5}% of the way through", frozenset({f"{extreme} place"}))
    return _Fact(f"{word} is {value}", frozenset({extreme}))


def _level_fact(series: Measured, rng: np.random.Generator) -> _Fact:
    mean, low, high = _number(series.mean), _number(series.minimum), _number(series.maximum)
    if rng.random() < 0.5:
        return _Fact(
            _pick(rng, [f"the mean is about {mean}", f"values average {mean}", f"the average is {mean}"]), frozenset({"mean"})
        )
    wordings = [f"values range from {low} to {high}", f"values lie between {low} and {high}"]
    return _Fact(_pick(rng, wordings), frozenset({"minimum", "maximum"}))


def _spread_fact(series: Measured, rng: np.random.Generator) -> _Fact:
    relative = series.std / abs(series.mean) if series.mean else np.inf
    if relative < 0.03:
        return _Fact(_pick(rng, ["variability is low", "the variation is small"]), frozenset({"spread"}))
    if 0.16 < relative < 4.0:
        return _Fact(_pick(rng, ["variability is high", "the variation is large"]), frozenset({"spread"}))
    return _Fact(f"the standard deviation is about {_number(series.std)}", frozenset({"std"}))
