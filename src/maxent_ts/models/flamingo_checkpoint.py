"""OpenTSLM's Flamingo checkpoints: every tensor of the file, and where it belongs.

OpenTSLM keeps its model under two attributes and open_flamingo its layers under two more, so a state dictionary holds most
tensors several times: `model.*` and `llm.*`, and within each `lang_encoder.model.layers.<n>.decoder_layer.*` again as
`lang_encoder.old_decoder_blocks.<n>.*` and `…gated_cross_attn_layer.*` again as `lang_encoder.gated_cross_attn_layers.<n>.*`.
A copy must equal what it is a copy of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from maxent_ts.errors import ModelError
from maxent_ts.models.files import check_tensors
from maxent_ts.models.flamingo import FlamingoConfig, FlamingoModel, add_media_tokens
from maxent_ts.models.hub import clear_errors, load_config, load_tokenizer

__all__ = ["FLAMINGO_STATES", "load_flamingo"]

FLAMINGO_STATES = ("model_state", "llm")
"""The two names under which OpenTSLM saves a Flamingo model: while it trains, and by `store_to_file`."""

COPIES = (
    (r"^lang_encoder\.old_decoder_blocks\.(\d+)\.", r"lang_encoder.model.layers.\1.decoder_layer.", ".decoder_layer."),
    (
        r"^lang_encoder\.gated_cross_attn_layers\.(\d+)\.",
        r"lang_encoder.model.layers.\1.gated_cross_attn_layer.",
        ".gated_cross_attn_layer.",
    ),
)
"""What copies are called, what they are copies of, and what the names of all originals of the kind contain."""
EMBEDDINGS = "lang_encoder.model.embed_tokens.weight"
HEAD = "lang_encoder.lm_head.weight"
SOURCE = "OpenTSLM's architecture with this base model"


def load_flamingo(
    path: Path, content: Mapping[str, Any], base: str, *, compat: str, dtype: torch.dtype | str, device: torch.device
) -> FlamingoModel:
    """Build a Flamingo model from what a checkpoint holds. Of the base model only config and tokenizer are needed.

    Args:
        path: The checkpoint, for messages.
        content: What it holds.
        base: Directory or hub id of the base model.
        compat: See `FlamingoModel`.
        dtype: Of the language model and the cross-attention; "auto" for what the checkpoint has.
        device: Where all of it goes.

    Raises:
        ModelError: if a tensor is missing, unexpected, misshaped, not finite or differs from its copy, or if the base is not
            the one that the checkpoint was trained on, or cannot be had.
    """
    state, prefix = _without_copies(path, content)
    embeddings, positions = state.get(EMBEDDINGS), state.get("vision_encoder.pos_embed")
    for name, tensor, num_axes in ((EMBEDDINGS, embeddings, 2), ("vision_encoder.pos_embed", positions, 3)):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != num_axes or not tensor.is_floating_point():
            raise ModelError(
                f"{path} lacks tensor {prefix}{name}: floating-point numbers with {num_axes} axes, which {SOURCE} asks for."
            )
    assert embeddings is not None
    assert positions is not None
    language_model, tokenizer = _empty_base(base, path, embeddings, dtype)
    model = FlamingoModel(language_model, tokenizer, FlamingoConfig(max_patches=positions.shape[1]), compat=compat)
    places = _places(model)
    shapes = {name: tensor.shape for name, tensor in places.items()}
    check_tensors(path, state, shapes, SOURCE, prefix)
    if language_model.config.get_text_config(decoder=True).tie_word_embeddings:
        _check_copy(path, prefix + HEAD, state[HEAD], prefix + EMBEDDINGS, embeddings)
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(state[name])
    return model.to(device).eval()


def _without_copies(path: Path, content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the tensors of a checkpoint, each once, and what precedes their names in the file."""
    key = next(name for name in FLAMINGO_STATES if name in content)
    if not isinstance(content[key], Mapping):
        raise ModelError(f"{path}: {key} should hold tensors by name, but is {type(content[key]).__name__}.")
    state = dict(content[key])
    prefix = "model." if any(str(name).startswith("model.") for name in state) else ""
    if prefix:
        _drop_copies(path, state, key, r"^llm\.", "model.", "model.")
        for name in state:
            if not name.startswith("model."):
                raise ModelError(f"{path} holds the unexpected tensor {key}/{name}; names should start with model. or llm.")
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for pattern, original, mark in COPIES:
        _drop_copies(path, state, f"{key}/{prefix}", pattern, original, mark)
    return state, f"{key}/{prefix}"


