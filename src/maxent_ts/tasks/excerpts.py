"""Where a task's files are: in the user's folder, or in the excerpt that ships with the package."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from maxent_ts.errors import DataError

__all__ = ["excerpt_folder"]


def excerpt_folder(data_dir: Path | None, excerpt: str, contents: str) -> Path:
    """Return the folder with the files of a task.

    Args:
        data_dir: The user's folder, or None for the embedded excerpt.
        excerpt: Its name below `assets/`.
        contents: What the folder holds, for messages.

    Raises:
        DataError: if there is no such folder, or this installation came without the excerpt.
    """
    if data_dir is not None:
        if not Path(data_dir).is_dir():
            raise DataError(f"Expected a folder with {contents} at {data_dir}, but there is no such folder.")
        return Path(data_dir)
    folder = Path(str(importlib.resources.files("maxent_ts"))) / "assets" / excerpt
    if not folder.is_dir():
        raise DataError(
            f"The embedded sample assets/{excerpt} is not part of this installation (its distributor may have left it out). "
            f"Give a data directory with {contents} instead."
        )
    return folder
