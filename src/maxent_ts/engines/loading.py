"""From what the user names, a path, a hub id or a model in memory, to a model that the engine can run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from maxent_ts.errors import ModelError, SettingError
from maxent_ts.models.softprompt import SoftPromptModel, is_softprompt_directory

__all__ = ["LoadedModel", "content_hash", "load_model", "resolve_device", "resolve_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HASHED_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model, ready to run, and what belongs to it."""

    model: Any
    tokenizer: Any
    """None if the model came from memory without one: then prompts are ids or embeddings, and nothing is decoded."""
    softprompt: SoftPromptModel | None
    """What embeds time series; None for a model of text only."""
    name: str
    revision: str | None
    hash: Callable[[], str]
    """Computes the SHA-256 of the weights, in hexadecimal."""
    context_length: int | None
    """Positions of prompt and continuation together; None if the model has no bound."""
    eos_token_ids: frozenset[int]


def load_model(
    source: Any, tokenizer: Any, *, device: str, dtype: str, revision: str | None, model_kwargs: Mapping[str, Any]
) -> LoadedModel:
    """Load a model, or take one from memory as it is.

    Args:
        source: Directory, hub id, transformers model or `SoftPromptModel`.
        tokenizer: Tokenizer, or the directory or hub id of one; None for the model's own.
        device: "auto", "cpu", "cuda", "cuda:1", "mps" …
        dtype: "float32", "bfloat16", "float16", or "auto" for what the files hold.
        revision: Branch, tag or commit on the hub.
        model_kwargs: Passed on to `from_pretrained`.

    Raises:
        ModelError: if the model or its tokenizer cannot be found or read, or if its cache cannot be forked.
        SettingError: if device or dtype is unknown, not there, or not that of a model taken from memory.
    """
    kwargs = dict(model_kwargs)
    softprompt: SoftPromptModel | None = None
    if isinstance(source, (PreTrainedModel, SoftPromptModel)):
        softprompt = source if isinstance(source, SoftPromptModel) else None
        model = source.language_model if isinstance(source, SoftPromptModel) else source
        tokenizer = softprompt.tokenizer if tokenizer is None and softprompt is not None else tokenizer
        _check_taken_from_memory(model, device, dtype, revision, kwargs)
        name, hasher = model.config._name_or_path or type(model).__name__, lambda: _hash_tensors(source)
    elif isinstance(source, (str, Path)):
        place = resolve_device(device)
        name, directory = str(source), Path(source).expanduser()
        if is_softprompt_directory(directory):
            softprompt = SoftPromptModel.from_directory(directory, dtype=_dtype_of(directory, dtype), device=place)
            model, tokenizer = softprompt.language_model, softprompt.tokenizer if tokenizer is None else tokenizer
        else:
            if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
                _check_directory(directory)
            model = _load(str(directory) if directory.is_dir() else name, revision, dtype, kwargs).to(place)
            tokenizer = name if tokenizer is None else tokenizer
        hasher = (lambda: content_hash(directory)) if directory.is_dir() else (lambda: _hash_tensors(model))
    else:
        raise ModelError(
            f"A model is a directory, a hub id, or a transformers model in memory, but this is {type(source).__name__}."
        )
    if isinstance(tokenizer, (str, Path)):
        tokenizer = _load_tokenizer(
            str(Path(tokenizer).expanduser()) if Path(tokenizer).expanduser().is_dir() else str(tokenizer), revision
        )
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        softprompt=softprompt,
        name=name,
        revision=getattr(model.config, "_commit_hash", None) or revision,
        hash=hasher,
        context_length=_context_length(model, name),
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
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def _load(name: str, revision: str | None, dtype: str, kwargs: Mapping[str, Any]) -> Any:
    with _clear_errors(name, "model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=resolve_dtype(dtype), output_loading_info=True, **kwargs
        )
    model, report = loaded
    missing = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if missing:
        raise ModelError(
            f"The weights of '{name}' lack {len(missing)} tensors that its config asks for, such as {missing[0]}: they would be "
            "random numbers. Save the model again, or use the config it was saved with."
        )
    return model


def _load_tokenizer(name: str, revision: str | None) -> Any:
    with _clear_errors(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(name, revision=revision)


def _dtype_of(directory: Path, dtype: str) -> torch.dtype:
    resolved = resolve_dtype(dtype)
    if isinstance(resolved, torch.dtype):
        return resolved
    with _clear_errors(str(directory), "config"):
        stored = AutoConfig.from_pretrained(directory, local_files_only=True).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


@contextmanager
def _clear_errors(name: str, what: str) -> Iterator[None]:
    """Turn what the hub, safetensors and transformers raise into one paragraph."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(error, name, what)) from error


def _explain(error: Exception, name: str, what: str) -> str:
    causes = tuple(_causes(error))
    reason = " ".join(str(error).split())
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"'{name}' is gated. Log in on huggingface.co, accept the conditions on https://huggingface.co/{name}, make a token "
            "with read access under Settings, and run: hf auth login (or set HF_TOKEN)."
        )
    if any(isinstance(cause, SafetensorError) for cause in causes):
        return f"The weights of '{name}' are corrupt or cut short ({reason}). Delete them and get them again."
    if any(isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled)) for cause in causes):
        return (
            f"The {what} '{name}' is neither a directory here nor in the local cache, and the hub cannot be reached. Check the "
            "spelling, give the path of a model directory, or, where there is a network, run first: hf download ID."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"There is no {what} '{name}' on the hub, or it is private. Check the spelling; for a private one, run: hf auth login."
        )
    if what == "tokenizer":
        return f"'{name}' has no tokenizer that can be read ({reason}). Save one beside the model, or give tokenizer=…."
    return f"The {what} '{name}' cannot be loaded: {reason}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _context_length(model: Any, name: str) -> int | None:
    """How far prompt and continuation may reach; raise for caches that cannot be cut into slots."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    other = next((layer for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)), None)
    if other is not None:
        raise ModelError(
            f"'{name}' keeps its past in a {type(other).__name__}, a state that cannot be shared among rollouts that begin alike. "
            "This engine runs models whose every layer is ordinary attention, such as Llama, Qwen or GPT-2."
        )
    bounds = [getattr(config, "max_position_embeddings", None)]
    # Within its window, a sliding layer is an ordinary one.
    bounds += [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min((bound for bound in bounds if bound is not None), default=None)


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """All ids that end a completion: those of the generation config, else the config's, else the tokenizer's."""
    generation_config = getattr(model, "generation_config", None)
    for holder in (generation_config, model.config.get_text_config(decoder=True), tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()
