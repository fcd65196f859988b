"""Reading weights from local files, every tensor checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from maxent_ts.errors import ModelError

__all__ = [
    "check_finite",
    "check_tensors",
    "load_language_model",
    "load_local_tokenizer",
    "load_parts",
    "read_tensors",
    "save_series_model",
    "save_tensors",
]

SERIES_PREFIX = "time_series_"
"""Files beside a language model that hold what reads the series start so."""


def load_language_model(directory: Path, *, dtype: torch.dtype | str) -> Any:
    """Load the causal language model of a directory on the CPU, every tensor checked.

    Raises:
        ModelError: if a file is missing or unreadable, or a tensor is missing, unexpected, of another shape than the config
            states, or not finite. Names the file and the tensor.
    """
    paths = sorted(path for path in directory.glob("*.safetensors") if not path.name.startswith(SERIES_PREFIX))
    if not paths:
        raise ModelError(f"{directory} should hold the language model's weights as .safetensors, but holds none.")
    for path in paths:
        check_finite(path, read_tensors(path))
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The language model in {directory} cannot be loaded: {error}.") from error
    model, report = loaded
    for kind, problem in (("missing_keys", "lacks"), ("unexpected_keys", "holds the unexpected"), ("mismatched_keys", "misshapes")):
        names = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report[kind])
        if names:
            raise ModelError(
                f"{', '.join(path.name for path in paths)} in {directory} {problem} tensor {names[0]} ({len(names)} in all), "
                "so it does not fit config.json. Save the model again, or use the config it was saved with."
            )
    return model


def load_local_tokenizer(directory: Path) -> Any:
    """Load the tokenizer of a directory.

    Raises:
        ModelError: if it is missing or cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer in {directory} cannot be read: {error}.") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        ModelError: if it is missing, cut off or corrupt.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} should be a safetensors file, but is missing, cut off or corrupt: {error}.") from error


def save_tensors(path: Path, module: nn.Module) -> None:
    """Write the tensors of a module as a safetensors file."""
    save_file({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, path)


def save_series_model(directory: Path, model: Any, parts: nn.Module, config_file: str, weights_file: str) -> None:
    """Write a language model, its tokenizer, and beside them what reads the series.

    Args:
        directory: Where to.
        model: Holds `language_model`, `tokenizer` and `config`, a dataclass.
        parts: What reads the series.
        config_file: Name of the file with the config.
        weights_file: Name of the file with the parts' tensors.
    """
    model.language_model.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    (directory / config_file).write_text(json.dumps(asdict(model.config), indent=2) + "\n", encoding="utf-8")
    save_tensors(directory / weights_file, parts)


def load_parts(path: Path, parts: nn.Module, source: str) -> None:
    """Fill modules with the tensors of a file, every tensor checked.

    Args:
        path: A safetensors file.
        parts: The modules.
        source: What asks for their shapes, for messages.

    Raises:
        ModelError: if the file is missing or unreadable, or a tensor is missing, unexpected, misshaped or not finite.
    """
    tensors = read_tensors(path)
    check_tensors(path, tensors, {name: value.shape for name, value in parts.state_dict().items()}, source)
    parts.load_state_dict(tensors)


def check_tensors(
    place: Path | str, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], source: str, prefix: str = ""
) -> None:
    """Raise ModelError unless tensors are exactly those of these names and shapes, all floating-point and finite.

    Args:
        place: The file they are from, for messages.
        tensors: By name.
        shapes: By name.
        source: What asks for these shapes, for messages.
        prefix: What a name is preceded by in messages.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelError(f"{place} lacks tensor {prefix}{name}, which {source} asks for.")
        tensor = tensors[name]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            found = str(tensor.dtype).removeprefix("torch.") if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ModelError(f"{place}: tensor {prefix}{name} should hold floating-point numbers, but holds {found}.")
        if tensor.shape != shape:
            raise ModelError(
                f"{place}: tensor {prefix}{name} should have shape {list(shape)} by {source}, but has {list(tensor.shape)}."
            )
    unexpected = sorted(set(tensors) - set(shapes))
    if unexpected:
        raise ModelError(f"{place} holds the unexpected tensor {prefix}{unexpected[0]}, for which {source} leaves no place.")
    check_finite(place, tensors, prefix)


def check_finite(place: Path | str, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> None:
    """Raise ModelError if a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                f"{place}: tensor {prefix}{name} holds a number that is not finite. The file is damaged; get it again."
            )
