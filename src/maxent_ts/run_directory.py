"""A run directory open for writing: appends that survive a crash, and a check that it is the same run that goes on."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from maxent_ts.errors import RunDirectoryError
from maxent_ts.fingerprint import plain
from maxent_ts.records import ExampleRecord, Key, Record, RunInfo, read_lines, read_model, tree_path

__all__ = ["RunDirectory"]

RUN_FILES = ("run.json", "examples.jsonl", "samples.jsonl", "summary.json", "failures.log", "report.html", ".lock")


class RunDirectory:
    """A run directory open for writing, by one process at a time.

    Args:
        path: The directory; made if it is not there.
        info: What is about to run. A directory that holds records of something else is refused.
        overwrite: Delete what an earlier run left there.

    Raises:
        RunDirectoryError: if the directory holds another run's records or other files, is in use, or cannot be written.
    """

    def __init__(self, path: Path, info: RunInfo, *, overwrite: bool = False) -> None:
        self.path = path
        self.info = info
        self.finished: set[Key] = set()
        """Keys with a record without an error."""
        self._lock = _lock(path)
        try:
            if overwrite:
                _clear(path)
            self._take_over()
            self._samples = (path / "samples.jsonl").open("ab")
        except OSError as error:
            self._lock.close()
            raise RunDirectoryError(
                f"The run directory '{path}' cannot be written: {error}. Name another with --output-dir."
            ) from error
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files. A run that was not finished stays 'running' or becomes 'interrupted', and can be continued."""
        if self.info.status != "finished":
            self.info.status = "interrupted"
            self._write_info()
        self._samples.close()
        self._lock.close()

    def append(self, record: Record) -> None:
        """Add a record and wait until it is on disk."""
        self._samples.write(_line(record))
        self._samples.flush()
        os.fsync(self._samples.fileno())
        if record.error is None:
            self.finished.add(record.key)

    def write_examples(self, examples: Iterable[ExampleRecord]) -> None:
        """Store the items."""
        _replace(self.path / "examples.jsonl", b"".join(_line(example) for example in examples))

    def write_tree(self, key: Key, tree: Mapping[str, Any]) -> None:
        """Store the search tree of an item."""
        file = tree_path(self.path, *key)
        tree = {**dict(zip(("task", "method", "example_id"), key, strict=True)), **tree}
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, gzip.compress(json.dumps(tree, allow_nan=False, separators=(",", ":")).encode(), mtime=0))

    def log_failure(self, key: Key, trace: str) -> None:
        """Add a traceback to `failures.log`."""
        with (self.path / "failures.log").open("a", encoding="utf-8") as log:
            log.write(f"{' / '.join(key)}\n{trace}\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Store `summary.json`."""
        _replace(self.path / "summary.json", json.dumps(plain(summary), indent=2, allow_nan=False).encode() + b"\n")

    def finish(self, now: str) -> None:
        """Mark the run as complete."""
        self.info.status = "finished"
        self.info.finished = now
        self._write_info()

    def _take_over(self) -> None:
        """Check what is there against what is about to run, drop a torn last line, and collect the finished keys."""
        file = self.path / "run.json"
        if not file.exists():
            others = sorted(entry.name for entry in self.path.iterdir() if entry.name not in RUN_FILES and entry.name != "trees")
            if others:
                raise RunDirectoryError(
                    f"'{self.path}' is not a run directory, but holds other files, such as '{others[0]}'. "
                    "Name an empty or missing directory with --output-dir."
                )
            _clear(self.path)
        else:
            before = read_model(file, RunInfo)
            difference = _difference(_identity(before), _identity(self.info))
            if difference is not None:
                where, old, new = difference
                raise RunDirectoryError(
                    f"The run directory '{self.path}' holds the records of another run: {where} was {json.dumps(old)}, "
                    f"now it is {json.dumps(new)}. Name another directory with --output-dir, or start over with --overwrite."
                )
            self.info.started, self.info.continued = before.started, before.continued + 1
        self._write_info()
        samples = self.path / "samples.jsonl"
        if samples.exists():
            _cut_torn_line(samples)
            self.finished = {record.key for record in read_lines(samples, Record) if record.error is None}

    def _write_info(self) -> None:
        _replace(self.path / "run.json", self.info.model_dump_json(indent=2).encode() + b"\n")


def _identity(info: RunInfo) -> dict[str, Any]:
    """What must be equal for two starts to be the same run.

    The size of the batch may change: who ran out of memory lowers it and goes on.
    """
    chosen = info.model_dump(mode="json", include={"config", "engine", "rewards", "data", "format"})
    chosen["engine"].pop("max_batch_size", None)
    return {**chosen, "maxent_ts": info.versions.get("maxent-ts")}


def _difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Return the place of the first difference between two JSON values, and what stands there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = _difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
            if found is not None:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            found = _difference(before, after, f"{where}[{index}]")
            if found is not None:
                return found
        return None
    return None if old == new else (where, old, new)


def _lock(path: Path) -> Any:
    """Make the directory and keep other processes out; the operating system lets go of the lock even after kill -9."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = (path / ".lock").open("ab")
    except OSError as error:
        raise RunDirectoryError(
            f"The run directory '{path}' cannot be written: {error}. Name another with --output-dir."
        ) from error
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise RunDirectoryError(
                f"Another process is writing to the run directory '{path}'. Wait for it, or name another with --output-dir."
            ) from error
    return handle


def _clear(path: Path) -> None:
    """Delete what a run left, and nothing else."""
    for name in RUN_FILES:
        if name != ".lock":
            (path / name).unlink(missing_ok=True)
    if (path / "trees").is_dir():
        shutil.rmtree(path / "trees")


def _line(model: BaseModel) -> bytes:
    return json.dumps(plain(model.model_dump()), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _replace(file: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old or the new one, never half of it."""
    part = file.with_name(file.name + ".part")
    with part.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(file)


def _cut_torn_line(file: Path) -> None:
    """Drop a last line that a crash left half written."""
    with file.open("r+b") as handle:
        content = handle.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            handle.truncate(end)
