"""Flamingo checkpoints with the key layout of OpenTSLM's released ones, random and tiny, and what they compute, written out.

As `opentslm_fixtures`: from the paper, OpenTSLM's names, and what open_flamingo computes; no code of `maxent_ts.models`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from maxent_ts.types import TimeSeriesPrompt
from tests.opentslm_fixtures import HIDDEN, State, padded, tensors


def vision_shapes(max_patches: int) -> dict[str, tuple[int, ...]]:
    return {
        "pos_embed": (1, max_patches, 128),
        "patch_embed.weight": (128, 1, 4),
        "input_norm.weight": (128,),
        "input_norm.bias": (128,),
    }


def perceiver_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"latents": (64, 128), "norm.weight": (128,), "norm.bias": (128,)}
    for layer in range(6):
        shapes |= {f"layers.{layer}.0.norm_{what}.{part}": (128,) for what in ("media", "latents") for part in ("weight", "bias")}
        shapes |= {f"layers.{layer}.0.to_q.weight": (512, 128), f"layers.{layer}.0.to_kv.weight": (1024, 128)}
        shapes |= {f"layers.{layer}.0.to_out.weight": (128, 512)}
        shapes |= {f"layers.{layer}.1.0.weight": (128,), f"layers.{layer}.1.0.bias": (128,)}
        shapes |= {f"layers.{layer}.1.1.weight": (512, 128), f"layers.{layer}.1.3.weight": (128, 512)}
    return shapes


def gated_shapes() -> dict[str, tuple[int, ...]]:
    return {
        "attn_gate": (1,),
        "attn.norm.weight": (HIDDEN,),
        "attn.norm.bias": (HIDDEN,),
        "attn.to_q.weight": (512, HIDDEN),
        "attn.to_kv.weight": (1024, 128),
        "attn.to_out.weight": (HIDDEN, 512),
        "ff_gate": (1,),
        "ff.0.weight": (HIDDEN,),
        "ff.0.bias": (HIDDEN,),
        "ff.1.weight": (4 * HIDDEN, HIDDEN),
        "ff.3.weight": (HIDDEN, 4 * HIDDEN),
    }


def add_tokens(tokenizer: Any) -> Any:
    tokenizer.add_tokens(["<|endofchunk|>", "<image>", "<PAD>"], special_tokens=True)
    return tokenizer


def language_model(base: Path) -> Any:
    """The base with rows for the media tokens."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    generator = torch.Generator().manual_seed(5)
    size = len(add_tokens(AutoTokenizer.from_pretrained(base)))
    rows = torch.randn(size - model.config.vocab_size, HIDDEN, generator=generator) * 0.2
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], rows])
    config = AutoConfig.from_pretrained(base)
    config.vocab_size = size
    larger = AutoModelForCausalLM.from_config(config).eval()
    larger.load_state_dict(weights)
    return larger


def flamingo_state(base: Path, *, max_patches: int = 40, seed: int = 0) -> State:
    """`OpenTSLMFlamingo.model.state_dict()`: names without a prefix, copies included, which share their storage."""
    model = language_model(base)
    state = {f"vision_encoder.{name}": value for name, value in tensors(vision_shapes(max_patches), seed).items()}
    state |= {f"perceiver.{name}": value for name, value in tensors(perceiver_shapes(), seed + 1).items()}
    head = model.model.embed_tokens.weight if model.config.tie_word_embeddings else model.lm_head.weight
    state |= {"lang_encoder.lm_head.weight": head.detach(), "lang_encoder.model.norm.weight": model.model.norm.weight.detach()}
    state |= {"lang_encoder.model.embed_tokens.weight": model.model.embed_tokens.weight.detach()}
    for layer, decoder in enumerate(model.model.layers):
        place = f"lang_encoder.model.layers.{layer}"
        for name, value in decoder.state_dict().items():
            state[f"{place}.decoder_layer.{name}"] = state[f"lang_encoder.old_decoder_blocks.{layer}.{name}"] = value
        for name, value in tensors(gated_shapes(), seed + 2 + layer).items():
            value = torch.tensor([0.8 - 0.3 * layer]) if name.endswith("gate") else value
            state[f"{place}.gated_cross_attn_layer.{name}"] = value
            state[f"lang_encoder.gated_cross_attn_layers.{layer}.{name}"] = value
    return state


def flamingo_content(base: Path, **settings: Any) -> dict[str, Any]:
    """What training saves: everything twice more, and where it stood."""
    state = flamingo_state(base, **settings)
    twice = {f"{prefix}.{name}": value for prefix in ("model", "llm") for name, value in state.items()}
    return {"model_state": twice, "optimizer_state": {}, "scheduler_state": {"last_epoch": 3}, "val_loss": 0.5, "epoch": 3}


