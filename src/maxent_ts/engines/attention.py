"""Attention of decoding rows: each row's own keys, and its prompt's keys, which it shares with its siblings.

The rollouts of one prompt do not each hold a copy of its keys and values: the queries of all its rows go through one matrix
product with them (the two-part decomposition of Hydragen, Juravsky et al. 2024, arXiv 2402.05099, with one softmax over
both parts). Nothing here changes what attention computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from maxent_ts.engines.cache import PromptEntry
from maxent_ts.engines.kernels import Kernels, kernels

__all__ = ["ROW_MULTIPLE", "PromptGroup", "can_share_prompts", "decoding_attention", "group_rows", "round_up"]

ATTENTION = "maxent_ts_rows"
ROW_MULTIPLE = 4
"""CPU matrix products give a row the same bits whatever the other rows if the number of rows is a multiple of 4 (measured
for MKL, with 1 and 2 threads; `capabilities.deterministic` is measured again on every machine)."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The rows of a batch that continue one prompt."""

    entry: PromptEntry
    rows: torch.Tensor
    """int64 [num_rows, rounded up]: filled up with the first row."""
    num_rows: int


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of the decoding call under way."""

    groups: Sequence[PromptGroup]
    lengths: torch.Tensor
    """Own keys of each row, the one about to be written among them: int64 [rows]."""


ROWS: ContextVar[Rows | None] = ContextVar("rows", default=None)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `number`."""
    return -(-number // multiple) * multiple


def group_rows(entries: Sequence[PromptEntry]) -> list[PromptGroup]:
    """Group rows, given the prompt of each."""
    members: dict[int, list[int]] = {}
    for row, entry in enumerate(entries):
        members.setdefault(id(entry), []).append(row)
    groups = []
    for rows in members.values():
        padded = rows + rows[:1] * (round_up(len(rows), ROW_MULTIPLE) - len(rows))
        groups.append(PromptGroup(entries[rows[0]], torch.tensor(padded, device=entries[rows[0]].logits.device), len(rows)))
    return groups


def can_share_prompts(model: Any) -> bool:
    """Whether decoding rows of a model can attend by this module: where it would use torch's fused kernels."""
    return model.device.type in ("cpu", "cuda") and model.config.get_text_config(decoder=True)._attn_implementation == "sdpa"


@contextmanager
def decoding_attention(model: Any, groups: Sequence[PromptGroup], lengths: torch.Tensor) -> Iterator[None]:
    """Within, decoding rows attend by this module where they can.

    Args:
        model: A causal language model.
        groups: Which rows share which prompts; empty where slots hold them.
        lengths: Own keys of each row, the one about to be written among them: int64 [rows].
    """
    if not can_share_prompts(model):
        yield
        return
    config = model.config.get_text_config(decoder=True)
    token = ROWS.set(Rows(groups, lengths))
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
        ROWS.reset(token)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for one query per row, in plain matrix products.

    torch's fused CPU kernel gives each thread a scratch buffer whose alignment depends on the thread, and MKL's products
    round by alignment: with two threads a row's bits then depend on its place in the batch. These products do not.

    Args:
        module: The attention layer.
        query: [rows, heads, 1, head size].
        key: The rows' own keys: [rows, key-value heads, keys, head size].
        value: As `key`.
        attention_mask: Additive, [rows, 1, 1, keys].
        dropout: 0: the engine never trains.
        scaling: Of the products; 1 / sqrt(head size) if None.
        kwargs: What else the layer passes on.

    Returns:
        Tensor of shape [rows, 1, heads, head size], and None for the weights.
    """
    rows = ROWS.get()
    groups = rows.groups if rows is not None else ()
    if query.shape[2] != 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    special = [name for name in ("position_bias", "softcap", "s_aux") if kwargs.get(name) is not None]
    if special:
        raise NotImplementedError(f"attention with {special[0]} is not known here")
    num_rows, num_heads, _, head_size = query.shape
    scaling = float(head_size**-0.5 if scaling is None else scaling)
    compiled = kernels() if groups and _fits_kernels(query, key, value) else None
    if compiled is not None and rows is not None:
        return _compiled(compiled, rows, int(module.layer_idx), query, key, value, scaling), None  # type: ignore[arg-type]
    num_key_heads = key.shape[1]
    query = query.reshape(num_rows, num_key_heads, num_heads // num_key_heads, head_size)
    query = query * scaling
    scores = torch.matmul(query, key.transpose(2, 3)).add_(attention_mask)
    if groups:
        output = _with_prompts(groups, int(module.layer_idx), query, scores, value)  # type: ignore[arg-type]
    else:
        output = torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype), value)
    return output.reshape(num_rows, 1, num_heads, value.shape[-1]), None


def _fits_kernels(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    is_known = query.device.type == "cpu" and query.dtype == torch.float32  # of another device they would read the wrong memory
    return is_known and query.shape[-1] % 16 == 0 and key.shape == value.shape


def _compiled(
    compiled: Kernels, rows: Rows, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention by the compiled kernels. Rows of no group come out as zero.

    Returns:
        Tensor of shape [rows, 1, heads, head size].
    """
    query = query[:, :, 0]
    if query.stride(1) != query.shape[2]:
        query = query.contiguous()
    output = query.new_zeros(query.shape)
    for group in rows.groups:
        keys, values = group.entry.key_values[2 * layer : 2 * layer + 2]
        prompt = (keys, values, group.entry.num_tokens)
        compiled.attend(query, output, prompt, (key, value), rows.lengths, group.rows, group.num_rows, scaling)
    return output[:, None]


def _with_prompts(
    groups: Sequence[PromptGroup], layer: int, query: torch.Tensor, own_scores: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attention over the prompt of each group and the own keys of its rows.

    Args:
        groups: Which rows share which prompt. Rows of no group come out as zero.
        layer: Index of the layer.
        query: Scaled, [rows, key-value heads, queries per key, head size].
        own_scores: Masked, [rows, key-value heads, queries per key, own keys].
        value: Own values, [rows, key-value heads, own keys, head size].

    Returns:
        Tensor of the shape of `query`, in the size of the values' heads.
    """
    own_weights = torch.zeros_like(own_scores)
    output = value.new_zeros((*query.shape[:3], value.shape[-1]))
    for group in groups:
        prompt_key, prompt_value = group.entry.key_values[2 * layer : 2 * layer + 2]
        num_keys = prompt_key.shape[1]
        shape = (query.shape[1], len(group.rows), query.shape[2], -1)
        queries = query[group.rows].transpose(0, 1).flatten(1, 2)
        scores = torch.matmul(queries, prompt_key.transpose(1, 2))
        scores[..., group.entry.num_tokens :] = torch.finfo(scores.dtype).min
        own = own_scores[group.rows].transpose(0, 1).flatten(1, 2)
        weights = torch.cat([scores, own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        rows = group.rows[: group.num_rows]
        output[rows] = torch.matmul(weights[..., :num_keys], prompt_value).view(shape).transpose(0, 1)[: group.num_rows]
        own_weights[rows] = weights[..., num_keys:].reshape(shape).transpose(0, 1)[: group.num_rows]
    return output.add_(torch.matmul(own_weights, value))


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
