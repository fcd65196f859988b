"""One process at a time writes to a run directory."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from maxent_ts.errors import RunDirectoryError

__all__ = ["LOCK_FILE", "Lock", "check_writable"]

LOCK_FILE = ".lock"


class Lock:
    """Holds a directory, which is made if it is not there. The operating system lets go of it even after kill -9.

    The lock is `flock` on a file in the directory. On network file systems it holds between machines where the server keeps
    locks (NFS 3 with lockd, NFS 4, Lustre mounted with `flock`); where there are none, the directory is refused.

    Raises:
        RunDirectoryError: if another process holds it, with that process; or if it cannot be written or locked.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._handle = (path / LOCK_FILE).open("a+b", buffering=0)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{path}' cannot be written: {error}. Name another with --output-dir."
            ) from error
        try:
            self._take(path)
        except BaseException:
            self._handle.close()
            raise

    def release(self) -> None:
        """Let go."""
        self._handle.close()

    def _take(self, path: Path) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(
                f"Another process is writing to the run directory '{path}'{self._holder()}. Wait for it, or name another with "
                "--output-dir."
            ) from error
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{path}' lies on a file system without locks ({error}), where two processes could mix their "
                "records. Name a directory on another file system with --output-dir."
            ) from error
        try:
            self._handle.truncate(0)
            self._handle.write(json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        except OSError:
            return  # on a full disk the lock holds all the same, and only its owner's name is missing

    def _holder(self) -> str:
        try:
            self._handle.seek(0)
            found = json.loads(self._handle.read())
            return f": process {found['pid']} on {found['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def check_writable(path: Path) -> None:
    """Find out, before a model is loaded for nothing, whether a run can write to `path`; leaves nothing behind.

    Raises:
        RunDirectoryError: if another process is writing there, or the place is read-only.
    """
    if (path / LOCK_FILE).exists():
        Lock(path).release()
        return
    place = path
    while not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        raise RunDirectoryError(f"The run directory '{path}' cannot be made: '{place}' is a file. Name another with --output-dir.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"The run directory '{path}' cannot be written: '{place}' is read-only for this user. Name another with --output-dir."
        )
