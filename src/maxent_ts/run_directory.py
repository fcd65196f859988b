"""A run directory open for writing: appends that survive a crash, and a check that it is the same run that goes on."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel

from maxent_ts.durable import PART_SUFFIX, cut_torn_line, replace_file, sync_directory, write_all
from maxent_ts.errors import RunDirectoryError
from maxent_ts.fingerprint import plain
from maxent_ts.identity import first_difference, run_identity, shown
from maxent_ts.lock import LOCK_FILE, Lock
from maxent_ts.records import FORMAT, ExampleRecord, Key, Record, RunInfo, read_info, read_samples, tree_path

__all__ = ["RunDirectory"]

RUN_FILES = ("run.json", "examples.jsonl", "samples.jsonl", "summary.json", "failures.log", "report.html", LOCK_FILE)


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
        self.generated_tokens = 0
        """By all searches of this run so far, as far as it is known: those that failed or were stopped count."""
        self._lock = Lock(path)
        try:
            if overwrite:
                _clear(path)
            self._take_over()
            # Without a buffer: what a full disk did not take must not be written later, when the file is closed.
            self._samples = (path / "samples.jsonl").open("ab", buffering=0)
            sync_directory(path)
        except OSError as error:
            self._lock.release()
            raise RunDirectoryError(
                f"The run directory '{path}' cannot be written: {error}. Name another with --output-dir."
            ) from error
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files. A run that did not end stays 'running' or becomes 'interrupted', and can be continued."""
        self._samples.close()
        try:
            if self.info.status == "running":
                self.info.status = "interrupted"
                # On a full disk the status stays 'running', and the error that says so is under way already.
                with contextlib.suppress(RunDirectoryError) if error is not None else contextlib.nullcontext():
                    self._write_info()
        finally:
            self._lock.release()

    def append(self, *records: Record) -> None:
        """Add records and wait until they are on disk: one write and one sync for all of them.

        Raises:
            RunDirectoryError: if the disk takes them no more; then nothing is left of any of them.
        """
        with self._writing():
            end = os.fstat(self._samples.fileno()).st_size
            try:
                write_all(self._samples, b"".join(map(_line, records)))
                os.fsync(self._samples.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # the next start cuts a torn line, if this does not
                    self._samples.truncate(end)
                raise
        self.generated_tokens += sum(record.generated_tokens for record in records)
        self.finished.update(record.key for record in records if record.error is None)

    def add_unrecorded(self, num_tokens: int) -> None:
        """Count tokens of searches that were stopped before their end."""
        self.info.unrecorded_tokens += num_tokens
        self.generated_tokens += num_tokens

    def write_examples(self, examples: Iterable[ExampleRecord]) -> None:
        """Store the items."""
        with self._writing():
            replace_file(self.path / "examples.jsonl", b"".join(_line(example) for example in examples))

    def write_tree(self, key: Key, tree: Mapping[str, Any]) -> None:
        """Store the search tree of an item."""
        file = tree_path(self.path, *key)
        tree = {**dict(zip(("task", "method", "example_id"), key, strict=True)), **tree}
        with self._writing():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, gzip.compress(json.dumps(tree, allow_nan=False, separators=(",", ":")).encode(), mtime=0))

    def log_failure(self, key: Key, trace: str) -> None:
        """Add a traceback to `failures.log`."""
        with self._writing(), (self.path / "failures.log").open("a", encoding="utf-8") as log:
            log.write(f"{' / '.join(key)}\n{trace}\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Store `summary.json`."""
        with self._writing():
            replace_file(self.path / "summary.json", json.dumps(plain(summary), indent=2, allow_nan=False).encode() + b"\n")

    def finish(self, now: str, status: Literal["finished", "interrupted", "capped"] = "finished") -> None:
        """Mark the run as over: complete, or ended before from where it can be continued."""
        self.info.status = status
        self.info.finished = now
        self._write_info()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{self.path}' cannot be written: {error}. The {len(self.finished)} searches finished so far "
                "are kept: make room, or make it writable again, and run the same command to continue."
            ) from error

    def _take_over(self) -> None:
        """Check what is there against what is about to run, drop a torn last line, and collect the finished keys."""
        file = self.path / "run.json"
        if not file.exists():
            names = (entry.name for entry in self.path.iterdir())
            others = sorted(name for name in names if name.removesuffix(PART_SUFFIX) not in RUN_FILES and name != "trees")
            if others:
                raise RunDirectoryError(
                    f"'{self.path}' is not a run directory, but holds other files, such as '{others[0]}'. "
                    "Name an empty or missing directory with --output-dir."
                )
            _clear(self.path)
        else:
            before = read_info(self.path)
            if before.format != FORMAT:
                raise RunDirectoryError(
                    f"The run directory '{self.path}' was written by maxent-ts {before.versions.get('maxent-ts')} in format "
                    f"{before.format}, which lacks what is needed to tell that its records fit to those of format {FORMAT}. It can "
                    "be reported, compared and exported. To go on, name another directory with --output-dir, or start over "
                    "with --overwrite."
                )
            difference = first_difference(run_identity(before), run_identity(self.info))
            if difference is not None:
                where, old, new = difference
                raise RunDirectoryError(
                    f"The run directory '{self.path}' holds the records of another run: {where} was {shown(old)}, "
                    f"now it is {shown(new)}. Name another directory with --output-dir, or start over with --overwrite."
                )
            self.info.started, self.info.continued = before.started, before.continued + 1
            self.info.unrecorded_tokens, self.info.shards = before.unrecorded_tokens, before.shards
        samples = self.path / "samples.jsonl"
        if samples.exists():
            cut_torn_line(samples)
            records = list(read_samples(self.path, self.info))
            self.finished = {record.key for record in records if record.error is None}
            self.generated_tokens = sum(record.generated_tokens for record in records)
        self.generated_tokens += self.info.unrecorded_tokens
        self._write_info()

    def _write_info(self) -> None:
        with self._writing():
            replace_file(self.path / "run.json", self.info.model_dump_json(indent=2).encode() + b"\n")


def _clear(path: Path) -> None:
    """Delete what a run left, and nothing else."""
    for name in RUN_FILES:
        if name != LOCK_FILE:
            (path / name).unlink(missing_ok=True)
            (path / (name + PART_SUFFIX)).unlink(missing_ok=True)
    if (path / "trees").is_dir():
        shutil.rmtree(path / "trees")


def _line(model: BaseModel) -> bytes:
    return model.model_dump_json().encode() + b"\n"
