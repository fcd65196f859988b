"""The layers of Flamingo (Alayrac et al. 2022, arXiv 2204.14198, section 3.1 and appendix A.1.1) that OpenTSLM-Flamingo uses.

Their parameters have the names that they have in OpenTSLM's checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from maxent_ts.models.media import MediaRows

__all__ = ["GatedCrossAttention", "PerceiverResampler"]

NUM_HEADS = 8
HEAD_SIZE = 64
NUM_LATENTS = 64
DEPTH = 6


def _feed_forward(width: int) -> nn.Sequential:
    inner = 4 * width
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False))


def _split(tensor: torch.Tensor) -> torch.Tensor:
    """[..., positions, heads * head size] to [..., heads, positions, head size]."""
    return tensor.unflatten(-1, (NUM_HEADS, HEAD_SIZE)).transpose(-3, -2)


class _PerceiverAttention(nn.Module):
    """Latents attend to features and to themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, NUM_HEADS * HEAD_SIZE, bias=False)
        self.to_kv = nn.Linear(width, 2 * NUM_HEADS * HEAD_SIZE, bias=False)
        self.to_out = nn.Linear(NUM_HEADS * HEAD_SIZE, width, bias=False)

    def forward(self, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = self.norm_latents(latents)
        seen = torch.cat([self.norm_media(features), latents], dim=-2)
        key, value = self.to_kv(seen).chunk(2, dim=-1)
        mixed = scaled_dot_product_attention(_split(self.to_q(latents)), _split(key), _split(value))
        return self.to_out(mixed.transpose(-3, -2).flatten(-2))


class PerceiverResampler(nn.Module):
    """Any number of feature vectors to 64 latent vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(NUM_LATENTS, width))
        self.layers = nn.ModuleList(nn.ModuleList([_PerceiverAttention(width), _feed_forward(width)]) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [media, features, width] to [media, 64, width]."""
        latents = self.latents.expand(len(features), -1, -1)
        for attention, feed_forward in self.layers:  # type: ignore[misc]
            latents = latents + attention(features, latents)
            latents = latents + feed_forward(latents)
        return self.norm(latents)


class _CrossAttention(nn.Module):
    def __init__(self, width: int, media_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, NUM_HEADS * HEAD_SIZE, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * NUM_HEADS * HEAD_SIZE, bias=False)
        self.to_out = nn.Linear(NUM_HEADS * HEAD_SIZE, width, bias=False)

    def forward(self, hidden: torch.Tensor, media: Sequence[MediaRows], layer: int) -> torch.Tensor:
        queries = _split(self.to_q(self.norm(hidden)) * HEAD_SIZE**-0.5)
        output = queries.new_zeros((*hidden.shape[:2], NUM_HEADS * HEAD_SIZE))
        for one in media:
            key, value = one.key_values.tensors[2 * layer : 2 * layer + 2]
            # The rows' queries go through one product with the keys that they share.
            own = queries[one.rows].transpose(0, 1).flatten(1, 2)
            whose = torch.arange(key.shape[1], device=key.device) // (key.shape[1] // one.key_values.num_media) + 1
            times = one.times.repeat(len(one.rows))
            scores = torch.matmul(own, key.transpose(1, 2))
            scores = scores.masked_fill(times[:, None] != whose, torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=-1).masked_fill((times == 0)[:, None], 0.0)
            mixed = torch.matmul(weights, value).unflatten(1, (len(one.rows), -1)).permute(1, 2, 0, 3).flatten(2)
            output[one.rows[: one.num_rows]] = mixed[: one.num_rows]
        return self.to_out(output)


class GatedCrossAttention(nn.Module):
    """Cross-attention to media and a feed-forward, each behind a gate tanh(α) and added to what comes in."""

    def __init__(self, width: int, media_width: int) -> None:
        super().__init__()
        self.attn = _CrossAttention(width, media_width)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = _feed_forward(width)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: torch.Tensor, media: Sequence[MediaRows], layer: int) -> torch.Tensor:
        """Let text see media.

        Args:
            hidden: [rows, positions, width].
            media: What the rows see.
            layer: Index of this layer in `MediaKeyValues.tensors`.
        """
        hidden = hidden + self.attn(hidden, media, layer) * self.attn_gate.tanh()
        return hidden + self.ff(hidden) * self.ff_gate.tanh()

    def key_values(self, latents: torch.Tensor) -> tuple[Any, Any]:
        """Project latents [media, latents, width] to key and value, [heads, media * latents, head size] each."""
        key, value = self.attn.to_kv(latents.flatten(0, 1).to(self.attn.to_kv.weight.dtype)).chunk(2, dim=-1)
        return _split(key).contiguous(), _split(value).contiguous()
