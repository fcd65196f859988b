"""Models, tokenizers and single files by path or hub id, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from maxent_ts.errors import ModelError

__all__ = ["clear_errors", "download_file", "load_causal_lm", "load_config", "load_tokenizer"]


def load_causal_lm(name: str, revision: str | None, dtype: torch.dtype | str, kwargs: Mapping[str, Any]) -> Any:
    """Load a causal language model from a directory or the hub.

    Args:
        name: Directory or hub id.
        revision: Branch, tag or commit on the hub.
        dtype: A torch dtype, or "auto".
        kwargs: Passed on to `from_pretrained`.

    Raises:
        ModelError: if it cannot be found or read, or lacks a tensor.
    """
    with clear_errors(name, "model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype, output_loading_info=True, **kwargs)
    model, report = loaded
    missing = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if missing:
        raise ModelError(
            f"The weights of '{name}' lack {len(missing)} tensors that its config asks for, such as {missing[0]}: they would be "
            "random numbers. Save the model again, or use the config it was saved with."
        )
    return model


def load_tokenizer(name: str, revision: str | None) -> Any:
    """Load a tokenizer from a directory or the hub.

    Raises:
        ModelError: if it cannot be found or read.
    """
    with clear_errors(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(name, revision=revision)


def load_config(name: str) -> Any:
    """Load a model's config from a directory or the hub.

    Raises:
        ModelError: if it cannot be found or read.
    """
    with clear_errors(name, "config"):
        return AutoConfig.from_pretrained(name)


def download_file(repository: str, file: str, revision: str | None) -> Path:
    """Return where a file of a hub repository lies in the cache; get it first if need be.

    Raises:
        ModelError: if it cannot be had.
    """
    with clear_errors(repository, "checkpoint", file):
        return Path(hf_hub_download(repository, file, revision=revision))


@contextmanager
def clear_errors(name: str, what: str, file: str = "") -> Iterator[None]:
    """Turn what the hub, safetensors and transformers raise into one paragraph.

    Args:
        name: Directory or hub id.
        what: "model", "tokenizer", "config" or "checkpoint".
        file: The one file asked for; empty for all that a model needs.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(error, name, what, file)) from error


def _explain(error: Exception, name: str, what: str, file: str) -> str:
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
        command = f"hf download {name} {file}" if file else "hf download ID"
        return (
            f"The {what} '{name}' is neither a directory here nor in the local cache, and the hub cannot be reached. Check the "
            f"spelling, give the path of a {'file or ' if file else 'model '}directory, or, where there is a network, run first: "
            f"{command}."
        )
    if any(isinstance(cause, EntryNotFoundError) for cause in causes):
        return f"The hub repository '{name}' has no file {file or reason}. Check the spelling, or give the path of a local file."
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
