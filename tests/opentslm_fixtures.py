"""Checkpoints with the key layout of OpenTSLM's released ones, random and tiny, and what they compute, written out.

The layout, sizes and forward passes are written from the description in the paper (Langer et al., arXiv 2510.02410) and the
names in OpenTSLM's own state dictionaries, and share no code with `maxent_ts.models`. Only the language model is small.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from maxent_ts.types import SeriesSegment, TimeSeriesPrompt
from tests.unit.hf_helpers import BOS, save_model

HIDDEN = 32
NUM_LAYERS = 2
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 16, 32
State = dict[str, torch.Tensor]


def save_base(path: Path, *, kind: str = "llama", num_positions: int = 1024, seed: int = 0) -> Path:
    """A random language model with a tokenizer of one token per character, in Hugging Face layout.

    Args:
        path: Where to.
        kind: "llama", or "gemma3", whose output embeddings are its input embeddings, as those of both released bases are.
        num_positions: The longest context.
        seed: Of the weights.
    """
    save_model(path, num_positions=num_positions, seed=seed)
    if kind == "gemma3":
        llama = AutoConfig.from_pretrained(path)
        same = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
        same += " max_position_embeddings bos_token_id eos_token_id initializer_range"
        config = Gemma3TextConfig(
            **{name: getattr(llama, name) for name in same.split()},
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=24,
            query_pre_attn_scalar=8,
            tie_word_embeddings=True,
        )
        torch.manual_seed(seed)
        Gemma3ForCausalLM(config).save_pretrained(path)
    return path


def prompt(*lengths: int, shift: float = 0.0, pre: str = "look at this") -> TimeSeriesPrompt:
    """A prompt with waves of these lengths behind texts of unequal lengths."""
    segments = tuple(
        SeriesSegment("the wave" + " again" * index, wave(length, shift + index)) for index, length in enumerate(lengths)
    )
    return TimeSeriesPrompt(pre, segments, "now answer.")


def wave(length: int, shift: float = 0.0) -> tuple[float, ...]:
    return tuple(torch.sin(torch.arange(length) * 0.7 + shift).tolist())


def tensors(shapes: Mapping[str, Sequence[int]], seed: int) -> State:
    """Random tensors: norms near 1, biases and positions small, matrices scaled by their width."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(*shape, generator=generator)
        is_norm = len(shape) == 1 and name.endswith("weight")
        made[name] = 1 + 0.1 * values if is_norm else values * (0.3 if len(shape) < 2 else shape[-1] ** -0.5)
    return made


def encoder_shapes(max_patches: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, max_patches, 128),
        "patch_embed.weight": (128, 1, 4),
        "input_norm.weight": (128,),
        "input_norm.bias": (128,),
    }
    for layer in range(6):
        own = {
            "self_attn.in_proj_weight": (384, 128),
            "self_attn.in_proj_bias": (384,),
            "self_attn.out_proj.weight": (128, 128),
            "self_attn.out_proj.bias": (128,),
            "linear1.weight": (1024, 128),
            "linear1.bias": (1024,),
            "linear2.weight": (128, 1024),
            "linear2.bias": (128,),
            "norm1.weight": (128,),
            "norm1.bias": (128,),
            "norm2.weight": (128,),
            "norm2.bias": (128,),
        }
        shapes |= {f"encoder.layers.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def projector_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "projector.0.weight": (128,),
        "projector.0.bias": (128,),
        "projector.1.weight": (hidden, 128),
        "projector.1.bias": (hidden,),
    }


def lora_shapes() -> dict[str, tuple[int, int]]:
    sizes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    sizes |= {"gate_proj": (48, 32), "up_proj": (48, 32), "down_proj": (32, 48)}
    shapes = {}
    for layer in range(NUM_LAYERS):
        for target in TARGETS:
            block = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{block}.{target}"
            num_out, num_in = sizes[target]
            shapes[f"{stem}.lora_A.default.weight"] = (RANK, num_in)
            shapes[f"{stem}.lora_B.default.weight"] = (num_out, RANK)
    return shapes


