"""A rule-based writer of training texts: it measures a series and words what it measured.

Every statement is true by construction. Wording and choice of facts vary with the random generator. Texts are short, because
the model they train spends one token on each word, digit and punctuation mark: `token_estimate` counts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from maxent_ts.rewards.measure import Measured, measure

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
    if widest.period.strength >= 0.6 and widest.period.concentration >= 0.2:
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
    elif widest.period.strength < 0.4:
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
    if all(one.period.strength < 0.45 for one in series.values()) and rng.random() < 0.5:
        parts.append(_pick(rng, ["without rhythm", "with no rhythm", "without any clear rhythm"]))
    elif not brief and rng.random() < 0.5:
        second = max((name for name in series if name != busiest), key=lambda name: series[name].std)
        if series[busiest].std > 1.2 * series[second].std:
            parts.append(f"the {busiest} axis varies most")
    if rng.random() < 0.5:
        parts.append(_pick(rng, ["suggesting a still body", "so the body is still", "a still posture"]))
    return ", ".join(parts)


_THIRDS = ("beginning", "middle", "end")


def _third(position: float) -> str | None:
    """Name the third that a position lies in, None too close to a border."""
    for name, low, high in zip(_THIRDS, (0.0, 0.36, 0.70), (0.30, 0.64, 1.0), strict=True):
        if low <= position <= high:
            return name
    return None


def _number(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0.0 or not np.isfinite(value):
        return "0"
    digits = 2 - int(np.floor(np.log10(abs(value))))
    rounded = round(value, digits)
    return f"{rounded:.{max(digits, 0)}f}".rstrip("0").rstrip(".") if digits > 0 else f"{rounded:.0f}"


def write_caption(values: np.ndarray, rng: np.random.Generator) -> str:
    """Write a caption of two sentences on trend, level, extrema, variability and rhythm.

    Args:
        values: The series in its own unit, at least four points.
        rng: Chooses facts and wording.
    """
    series = measure(values)
    if series.is_constant:
        level = _number(series.mean)
        return _pick(rng, [f"The series is constant at {level}.", f"The values stay constant at {level} throughout."])
    for _ in range(60):
        facts = [_trend_fact(series, rng), *_other_facts(series, rng)]
        facts = [fact for fact in facts if fact is not None][: int(rng.integers(3, 6))]
        sentences = _join(facts, rng)
        text = " ".join(_sentence(sentence) for sentence in sentences)
        if token_estimate(text) <= MAX_TOKENS:
            return text
    raise ValueError(f"No caption within {MAX_TOKENS} tokens was found. Scale the values to fewer digits.")


def _join(facts: list[str], rng: np.random.Generator) -> list[str]:
    """Put facts into sentences of one or two."""
    sentences: list[str] = []
    while facts:
        if len(facts) > 1 and (rng.random() < 0.75 or len(facts) > 3):
            link = _pick(rng, [" and ", ", and ", ", while "])
            sentences.append(facts[0] + link + facts[1])
            facts = facts[2:]
        else:
            sentences.append(facts[0])
            facts = facts[1:]
    return sentences


def _trend_fact(series: Measured, rng: np.random.Generator) -> str | None:
    trend = series.trend
    subject = _pick(rng, ["the series", "the values", "the level"])
    s = "" if subject == "the values" else "s"
    if trend.strength > 0.35 and trend.rank_correlation > 0.6:
        how = "steadily" if trend.rank_correlation > 0.95 else "overall"
        verb = _pick(rng, [f"rise{s}", f"increase{s}", f"climb{s}", f"trend{s} upward"])
        return f"{subject} {verb} {how}"
    if trend.strength < -0.35 and trend.rank_correlation < -0.6:
        how = "steadily" if trend.rank_correlation < -0.95 else "overall"
        verb = _pick(rng, [f"fall{s}", f"decrease{s}", f"decline{s}", f"trend{s} downward"])
        return f"{subject} {verb} {how}"
    if abs(trend.strength) < 0.12 and abs(trend.rank_correlation) < 0.25:
        return _pick(rng, [f"{subject} show{s} no clear trend", "there is no overall trend", f"{subject} stay{s} flat overall"])
    return None


def _other_facts(series: Measured, rng: np.random.Generator) -> list[str]:
    facts = [_level_fact(series, rng)]
    for extreme, words in (
        ("maximum", ("the peak", "the highest point", "the maximum")),
        ("minimum", ("the lowest point", "the trough", "the minimum")),
    ):
        positions = series.where(extreme)
        thirds = {_third(position) for position in positions}
        word = _pick(rng, words)
        value = _number(series.maximum if extreme == "maximum" else series.minimum)
        if len(thirds) == 1 and None not in thirds:
            at = "in the" if "middle" in thirds else _pick(rng, ["near the", "at the"])
            facts.append(
                _pick(
                    rng,
                    [
                        f"{word} comes {at} {next(iter(thirds))}",
                        f"{word} of {value} lies {at} {next(iter(thirds))}",
                    ],
                )
            )
        elif max(positions) - min(positions) < 0.04:
            facts.append(f"{word} comes about {round(20 * positions[0]) * 5}% of the way through")
        else:
            facts.append(f"{word} is {value}")
    rhythm = series.period
    if rhythm.strength > 0.5:
        facts.append(
            _pick(
                rng,
                [
                    f"the pattern repeats about every {rhythm.steps:.0f} steps",
                    f"a cycle returns every {rhythm.steps:.0f} steps",
                    f"there is a period of about {rhythm.steps:.0f} steps",
                ],
            )
        )
    elif rhythm.strength < 0.2 and rng.random() < 0.3:
        facts.append(_pick(rng, ["there is no clear periodicity", "no regular cycle appears"]))
    if series.volatility_ratio > 1.8:
        facts.append(_pick(rng, ["fluctuations grow over time", "variability increases toward the end"]))
    elif series.volatility_ratio < 1 / 1.8:
        facts.append(_pick(rng, ["fluctuations shrink over time", "variability decreases toward the end"]))
    if series.roughness < 0.03:
        facts.append(_pick(rng, ["the curve is smooth", "the movement is smooth"]))
    elif series.roughness > 0.5:
        facts.append(_pick(rng, ["the values are noisy", "the line is noisy and jagged"]))
    if series.spikes and len(series.spikes) <= 3:
        facts.append(_pick(rng, ["a sharp spike stands out", "there is a sudden spike"]))
    order = rng.permutation(len(facts))
    return [facts[int(index)] for index in order]


def _level_fact(series: Measured, rng: np.random.Generator) -> str:
    mean, low, high = _number(series.mean), _number(series.minimum), _number(series.maximum)
    return _pick(
        rng,
        [
            f"the mean is about {mean}",
            f"values average {mean}",
            f"values range from {low} to {high}",
            f"values lie between {low} and {high}",
            f"the standard deviation is about {_number(series.std)}",
        ],
    )
