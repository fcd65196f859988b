from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.errors import SettingError
from maxent_ts.tasks.subset import allocate, stratified_subset


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.data())
def test_shares_are_the_quota_rounded_and_add_up(counts, data):
    """Catches shares that do not sum to the limit, or that exceed what a stratum has."""
    total = data.draw(st.integers(1, sum(counts)))
    shares = allocate(counts, total, [0.5] * len(counts))
    assert sum(shares) == total
    for share, count in zip(shares, counts, strict=True):
        quota = total * count / sum(counts)
        assert share <= count
        assert quota - 1 < share < quota + 1


def test_a_subset_keeps_proportions_and_is_not_the_head_of_the_file():
    """Catches first-N subsets: in a file sorted by label they hold one label only."""
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    chosen = stratified_subset(strata, 20, seed=0)
    assert Counter(strata[index] for index in chosen) == {"a": 12, "b": 6, "c": 2}
    assert chosen != list(range(20))
    assert chosen == sorted(set(chosen))


def test_the_seed_decides_the_subset():
    """Catches a subset drawn from global or unseeded randomness, or not drawn at all."""
    strata = [str(index % 3) for index in range(100)]
    assert stratified_subset(strata, 10, seed=1) == stratified_subset(strata, 10, seed=1)
    assert stratified_subset(strata, 10, seed=1) != stratified_subset(strata, 10, seed=2)


def test_no_stratum_is_always_the_one_left_out():
    """Catches ties broken by name, which would drop the alphabetically last label for every seed."""
    strata = list("abcdef") * 10
    missing = {
        "abcdef"[index]
        for seed in range(40)
        for index in range(6)
        if index not in {chosen % 6 for chosen in stratified_subset(strata, 5, seed)}
    }
    assert len(missing) >= 4


def test_items_of_one_stratum_do_not_depend_on_other_strata():
    """Catches one shared stream, with which adding a label would reshuffle all others."""
    small = stratified_subset(["a"] * 50 + ["b"] * 50, 20, seed=5)
    large = stratified_subset(["a"] * 50 + ["b"] * 50 + ["c"] * 50, 30, seed=5)
    assert [index for index in small if index < 50] == [index for index in large if index < 50]


def test_without_a_limit_or_with_a_large_one_all_items_come_in_order():
    """Catches an error or a shuffle when fewer items exist than were asked for."""
    assert stratified_subset(["a", "b", "a"], None, seed=0) == [0, 1, 2]
    assert stratified_subset(["a", "b", "a"], 99, seed=0) == [0, 1, 2]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    """Catches an empty evaluation that looks like a success."""
    with pytest.raises(SettingError, match="at least 1"):
        stratified_subset(["a"], limit, seed=0)
