"""The paired interval and test, against exact enumeration and simulation."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from maxent_ts.errors import SettingError
from maxent_ts.paired import holm, paired_difference, score_interval


def test_importing_the_module_is_cheap():
    """Catches scipy at the top of the file, for which the command line's help would wait."""
    code = "import sys, maxent_ts.paired; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_it_finds_a_small_constant_gain_that_unpaired_intervals_would_miss():
    """Catches a comparison of two means that ignores the pairing."""
    rng = np.random.default_rng(1)
    b = rng.normal(0, 10, 60)
    a = b + 0.2 + rng.normal(0, 0.1, 60)
    result = paired_difference(a, b, seed=0)
    assert result.mean == pytest.approx((a - b).mean())
    assert 0.1 < result.ci95[0] < result.mean < result.ci95[1]
    assert result.p_value < 0.001
    assert paired_difference(b, a, seed=0).mean == pytest.approx(-result.mean)


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
    assert paired_difference([*differences, 0.0, 0.0], [0.0] * 7).p_value == pytest.approx(expected)


def test_the_p_value_is_uniform_where_nothing_differs():
    """Catches a test that finds differences in noise."""
    rng = np.random.default_rng(5)
    p_values = [paired_difference(rng.normal(size=12), rng.normal(size=12), num_resamples=4096).p_value for index in range(100)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("num_pairs", [24, 48])
def test_the_score_interval_leaves_0_out_exactly_where_the_exact_test_rejects(num_pairs):
    """Catches an interval of 0/1 values that claims more than the sign-flip test (exact McNemar), and the other way round."""
    for b in range(9):
        for c in range(9):
            a_values = [1.0] * b + [0.0] * (num_pairs - b)
            b_values = [0.0] * b + [1.0] * c + [0.0] * (num_pairs - b - c)
            found = paired_difference(a_values, b_values)
            assert found.interval == "score"
            expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
            assert found.p_value == pytest.approx(expected, abs=0.012), "exact up to 13 disagreements, drawn beyond"
            assert (found.ci95[0] > 0 or found.ci95[1] < 0) == (found.p_value <= 0.05), (b, c)


def test_the_score_interval_is_tangos():
    """Catches a slip in the quadratic: each limit must solve the equation that defines it."""
    for b, c, num_pairs in ((1, 5, 14), (0, 0, 48), (12, 3, 60), (14, 0, 14)):
        low, high = score_interval(b, c, num_pairs)
        assert -1 <= low <= (b - c) / num_pairs <= high <= 1
        for limit in (low, high):
            if abs(limit) < 1:
                # The restricted maximum of the likelihood, found on a grid instead of by its closed form.
                rates = np.linspace(max(0.0, -limit), (1 - limit) / 2, 400_001)[1:-1]
                with np.errstate(divide="ignore", invalid="ignore"):
                    terms = [count * np.log(rate) if count else 0 * rate for count, rate in ((b, rates + limit), (c, rates))]
                    rest = (num_pairs - b - c) * np.log(1 - limit - 2 * rates) if num_pairs > b + c else 0 * rates
                rate = rates[np.nanargmax(sum(terms) + rest)]
                z = (b - c - num_pairs * limit) / np.sqrt(num_pairs * (2 * rate + limit * (1 - limit)))
                assert abs(z) == pytest.approx(1.959964, abs=2e-3), (b, c, num_pairs, limit)
    assert score_interval(3, 9, 50) == pytest.approx([-value for value in reversed(score_interval(9, 3, 50))])


def test_no_disagreement_is_no_certainty():
    """Catches an interval without width where two methods happened to agree on every item."""
    low, high = paired_difference([1.0, 0.0] * 24, [1.0, 0.0] * 24).ci95
    assert low == pytest.approx(-high)
    assert 0.05 < high < 0.1


def test_the_interval_holds_0_wherever_the_test_does_not_reject():
    """Catches five differences of one sign among many ties announced as a finding: 2/32 is all the test can say."""
    result = paired_difference([0.5] * 5 + [0.0] * 43, [0.0] * 48)
    assert result.interval == "bootstrap"
    assert result.p_value == pytest.approx(2 / 32)
    assert result.ci95[0] == 0.0 < result.mean < result.ci95[1]


def test_equal_differences_have_an_interval_without_width_where_the_test_rejects():
    """Catches 0/0, and a warning (an error here), also where the differences are equal but for rounding."""
    values = [0.1 * index for index in range(9)]
    result = paired_difference([value + 0.1 for value in values], values)
    assert result.ci95 == pytest.approx((0.1, 0.1))
    assert result.p_value == pytest.approx(2 / 2**9)
    assert result.detectable is None


@pytest.mark.parametrize("kind", ["normal", "skewed", "clustered", "binary"])
def test_the_interval_covers_the_truth_in_95_of_100_samples(kind):
    """Catches a wrong level: the quick version of benchmarks/interval_coverage.py."""
    rng = np.random.default_rng(7)
    zeros = [0.0] * 48

    def clustered():
        values = np.repeat(rng.normal(0.5, 1, 24), 2) + rng.normal(0, 0.3, 48)
        return {"a": values, "b": zeros, "clusters": np.repeat(np.arange(24), 2).tolist()}

    def binary():
        kind = rng.choice(3, size=48, p=[0.65, 0.25, 0.1])
        return {"a": (kind == 1).astype(float), "b": (kind == 2).astype(float)}

    draws = {
        "normal": (lambda: {"a": rng.normal(0.5, 1, 48), "b": zeros}, 0.5),
        "skewed": (lambda: {"a": rng.exponential(1, 48), "b": zeros}, 1.0),
        "clustered": (clustered, 0.5),
        "binary": (binary, 0.15),
    }
    draw, truth = draws[kind]
    intervals = [paired_difference(**draw(), num_resamples=999).ci95 for _ in range(600)]
    coverage = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.93 - 0.02 <= coverage <= 0.97 + 0.015, "93 to 97 %, within two standard errors of 600 samples"


def test_items_of_a_cluster_are_no_independent_evidence():
    """Catches clusters that are ignored: ten copies of each item tell no more than the items."""
    rng = np.random.default_rng(3)
    values = rng.normal(0.3, 1, 20)
    once = paired_difference(values, [0.0] * 20)
    copies = paired_difference(np.repeat(values, 10), [0.0] * 200, clusters=np.repeat(np.arange(20), 10).tolist())
    assert copies.ci95 == pytest.approx(once.ci95)
    assert copies.p_value == once.p_value
    assert copies.detectable == pytest.approx(once.detectable)
    assert (copies.num_pairs, copies.num_clusters) == (200, 20)


def test_the_detectable_difference_is_found_in_80_of_100_samples():
    """Catches a one-sided level, and a power of 50 % where the second quantile is forgotten."""
    rng = np.random.default_rng(4)
    detectable = paired_difference(stats.norm.ppf((np.arange(48) + 0.5) / 48), [0.0] * 48).detectable
    samples = rng.normal(detectable, 1, (2000, 48))
    assert 0.77 <= np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue <= 0.05) <= 0.83


def test_one_pair_has_no_interval():
    """Catches a crash on a run that was cut after its first item."""
    result = paired_difference([1.0], [0.5])
    assert (result.mean, result.ci95, result.p_value, result.detectable) == (0.5, None, 1.0, None)
    assert paired_difference([], []) is None


def test_sequences_of_unequal_length_are_refused():
    """Catches items silently paired with their neighbours' values."""
    with pytest.raises(SettingError, match="2 and 1"):
        paired_difference([1.0, 0.0], [1.0])


def test_holm_is_the_step_down_procedure():
    """Catches Bonferroni, and adjusted values that are not monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
