from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.errors import SettingError
from maxent_ts.metrics import accuracy, correlation, macro_f1, mean_ci95, valid_answer_rate

LABELS = ("lying", "sitting", "standing", "walking")


def test_importing_the_module_is_cheap():
    """Catches scipy or scikit-learn at the top of the file, for which the command line's help would wait."""
    code = "import sys, maxent_ts.metrics; print(sorted({'scipy', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_no_answer_counts_as_wrong():
    """Catches an accuracy over the valid answers only, which rewards silence."""
    assert accuracy(["lying", None, "walking", "lying"], ["lying", "lying", "walking", "sitting"]) == 0.5
    assert valid_answer_rate(["lying", None, "walking", "lying"]) == 0.75


def test_empty_evaluations_have_no_score():
    """Catches a division by zero, and a score of 0 or 1 for nothing."""
    assert accuracy([], []) is None
    assert macro_f1([], [], LABELS) is None
    assert valid_answer_rate([]) is None
    assert mean_ci95([]) is None


@given(st.lists(st.tuples(st.sampled_from([*LABELS, None, "swimming"]), st.sampled_from(LABELS[:3])), min_size=1, max_size=60))
def test_macro_f1_equals_its_definition(pairs):
    """Catches another averaging, and answers outside the vocabulary counted as false alarms or as a class."""
    answers, targets = zip(*pairs, strict=True)
    scores = []
    for label in set(targets):
        hits = sum(answer == target == label for answer, target in pairs)
        scores.append(2 * hits / (answers.count(label) + targets.count(label)))
    assert macro_f1(answers, targets, LABELS) == pytest.approx(np.mean(scores))


def test_a_label_without_targets_neither_caps_the_score_nor_goes_unpunished():
    """Catches a ceiling of 0.75 for a perfect result on six of eight activities, and a free wrong answer."""
    targets = ["lying", "lying", "sitting"]
    assert macro_f1(targets, targets, LABELS) == 1.0
    assert macro_f1(["lying", "walking", "sitting"], targets, LABELS) == pytest.approx((2 / 3 + 1) / 2)


def test_the_interval_of_the_mean_is_students():
    """Catches a factor of 1.96 for small samples and ddof 0."""
    assert mean_ci95([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    assert mean_ci95([0.3] * 5) == pytest.approx((0.3, 0.3))
    assert mean_ci95([1.0]) is None


def test_the_interval_of_the_mean_covers_it_in_95_of_100_samples():
    """Catches a standard error with a wrong power of n."""
    rng = np.random.default_rng(0)
    intervals = [mean_ci95(rng.normal(5, 2, 12)) for _ in range(1000)]
    assert 930 <= sum(low < 5 < high for low, high in intervals) <= 970


def test_correlation_is_pearsons_and_counts_items():
    """Catches a rank correlation or a missing normalisation."""
    rewards, correct = [0.1, 0.4, 0.35, 0.8, 0.9], [False, False, True, True, True]
    result = correlation(rewards, correct)
    assert result.coefficient == pytest.approx(np.corrcoef(rewards, correct)[0, 1])
    assert result.num_items == 5
    assert correlation([0, 0, 1e-160, 1e-160], [False, False, True, True]).coefficient == pytest.approx(1)


@pytest.mark.parametrize(
    ("rewards", "correct"), [([], []), ([0.5], [True]), ([0.5, 0.5], [True, False]), ([0.1, 0.5], [True, True])]
)
def test_correlation_is_none_where_it_is_undefined(rewards, correct):
    """Catches NaN in summary.json, and a 0 that reads as "unrelated"."""
    assert correlation(rewards, correct).coefficient is None
    assert correlation(rewards, correct).num_items == len(rewards)


@pytest.mark.parametrize("metric", [accuracy, correlation])
def test_sequences_of_unequal_length_are_refused(metric):
    """Catches items silently paired with their neighbours' values."""
    with pytest.raises(SettingError, match="2 and 1"):
        metric([1.0, 0.0], [1.0])