def softprompt_content(*, lora: bool, max_patches: int = 40, seed: int = 0, training: bool = False) -> dict[str, Any]:
    """What a soft-prompt checkpoint holds; `lora_config` still has to be put in while peft's names exist."""
    content: dict[str, Any] = {
        "encoder_state": tensors(encoder_shapes(max_patches), seed),
        "projector_state": tensors(projector_shapes(HIDDEN), seed + 1),
        "lora_enabled": lora,
    }
    if lora:
        # Changes of about a sixth of the weights: far more than rounding, and not so much that it is all there is.
        adapters = tensors(lora_shapes(), seed + 2)
        content["lora_state"] = {name: value * (0.1 if "lora_B" in name else 1.0) for name, value in adapters.items()}
    if training:
        content |= {"optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}}
        content |= {"scheduler_state": {"last_epoch": 3, "lr_lambdas": [{}]}, "val_loss": 0.25, "epoch": 3}
    return content


@contextmanager
def peft_names():
    """peft's classes under peft's names, for pickling; peft itself is not needed."""

    class LoraConfig:
        def __init__(self, **settings: Any) -> None:
            self.__dict__.update(settings)

    class LoraRuntimeConfig(LoraConfig):
        pass

    peft_type = enum.Enum("PeftType", {"LORA": "LORA"}, type=str, module="peft.utils.peft_types", qualname="PeftType")
    task_type = enum.Enum("TaskType", {"CAUSAL_LM": "CAUSAL_LM"}, type=str, module="peft.utils.peft_types", qualname="TaskType")
    modules = {name: types.ModuleType(name) for name in ("peft", "peft.utils", "peft.tuners", "peft.tuners.lora")}
    modules |= {name: types.ModuleType(name) for name in ("peft.utils.peft_types", "peft.tuners.lora.config")}
    for one in (LoraConfig, LoraRuntimeConfig):
        one.__module__, one.__qualname__ = "peft.tuners.lora.config", one.__name__
        setattr(modules["peft.tuners.lora.config"], one.__name__, one)
    modules["peft.utils.peft_types"].PeftType, modules["peft.utils.peft_types"].TaskType = peft_type, task_type  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)

    def config(**changes: Any) -> Any:
        settings: dict[str, Any] = {"task_type": task_type["CAUSAL_LM"], "peft_type": peft_type["LORA"], "r": RANK}
        settings |= {"lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": set(TARGETS), "bias": "none"}
        settings |= {"use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None}
        settings |= {"rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "lora_bias": False}
        settings |= {"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}
        settings |= {"runtime_config": LoraRuntimeConfig(ephemeral_gpu_offload=False)}
        return LoraConfig(**settings | changes)

    try:
        yield config
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def save_softprompt(path: Path, content: dict[str, Any], **config: Any) -> Path:
    """Write a soft-prompt checkpoint; with adapters, also their configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with peft_names() as make:
        if content.get("lora_enabled") and "lora_config" not in content:
            content = {**content, "lora_config": {"default": make(**config)}}
        torch.save(content, path)
    return path


def plain_encoder(state: State, series: torch.Tensor) -> torch.Tensor:
    """[series, points] to [series, points / 4, 128], in plain tensor operations."""
    hidden = F.conv1d(series[:, None], state["patch_embed.weight"], stride=4).transpose(1, 2)
    hidden = hidden + state["pos_embed"][:, : hidden.shape[1]]
    hidden = F.layer_norm(hidden, (128,), state["input_norm.weight"], state["input_norm.bias"])
    for layer in range(6):
        own = {name.split(f"layers.{layer}.")[1]: value for name, value in state.items() if f"layers.{layer}." in name}
        qkv = hidden @ own["self_attn.in_proj_weight"].T + own["self_attn.in_proj_bias"]
        query, key, value = (part.unflatten(-1, (8, 16)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = (query @ key.transpose(-1, -2) / 4).softmax(-1) @ value
        mixed = mixed.transpose(1, 2).flatten(2) @ own["self_attn.out_proj.weight"].T + own["self_attn.out_proj.bias"]
        hidden = F.layer_norm(hidden + mixed, (128,), own["norm1.weight"], own["norm1.bias"])
        inner = F.gelu(hidden @ own["linear1.weight"].T + own["linear1.bias"]) @ own["linear2.weight"].T + own["linear2.bias"]
        hidden = F.layer_norm(hidden + inner, (128,), own["norm2.weight"], own["norm2.bias"])
    return hidden


def plain_projector(state: State, hidden: torch.Tensor) -> torch.Tensor:
    hidden = F.layer_norm(hidden, (128,), state["projector.0.weight"], state["projector.0.bias"])
    return F.gelu(hidden @ state["projector.1.weight"].T + state["projector.1.bias"])


def padded(series: Sequence[Sequence[float]]) -> torch.Tensor:
    """The series of one prompt, padded with zeros to the longest, rounded up to 4 points: [series, points]."""
    length = -(-max(len(one) for one in series) // 4) * 4
    return torch.stack([F.pad(torch.tensor(one), (0, length - len(one))) for one in series])


class PlainSoftPrompt:
    """OpenTSLM-SoftPrompt for one prompt at a time; adapters stay beside the weights they adapt."""

    def __init__(self, base: Path, content: Mapping[str, Any]) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(base).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.content = content
        for name, layer in self.model.named_modules():
            first = content.get("lora_state", {}).get(f"base_model.model.{name}.lora_A.default.weight")
            if first is not None:
                second = content["lora_state"][f"base_model.model.{name}.lora_B.default.weight"]
                layer.register_forward_hook(
                    lambda _layer, inputs, output, first=first, second=second: (
                        output + ALPHA / RANK * (inputs[0] @ first.T @ second.T)
                    )
                )

    @torch.no_grad()
    def embed(self, prompt: TimeSeriesPrompt) -> torch.Tensor:
        """Rows of input embeddings: text, then for each series its text and its patches, then text, then BOS."""
        lookup = self.model.get_input_embeddings()

        def text(words: str) -> torch.Tensor:
            return lookup(torch.tensor([BOS, *self.tokenizer(words, add_special_tokens=False)["input_ids"]]))

        series = padded([segment.values for segment in prompt.series])
        vectors = plain_projector(self.content["projector_state"], plain_encoder(self.content["encoder_state"], series))
        parts = [text(prompt.pre_prompt)]
        for segment, own in zip(prompt.series, vectors, strict=True):
            parts += [text(segment.text), own]
        return torch.cat([*parts, text(prompt.post_prompt), lookup(torch.tensor([BOS]))])
