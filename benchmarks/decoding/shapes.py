"""Random models of public shapes, and prompts: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["SHAPES", "build_model", "prompt"]

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
}
"""tiny: 5.9 million parameters. 135m: SmolLM's. 1b: Llama 3.2's."""


def build_model(shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LlamaForCausalLM:
    """A random Llama that has no end-of-sequence token, so that every method generates the same number of tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()


def prompt(round_: int, length: int) -> torch.Tensor:
    """Another prompt for each round, so that nothing is known from the last: int64 [length]."""
    return torch.randint(2048, (length,), generator=torch.Generator().manual_seed(round_))
