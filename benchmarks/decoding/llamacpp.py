"""(g) llama.cpp, where the packages xllamacpp and gguf are installed: the same random weights, at Q8_0 and Q4_0.

Its server runs within this process, so that its threads' CPU time is counted; one request asks for all rollouts of a prompt,
which it prefills once and then decodes in one batch.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.decoding.shapes import prompt

__all__ = ["variants"]

TYPES = ("Q8_0", "Q4_0")
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


def variants(model: Any, shape: str, rows: int, length: int, num_new: int) -> dict[str, Callable[[int], float]]:
    """CPU seconds for a round's work by each type; none where llama.cpp is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gguf")):
        return {}
    return {f"g {kind}: llama.cpp": _runner(_file(model, shape, kind), rows, length, num_new) for kind in TYPES}


def _runner(path: Path, rows: int, length: int, num_new: int) -> Callable[[int], float]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.n_ctx = str(path), rows, (length + num_new + 32) * rows
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.kv_unified, params.fit_params, params.warmup, params.verbosity, params.port = True, False, False, 0, 0
    server = xllamacpp.Server(params)

    def work(round_: int) -> float:
        request = {
            "prompt": prompt(round_, length).tolist(),
            "n": rows,
            "max_tokens": num_new,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "ignore_eos": True,
            "samplers": ["temperature"],
        }
        answers: list[Any] = []
        start = time.process_time()
        server.handle_completions(json.dumps(request), answers.append)
        seconds = time.process_time() - start
        found = answers[-1] if isinstance(answers[-1], dict) else json.loads(answers[-1])
        if [choice["finish_reason"] for choice in found.get("choices", ())] != ["length"] * rows:
            raise RuntimeError(f"llama.cpp answered with {str(found)[:500]}")
        return seconds

    return work


def _file(model: Any, shape: str, kind: str) -> Path:
    """Write the model as a GGUF file, with a vocabulary of made-up words."""
    import gguf

    path = Path(tempfile.gettempdir()) / f"maxent-ts-{shape}-{kind}.gguf"
    if path.exists():
        return path
    config, quantization = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"w{index}" for index in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_add_bos_token(False)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:  # the order in which llama.cpp's rotary embedding takes pairs
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if values.ndim == 1:
            writer.add_tensor(_name(name), values)
        else:
            writer.add_tensor(_name(name), gguf.quants.quantize(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_suffix(".part").rename(path)


def _name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[name]}.weight"
