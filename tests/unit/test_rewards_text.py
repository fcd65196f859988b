"""The form of a completion."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.rewards.text import Format

LABELS = ("walking", "walking_up", "sitting")
GOOD = "The x axis carries gravity and the signal hardly moves, so the body rests. Answer: sitting"
CAPTION = "The values rise steadily from 3 to 120, and the peak lies at the very end."


def judge(text: str, labels: tuple[str, ...] = LABELS, reason: str | None = "eos") -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"labels": [labels]}
    if reason is not None:
        columns["finish_reasons"] = [reason]
    return dict(Format().explain(prompts=[None], completions=[text], completion_ids=[[]], **columns)[0])


def test_a_text_that_keeps_every_rule_gets_one():
    """Catches weights that do not add up, and a rule that good texts break."""
    assert judge(GOOD)["value"] == pytest.approx(1.0)
    assert judge(GOOD + ".")["value"] == pytest.approx(1.0)
    assert judge(CAPTION, labels=())["value"] == pytest.approx(1.0)
    assert judge(CAPTION, labels=(), reason="stop")["value"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (GOOD.replace("sitting", "swimming"), "answer"),
        (GOOD.replace(" Answer: sitting", ""), "answer"),
        (GOOD + " and so on", "answer"),
        ("Answer: sitting. " + GOOD, "answer"),
        ("The label walking comes to mind at once. " + GOOD, "rationale"),
        ("Answer: sitting", "rationale"),
        (GOOD.replace(", ", ",\n"), "paragraph"),
        ("the x axis moves up " * 12 + GOOD, "no_loop"),
    ],
)
def test_each_broken_rule_costs_its_own_part_and_no_other(text: str, part: str):
    """Catches a part that never falls, and parts that punish each other's faults."""
    found = judge(text)
    assert found["parts"][part]["value"] < 0.5
    lowered = {name for name, each in found["parts"].items() if each["value"] < 1.0}
    assert lowered <= ({part, "rationale"} if text.startswith("Answer: sitting.") else {part})
    assert found["value"] < 1.0


def test_a_label_in_the_sentence_of_the_answer_is_allowed_and_a_longer_label_is_not_taken_for_a_shorter():
    """Catches "walking" found in "walking_up", and OpenTSLM's own golds punished."""
    assert judge("The body climbs. This points to walking_up, Answer: walking_up")["parts"]["rationale"]["value"] == 1.0
    found = judge("Some walking_up is seen. It moves. Answer: walking_up")
    assert found["parts"]["rationale"]["labels_named_early"] == ["walking_up"]


def test_a_truncated_text_scores_low():
    """Catches texts cut at the length limit that get nearly full reward."""
    assert judge(GOOD.removesuffix(" Answer: sitting"), reason="length")["value"] <= 0.3 + 1e-9
    assert judge(GOOD, reason="length")["value"] == pytest.approx(0.8)
    assert judge(CAPTION.rstrip("."), labels=(), reason="length")["value"] <= 0.4 + 1e-9


def test_without_finish_reasons_the_part_is_left_out_and_the_rest_still_adds_up_to_one():
    """Catches a missing column counted as truncated."""
    found = judge(GOOD, reason=None)
    assert "ended" not in found["parts"]
    assert found["value"] == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_an_empty_completion_gets_nothing(labels: tuple[str, ...]):
    """Catches the end-of-sequence token alone earning the parts that nothing can break."""
    assert judge("  ", labels=labels)["value"] == 0.0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (CAPTION.rstrip("."), "punctuation"),
        ("It rises.", "length"),
        ("Word after word comes and no end. " + " ".join(f"word{number}" for number in range(400)) + ".", "length"),
        ("It rises again and again. " * 20, "no_loop"),
    ],
)
def test_each_broken_rule_of_free_text_costs_its_part(text: str, part: str):
    """Catches a caption rule that is never applied."""
    found = judge(text, labels=())
    assert {name for name, each in found["parts"].items() if each["value"] < 1.0} == {part}


def test_the_value_is_the_weighted_mean_of_the_parts():
    """Catches evidence that does not explain the value."""
    for text in (GOOD, GOOD + " x", "Answer: sitting", CAPTION):
        found = judge(text)
        parts = found["parts"].values()
        assert found["value"] == pytest.approx(sum(each["weight"] * each["value"] for each in parts))
        assert sum(each["weight"] for each in parts) == pytest.approx(1.0)


def test_examples_with_and_without_labels_may_share_a_batch():
    """Catches labels of the first example used for all."""
    call = {"prompts": [None] * 2, "completions": [GOOD, CAPTION], "completion_ids": [[]] * 2}
    assert Format()(**call, labels=[LABELS, ()], finish_reasons=["eos", "eos"]) == [pytest.approx(1.0)] * 2
    assert Format()(**call, labels=[LABELS, None], finish_reasons=["eos", "eos"]) == [pytest.approx(1.0)] * 2


def test_text_in_another_script_can_be_complete():
    """Catches words counted by ASCII letters only."""
    found = judge("这个序列先上升然后下降 最高点在中间 波动很小 没有周期 平均值约为三 总体平稳。", labels=())
    assert found["parts"]["punctuation"]["value"] == 1.0
    assert found["parts"]["length"]["value"] == 1.0


PIECES = [
    "Answer:",
    "Answer: ",
    "walking",
    "walking_up",
    "sitting",
    " ",
    ". ",
    "\n",
    "It moves",
    "x",
    ",",
    "!",
    "walk",
    "word word word word ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.integers(0, 200), st.sampled_from([LABELS, ()]))
def test_a_beginning_is_worth_at_least_what_any_text_that_begins_so_is(pieces: list[str], cut: int, labels: tuple[str, ...]):
    """Catches a bound that prunes what could still become good, and one that rises again as the text goes on."""
    text = "".join(pieces)
    cut = min(cut, len(text))
    first, second = Format().prefix(
        prompts=[None] * 2, completions=[text[:cut], text], completion_ids=[[], []], labels=[labels] * 2, finish_reasons=[None] * 2
    )
    assert first >= second - 1e-12
    for reason in ("eos", "length", None):
        assert second >= judge(text, labels=labels, reason=reason)["value"] - 1e-12


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("", 1.0),
        ("The x axis is still. Answer: sit", 1.0),
        ("The x axis is still. Answer: sitting.", 1.0),
        ("The x axis is still.\nIt", 0.9),
        ("This is sitting. And", 0.9),
        ("The x axis is still. Answer: sitting still", 0.65),
        ("Answer: sitting. Answer: walking", 0.55),
    ],
)
def test_what_a_beginning_has_lost_for_good_is_gone_at_once(text: str, bound: float):
    """Catches a bound that waits for the end."""
    assert Format().prefix(prompts=[None], completions=[text], completion_ids=[[]], labels=[LABELS]) == [pytest.approx(bound)]


def test_too_many_words_cannot_be_taken_back():
    (bound,) = Format().prefix(prompts=[None], completions=[" ".join(map(str, range(240)))], completion_ids=[[]], labels=[()])
    assert bound == pytest.approx(0.9)
