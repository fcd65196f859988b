"""torch's float32 mean, in numpy.

OpenTSLM writes the mean of a series into the prompt with four decimals, computed by `torch.Tensor.mean` in float32. From a
level of about 100 on, the fourth decimal depends on the order of the additions: summed otherwise, one M4 prompt in nine
differs from OpenTSLM's. So the order is part of the prompt, and tasks must not need torch.
"""

from __future__ import annotations

import numpy as np

__all__ = ["mean_float32"]

_LANES = 8
"""float32 values that torch's CPU summation handles at once on x86, whatever the width of the machine's registers."""
_ROWS = 4
"""Registers that are summed side by side."""
_LEVELS = 4
"""Depth of the cascade: partial sums are handed one level up when they hold 2^power registers, and so on."""


def mean_float32(values: np.ndarray) -> np.float32:
    """Return the mean with the rounding of `torch.Tensor.mean` on an x86 CPU, torch 2.13.

    Args:
        values: float32 array of shape [length], not empty.
    """
    length = len(values)
    lanes = _LANES if length >= _LANES else 1
    num_registers = length // lanes
    num_groups = num_registers // _ROWS
    registers = values[: num_registers * lanes].reshape(num_registers, lanes)
    partial = _cascade(registers[: num_groups * _ROWS].reshape(num_groups, _ROWS, lanes))
    lane_sums = partial[0]
    for register in registers[num_groups * _ROWS :]:
        lane_sums = lane_sums + register
    for row in range(1, _ROWS):
        lane_sums = lane_sums + partial[row]
    total = np.float32(0)
    for value in (*values[num_registers * lanes :], *lane_sums):
        total = np.float32(total + value)
    return np.float32(total / np.float32(length))


def _cascade(groups: np.ndarray) -> np.ndarray:
    """Add up the groups, [num_groups, rows, lanes] to [rows, lanes], by repeated partial sums of bounded length."""
    power = max(4, (len(groups) - 1).bit_length() // _LEVELS) if len(groups) else 4
    levels = np.zeros((_LEVELS, *groups.shape[1:]), np.float32)
    for index, group in enumerate(groups, start=1):
        levels[0] += group
        for level in range(1, _LEVELS):
            if index % (1 << (level * power)):
                break
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
    # Left over, smallest sums first; the order is torch's.
    total = levels[0]
    for level in range(1, _LEVELS):
        total = total + levels[level]
    return total
