"""What time is measured in: process CPU seconds on a CPU, which a busy machine disturbs less; wall seconds on any other device."""

from __future__ import annotations

import time

import torch

__all__ = ["now"]


def now(device: torch.device) -> float:
    """Seconds, when all that was given to the device is done."""
    if device.type == "cpu":
        return time.process_time()
    getattr(torch, device.type).synchronize(device)
    return time.perf_counter()
