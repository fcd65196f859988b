"""Statements found in text, and whether they hold for the series."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from maxent_ts.errors import RewardError
from maxent_ts.rewards.claims import FULL_COVERAGE, Claims
from maxent_ts.rewards.informativeness import informativeness
from maxent_ts.rewards.places import Place
from maxent_ts.rewards.reader import read
from maxent_ts.rewards.statements import Statement
from maxent_ts.rewards.truth import CHECKS

STEPS = np.arange(120.0)
RISING = STEPS + 3.0
HILL = np.concatenate([np.arange(60.0), 59.0 - np.arange(60.0)]) + 10.0
WAVE = 50.0 + 10.0 * np.sin(2 * np.pi * STEPS / 24)
AXES = ["x_axis", "y_axis", "z_axis"]


def window() -> list[list[float]]:
    """A window of acceleration: gravity on x, most movement on x at 2 Hz."""
    steps = np.arange(128) / 50.0
    rng = np.random.default_rng(0)
    return [
        (9.8 + 3.0 * np.sin(2 * np.pi * 2.0 * steps) + 0.1 * rng.normal(size=128)).tolist(),
        (-2.0 + 0.4 * rng.normal(size=128)).tolist(),
        (0.5 + 0.3 * rng.normal(size=128)).tolist(),
    ]


def explain(text: str, series: Any, names: list[str] | None = None, rate: float | None = None) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"series": [[np.asarray(one).tolist() for one in series]]}
    if names:
        columns["series_names"] = [names]
    if rate:
        columns["sampling_rate"] = [rate]
    return dict(Claims().explain(prompts=[None], completions=[text], completion_ids=[[]], **columns)[0])


def degrees(text: str, series: Any, names: list[str] | None = None, rate: float | None = None) -> list[float]:
    return [statement["degree"] for statement in explain(text, series, names, rate)["statements"]]


def only(text: str, names: tuple[str, ...] = (), length: int = 100) -> Statement:
    (statement,) = read(text, names, length)
    return statement


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("steady climb throughout", "trend", "up"),
        ("Plummets right from the beginning.", "trend", "down"),
        ("the line is begining to declin", "trend", "down"),
        ("has a negative slope", "trend", "down"),
        ("levels off at the end", "flat", ""),
        ("remains relatively constant", "flat", ""),
        ("Shows no clear trend.", "no trend", ""),
        ("the highest point is in the middle", "extreme", "maximum"),
        ("there is a small bump in the middle", "extreme", "peak"),
        ("bottoms out near the start", "extreme", "trough"),
        ("the trough comes at the end", "extreme", "minimum"),
        ("ends higher than it starts", "ends", "up"),
        ("the beginning is higher than the end", "ends", "down"),
        ("starts and ends at the same level", "ends", "same"),
        ("the curve is jagged", "rough", "rough"),
        ("smooth curve", "rough", "smooth"),
        ("fluctuates wildly", "rough", "volatile"),
        ("goes up and down", "rough", "volatile"),
        ("a sudden spike appears", "spike", ""),
        ("there is a level shift in the middle", "shift", ""),
        ("the level shifts downward", "shift", "down"),
        ("Strong seasonality is visible.", "rhythm", ""),
        ("variability increases over time", "spread change", "up"),
        ("with very little variation", "spread", "weak"),
        ("without much variation", "spread", "weak"),
        ("low at the start", "level", "low"),
    ],
)
def test_common_ways_of_saying_a_thing_are_read_as_that_thing(text: str, kind: str, value: str):
    """Catches a lexicon or a rule that was changed for one phrase and broke another."""
    statement = only(text)
    assert (statement.kind, statement.value) == (kind, value)


@pytest.mark.parametrize(
    ("text", "relation", "low", "high"),
    [
        ("rises", "whole", 0.0, 1.0),
        ("rises in the beginning", "in", 0.0, 1 / 3),
        ("rises in the last quarter", "in", 0.75, 1.0),
        ("rises through the second half", "until", 0.0, 1.0),
        ("rises in the second half", "in", 0.5, 1.0),
        ("rises in the first two thirds", "in", 0.0, 2 / 3),
        ("rises from the middle onwards", "from", 0.5, 1.0),
        ("rises after the first half", "from", 0.5, 1.0),
        ("rises from the start to the middle", "across", 0.0, 2 / 3),
        ("rises about 70% of the way through", "at", 0.7, 0.7),
        ("peaks near step 24", "at", 24 / 99, 24 / 99),
        ("starts rising in the middle", "in", 1 / 3, 2 / 3),
    ],
)
def test_places_are_fractions_of_the_way(text: str, relation: str, low: float, high: float):
    """Catches an ordinal counted from the wrong end, and a verb taken for a place."""
    place = only(text).place
    assert place.relation == relation
    assert (place.low, place.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("text", "value", "number"),
    [
        ("the mean is about 12.5", "mean", 12.5),
        ("values average 4,000", "mean", 4000.0),
        ("it fluctuates around -3", "mean", -3.0),
        ("the minimum is 7", "minimum", 7.0),
        ("a maximum of 16", "maximum", 16.0),
        ("the standard deviation is about 0.3", "std", 0.3),
        ("a range of 30", "range", 30.0),
        ("starts at 20", "start", 20.0),
        ("a cycle returns every 24 steps", "period", 24.0),
        ("the dominant frequency is 1.8 Hz", "frequency", 1.8),
    ],
)
def test_a_number_is_bound_to_the_quantity_it_is_the_value_of(text: str, value: str, number: float):
    """Catches a number that goes to the wrong neighbour."""
    found = [(one.value, one.number) for one in read(text, (), 100) if one.kind == "number"]
    assert found == [(value, number)]


def test_a_pair_of_numbers_is_a_range_or_the_two_ends():
    """Catches "from 3 to 7" read as two means."""
    assert [(one.value, one.number) for one in read("values range from 7 to 3", (), 9)] == [("maximum", 7.0), ("minimum", 3.0)]
    found = [(one.value, one.number) for one in read("rises from 3 to 7", (), 9) if one.kind == "number"]
    assert found == [("start", 3.0), ("end", 7.0)]


@pytest.mark.parametrize(
    "text", ["sales peak in 1998", "over the 2.56 second window", "rose by 20%", "it has 3 peaks in the middle"]
)
def test_numbers_that_are_no_values_of_the_series_are_left_alone(text: str):
    """Catches years, durations, percentages and counts checked as values."""
    assert not [one for one in read(text, (), 100) if one.kind == "number"]


def test_series_are_told_apart_by_name_and_the_name_lasts_to_the_end_of_the_sentence():
    """Catches a number checked against another axis."""
    text = "Gravity rests on the x-axis, mean 9.8, while the y axis averages -2.0. The mean is 3."
    found = [(one.value, one.series) for one in read(text, tuple(AXES), 128)]
    assert found == [("gravity", (0,)), ("mean", (0,)), ("mean", (1,)), ("mean", ())]
    assert only("All axes are steady.", tuple(AXES)).series == (0, 1, 2)


def test_what_is_only_considered_or_the_stated_answer_is_not_read():
    """Catches "peaks that would indicate …" and "Answer: rising" counted as claims."""
    assert read("This is typical of a rhythmic movement. Answer: rising") == []
    assert only("It falls rather than rises.").value == "down"


def test_true_statements_score_one_and_false_ones_zero():
    """Catches an inverted check of any kind."""
    assert (
        degrees("Rises steadily. The minimum is 3 and lies at the beginning. The maximum comes at the end.", [RISING]) == [1.0] * 4
    )
    assert (
        degrees("Falls steadily. The minimum is 60 and lies at the end. The maximum comes at the beginning.", [RISING]) == [0.0] * 4
    )
    assert degrees("Rises at first, then falls. The peak is in the middle.", [HILL]) == [1.0] * 3
    assert min(degrees("There is no trend. It repeats every 24 steps. The mean is 50.", [WAVE])) > 0.98
    assert degrees("It repeats every 11 steps. The mean is 70.", [WAVE]) == [0.0, 1.0, 0.0]  # the period, the rhythm, the mean


def test_the_worded_course_of_two_parts_is_checked_in_order():
    """Catches "rises and then falls" checked as two statements about the whole."""
    assert min(degrees("rises and then falls", [HILL])) == 1.0
    assert max(degrees("falls and then rises", [HILL])) < 0.2


def test_statements_about_axes_are_checked_on_their_axis():
    """Catches checks on the wrong series."""
    good = "Gravity acts on the x axis at 9.8. The x axis varies most with rhythm at 2.0 Hz. The z axis varies least."
    assert degrees(good, window(), AXES, 50.0) == [1.0] * 6
    bad = "Gravity acts on the y axis at 9.8. The z axis varies most. All axes are nearly constant."
    assert max(degrees(bad, window(), AXES, 50.0)) < 0.2


def test_frequencies_count_only_where_time_has_a_unit():
    """Catches a frequency judged false because the task gives no sampling rate."""
    assert len(degrees("The frequency is 2.0 Hz.", window(), AXES)) == 0
    assert degrees("The frequency is 2.0 Hz.", window(), AXES, 50.0) == [1.0]
    assert degrees("The frequency is 5.0 Hz.", window(), AXES, 50.0) == [0.0]


def test_a_shift_of_level_is_a_jump_between_two_levels_and_not_a_slope():
    """Catches a slope or a wave taken for a shift, and a shift at another place or in another direction."""
    step = np.repeat([1.0, 5.0], (40, 60)) + 0.2 * np.sin(np.arange(100.0))
    assert degrees("There is a level shift in the middle.", [step]) == [1.0]
    assert degrees("The level shifts upward.", [step]) == [1.0]
    assert degrees("The level shifts downward.", [step]) == [0.0]
    assert degrees("There is a level shift at the end.", [step]) == [0.0]
    for other in (np.arange(100.0), np.sin(np.arange(100) / 16)):
        assert degrees("There is a level shift.", [other]) == [0.0]


def test_a_negated_statement_is_true_where_the_statement_is_false():
    """Catches a negation that is ignored."""
    assert degrees("It does not rise.", [RISING]) == [0.0]
    assert degrees("There is no spike.", [RISING]) == [1.0]
    assert degrees("There is no rhythm.", [WAVE]) == [0.0]


def test_a_number_is_true_up_to_rounding_and_then_less_and_less():
    """Catches a tolerance of zero, and one that accepts everything."""
    found = [degrees(f"The mean is {value}.", [WAVE])[0] for value in (50, 50.4, 52, 53, 60)]
    assert found[0] == found[1] == 1.0
    assert found == sorted(found, reverse=True)
    assert 0.0 < found[3] < 1.0
    assert found[-1] == 0.0


def test_saying_nothing_scores_zero_and_every_further_true_statement_helps_until_coverage_is_full():
    """Catches a precision without coverage, under which silence or one safe statement is best."""
    parts = ["The minimum is 3.", "The maximum is 122.", "The mean is 62.5.", "It rises."]
    values = [explain(" ".join(parts[:count]), [RISING])["value"] for count in range(5)]
    assert values == pytest.approx([0.0, 0.4, 0.8, 1.0, 1.0])
    assert FULL_COVERAGE == 2.5


def test_a_false_statement_always_lowers_the_value_and_a_true_one_never_does():
    """Catches a coverage that counts false statements."""
    text = ""
    for part in (
        "The mean is 10.",
        "It rises.",
        "The minimum is 3.",
        "The maximum is 122.",
        "The range is 119.",
        "The median is 62.5.",
    ):
        before, text = text, f"{text} {part}".strip()
        if part != "The mean is 10.":
            assert explain(text, [RISING])["value"] > explain(before, [RISING])["value"]
            assert explain(text + " It is noisy.", [RISING])["value"] < explain(text, [RISING])["value"]


@pytest.mark.parametrize("series", [WAVE, RISING, HILL])
def test_remarks_that_fit_any_series_earn_little(series: np.ndarray):
    """Catches a reward that a search can collect without looking at the series."""
    text = "The series fluctuates, with a peak and a trough. There is no spike. It is smooth."
    assert explain(text, [series])["value"] < 0.35


def test_every_kind_of_statement_has_a_weight_between_zero_and_one():
    """Catches a kind that is checked but weighs nothing, or more than a number."""
    places = (Place(), Place(0.0, 0.5, "in", explicit=True), Place(0.3, 0.3, "at", explicit=True))
    for kind in CHECKS:
        for place in places:
            for negated in (False, True):
                assert 0.0 < informativeness(Statement(kind, "", place, negated=negated)) <= 1.0


def test_repeating_a_true_statement_changes_nothing():
    """Catches padding: the same claim again, also in other words."""
    once = explain("It rises. The mean is 62.5.", [RISING])["value"]
    assert explain("It rises. The mean is 62.5. It climbs. It grows! The average is 62.5.", [RISING])["value"] == once


def test_of_two_statements_that_contradict_each_other_the_later_is_false():
    """Catches hedging: saying both that it rises and that it falls, or several means until one fits."""
    found = explain("It rises. It falls.", [RISING])["statements"]
    assert [each["verdict"] for each in found] == ["true", "contradicts an earlier statement"]
    found = explain("The mean is 10. The mean is 62.5.", [RISING])["statements"]
    assert [each["degree"] for each in found] == [0.0, 0.0]
    found = explain("The peak is at the beginning. The peak is in the middle.", [HILL])["statements"]
    assert [each["degree"] for each in found] == [0.0, 0.0]


def test_the_evidence_names_the_words_and_what_was_measured():
    """Catches offsets into the sentence instead of the text."""
    text = "A first sentence. The minimum is 3.2."
    (statement,) = explain(text, [RISING])["statements"]
    assert statement["text"] == "The minimum is 3.2"
    assert text[slice(*statement["span"])] == statement["text"]
    assert statement["measured"]["measured"] == 3.0
    assert statement["claimed"]["number"] == 3.2


def test_a_missing_or_unusable_series_is_a_reward_error_in_words():
    """Catches a KeyError, or a TypeError from numpy."""
    call = {"prompts": [None], "completions": ["rises"], "completion_ids": [[]]}
    with pytest.raises(RewardError, match="column 'series'"):
        Claims()(**call, labels=[()])
    for series in ([[1.0, 2.0]], [["a"] * 9], None, [], 3.0):
        with pytest.raises(RewardError, match="example 0"):
            Claims()(**call, series=[series])


def test_a_completion_takes_less_than_a_millisecond():
    """Catches measurements that are computed again for every completion."""
    series, count = window(), 300
    text = "Gravity acts on the x axis at {}. The x axis varies most, std {}, a rhythm near 2.0 Hz. Peaks reach 13."
    texts = [text.format(9 + number / 100, 2 + number / 100) for number in range(count)]
    columns: dict[str, list[Any]] = {"series": [series] * count, "series_names": [AXES] * count, "sampling_rate": [50.0] * count}
    call = {"prompts": [None] * count, "completions": texts, "completion_ids": [[]] * count}
    Claims()(**call, **columns)
    read_once = [one.replace("9.", "8.") for one in texts]
    started = time.process_time()
    Claims()(**{**call, "completions": read_once}, **columns)
    assert (time.process_time() - started) / count < 2e-3  # twice the bound: other processes share the core's cache


@pytest.mark.parametrize("text", ["a" * 10_000, "rises and " * 1000, "1 " * 5000, "x axis, " * 1200, "not " * 2500])
def test_long_and_degenerate_texts_take_little_time(text: str):
    """Catches a quadratic scan, which a looping model would run into."""
    started = time.process_time()
    explain(text, window(), AXES)
    assert time.process_time() - started < 2.0
