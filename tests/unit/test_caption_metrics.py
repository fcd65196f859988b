"""Measures of captions on series and texts whose statements can be judged by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from maxent_ts.caption_metrics import CHANGES, caption_measures, changed_series, flips, overlap_measures
from maxent_ts.errors import MissingExtraError
from maxent_ts.rewards.claims import judge_text
from maxent_ts.rewards.measure import measure
from maxent_ts.rewards.scene import Scene
from maxent_ts.tasks.opentslm import M4Caption

RISING = np.linspace(10.0, 30.0, 80).tolist()


def test_precision_is_the_mean_truth_of_the_statements():
    """One true, one false of a straight line from 10 to 30; their weights in the reward `claims` differ, and do not count."""
    assert caption_measures("The series rises steadily.", RISING)["claim_precision"] == 1
    assert caption_measures("The series falls steadily.", RISING)["claim_precision"] == 0
    both = caption_measures("The maximum is 30. The minimum is 25.", RISING)
    assert both["claim_precision"] == pytest.approx(0.5)


def test_fidelity_is_of_the_numbers_alone():
    """A false trend beside a right number, and a text without numbers."""
    found = caption_measures("The series falls. The mean is 20.", RISING)
    assert found["numeric_fidelity"] == 1
    assert found["claim_precision"] == pytest.approx(0.5)
    assert caption_measures("The series rises.", RISING)["numeric_fidelity"] is None


def test_coverage_is_the_share_of_words_that_can_be_checked():
    """Three of seven words stand in a clause with a statement."""
    assert caption_measures("The series rises. Bankers in Vienna wondered.", RISING)["claim_coverage"] == pytest.approx(3 / 7)
    assert caption_measures("Bankers wondered.", RISING)["claim_coverage"] == 0


def test_nothing_said_is_nothing_measured():
    found = caption_measures("", RISING)
    assert found == {"claim_precision": None, "claim_coverage": None, "numeric_fidelity": None, "claim_flip_rate": 0.0}


def test_a_true_trend_flips_when_time_is_reversed_and_a_vague_remark_never():
    scene = Scene((measure(RISING),), ("series",))
    others = {name: Scene((measure(values),), ("series",)) for name, values in changed_series(RISING).items()}
    trend = judge_text("The series rises.", scene)
    assert flips(trend, others["time_reversal"])
    assert not flips(trend, others["amplitude"])
    assert not flips(trend, scene)
    # Three times the deviations from a mean of 20: the maximum is 50, no longer 30.
    assert flips(judge_text("The maximum is 30.", scene), others["amplitude"])
    assert not flips(judge_text("The series falls.", scene), others["time_reversal"])  # false before, so nothing to lose
    assert caption_measures("Bankers wondered.", RISING)["claim_flip_rate"] == 0


def test_the_flip_rate_counts_changes():
    """Of a rise that reaches 30, reversal and amplitude each make one statement false, and the count is over four."""
    found = caption_measures("The series rises. The maximum is 30.", RISING)["claim_flip_rate"]
    scene = Scene((measure(RISING),), ("series",))
    judged = judge_text("The series rises. The maximum is 30.", scene)
    hits = [flips(judged, Scene((measure(values),), ("series",))) for values in changed_series(RISING).values()]
    assert found == sum(hits) / 4 >= 0.5


def test_changes_do_what_they_are_called():
    """Reversed; first half kept; deviations tripled; the same values with the maximum elsewhere."""
    values = np.sin(np.arange(60) / 7.0) * np.arange(60)
    found = {name: np.array(one) for name, one in changed_series(values.tolist()).items()}
    assert tuple(found) == CHANGES
    assert found["time_reversal"].tolist() == values[::-1].tolist()
    assert found["variance"][:30].tolist() == values[:30].tolist()
    assert np.diff(found["variance"][30:]).std() > np.diff(values[30:]).std()
    assert found["amplitude"].mean() == pytest.approx(values.mean())
    assert found["amplitude"].std() == pytest.approx(3 * values.std())
    assert sorted(found["peak_moved"]) == sorted(values)
    assert abs(int(found["peak_moved"].argmax()) - int(values.argmax())) >= 20


@pytest.mark.parametrize("peak", [0, 5, 31, 59])
@pytest.mark.parametrize("size", [4, 60])
def test_a_peak_anywhere_can_be_moved(peak, size):
    values = np.zeros(size)
    values[min(peak, size - 1)] = 1.0
    moved = np.array(changed_series(values.tolist())["peak_moved"])
    assert moved.sum() == 1
    assert moved.argmax() != values.argmax()


def test_overlap_of_equal_and_of_foreign_texts():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    same = overlap_measures("the series rises to a peak", "the series rises to a peak")
    assert same == pytest.approx({"legacy_bleu": 1.0, "legacy_rouge_l": 1.0})
    assert overlap_measures("entirely foreign words here", "the series rises to a peak") == pytest.approx(
        {"legacy_bleu": 0.0, "legacy_rouge_l": 0.0}, abs=0.05
    )
    # Longest common subsequence of 2 words; precision 2/2, recall 2/4.
    assert overlap_measures("series peak", "series at a peak")["legacy_rouge_l"] == pytest.approx(2 / 3)


def test_a_missing_package_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingExtraError, match=r"sacrebleu.*maxent-ts\[captions\]"):
        overlap_measures("a", "b")


@pytest.fixture
def with_captions(tmp_path):
    """Ten series, so that OpenTSLM's split leaves one for the test part."""
    series = "".join(f'"s{i}","{[float(i), 1.0, 2.0, 3.0, 4.0]}"\n' for i in range(10))
    (tmp_path / "m4_series_Daily.csv").write_text("id,series\n" + series)
    (tmp_path / "m4_captions_Daily.csv").write_text("id,caption\n" + "".join(f"s{i},the series rises\n" for i in range(10)))
    return tmp_path


def test_gold_captions_give_legacy_columns_and_their_absence_none(with_captions):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    (example,) = M4Caption().examples(data_dir=with_captions)
    found = M4Caption().measures(example, "the series rises", ["the series rises"], [1.0])
    assert found["legacy_rouge_l"] == pytest.approx(1)
    assert "legacy_bleu" in found
    assert not any("legacy" in name for name in M4Caption().measures(M4Caption().examples(limit=1)[0], "It rises.", [], []))


def test_gold_captions_without_the_extra_are_refused_before_anything_runs(with_captions, monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(MissingExtraError, match="rouge-score"):
        M4Caption().examples(data_dir=with_captions)
    assert M4Caption().examples(limit=1)
