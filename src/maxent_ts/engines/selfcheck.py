"""What an engine finds out about a model before it trusts it: are its rows right, and are they independent to the bit?

Architectures differ in how they treat masks and positions, and a mask that is ignored shows in no exception. So each model
decodes a few tokens in slots, next to the same tokens in a plain forward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maxent_ts.engines.slots import FEWEST_KEYS, ROW_MULTIPLE, SlotCache, decode, prefill, round_up
from maxent_ts.errors import ModelError

__all__ = ["check_decoding", "is_row_independent"]

LENGTHS = (5, 9)
"""Tokens of the two prompts, which share a batch."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE_TOLERANCE = 0.5
"""nats, for types of 16 bits. A mask or position gone wrong shows more in any trained model."""


@torch.inference_mode()
def check_decoding(model: Any, name: str) -> None:
    """Compare decoding in slots with a plain forward.

    Args:
        model: A causal language model.
        name: For the message.

    Raises:
        ModelError: if the two disagree, or if the model cannot decode in slots at all.
    """
    try:
        difference = _difference(model)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError, KeyError) as error:
        raise ModelError(
            f"'{name}' ({type(model).__name__}) cannot decode rows of different lengths side by side: {error}. If its attention is "
            "at fault, try model_kwargs={'attn_implementation': 'eager'}; otherwise this engine does not know this architecture."
        ) from error
    if not difference <= TOLERANCE.get(model.dtype, COARSE_TOLERANCE):
        raise ModelError(
            f"'{name}' ({type(model).__name__}) gives other probabilities when rows of different lengths decode side by side: they "
            f"are off by up to {difference:.2g} nats. Its masks, positions or cache are of a kind that this engine does not know."
        )


@torch.inference_mode()
def is_row_independent(model: Any, max_rows: int) -> bool:
    """Tell whether a row's logits are the same to the bit whatever the number, lengths and contents of the other rows."""
    prompts = _prompts(model)
    entries = [prefill(model, prompt[:-1]) for prompt in prompts]
    token = int(prompts[1][-1])
    num_slots = round_up(max_rows, ROW_MULTIPLE)
    seen = []
    for num_rows in sorted({ROW_MULTIPLE, round_up(num_slots // 2, ROW_MULTIPLE), num_slots}):
        # The other rows are longer in larger batches: so the padding of the row that is looked at differs too.
        cache = SlotCache(entries[0].key_values, num_rows, 8 * num_rows + 64)
        lengths = np.minimum(LENGTHS[0] + 8 * np.arange(num_rows), LENGTHS[0] + 8 * num_rows)
        for row in range(num_rows):
            cache.write(row, 0, entries[0].key_values)
        place = num_rows // 2 - 1
        cache.write(place, 0, entries[1].key_values)
        lengths[place] = entries[1].num_tokens
        tokens = np.full(num_rows, int(prompts[0][0]), dtype=np.int64)
        tokens[place] = token
        limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        seen.append(decode(model, cache, tokens, np.minimum(lengths, limit - 1) if limit else lengths, num_rows)[place])
    return all(torch.equal(seen[0], other) for other in seen[1:])


def _prompts(model: Any) -> list[torch.Tensor]:
    """Two prompts of unlike ids, each one longer than what is prefilled of it."""
    num_ids = model.get_input_embeddings().weight.shape[0]
    return [
        torch.arange(start, start + 7 * (length + 1), 7, device=model.device) % num_ids
        for start, length in zip((3, 5), LENGTHS, strict=True)
    ]


def _difference(model: Any) -> float:
    """Largest difference in log-probability between decoding in slots and a plain forward, nats."""
    prompts = _prompts(model)
    entries = [prefill(model, prompt[:-1]) for prompt in prompts]
    cache = SlotCache(entries[0].key_values, ROW_MULTIPLE, FEWEST_KEYS)
    for slot, entry in enumerate(entries):
        cache.write(slot, 0, entry.key_values)
    tokens = np.array([int(prompt[-1]) for prompt in prompts] + [0] * (ROW_MULTIPLE - 2), dtype=np.int64)
    lengths = np.array([*LENGTHS] + [0] * (ROW_MULTIPLE - 2), dtype=np.int64)
    decoded = decode(model, cache, tokens, lengths, len(prompts))
    differences = []
    for row, (prompt, entry) in enumerate(zip(prompts, entries, strict=True)):
        plain = model(input_ids=prompt[None], use_cache=False).logits[0].float().log_softmax(-1)
        for ours, theirs in ((entry.logits, plain[-2]), (decoded[row], plain[-1])):
            differences.append(float((ours.float().log_softmax(-1) - theirs).abs().nan_to_num(0.0).max()))
    return max(differences)
