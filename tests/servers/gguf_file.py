"""Writes the tiny Llama of the tests as a GGUF file, so that llama.cpp's server runs the very model that HFEngine runs."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.unit.hf_helpers import BOS, EOS, VOCABULARY

NORMAL, CONTROL = 1, 3
MAPS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, model, *, eos_token_id: int = EOS, chat_template: str | None = None) -> Path:
    """Write a `LlamaForCausalLM` over VOCABULARY, one token per character, in float32."""
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
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.replace(" ", "▁") for token in VOCABULARY])
    writer.add_token_scores([0.0] * len(VOCABULARY))
    writer.add_token_types([CONTROL if token in ("<s>", "</s>") else NORMAL for token in VOCABULARY])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(eos_token_id)
    writer.add_unk_token_id(VOCABULARY.index("."))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if ".q_proj" in name:
            values = _permuted(values, config.num_attention_heads)
        elif ".k_proj" in name:
            values = _permuted(values, config.num_key_value_heads)
        writer.add_tensor(_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(values: np.ndarray, num_heads: int) -> np.ndarray:
    """The order of rows in which llama.cpp's rotary embedding takes pairs."""
    return values.reshape(num_heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(
            name, "output.weight"
        )
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{MAPS[rest.removesuffix('.weight')]}.weight"
