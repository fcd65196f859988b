"""The other ways to decode, each as a function that returns the seconds of one round's work: see `clock`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.decoding.clock import now
from benchmarks.decoding.shapes import prompt
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.cache_utils import DynamicCache

__all__ = ["batched_loop", "continuous_batching", "generate_one_by_one", "generate_together", "measured", "without_cache"]


def measured(model: Any, work: Callable[[], object]) -> float:
    """Seconds of a model's work."""
    start = now(model.device)
    work()
    return now(model.device) - start


def without_cache(model: Any, rows: int, round_: int, length: int, num_new: int) -> float:
    """(a) Forwards of the shortest and the longest sequence, averaged, times the number of forwards: an extrapolation."""
    ids = prompt(round_, length + num_new).to(model.device)
    with torch.inference_mode():
        total = sum(
            measured(model, lambda end=end: model(input_ids=ids[None, :end], use_cache=False)) for end in (length, len(ids))
        )
    return total / 2 * rows * num_new


def generate_one_by_one(model: Any, rows: int, round_: int, length: int, num_new: int) -> float:
    """(b) `generate` with its cache, one rollout at a time. One is measured: each is like the others."""
    ids = prompt(round_, length).to(model.device)[None]
    return rows * measured(model, lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **_sampling(num_new)))


def generate_together(model: Any, rows: int, round_: int, length: int, num_new: int) -> float:
    """(c) `generate(num_return_sequences=rows)`."""
    ids = prompt(round_, length).to(model.device)[None]
    mask = torch.ones_like(ids)
    return measured(model, lambda: model.generate(ids, attention_mask=mask, num_return_sequences=rows, **_sampling(num_new)))


def continuous_batching(model: Any, rows: int, round_: int, length: int, num_new: int) -> float:
    """(d) transformers' continuous batching, which shares whole pages of equal prompts."""
    ids = prompt(round_, length).tolist()
    config = GenerationConfig(max_new_tokens=num_new, do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(num_blocks=2 + rows * (2 + (length + num_new) // 256), allow_block_sharing=True)
    return measured(
        model,
        lambda: model.generate_batch(
            [ids] * rows, generation_config=config, continuous_batching_config=batching, progress_bar=False
        ),
    )


def batched_loop(model: Any, rows: int, round_: int, length: int, num_new: int) -> float:
    """(e) One prefill, its cache copied for each row, then a plain loop over the batch."""
    return sum(batched_loop_parts(model, rows, round_, length, num_new))


def batched_loop_parts(model: Any, rows: int, round_: int, length: int, num_new: int) -> tuple[float, float]:
    """The same, as seconds up to the first token and seconds of the steps behind it."""
    ids = prompt(round_, length).to(model.device)[None]
    cache = DynamicCache()

    def begin() -> torch.Tensor:
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        cache.batch_repeat_interleave(rows)
        return _sample(logits.expand(rows, -1))

    def go_on(tokens: torch.Tensor) -> None:
        for _ in range(num_new - 1):
            tokens = _sample(model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1])

    with torch.inference_mode():
        start = now(model.device)
        first = begin()
        between = now(model.device)
        go_on(first)
        return between - start, now(model.device) - between


def _sample(logits: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(logits.float().softmax(dim=-1), 1)


def _sampling(num_new: int) -> dict[str, Any]:
    return {"max_new_tokens": num_new, "min_new_tokens": num_new, "do_sample": True, "top_k": 0}
