"""Writes a Llama of transformers as a GGUF file, so that llama.cpp runs the very weights that HFEngine runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

__all__ = ["CONTROL", "NORMAL", "Vocabulary", "write_gguf"]

NORMAL, CONTROL = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


class Vocabulary:
    """The tokens' texts, and which of them are special."""

    def __init__(
        self,
        texts: Sequence[str],
        *,
        control: Sequence[str] = (),
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        unk_token_id: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.texts = [text.replace(" ", "▁") for text in texts]
        self.types = [CONTROL if text in control else NORMAL for text in texts]
        self.bos_token_id, self.eos_token_id, self.unk_token_id = bos_token_id, eos_token_id, unk_token_id
        self.chat_template = chat_template

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Write it."""
        writer.add_vocab_size(len(self.texts))
        writer.add_tokenizer_model("llama")
        writer.add_token_list(self.texts)
        writer.add_token_scores([0.0] * len(self.texts))
        writer.add_token_types(self.types)
        writer.add_add_bos_token(self.bos_token_id is not None)
        writer.add_add_space_prefix(False)
        if self.bos_token_id is not None:
            writer.add_bos_token_id(self.bos_token_id)
        if self.eos_token_id is not None:
            writer.add_eos_token_id(self.eos_token_id)
        if self.unk_token_id is not None:
            writer.add_unk_token_id(self.unk_token_id)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def write_gguf(path: Path, model, vocabulary: Vocabulary, *, kind: str | None = None) -> Path:
    """Write a `LlamaForCausalLM`.

    Args:
        path: Where to.
        model: The model.
        vocabulary: As many tokens as its embeddings have rows.
        kind: Of the matrices, such as "Q8_0"; None for float32.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    vocabulary.add_to(writer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        for part, num_heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:  # the order in which llama.cpp's rotary embedding takes pairs
                values = values.reshape(num_heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if kind is None or values.ndim == 1:
            writer.add_tensor(_name(name), np.ascontiguousarray(values))
        else:
            quantization = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(_name(name), gguf.quants.quantize(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[name]}.weight"