def save_flamingo(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def _feed_forward(state: State, place: str, hidden: torch.Tensor) -> torch.Tensor:
    hidden = F.layer_norm(hidden, hidden.shape[-1:], state[f"{place}.0.weight"], state[f"{place}.0.bias"])
    return F.gelu(hidden @ state[f"{place}.1.weight"].T) @ state[f"{place}.3.weight"].T


def _heads(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unflatten(-1, (8, 64)).transpose(-3, -2)


class PlainFlamingo:
    """OpenTSLM-Flamingo for one prompt at a time, each forward over the whole text and without a cache.

    Call `read` with a prompt, then `model` with token ids: the first are the prompt's.
    """

    def __init__(self, base: Path, state: State, *, fixed: bool = False) -> None:
        self.state = state
        self.fixed = fixed
        self.tokenizer = add_tokens(AutoTokenizer.from_pretrained(base))
        self.model = language_model(base)
        self.model.register_forward_pre_hook(self._note_length, with_kwargs=True)
        for index, layer in enumerate(self.model.model.layers):
            layer.register_forward_pre_hook(lambda _layer, inputs, index=index: (self._see(index, inputs[0]), *inputs[1:]))

    @torch.no_grad()
    def read(self, prompt: TimeSeriesPrompt) -> torch.Tensor:
        """Token ids of a prompt, whose series the following calls see."""
        text = prompt.pre_prompt
        for segment in prompt.series:
            text += f" <image> {segment.text} <|endofchunk|>"
        self.ids = torch.tensor(self.tokenizer(text + f" {prompt.post_prompt}")["input_ids"])
        self.latents = self._latents(padded([segment.values for segment in prompt.series]))
        return self.ids

    def _latents(self, series: torch.Tensor) -> torch.Tensor:
        """[media, 64, 128]; upstream all series are frames of one medium."""
        state = self.state
        hidden = F.conv1d(series[:, None], state["vision_encoder.patch_embed.weight"], stride=4).transpose(1, 2)
        hidden = hidden + state["vision_encoder.pos_embed"][:, : hidden.shape[1]]
        hidden = F.layer_norm(hidden, (128,), state["vision_encoder.input_norm.weight"], state["vision_encoder.input_norm.bias"])
        features = hidden if self.fixed else hidden.reshape(1, -1, 128)
        latents = state["perceiver.latents"].repeat(len(features), 1, 1)
        for layer in range(6):
            place = f"perceiver.layers.{layer}"

            def norm(what: str, values: torch.Tensor, place: str = place) -> torch.Tensor:
                return F.layer_norm(values, (128,), state[f"{place}.0.norm_{what}.weight"], state[f"{place}.0.norm_{what}.bias"])

            own = norm("latents", latents)
            key, value = (torch.cat([norm("media", features), own], 1) @ state[f"{place}.0.to_kv.weight"].T).chunk(2, -1)
            query = _heads(own @ state[f"{place}.0.to_q.weight"].T) / 8
            mixed = (query @ _heads(key).transpose(-1, -2)).softmax(-1) @ _heads(value)
            latents = latents + mixed.transpose(1, 2).flatten(2) @ state[f"{place}.0.to_out.weight"].T
            latents = latents + _feed_forward(state, f"{place}.1", latents)
        return F.layer_norm(latents, (128,), state["perceiver.norm.weight"], state["perceiver.norm.bias"])

    def _note_length(self, _model: Any, _inputs: Any, named: dict[str, Any]) -> None:
        self.num_tokens = named["input_ids"].shape[1]

    def _see(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """open_flamingo's masked cross-attention: each token to the medium before it, and to none before the first."""
        state, place = self.state, f"lang_encoder.model.layers.{layer}.gated_cross_attn_layer"
        image = self.tokenizer.convert_tokens_to_ids("<image>")
        text_time = (self.ids == image).cumsum(0)
        text_time = torch.cat([text_time, text_time[-1:].expand(self.num_tokens - len(text_time))])
        media_time = torch.arange(len(self.latents)).repeat_interleave(64) + 1
        norm = F.layer_norm(hidden, (HIDDEN,), state[f"{place}.attn.norm.weight"], state[f"{place}.attn.norm.bias"])
        key, value = (self.latents.flatten(0, 1) @ state[f"{place}.attn.to_kv.weight"].T).chunk(2, -1)
        scores = _heads(norm @ state[f"{place}.attn.to_q.weight"].T) / 8 @ _heads(key).transpose(-1, -2)
        scores = scores.masked_fill(text_time[:, None] != media_time[None], -torch.finfo(scores.dtype).max)
        weights = (scores - scores.amax(-1, keepdim=True)).softmax(-1)
        weights = weights.masked_fill((text_time == 0)[:, None], 0.0)
        mixed = (weights @ _heads(value)).transpose(1, 2).flatten(2) @ state[f"{place}.attn.to_out.weight"].T
        hidden = hidden + mixed * state[f"{place}.attn_gate"].tanh()
        return hidden + _feed_forward(state, f"{place}.ff", hidden) * state[f"{place}.ff_gate"].tanh()
