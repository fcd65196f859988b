"""Files that survive crashes: written whole or not at all, synced, and cut where a write was torn."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from pathlib import Path

__all__ = ["PART_SUFFIX", "cut_torn_line", "replace_file", "sync_directory", "write_all"]

PART_SUFFIX = ".part"
"""Of a file that is being written and not yet whole."""


def replace_file(file: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old or the new one, never half of it."""
    part = file.with_name(file.name + PART_SUFFIX)
    try:
        with part.open("wb", buffering=0) as handle:
            write_all(handle, content)
            os.fsync(handle.fileno())
        part.replace(file)
        sync_directory(file.parent)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def sync_directory(path: Path) -> None:
    """Make sure that a power cut does not take the name of a file that was just made."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what a file system says that does not sync directories
                raise
        finally:
            os.close(handle)


def write_all(handle: io.FileIO, content: bytes) -> None:
    """Write to a file without a buffer: the operating system may take a part, and says only the next time that it is full."""
    view = memoryview(content)
    while view:
        view = view[handle.write(view) :]


def cut_torn_line(file: Path) -> None:
    """Drop a last line that a crash left half written."""
    with file.open("r+b") as handle:
        content = handle.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            handle.truncate(end)
