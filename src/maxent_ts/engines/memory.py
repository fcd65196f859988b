"""When memory runs out: how it shows, what to say, how much is left, and how to give back what can be spared."""

from __future__ import annotations

import gc
import os
from typing import Any

import torch

__all__ = ["GIB", "free_bytes", "give_back", "is_out_of_memory", "memory_message"]

GIB = 2**30
WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error of torch says that a device's memory, or the machine's, is used up."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in WORDS)


def memory_message(model: Any, num_rows: int, num_positions: int) -> str:
    """Say what a model needs, for a batch that had no room.

    Args:
        model: A causal language model.
        num_rows: Rows of the batch.
        num_positions: Positions of its longest row.
    """
    config = model.config.get_text_config(decoder=True)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    # Key and value of each layer, for models whose every head has its own.
    one_row = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize * num_positions
    return (
        f"Out of memory on {model.device}, also with a batch of {num_rows}. The weights take {weights / GIB:.2f} GiB, a row of "
        f"{num_positions} positions up to {one_row / GIB:.2f} GiB, and the computation more. Give the process more memory, or "
        "lower max_batch_size, kv_cache_gib, max_new_tokens or the prompt's length, or choose dtype='bfloat16'."
    )


def give_back(device: torch.device) -> None:
    """Return memory that nothing refers to any more to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes() -> int:
    """Return how much memory the machine could still give."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
