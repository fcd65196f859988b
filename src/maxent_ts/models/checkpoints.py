"""OpenTSLM's checkpoint files: where they are, and what is in them, read without running anything they hold.

A checkpoint is a pickle inside a zip archive, as `torch.save` writes it. torch's `weights_only` unpickler reads it: it builds
tensors and plain containers, and calls nothing that the file names. The one class that OpenTSLM's own files hold beyond
these, peft's LoRA configuration with its enumerations, becomes a plain record here; peft is not imported.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maxent_ts.errors import ModelError
from maxent_ts.models.hub import download_file

__all__ = ["BASE_MODELS", "CHECKPOINT_FILE", "LoraRecord", "base_model_of", "find_checkpoint", "read_checkpoint"]

CHECKPOINT_FILE = "model_checkpoint.pt"

BASE_MODELS = {
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
    "gemma-3-270m": "google/gemma-3-270m",
    "gemma-3-1b": "google/gemma-3-1b-pt",
    "llama1b": "meta-llama/Llama-3.2-1B",
    "llama3b": "meta-llama/Llama-3.2-3B",
}
"""Base models by what a checkpoint's name contains. OpenTSLM maps `gemma-3-1b` to `google/gemma-3-1b`, which is no model; the
pretrained one is `google/gemma-3-1b-pt`. The last two are in older names such as `llama3b-ecg-flamingo`."""

SUFFIXES = ("-sp", "-flamingo")
"""What the names of OpenTSLM's repositories end with."""


class LoraRecord:
    """What a file holds of a peft configuration: its attributes."""


class _Word(str):
    """A member of one of peft's enumerations of words."""

    __slots__ = ()


STAND_INS = [
    (LoraRecord, "peft.tuners.lora.config.LoraConfig"),
    (LoraRecord, "peft.tuners.lora.LoraConfig"),
    (LoraRecord, "peft.tuners.lora.config.LoraRuntimeConfig"),
    (_Word, "peft.utils.peft_types.PeftType"),
    (_Word, "peft.utils.peft_types.TaskType"),
]


def find_checkpoint(source: str | Path, revision: str | None = None) -> Path | None:
    """Return the checkpoint file that a user means, or None if it is a model of another kind.

    Args:
        source: A file; a directory that has a checkpoint and no `config.json`; or the hub id of one of OpenTSLM's
            repositories, such as `OpenTSLM/llama-3.2-1b-har-sp`.
        revision: Branch, tag or commit on the hub.

    Raises:
        ModelError: if a directory holds several, or if a hub repository cannot be had.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = [] if (path / "config.json").exists() else sorted(path.glob("*.pt"))
        if len(found) > 1 and path / CHECKPOINT_FILE not in found:
            raise ModelError(
                f"{path} holds {len(found)} checkpoints and none of them is called {CHECKPOINT_FILE}. Name the one that is meant, "
                f"such as {found[0]}."
            )
        return (path / CHECKPOINT_FILE if path / CHECKPOINT_FILE in found else found[0]) if found else None
    name = str(source)
    is_opentslm = name.count("/") == 1 and not name.startswith((".", "/", "~")) and name.lower().endswith(SUFFIXES)
    if not is_opentslm or base_model_of(name) is None:
        return None
    return download_file(name, CHECKPOINT_FILE, revision)


def base_model_of(name: str) -> str | None:
    """Return the base model that the name or path of a checkpoint tells, the last part of it first; None if none."""
    for part in reversed(Path(name).parts):
        spelled = part.lower().replace("_", "-")
        for fragment, base in BASE_MODELS.items():
            if fragment in spelled:
                return base
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file. Nothing in it is run.

    Returns:
        What the file holds, by name; tensors are on the CPU and lie in the file until they are used.

    Raises:
        ModelError: if the file is no checkpoint, is damaged, or asks for something to be run.
    """
    try:
        is_archive = zipfile.is_zipfile(path)
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"The checkpoint {path} cannot be read: {error}.") from error
    if not is_archive:
        problem = "but is empty" if size == 0 else f"but its {size} bytes are not, or are cut short"
        raise ModelError(
            f"{path} should be a checkpoint, which is a zip archive as torch.save writes it, {problem}. Get the file again; for a "
            "directory or a hub id of a model, give that."
        )
    try:
        with torch.serialization.safe_globals(STAND_INS):  # type: ignore[arg-type]
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} should hold tensors, numbers, texts and peft's LoRA configuration only, but asks for more: "
            f"{_first_line(error)} It was refused, and nothing in it was run. Get the file from its authors again; a checkpoint of "
            "your own, save with these contents only."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"{path} should be a checkpoint as torch.save writes it, but is damaged: {_first_line(error)} Get the file again."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ModelError(
            f"{path} should hold a dictionary with encoder_state and projector_state, or with model_state, but holds "
            f"{type(content).__name__}. Give a checkpoint of OpenTSLM."
        )
    return dict(content)


def _first_line(error: BaseException) -> str:
    """What torch says is wrong, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "WeightsUnpickler error" in line or "GLOBAL" in line), lines[0] if lines else "no data.")
    return told.rstrip(".") + "."
