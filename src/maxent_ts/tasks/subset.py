"""Seeded stratified subsets, so that no evaluation runs on the first N rows of a sorted file."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from maxent_ts.errors import SettingError

__all__ = ["allocate", "stratified_subset", "upstream_test_split"]

SPLIT_SEED = 42
TEST_SHARE = 0.1


def upstream_test_split(num_rows: int) -> list[int]:
    """Return the rows that `datasets.Dataset.train_test_split(test_size=0.1, seed=42)` puts into the test part, ascending.

    OpenTSLM draws the test parts of TSQA and of the M4 captions like this; its second draw parts training and validation only.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(num_rows)
    return sorted(order[: math.ceil(TEST_SHARE * num_rows)].tolist())


def allocate(counts: Sequence[int], total: int, tie_break: Sequence[float]) -> list[int]:
    """Share `total` items out in proportion to `counts`, by largest remainders (Hamilton's method).

    Args:
        counts: Available items of each stratum.
        total: Items to take; at most the sum of `counts`.
        tie_break: One number per stratum; of equal remainders the smaller number goes first.

    Returns:
        How many to take from each stratum: sums to `total`, is never more than there are, and each share is its quota
        `total * count / sum(counts)` rounded down or up.
    """
    population = sum(counts)
    shares = [total * count // population for count in counts]
    remainders = [total * count % population for count in counts]
    order = sorted(range(len(counts)), key=lambda index: (-remainders[index], tie_break[index]))
    for index in order[: total - sum(shares)]:
        shares[index] += 1
    return shares


def stratified_subset(strata: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Choose items so that each stratum keeps its proportion.

    The draw within a stratum depends on the seed and the stratum's name only. Which of several equally entitled strata gets a
    left-over item is drawn too, so that no label is always the one left out.

    Args:
        strata: The stratum of each item.
        limit: How many to choose; None, or as many as there are, chooses all.
        seed: Same seed, same choice.

    Returns:
        Indices in ascending order.

    Raises:
        SettingError: if `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise SettingError(f"limit must be at least 1, but is {limit}. Leave it out for all items.")
    if limit is None or limit >= len(strata):
        return list(range(len(strata)))
    members: dict[str, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    names = sorted(members)
    streams = [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in names]
    tie_break = [float(stream.random()) for stream in streams]
    shares = allocate([len(members[name]) for name in names], limit, tie_break)
    chosen: list[int] = []
    for name, stream, share in zip(names, streams, shares, strict=True):
        order = stream.permutation(len(members[name]))
        chosen.extend(members[name][position] for position in order[:share])
    return sorted(chosen)
