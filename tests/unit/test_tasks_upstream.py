"""OpenTSLM's parsers, quirk by quirk. Every expectation was also got by running its own scripts (commit 2968f4b8)."""

from __future__ import annotations

import pytest

from maxent_ts.tasks.base import Example
from maxent_ts.tasks.opentslm import HAR_LABELS, HarCot
from maxent_ts.tasks.sleep import SLEEP_LABELS
from maxent_ts.tasks.tsqa import TSQA_LABELS
from maxent_ts.tasks.upstream import EcgScorer, HarScorer, SleepScorer, TsqaScorer

HAR_GOLD = "It hardly moves. Answer: sitting."


def example(reference: str | None, stratum: str = "") -> Example:
    return Example("item", "", {}, None, stratum, reference)


def read(scorer, text, reference, stratum=""):
    score = scorer.score(text, example(reference, stratum))
    return score.answer, score.target, score.correct


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("Calm. Answer: sitting.", "sitting", True),
        ("Calm. Answer: sitting", "sitting", False),  # raw texts differ by the full stop
        ("Calm. Answer: Sitting.", "sitting", False),
        ("Calm. Answer: sitting.<|end_of_text|>", "sitting", True),
        ("Calm. Answer: sitting.<eos>", "sitting", True),
        ("Calm. Answer:sitting.", None, False),  # the marker has a space
        ("sitting.", "sitting", True),  # without the marker the whole text is the answer
        ('So "calm". Answer: sitting.', None, False),  # cut at the first quotation mark
        ("Answer: sitting.\nDone", None, False),
        ("Answer: running. Answer: sitting.", "sitting", True),
        ("Answer: swimming", None, False),
        ("", None, False),
    ],
)
def test_har(text, answer, correct):
    """Catches a parser that is kinder, or harder, than the one that the published numbers were made with."""
    assert read(HarScorer(HAR_LABELS), text, HAR_GOLD) == (answer, "sitting", correct)


def test_a_har_gold_text_with_quotes_is_cut_as_well():
    """Catches a target taken from the label instead of the text."""
    answer, target, correct = read(HarScorer(HAR_LABELS), "Answer: sitting.", 'It "rests". Answer: sitting.')
    assert (answer, correct) == ("sitting", False)
    assert target.startswith("it ")


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("Answer: Non-REM stage 3.", "Non-REM stage 3", True),
        ("Answer: Non-REM stage 4", "Non-REM stage 3", True),
        ("Answer: NREM stage 3", "Non-REM stage 3", True),
        ("Answer: NREM3", None, False),
        ("Deep Non-REM, perhaps stage 3, perhaps stage 1", "Non-REM stage 3", True),  # substrings of the whole text
        ("Its remains look like sleep", "REM sleep", False),
        ("Answer: awake", "Wake", False),
        ("Answer: movement artefacts", "Movement", False),
        ("Answer: unsure", None, False),
    ],
)
def test_sleep(text, answer, correct):
    """The same for the stages."""
    assert read(SleepScorer(SLEEP_LABELS), text, "Slow. Answer: Non-REM stage 4.") == (answer, "Non-REM stage 3", correct)


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [("(b)", "(b)", True), (" (b) high", "(b)", True), ("(B)", "(b)", False), ("b", None, False), ("Answer: (b)", None, False)],
)
def test_tsqa(text, answer, correct):
    """The same for the first three characters."""
    assert read(TsqaScorer(TSQA_LABELS), text, "(b)") == (answer, "(b)", correct)


ECG = EcgScorer({"19": ("lead I", "lead II", "none"), "2": ("no", "yes")})


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("Answer: lead I.", "lead I", True),
        ("Answer: LEAD I!", "lead I", True),
        ("lead i", "lead I", True),
        ("Answer: lead II", "lead II", False),
        ("Answer: yes", None, False),  # of another template
    ],
)
def test_ecg(text, answer, correct):
    """The same for the answers of a template."""
    assert read(ECG, text, "Look. Answer: lead I", "19") == (answer, "lead I", correct)


def test_an_ecg_target_that_its_template_does_not_list_is_never_right():
    """Catches a point for repeating a gold answer that cannot be chosen."""
    assert read(ECG, "Answer: perhaps", "Answer: perhaps", "2") == (None, "perhaps", False)


@pytest.mark.parametrize("scorer", [HarScorer(HAR_LABELS), SleepScorer(SLEEP_LABELS), TsqaScorer(TSQA_LABELS), ECG])
def test_without_a_gold_text_there_is_no_score(scorer):
    """Catches a score against a target that was made up."""
    assert scorer.score("Answer: yes", example(None)) is None


def test_clean_and_upstream_disagree_where_they_should():
    """Catches one scorer standing in for the other."""
    text = 'It "rests". Answer: Sitting'
    assert HarCot().answer(text) == "sitting"
    assert HarCot.upstream.score(text, example(HAR_GOLD)).correct is False
