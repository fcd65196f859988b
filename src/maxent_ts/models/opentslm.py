"""OpenTSLM's checkpoints (Langer et al., arXiv 2510.02410) as models, without OpenTSLM's own package or peft.

A soft-prompt checkpoint holds `encoder_state`, `projector_state` and, for some data sets, LoRA adapters; the language model
itself comes from its base. A Flamingo checkpoint holds the whole language model; only its config and tokenizer come from the
base. Any tensor that is missing, unexpected, misshaped or not finite is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maxent_ts.errors import ModelError, SettingError
from maxent_ts.models.checkpoints import BASE_MODELS, base_model_of, find_checkpoint, read_checkpoint
from maxent_ts.models.encoders import EncoderConfig
from maxent_ts.models.files import check_tensors
from maxent_ts.models.flamingo import FlamingoModel, is_flamingo_directory
from maxent_ts.models.flamingo_checkpoint import FLAMINGO_STATES, load_flamingo
from maxent_ts.models.hub import load_causal_lm, load_tokenizer
from maxent_ts.models.lora import merge_lora
from maxent_ts.models.softprompt import SoftPromptModel, is_softprompt_directory
from maxent_ts.presets import DEFAULT_COMPAT

__all__ = ["SeriesModel", "load_series_model"]

SeriesModel = SoftPromptModel | FlamingoModel
"""A language model with what lets it read time series."""

TRAINING_KEYS = frozenset({"optimizer_state", "scheduler_state", "val_loss", "epoch"})
"""What training adds; not needed here."""
SOFTPROMPT_KEYS = frozenset({"encoder_state", "projector_state", "lora_enabled", "lora_state", "lora_config"})


def load_series_model(
    source: str | Path,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    revision: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    base_model: str | Path | None = None,
    compat: str = DEFAULT_COMPAT,
) -> SeriesModel | None:
    """Load a model that reads time series; None if `source` is a model of text.

    Args:
        source: A model directory with a time-series encoder; or a checkpoint of OpenTSLM: a file, a directory with one, or the
            hub id of one of its repositories, such as `OpenTSLM/llama-3.2-1b-har-sp`.
        dtype: Of the language model; "auto" for what its weights are stored in, fp32 where adapters are added to them.
        device: Where all of it goes.
        revision: Branch, tag or commit on the hub.
        model_kwargs: Passed on to the base model's `from_pretrained`.
        base_model: Directory or hub id of a checkpoint's language model; None for what the checkpoint's name tells.
        compat: "upstream" for what a released checkpoint was trained and evaluated with. "gemma-leftpad", for soft prompts: see
            `SoftPromptModel.fragment_ids`. "fixed", for Flamingo: see `FlamingoModel`.

    Raises:
        ModelError: if the checkpoint or its base model cannot be had or read, or if they do not fit.
        SettingError: if `compat` is none that this kind of model has, or if `base_model` or `compat` is given for a model that
            has no use for it.
    """
    checkpoint = find_checkpoint(source, revision)
    if checkpoint is None and base_model is not None:
        raise SettingError(
            f"base_model is for checkpoints of OpenTSLM, but '{source}' brings its own language model. Leave it out."
        )
    if checkpoint is not None:
        return _load_checkpoint(checkpoint, str(source), base_model, compat, dtype, device, model_kwargs or {})
    directory = Path(source).expanduser()
    if is_flamingo_directory(directory):
        return FlamingoModel.from_directory(directory, dtype=dtype, device=device, compat=compat)
    if is_softprompt_directory(directory):
        return SoftPromptModel.from_directory(directory, dtype=dtype, device=device, compat=compat)
    if compat != DEFAULT_COMPAT:
        raise SettingError(f"compat is '{compat}', but '{source}' reads no time series, so it has no such choice. Leave it out.")
    return None


def _load_checkpoint(
    path: Path,
    name: str,
    base_model: str | Path | None,
    compat: str,
    dtype: torch.dtype | str,
    device: torch.device,
    model_kwargs: Mapping[str, Any],
) -> SeriesModel:
    """Load a checkpoint file and its base model, whose name may be in what the user called the checkpoint, or in its path."""
    content = read_checkpoint(path)
    base = str(base_model or "") or base_model_of(name) or base_model_of(str(path.resolve()))
    if base is None:
        raise ModelError(
            f"{path} does not tell its base model by its name, which would contain one of {', '.join(BASE_MODELS)}. Name it: "
            "--base-model with a directory or a hub id, such as meta-llama/Llama-3.2-1B."
        )
    if "encoder_state" in content or "projector_state" in content:
        return _load_softprompt(path, content, base, compat, dtype, device, model_kwargs)
    if any(name in content for name in FLAMINGO_STATES):
        _check_keys(path, content, required=set(), known=TRAINING_KEYS | set(FLAMINGO_STATES))
        return load_flamingo(path, content, base, compat=compat, dtype=dtype, device=device)
    raise ModelError(
        f"{path} should hold encoder_state and projector_state (soft prompt) or model_state (Flamingo), but holds "
        f"{', '.join(sorted(content)) or 'nothing'}. Give a checkpoint of OpenTSLM."
    )


def _load_softprompt(
    path: Path,
    content: Mapping[str, Any],
    base: str,
    compat: str,
    dtype: torch.dtype | str,
    device: torch.device,
    model_kwargs: Mapping[str, Any],
) -> SoftPromptModel:
    _check_keys(path, content, required={"encoder_state", "projector_state"}, known=SOFTPROMPT_KEYS | TRAINING_KEYS)
    has_lora = _has_lora(path, content)
    positions = content["encoder_state"].get("pos_embed")
    if not isinstance(positions, torch.Tensor) or positions.ndim != 3:
        raise ModelError(f"{path} lacks tensor encoder_state/pos_embed of shape [1, patches, 128]: it tells the longest series.")
    # Adapters are added in fp32, and the sum is rounded once.
    language_model, tokenizer = load_base(base, path, torch.float32 if has_lora else dtype, model_kwargs)
    _check_width(path, content["projector_state"], base, language_model.get_input_embeddings().weight.shape[1])
    config = EncoderConfig(
        hidden_size=language_model.get_input_embeddings().weight.shape[1],
        max_patches=positions.shape[1],
        bos_before_answer=True,
        pads_to_longest=True,
    )
    model = SoftPromptModel(language_model, tokenizer, config, compat=compat)
    for key, half in (("encoder_state", model.encoder), ("projector_state", model.projector)):
        shapes = {name: value.shape for name, value in half.state_dict().items()}
        check_tensors(path, content[key], shapes, "OpenTSLM's architecture", f"{key}/")
        half.load_state_dict(content[key])
    if has_lora:
        merge_lora(language_model, content["lora_state"], content.get("lora_config"), path)
        if isinstance(dtype, torch.dtype):
            _round(language_model, dtype)
    return model.to(device).eval()


def _round(language_model: Any, dtype: torch.dtype) -> None:
    """Turn the parameters into another type, and nothing else: buffers such as RoPE's frequencies stay in fp32."""
    for parameter in language_model.parameters():
        parameter.data = parameter.data.to(dtype)
    language_model.config.dtype = language_model.dtype


