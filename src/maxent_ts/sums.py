"""Sums in log space over the children of a node, and what is kept of them where they are many.

A search passes its root with thousands of children in every round, and only a few of those have changed since. To read them all
from Python lists again would make a round as slow as its widest node is wide.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice

import numpy as np

__all__ = ["FEW_CHILDREN", "ChildTable", "log_add", "log_sum", "log_sum_of_many"]

FEW_CHILDREN = 64
"""Up to so many, a sum in Python takes no longer than one in numpy."""


class ChildTable:
    """Some numbers of every child of one node, in order of appearance.

    It holds what it was given: whoever changes a child's numbers calls `replace`. Children that have come since are found by
    `missing`, and read only then.

    Args:
        num_columns: Numbers of each child.
    """

    def __init__(self, num_columns: int) -> None:
        self._nodes: list[int] = []
        self._values = np.zeros((num_columns, 2 * FEW_CHILDREN))

    def __len__(self) -> int:
        """Number of children."""
        return len(self._nodes)

    def missing(self, children: dict[int, int]) -> list[int]:
        """Return the children that are not in the table yet, in order of appearance.

        Args:
            children: All of the node: token to node index. A tree only ever adds some, and numbers nodes in order of appearance.
        """
        latest = list(islice(reversed(children.values()), len(children) - len(self)))
        return latest[::-1]

    def append(self, child: int, values: Sequence[float]) -> None:
        """Add a child, whose node index is above all others'."""
        place = 1 + len(self)
        if place == self._values.shape[1]:
            self._values = np.concatenate([self._values, np.zeros_like(self._values)], axis=1)
        self._nodes.append(child)
        self._values[:, place] = values

    def replace(self, child: int, values: Sequence[float]) -> None:
        """Give a child its present numbers; one that is not in the table yet is left to `missing`."""
        index = bisect_left(self._nodes, child)
        if index < len(self._nodes):
            self._values[:, 1 + index] = values

    def column(self, index: int, first: float | None = None) -> np.ndarray:
        """One number of every child, behind `first` if that is given: float64 [number of children, or one more], a view."""
        if first is None:
            return self._values[index, 1 : 1 + len(self)]
        self._values[index, 0] = first
        return self._values[index, : 1 + len(self)]


def log_sum(logs: Sequence[float]) -> float:
    """Log Σ exp of a node's terms: without numpy where they are few, as its calls would take longer than the sum."""
    if len(logs) == 1:
        return logs[0]
    if len(logs) > FEW_CHILDREN:
        return log_sum_of_many(np.array(logs))
    high = max(logs)
    return high if high == -math.inf else high + math.log(sum([math.exp(one - high) for one in logs]))


def log_sum_of_many(logs: np.ndarray) -> float:
    """`log_sum` of float64 [number of terms]."""
    high = float(logs.max())
    return high if high == -math.inf else high + math.log(np.exp(logs - high).sum())


def log_add(one: float, two: float) -> float:
    """`log_sum` of two."""
    high, low = (one, two) if one > two else (two, one)
    return high if low == -math.inf else high + math.log(1.0 + math.exp(low - high))