def _drop_copies(path: Path, state: dict[str, Any], place: str, pattern: str, original: str, mark: str) -> None:
    """Take the copies of one kind out of a state. Where there are some, there must be one of every original."""
    copies = {name: re.sub(pattern, original, name) for name in state if re.match(pattern, name)}
    lonely = sorted(name for name, whose in copies.items() if whose not in state)
    if lonely:
        raise ModelError(f"{path} lacks tensor {copies[lonely[0]]} of {place}, of which it holds the copy {lonely[0]}.")
    for name, whose in copies.items():
        _check_copy(path, name, state[name], whose, state[whose])
        del state[name]
    uncopied = sorted(name for name in state if mark in name and name not in copies.values())
    if copies and uncopied:
        raise ModelError(
            f"{path}: {place} holds {next(iter(copies))} and {len(copies) - 1} more copies, but lacks the one of {uncopied[0]}. "
            "The file was cut while it was saved; get it again."
        )


def _check_copy(path: Path, name: str, tensor: Any, whose: str, other: Any) -> None:
    same = isinstance(tensor, torch.Tensor) and isinstance(other, torch.Tensor) and tensor.shape == other.shape
    if not same or (tensor.data_ptr() != other.data_ptr() and not torch.equal(tensor, other)):
        raise ModelError(
            f"{path}: tensor {name} should equal {whose}, of which it is a copy, but differs. It is not clear which is meant; get "
            "the checkpoint again."
        )


def _empty_base(base: str, path: Path, embeddings: torch.Tensor, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """A base model without its weights, as large as the checkpoint's vocabulary, and the tokenizer with media tokens."""
    try:
        config = load_config(base)
        tokenizer = load_tokenizer(base, None)
    except ModelError as error:
        raise ModelError(
            f"The checkpoint {path} needs the config and the tokenizer of its base model '{base}'. {error} A copy elsewhere can be "
            "named with --base-model DIRECTORY."
        ) from error
    add_media_tokens(tokenizer)
    text_config = config.get_text_config(decoder=True)
    if text_config.hidden_size != embeddings.shape[1] or len(tokenizer) != embeddings.shape[0]:
        raise ModelError(
            f"{path} was trained on a base model of width {embeddings.shape[1]} with {embeddings.shape[0]} tokens, media tokens "
            f"included, but '{base}' has width {text_config.hidden_size} and {len(tokenizer)} tokens. Name the right one with "
            "--base-model."
        )
    text_config.vocab_size = len(tokenizer)
    with clear_errors(base, "config"):
        return AutoModelForCausalLM.from_config(config, dtype=embeddings.dtype if dtype == "auto" else dtype), tokenizer


def _places(model: FlamingoModel) -> dict[str, torch.Tensor]:
    """Where each tensor of a checkpoint goes, by its name there."""
    places = {}
    for name, tensor in model.language_model.state_dict(keep_vars=True).items():
        places["lang_encoder." + re.sub(r"^model\.layers\.(\d+)\.", r"model.layers.\1.decoder_layer.", name)] = tensor
    for name, tensor in model.series_parts.state_dict(keep_vars=True).items():
        name = re.sub(r"^encoder\.", "vision_encoder.", name)
        places[re.sub(r"^cross_attention\.(\d+)\.", r"lang_encoder.model.layers.\1.gated_cross_attn_layer.", name)] = tensor
    return places
