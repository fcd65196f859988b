"""From what the user names, a path, a hub id or a model in memory, to a model that the engine can run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from maxent_ts.engines.windows import sliding_window
from maxent_ts.errors import ModelError, SettingError
from maxent_ts.models.hub import load_causal_lm, load_tokenizer
from maxent_ts.models.opentslm import SeriesModel, load_series_model
from maxent_ts.presets import DEFAULT_COMPAT

__all__ = ["LoadedModel", "content_hash", "load_model", "quantization_config", "resolve_device", "resolve_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HASHED_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model, ready to run, and what belongs to it."""

    model: Any
    tokenizer: Any
    """None if the model came from memory without one: then prompts are ids or embeddings, and nothing is decoded."""
    series_model: SeriesModel | None
    """What embeds time series; None for a model of text only."""
    name: str
    revision: str | None
    hash: Callable[[], str]
    """Computes the SHA-256 of the weights, in hexadecimal."""
    context_length: int | None
    """Positions of prompt and continuation together; None if the model has no bound."""
    eos_token_ids: frozenset[int]
    unshareable: str | None = None
    """The kind of cache in which rollouts that begin alike cannot share their past; None if there is none."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text, without special tokens.

        Raises:
            ModelError: if there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ModelError("Turning tokens into text needs a tokenizer, but this engine has none. Give tokenizer=… to HFEngine.")
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def load_model(
    source: Any,
    tokenizer: Any,
    *,
    device: str,
    dtype: str,
    revision: str | None,
    model_kwargs: Mapping[str, Any],
    base_model: str | Path | None = None,
    compat: str = DEFAULT_COMPAT,
) -> LoadedModel:
    """Load a model, or take one from memory as it is.

    Args:
        source: Directory, hub id, OpenTSLM checkpoint (file, directory or hub id), transformers model or `SeriesModel`.
        tokenizer: Tokenizer, or the directory or hub id of one; None for the model's own.
        device: "auto", "cpu", "cuda", "cuda:1", "mps" …
        dtype: "float32", "bfloat16", "float16", or "auto" for what the files hold.
        revision: Branch, tag or commit on the hub.
        model_kwargs: Passed on to `from_pretrained`.
        base_model: Directory or hub id of the language model that a checkpoint is of; None for what its name tells.
        compat: See `load_series_model`.

    Raises:
        ModelError: if the model or its tokenizer cannot be found or read.
        SettingError: if device or dtype is unknown, not there, or not that of a model taken from memory; or if `base_model` or
            `compat` is given for a model that has no use for it.
    """
    kwargs = dict(model_kwargs)
    series_model: SeriesModel | None = None
    if isinstance(source, (PreTrainedModel, SeriesModel)):
        series_model = source if isinstance(source, SeriesModel) else None
        model = source.language_model if isinstance(source, SeriesModel) else source
        _check_taken_from_memory(model, device, dtype, revision, kwargs)
        if base_model is not None or compat != DEFAULT_COMPAT:
            raise SettingError("base_model and compat are for loading, but the model given is already loaded. Leave them out.")
        name, hasher = model.config._name_or_path or type(model).__name__, lambda: _hash_tensors(source)
    elif isinstance(source, (str, Path)):
        place = resolve_device(device)
        name, directory = str(source), Path(source).expanduser()
        series_model = load_series_model(
            source,
            dtype=resolve_dtype(dtype),
            device=place,
            revision=revision,
            model_kwargs=kwargs,
            base_model=base_model,
            compat=compat,
        )
        if series_model is not None:
            model = series_model.language_model
        else:
            if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
                _check_directory(directory)
            model = load_causal_lm(str(directory) if directory.is_dir() else name, revision, resolve_dtype(dtype), kwargs).to(place)
            tokenizer = name if tokenizer is None else tokenizer
        is_files = (directory / "config.json").is_file()
        hasher = (lambda: content_hash(directory)) if is_files else (lambda: _hash_tensors(series_model or model))
    else:
        raise ModelError(
            f"A model is a directory, a hub id, a checkpoint file, or a transformers model in memory, but this is "
            f"{type(source).__name__}."
        )
    if tokenizer is None and series_model is not None:
        tokenizer = series_model.tokenizer
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(
            str(Path(tokenizer).expanduser()) if Path(tokenizer).expanduser().is_dir() else str(tokenizer), revision
        )
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        series_model=series_model,
        name=name,
        revision=getattr(model.config, "_commit_hash", None) or revision,
        hash=hasher,
        context_length=_context_length(model),
        unshareable=_unshareable(model),
        eos_token_ids=_eos_token_ids(model, tokenizer),
    )


def resolve_device(device: str) -> torch.device:
    """Turn "auto" into the best device there is, and check any other.

    Raises:
        SettingError: if there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or the like, but is {device!r}.") from error
    absent = (found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count())) or (
        found.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise SettingError(
            f"device is {device!r}, but this machine has no such device, or this torch cannot use it. Try device='auto'."
        )
    return found


def resolve_dtype(dtype: str) -> torch.dtype | str:
    """Turn a name into a torch dtype; "auto" stays.

    Raises:
        SettingError: if the name is unknown.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise SettingError(f"dtype must be one of {', '.join(DTYPES)} or auto, but is {dtype!r}.")
    return DTYPES.get(dtype, "auto")


def content_hash(directory: Path) -> str:
    """Return one SHA-256, in hexadecimal, over names and contents of a directory's weights, config and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.suffix in HASHED_SUFFIXES and path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _hash_tensors(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        for part in _parts(tensor.detach()):
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parts(tensor: Any) -> list[torch.Tensor]:
    """The plain tensors that a tensor is made of: itself, or integers and scales where torchao has quantised it."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name))]


def quantization_config(model: Any) -> dict[str, Any] | None:
    """Return how transformers has quantised a model, as plain JSON values; None if it has not."""
    config = getattr(model.config, "quantization_config", None)
    if config is None or isinstance(config, dict):
        return config
    return json.loads(config.to_json_string())


def _check_taken_from_memory(model: Any, device: str, dtype: str, revision: str | None, kwargs: Mapping[str, Any]) -> None:
    """A model in memory is another's: it is not moved or converted, so the settings must be what it is."""
    wanted = resolve_dtype(dtype)
    if wanted not in ("auto", model.dtype):
        name = str(model.dtype).removeprefix("torch.")
        raise SettingError(
            f"dtype is '{dtype}', but the model given is in {name}. Give dtype='{name}', or convert it with model.to(…)."
        )
    if device != "auto" and (place := resolve_device(device)).type != model.device.type:
        raise SettingError(f"device is '{place}', but the model given is on '{model.device}'. Move it with model.to('{place}').")
    if revision is not None or kwargs:
        raise SettingError("revision and model_kwargs are for loading, but the model given is already loaded. Leave them out.")


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise ModelError(f"There is no model directory {directory}. Give a directory that has a config.json, or a hub id.")
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"{directory} has no config.json, so it is not a model in Hugging Face layout. Write it with save_pretrained."
        )


def _context_length(model: Any) -> int | None:
    """How far prompt and continuation may reach."""
    config = model.config.get_text_config(decoder=True)
    bounds = [getattr(config, "max_position_embeddings", None)]
    if _unshareable(model) is None and sliding_window(model) is None:
        # A window of another kind: within it, the layer is an ordinary one.
        layers = DynamicCache(config=config).layers
        bounds += [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min((bound for bound in bounds if bound is not None), default=None)


def _unshareable(model: Any) -> str | None:
    """Name a kind of cache, among those that a model asks for, that cannot be cut into slots."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    other = next((layer for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)), None)
    return None if other is None else type(other).__name__


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """All ids that end a completion: those of the generation config, else the config's, else the tokenizer's."""
    generation_config = getattr(model, "generation_config", None)
    for holder in (generation_config, model.config.get_text_config(decoder=True), tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()
