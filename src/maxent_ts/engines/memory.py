"""When memory runs out: how it shows, what to say, how much is left, and how to give back what can be spared."""

from __future__ import annotations

import gc
import logging
import os
from typing import Any

import torch

__all__ = [
    "GIB",
    "bytes_per_position",
    "free_bytes",
    "give_back",
    "is_out_of_memory",
    "memory_message",
    "rows_that_fit",
    "store_limit",
]

GIB = 2**30
SHARE = 0.75
"""Of the memory that is free, for a batch's keys and values. The rest is for the computation."""
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
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    one_row = bytes_per_position(model.config, model.dtype.itemsize) * num_positions
    return (
        f"Out of memory on {model.device}, also with a batch of {num_rows}. The weights take {weights / GIB:.2f} GiB, a row of "
        f"{num_positions} positions up to {one_row / GIB:.2f} GiB, and the computation more. Give the process more memory, or "
        "lower max_batch_size, kv_cache_gib, max_new_tokens or the prompt's length, or choose dtype='bfloat16'."
    )


def bytes_per_position(config: Any, itemsize: int) -> int:
    """Return the bytes of one position's key and value in all layers.

    Args:
        config: Of a causal language model. Models without grouped heads have as many keys as queries.
        itemsize: Bytes of one number.
    """
    config = config.get_text_config(decoder=True)
    num_heads = getattr(config, "num_attention_heads", None) or 1
    num_key_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return 2 * config.num_hidden_layers * num_key_heads * head_size * itemsize


def rows_that_fit(free: int, bytes_per_row: int, max_rows: int) -> int:
    """Return how many rows of a batch there is room for, at least one and at most `max_rows`.

    Args:
        free: Bytes.
        bytes_per_row: Of a row's keys and values.
        max_rows: Rows that are wanted.
    """
    return max(1, min(max_rows, int(SHARE * free) // max(1, bytes_per_row)))


def store_limit(wanted: int, device: torch.device) -> int:
    """Return how many bytes may be kept for later on a device: what is wanted, or half of what is free, which is logged."""
    free = free_bytes(device)
    if wanted <= free // 2:
        return wanted
    logging.getLogger(__name__).warning(
        "kv_cache_gib is lowered from %.2f to %.2f, half of what is free on %s. Prefixes without room go through the model again.",
        wanted / GIB,
        free / 2 / GIB,
        device,
    )
    return free // 2


def give_back(device: torch.device) -> None:
    """Return memory that nothing refers to any more to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device | None = None) -> int:
    """Return how much memory a CUDA device, or else the machine, could still give."""
    if device is not None and device.type == "cuda":
        # What torch has taken from the device and does not use is as good as free.
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
