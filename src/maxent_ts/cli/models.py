"""The command about models: `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maxent_ts.cli import options
from maxent_ts.cli.shared import explained, hide_loading_bars, note

__all__ = ["convert"]


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint of OpenTSLM: a file, a directory with one, or a hub id."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The model directory to write; it must not exist.")],
    base_model: options.BaseModel = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of the checkpoint on the hub.")] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write an OpenTSLM checkpoint as a model directory of safetensors. Nothing that the checkpoint's pickle names is run."""
    with explained(debug=debug):
        hide_loading_bars(base_model or checkpoint, quiet=quiet)
        from maxent_ts.errors import MissingExtraError

        try:
            from maxent_ts.models.conversion import convert as write
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "torch", "hf") from error
        written = write(checkpoint, output, base_model=base_model, revision=revision)
        if not quiet:
            note(f"Written: {written}    Use it: --model {written}")
