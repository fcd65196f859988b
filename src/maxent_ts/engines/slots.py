"""The slots of a decoding batch, keys and values for one row each, and the two forwards: of a prompt, and of all rows.

Every slot is filled from its start and written at its own length; what lies behind is masked. So rows of different
lengths share a batch, no row can see another's keys, and positions are what they are without the batch. Where rows share
their prompts' keys and values (`engines.attention`), a slot holds the continuation only, else the prompt as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from maxent_ts.engines.attention import PromptGroup, decoding_attention, round_up
from maxent_ts.engines.cache import KeyValues, PromptEntry
from maxent_ts.engines.kernels import PROMPT_MULTIPLE, kernels
from maxent_ts.engines.windows import sliding_window
from maxent_ts.models.media import Media, MediaRows, attending, attending_prompt

__all__ = ["FEWEST_KEYS", "SlotCache", "all_log_probabilities", "decode", "last_only", "prefill"]

LENGTH_MULTIPLE = 16
"""A row's bits do not depend on how many masked keys follow if their number is whole vector registers (16 floats in AVX-512)."""
FEWEST_KEYS = 64
"""Products of fewer than 400 multiplications take another kernel in torch; with so many keys there are none."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: [slots, key-value heads, positions, head size], written in place."""

    def __init__(self, cache: SlotCache, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.cache = cache
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the buffers exist from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of every row at the row's own length, and return the part in use."""
        cache = self.cache
        assert self.keys is not None
        assert self.values is not None
        key, value = key_states[:, :, 0], value_states[:, :, 0]
        is_dense = key.stride(1) == key.shape[2] and value.stride(1) == value.shape[2]
        compiled = kernels() if self.keys.device.type == "cpu" and self.keys.dtype == torch.float32 and is_dense else None
        if compiled is not None and key.shape == value.shape:
            compiled.write(key, value, self.keys, self.values, cache.positions)
        else:
            self.keys[cache.rows, :, cache.positions] = key
            self.values[cache.rows, :, cache.positions] = value
        num_rows = len(cache.rows)
        return self.keys[:num_rows, :, : cache.num_used], self.values[:num_rows, :, : cache.num_used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - the base class's signature
        """Length and offset of the keys that `update` returns."""
        return self.cache.num_used, 0

    def get_seq_length(self) -> int:
        """Keys before this step, in the longest row."""
        return self.cache.num_used - 1

    def get_max_length(self) -> int:
        """Positions that a slot can hold."""
        return self.cache.num_positions


class SlotCache(Cache):
    """Slots for all layers.

    Args:
        like: Keys and values of some prompt, for the number of layers, the heads, sizes, type and device.
        num_slots: Rows to make room for.
        num_positions: Positions to make room for in each.
    """

    def __init__(self, like: KeyValues, num_slots: int, num_positions: int) -> None:
        # Zeros and not garbage: a masked key counts 0 times its value, and 0 times NaN is NaN.
        buffers = [tensor.new_zeros((num_slots, tensor.shape[0], num_positions, tensor.shape[2])) for tensor in like]
        layers = [SlotLayer(self, keys, values) for keys, values in zip(buffers[::2], buffers[1::2], strict=True)]
        super().__init__(layers=layers)  # type: ignore[arg-type]
        self.buffers = buffers
        self.num_slots = num_slots
        self.num_positions = num_positions
        self.rows = torch.arange(0)
        self.positions = torch.arange(0)
        self.num_used = 0

    def enlarged(self, num_slots: int, num_positions: int) -> SlotCache:
        """Return a larger copy."""
        larger = SlotCache(tuple(buffer[0] for buffer in self.buffers), num_slots, num_positions)
        for source, target in zip(self.buffers, larger.buffers, strict=True):
            target[: self.num_slots, :, : self.num_positions] = source
        return larger

    def write(self, slot: int, start: int, key_values: KeyValues) -> None:
        """Copy keys and values into a slot, from position `start` on."""
        for buffer, tensor in zip(self.buffers, key_values, strict=True):
            buffer[slot, :, start : start + tensor.shape[1]] = tensor

    def read(self, slot: int, start: int, stop: int) -> KeyValues:
        """Return own copies of what a slot holds from position `start` up to `stop`."""
        return tuple(buffer[slot, :, start:stop].clone() for buffer in self.buffers)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for buffer in self.buffers:
            buffer[target, :, :length] = buffer[source, :, :length]

    def wipe(self, slot: int) -> None:
        """Set a slot to zero, which it must be before reuse if it may hold NaN."""
        for buffer in self.buffers:
            buffer[slot] = 0

    def prepare(self, lengths: torch.Tensor, num_live: int, longest: int) -> torch.Tensor:
        """Get ready for a forward that adds one position to each of the first rows.

        Args:
            lengths: Keys that each row has so far: [rows].
            num_live: Rows from this one on only fill the batch up. They write to the last position, which no row ever needs
                as a row's last token is not fed, and so leave alone what their slots still hold.
            longest: The largest of the lengths.

        Returns:
            Additive mask of shape [rows, 1, 1, keys]: each row sees its own keys and the one about to be written.
        """
        self.rows = torch.arange(len(lengths), device=lengths.device)
        self.positions = lengths.clone()
        self.positions[num_live:] = self.num_positions - 1
        self.num_used = min(max(round_up(longest + 1, LENGTH_MULTIPLE), FEWEST_KEYS), self.num_positions)
        keys = torch.arange(self.num_used, device=lengths.device)
        dtype = self.buffers[0].dtype
        mask = torch.zeros((len(lengths), self.num_used), dtype=dtype, device=lengths.device)
        mask.masked_fill_(keys > lengths[:, None], torch.finfo(dtype).min)
        return mask[:, None, None, :]


def last_only(model: Any) -> dict[str, int]:
    """Return what tells a model's forward that the logits of the last position are enough; nothing where it cannot be told."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def prefill(model: Any, inputs: torch.Tensor, media: Media | None = None) -> PromptEntry:
    """Put one prompt through a model, by itself and without padding.

    Args:
        model: A causal language model.
        inputs: Token ids [length], or input embeddings [length, hidden size].
        media: What its cross-attention sees besides; projected here, once for all that continues the prompt.
    """
    name = "input_ids" if inputs.ndim == 1 else "inputs_embeds"
    cache = DynamicCache()
    positions = torch.arange(len(inputs), device=inputs.device)[None]
    seen = None if media is None else media.key_values()
    with attending_prompt(media, seen):
        output = model(**{name: inputs[None]}, position_ids=positions, past_key_values=cache, use_cache=True, **last_only(model))
    layers: list[Any] = cache.layers
    # Zeros behind the prompt, as many as its keys need to be of a good number. They are masked.
    padding = max(round_up(len(inputs), PROMPT_MULTIPLE), FEWEST_KEYS) - len(inputs)
    key_values: list[torch.Tensor] = []
    for layer in layers:
        # Stored with the positions side by side, as the products with queries read them.
        key_values.append(torch.nn.functional.pad(layer.keys[0].transpose(1, 2), (0, padding)).contiguous().transpose(1, 2))
        key_values.append(torch.nn.functional.pad(layer.values[0], (0, 0, 0, padding)).contiguous())
    behind = None if seen is None else seen.behind_prompt()
    return PromptEntry(tuple(key_values), output.logits[0, -1].clone(), len(inputs), behind)


def all_log_probabilities(model: Any, inputs: torch.Tensor, media: Media | None = None) -> torch.Tensor:
    """Return the model's own log-probabilities after each position of a prompt: float64 [length, vocabulary].

    Args:
        model: A causal language model.
        inputs: As for `prefill`.
        media: As for `prefill`.
    """
    name = "input_ids" if inputs.ndim == 1 else "inputs_embeds"
    with attending_prompt(media, None if media is None else media.key_values()):
        logits = model(**{name: inputs[None]}, use_cache=False).logits
    return logits[0].double().log_softmax(dim=-1)


def decode(
    model: Any,
    cache: SlotCache,
    tokens: np.ndarray,
    lengths: np.ndarray,
    positions: np.ndarray,
    groups: Sequence[PromptGroup],
    num_live: int,
    *,
    shares_prompts: bool,
) -> torch.Tensor:
    """Feed one token to each of the first rows.

    Args:
        model: A causal language model.
        cache: Its slots.
        tokens: The tokens, int64 [rows].
        lengths: Keys that each row's slot has so far, int64 [rows].
        positions: The tokens' positions, int64 [rows]: the lengths, and those of the prompts where slots do not hold them.
        groups: Which rows continue which prompts.
        num_live: Rows from this one on only fill the batch up.
        shares_prompts: Whether rows share their prompts' keys and values, or slots hold them.

    Returns:
        Logits of the tokens behind: [rows, vocabulary].
    """
    device = cache.buffers[0].device
    media = [
        MediaRows(group.entry.media, group.rows.to(device), group.num_rows, group.entry.media.time)
        for group in groups
        if group.entry.media is not None
    ]
    own = torch.from_numpy(lengths).to(device)
    mask = cache.prepare(own, num_live, int(lengths.max()))
    window = sliding_window(model)
    with decoding_attention(model, groups if shares_prompts else (), own + 1), attending(media):
        output = model(
            input_ids=torch.from_numpy(tokens).to(device)[:, None],
            attention_mask=mask if window is None else window.masks(mask, own),
            position_ids=torch.from_numpy(positions).to(device)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
    return output.logits[:, -1]
