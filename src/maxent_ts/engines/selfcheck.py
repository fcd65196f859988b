"""What an engine finds out about a model before it trusts it: are its rows right, and are they independent to the bit?

Architectures differ in how they treat masks and positions, and a mask that is ignored shows in no exception. So each model
decodes a few tokens in slots, next to the same tokens in a plain forward.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from maxent_ts.engines.attention import can_share_prompts, group_rows, round_up
from maxent_ts.engines.cache import PromptEntry
from maxent_ts.engines.slots import FEWEST_KEYS, SlotCache, decode, prefill
from maxent_ts.engines.whole import last_logits
from maxent_ts.engines.windows import sliding_window
from maxent_ts.errors import ModelError
from maxent_ts.models.media import Media, attending_prompt

__all__ = ["Layout", "check_decoding", "is_row_independent", "no_media"]

MakeMedia = Callable[[int], Media | None]

Layout = Literal["shared", "copied", "none"]
"""Where a row finds its past: in its prompt's keys and values, which the rows of a prompt share, and a slot of its own; in its slot
alone, which has a copy of the prompt's; or nowhere, so that the whole sequence is put through the model for each token."""

LENGTHS = (5, 9, 77)
"""Tokens of the prompts that share a batch. The last fills more than `FEWEST_KEYS`, and its keys are padded to a round number."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError, KeyError)
COARSE_TOLERANCE = 0.5
"""nats, for types of 16 bits and models whose activations are rounded to 8. A mask or position gone wrong shows more in any
trained model."""


def no_media(_length: int) -> None:
    """For models without cross-attention."""


@torch.inference_mode()
def check_decoding(model: Any, name: str, make_media: MakeMedia = no_media, unshareable: str | None = None) -> Layout:
    """Compare decoding with a plain forward, and warn if nothing but plain forwards will do.

    Args:
        model: A causal language model.
        name: For the message.
        make_media: Makes what the cross-attention of a prompt of so many tokens sees.
        unshareable: The kind of cache that is known not to fit slots; None if none is.

    Returns:
        Where rows have the past that they decode from.

    Raises:
        ModelError: if rows of the model come out otherwise side by side than alone, however they are decoded.
    """
    is_rounded = getattr(model.config, "quantization_config", None) is not None
    tolerance = COARSE_TOLERANCE if is_rounded else TOLERANCE.get(model.dtype, COARSE_TOLERANCE)
    if unshareable is not None:
        problem = f"keeps its past in a {unshareable}, which this engine cannot share among rollouts that begin alike"
    else:
        if can_share_prompts(model) and sliding_window(model) is None:  # which is known in slots that hold their prompts alone
            try:
                if _difference(model, make_media, shares_prompts=True) <= tolerance:
                    return "shared"
            except FAILURES:
                pass  # attention of a kind that `engines.attention` does not know: try the model's own
        try:
            difference = _difference(model, make_media, shares_prompts=False)
            if difference <= tolerance:
                return "copied"
            problem = f"is off by up to {difference:.2g} nats when rows of different lengths decode side by side"
        except FAILURES as error:
            problem = f"cannot decode rows of different lengths side by side ({error})"
    subject = f"'{name}' ({type(model).__name__}) {problem}"
    if make_media(1) is not None:
        raise ModelError(f"{subject}, and with cross-attention to time series there is no other way.")
    try:
        difference = _whole_difference(model)
    except FAILURES as error:
        raise ModelError(f"{subject}, nor can it be run on sequences of one length: {error}.") from error
    if not difference <= tolerance:
        raise ModelError(
            f"{subject}, and is off by up to {difference:.2g} nats when sequences of one length share a forward. "
            "This engine does not know this architecture."
        )
    warnings.warn(
        f"{subject}. So nothing is kept of what went through it: each token of each rollout costs a forward of its whole sequence, "
        "prompt included, which takes many times longer. If the model's attention is at fault, try "
        "model_kwargs={'attn_implementation': 'sdpa'}, or 'eager'.",
        RuntimeWarning,
        stacklevel=3,
    )
    return "none"


@torch.inference_mode()
def is_row_independent(
    model: Any, max_rows: int, row_multiple: int, make_media: MakeMedia = no_media, *, shares_prompts: bool
) -> bool:
    """Tell whether a row's logits are the same to the bit whatever the number, lengths and contents of the other rows."""
    entries = [prefill(model, prompt[:-1], make_media(len(prompt) - 1)) for prompt in _prompts(model)[:2]]
    num_slots = round_up(max_rows, row_multiple)
    longest = _num_positions(model) - max(entry.num_tokens for entry in entries) - 2
    seen = []
    for num_rows in sorted({row_multiple, round_up(num_slots // 2, row_multiple), num_slots}):
        # In larger batches more rows share the prompt, and the others are longer: so the padding differs too.
        place = num_rows // 2 - 1
        own = np.array([0 if row in (place, num_rows - 1) else 5 * row for row in range(num_rows)], dtype=np.int64)
        whose = [entries[1] if row == place or row % 3 == 2 else entries[0] for row in range(num_rows)]
        tokens = np.arange(num_rows, dtype=np.int64) % 7
        tokens[place] = 3
        seen.append(_decode(model, whose, tokens, np.minimum(own, longest), shares_prompts)[place])
    return all(torch.equal(seen[0], other) for other in seen[1:])


def _decode(model: Any, entries: Sequence[PromptEntry], tokens: np.ndarray, own: np.ndarray, shares_prompts: bool) -> torch.Tensor:
    """Feed a token to rows that hold a prompt each, and `own` keys of zero behind it."""
    num_prompt_tokens = np.array([entry.num_tokens for entry in entries], dtype=np.int64)
    offsets = np.zeros_like(num_prompt_tokens) if shares_prompts else num_prompt_tokens
    cache = SlotCache(entries[0].key_values, len(entries), round_up(int((offsets + own).max()) + 2, FEWEST_KEYS))
    if not shares_prompts:
        for row, entry in enumerate(entries):
            cache.write(row, 0, tuple(tensor[:, : entry.num_tokens] for tensor in entry.key_values))
    positions = num_prompt_tokens + own
    groups = group_rows(entries)
    return decode(model, cache, tokens, offsets + own, positions, groups, len(entries), shares_prompts=shares_prompts)


def _prompts(model: Any) -> list[torch.Tensor]:
    """Prompts of unlike ids, each one longer than what is prefilled of it; without those that the model's context cannot hold."""
    num_ids = model.get_input_embeddings().weight.shape[0]
    return [
        torch.arange(start, start + 7 * (length + 1), 7, device=model.device) % num_ids
        for start, length in zip((3, 5, 4), LENGTHS, strict=True)
        if length < _num_positions(model)
    ]


def _num_positions(model: Any) -> int:
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 10**9


def _difference(model: Any, make_media: MakeMedia, *, shares_prompts: bool) -> float:
    """Largest difference in log-probability between decoding in slots and a plain forward, nats."""
    prompts, entries, expected = _prompts(model), [], []
    for prompt in prompts:
        media = make_media(len(prompt) - 1)
        entries.append(prefill(model, prompt[:-1], media))
        whole = None if media is None else replace(media, times=torch.cat([media.times, media.times[-1:]]))
        with attending_prompt(whole, None if media is None else media.key_values()):
            expected.append(model(input_ids=prompt[None], use_cache=False).logits[0, -2:].float().log_softmax(-1))
    rows = [*range(len(prompts))] * 2
    tokens = np.array([int(prompts[row][-1]) for row in rows], dtype=np.int64)
    decoded = _decode(model, [entries[row] for row in rows], tokens, np.zeros(len(rows), dtype=np.int64), shares_prompts)
    ours = torch.cat([torch.stack([entry.logits for entry in entries]), decoded]).float().log_softmax(-1)
    theirs = torch.stack([plain[0] for plain in expected] + [expected[row][1] for row in rows])
    return float((ours - theirs).abs().nan_to_num(0.0).max())


def _whole_difference(model: Any) -> float:
    """Largest difference in log-probability between sequences of one length in one forward and alone, nats."""
    length = min(LENGTHS)
    sequences = [prompt[:length] for prompt in _prompts(model)]
    together = last_logits(model, sequences).float().log_softmax(-1)
    alone = torch.cat([model(input_ids=sequence[None], use_cache=False).logits[:, -1] for sequence in sequences])
    return float((together - alone.float().log_softmax(-1)).abs().nan_to_num(0.0).max())