def load_base(base: str, path: Path, dtype: torch.dtype | str, model_kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Load the base model of a checkpoint and its tokenizer.

    As OpenTSLM does it, the vocabulary is cut to the tokenizer's. It is not enlarged: the tokens that OpenTSLM adds at random
    where the tokenizer has more of them (Gemma 3's image token) are in no checkpoint.

    Raises:
        ModelError: if they cannot be had.
    """
    try:
        language_model = load_causal_lm(base, None, dtype, model_kwargs)
        tokenizer = load_tokenizer(base, None)
    except ModelError as error:
        raise ModelError(base_is_needed(path, base, error)) from error
    if len(tokenizer) < language_model.get_input_embeddings().weight.shape[0]:
        language_model.resize_token_embeddings(len(tokenizer))
    return language_model, tokenizer


def base_is_needed(path: Path, base: str, error: ModelError) -> str:
    """Say what a checkpoint needs that could not be had."""
    return (
        f"The checkpoint {path} needs its base model '{base}'. {error} A copy elsewhere can be named with --base-model DIRECTORY."
    )


def _check_keys(path: Path, content: Mapping[str, Any], *, required: set[str], known: frozenset[str]) -> None:
    missing = sorted(required - set(content))
    if missing:
        raise ModelError(f"{path} lacks {missing[0]}; it holds {', '.join(sorted(content))}. Get the checkpoint again.")
    unexpected = sorted(set(content) - known)
    if unexpected:
        raise ModelError(
            f"{path} holds {unexpected[0]}, which is not part of a checkpoint of this kind ({', '.join(sorted(known))}). It may be "
            "of another version of OpenTSLM."
        )
    for name in required:
        if not isinstance(content[name], Mapping):
            raise ModelError(f"{path}: {name} should hold tensors by name, but is {type(content[name]).__name__}.")


def _has_lora(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has adapters; those from before OpenTSLM knew any do not say so."""
    enabled = content.get("lora_enabled", False)
    if not isinstance(enabled, bool):
        raise ModelError(f"{path}: lora_enabled should be true or false, but is {type(enabled).__name__}.")
    held = sorted({"lora_state", "lora_config"} & set(content))
    if enabled and "lora_state" not in held:
        raise ModelError(f"{path} says lora_enabled, but lacks lora_state: the adapters' tensors. Get the checkpoint again.")
    if not enabled and held:
        raise ModelError(f"{path} holds {held[0]}, but says that LoRA is not enabled. It is not clear which is meant.")
    return enabled


def _check_width(path: Path, projector: Mapping[str, Any], base: str, width: int) -> None:
    weight = projector.get("projector.1.weight")
    if isinstance(weight, torch.Tensor) and weight.ndim == 2 and weight.shape[0] != width:
        raise ModelError(
            f"{path} was trained on a base model of width {weight.shape[0]} (projector_state/projector.1.weight), but '{base}' has "
            f"width {width}. Name the right one with --base-model."
        )
