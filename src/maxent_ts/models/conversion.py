"""A checkpoint of OpenTSLM as a model directory of safetensors files, which loads without its base model and without pickle."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from maxent_ts.errors import ModelError
from maxent_ts.models.checkpoints import find_checkpoint
from maxent_ts.models.opentslm import load_series_model

__all__ = ["convert"]


def convert(source: str | Path, output: str | Path, *, base_model: str | Path | None = None, revision: str | None = None) -> Path:
    """Write a checkpoint with its language model as one directory that loads afterwards as the checkpoint did.

    Adapters are merged in fp32, and the merged weights stored so; else the language model keeps its base's number type.

    Args:
        source: See `load_series_model`.
        output: The directory to make. Nothing is left there if something fails on the way.
        base_model: Directory or hub id of the checkpoint's language model; None for what the checkpoint's name tells.
        revision: Branch, tag or commit of the checkpoint on the hub.

    Returns:
        The directory.

    Raises:
        ModelError: if `source` is no checkpoint or cannot be read, if its base model cannot be had, or if `output` exists.
    """
    directory = Path(output).expanduser()
    if directory.exists():
        raise ModelError(f"{directory} exists. Name a directory that does not, so that nothing of another model is left in it.")
    if find_checkpoint(source, revision) is None:
        raise ModelError(
            f"'{source}' should be a checkpoint of OpenTSLM (a file, a directory with one, or a hub id), but is a model directory, "
            "a hub id of another kind, or does not exist."
        )
    model = load_series_model(source, dtype="auto", device=torch.device("cpu"), revision=revision, base_model=base_model)
    assert model is not None
    part = directory.with_name(directory.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        model.save(part)
        part.rename(directory)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ModelError(f"{directory} cannot be written: {error}. Name another place, or make room.") from error
    return directory
