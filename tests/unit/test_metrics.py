from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.errors import SettingError
from maxent_ts.metrics import accuracy, correlation, macro_f1, mean_ci95, paired_difference, valid_answer_rate

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
    assert paired_difference([], []) is None


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


def test_paired_difference_finds_a_small_constant_gain_that_unpaired_intervals_would_miss():
    """Catches a comparison of two means that ignores the pairing."""
    rng = np.random.default_rng(1)
    b = rng.normal(0, 10, 60)
    a = b + 0.2 + rng.normal(0, 0.1, 60)
    result = paired_difference(a, b, seed=0)
    assert result.mean == pytest.approx((a - b).mean())
    assert result.ci95[0] < result.mean < result.ci95[1]
    assert result.ci95[0] > 0.1
    assert result.p_value < 0.001
    swapped = paired_difference(b, a, seed=0)
    assert swapped.mean == pytest.approx(-result.mean)


def test_the_same_seed_gives_the_same_interval():
    """Catches resampling from global randomness."""
    rng = np.random.default_rng(2)
    a, b = rng.random(30), rng.random(30)
    assert paired_difference(a, b, seed=3) == paired_difference(a, b, seed=3)
    assert paired_difference(a, b, seed=3) != paired_difference(a, b, seed=4)


def test_the_p_value_of_few_pairs_is_exact():
    """Catches a one-sided test, and ties that rounding breaks."""
    differences = [0.1, 0.2, 0.3, -0.1, 0.7]
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in itertools.product((-1, 1), repeat=5)]
    expected = np.mean([total >= sum(differences) - 1e-9 for total in sums])
    assert paired_difference(differences, [0.0] * 5).p_value == pytest.approx(expected)


def test_the_p_value_is_uniform_where_nothing_differs():
    """Catches a test that finds differences in noise."""
    rng = np.random.default_rng(5)
    p_values = [paired_difference(rng.normal(size=15), rng.normal(size=15), seed=index).p_value for index in range(100)]
    assert 0.4 < np.mean(p_values) < 0.6
    assert np.mean(np.array(p_values) < 0.05) <= 0.12


@pytest.mark.parametrize(
    ("a", "b", "mean", "p_value"),
    [
        ([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], 0.0, 1.0),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 1.0, 0.25),
        ([0.3, 0.5, 0.7], [0.2, 0.4, 0.6], 0.1, 0.25),
    ],
)
def test_differences_without_variance_have_an_interval_without_width(a, b, mean, p_value):
    """Catches BCa's 0/0 and its warning (an error here), also where the differences are equal but for rounding."""
    result = paired_difference(a, b)
    assert result.mean == pytest.approx(mean)
    assert result.ci95 == pytest.approx((mean, mean))
    assert result.p_value == p_value


def test_one_difference_among_many_ties_is_no_evidence():
    """Catches a degenerate interval or warning where nearly all differences are 0, as with two similar methods."""
    result = paired_difference([1.0] + [0.0] * 99, [0.0] * 100)
    assert result.ci95[0] <= 0.01 <= result.ci95[1]
    assert result.p_value == 1.0
    assert result.num_pairs == 100


def test_one_pair_has_no_interval():
    """Catches a crash on a run that was cut after its first item."""
    result = paired_difference([1.0], [0.5])
    assert (result.mean, result.ci95, result.p_value) == (0.5, None, 1.0)


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


@pytest.mark.parametrize("metric", [accuracy, paired_difference, correlation])
def test_sequences_of_unequal_length_are_refused(metric):
    """Catches items silently paired with their neighbours' values."""
    with pytest.raises(SettingError, match="2 and 1"):
        metric([1.0, 0.0], [1.0])
