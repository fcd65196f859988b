"""How fast one core could decode in float32 if nothing but its memory and its arithmetic were in the way, both measured here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["roofline"]

MEGABYTES = 512
SIZE = 1024


def roofline(model: Any, batch_sizes: Sequence[int]) -> dict[int, float]:
    """Tokens per CPU second that each batch could decode at most, attention and sampling left out.

    A step reads every weight once, and does two operations for each weight and row.
    """
    num_weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    read, computed = _bytes_per_second(), _operations_per_second()
    return {rows: rows / max(4 * num_weights / read, 2 * num_weights * rows / computed) for rows in batch_sizes}


def _bytes_per_second() -> float:
    block = torch.ones(MEGABYTES * 2**18)
    return MEGABYTES * 2**20 / _shortest(block.sum)


def _operations_per_second() -> float:
    one, other = torch.ones(SIZE, SIZE), torch.ones(SIZE, SIZE)
    return 2 * SIZE**3 / _shortest(lambda: one @ other)


def _shortest(work: Any) -> float:
    seconds = []
    for _ in range(7):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)
