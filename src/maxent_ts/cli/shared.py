"""What every command does alike: turn errors into one paragraph and an exit code, and write to the right stream."""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from maxent_ts.errors import MaxentError
from maxent_ts.presets import EMBEDDED_MODEL

__all__ = [
    "EXIT_FAILURES",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "ComparisonFormat",
    "Format",
    "explained",
    "hide_loading_bars",
    "note",
    "write_json",
]

EXIT_FAILURES = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Format(enum.StrEnum):
    """What goes to standard output."""

    TABLE = "table"
    JSON = "json"


class ComparisonFormat(enum.StrEnum):
    """What `compare` writes to standard output."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    LATEX = "latex"
    JSON = "json"


@contextmanager
def explained(*, debug: bool) -> Iterator[None]:
    """Print an error of this package as one paragraph and leave with exit code 2; with `debug`, let the traceback through."""
    try:
        yield
    except MaxentError as error:
        if debug:
            raise
        note(f"Error: {error}")
        raise typer.Exit(EXIT_USAGE) from error


def note(text: str) -> None:
    """Write a line for people to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def hide_loading_bars(model: str, *, quiet: bool = False) -> None:
    """Keep transformers from drawing a bar while it reads weights; a download from the hub keeps its bar unless `quiet`."""
    if quiet or model == EMBEDDED_MODEL or Path(model).exists():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def write_json(value: Any) -> None:
    """Write plain JSON data to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
