"""What a run leaves behind, written so that no crash loses a finished item, and read so that a damaged file says what is wrong.

runs/<name>/
  run.json         configuration, versions, engine, fingerprints, machine, status
  examples.jsonl   the items: prompt, series, target
  samples.jsonl    one record per (task, method, example), appended and synced to disk as each is finished
  trees/           search trees of a few examples
  summary.json     means, intervals and comparisons
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from maxent_ts.errors import RunDirectoryError

__all__ = [
    "ExampleRecord",
    "Key",
    "Record",
    "Run",
    "RunInfo",
    "ScoredCompletion",
    "read_lines",
    "read_model",
    "read_run",
    "read_tree",
    "tree_path",
]

Key = tuple[str, str, str]
"""(task, method, example id). Settings and seed are the run directory's: all its records share them."""

Model = TypeVar("Model", bound=BaseModel)


class ScoredCompletion(BaseModel):
    """A completion as it is stored."""

    model_config = ConfigDict(extra="forbid")

    text: str
    reward: float | None
    logprob: float
    weight: float
    finish_reason: str
    answer: str | None
    num_tokens: int


class Record(BaseModel):
    """One search on one item. The completion is the one the method chose; without one, `error` says why."""

    model_config = ConfigDict(extra="forbid")

    task: str
    method: str
    settings: dict[str, Any]
    tilt: float
    example_id: str
    seed: list[int]
    text: str | None = None
    tokens: list[int] = []
    logprob: float | None = None
    finish_reason: str | None = None
    reward: float | None = None
    evidence: dict[str, Any] = {}
    """What the rewards say about the completion: `Reward.explain`."""
    answer: str | None = None
    target: str | None = None
    correct: bool | None = None
    """Whether the answer is the target; None for a task without labels."""
    num_completions: int = 0
    """Distinct completions evaluated."""
    completions: list[ScoredCompletion] = []
    """A few of them, the heaviest first."""
    rewards: list[float | None] = []
    """Of all of them, in order of evaluation."""
    logprobs: list[float] = []
    """Of all of them, aligned with `rewards`."""
    answers: list[str | None] = []
    """Of all of them, aligned with `rewards`; empty for a task without labels."""
    usage: dict[str, float] = {}
    trajectory: list[tuple[int, float]] = []
    """(generated tokens so far, best reward so far)."""
    tree: dict[str, float] | None = None
    """Size and shape of the search tree: `Tree.statistics`."""
    info: dict[str, float] = {}
    error: str | None = None

    @property
    def key(self) -> Key:
        """What names this record in its run."""
        return (self.task, self.method, self.example_id)


class ExampleRecord(BaseModel):
    """An item, as far as a reader needs it."""

    model_config = ConfigDict(extra="forbid")

    task: str
    id: str
    prompt: str
    """Readable, each series shown as a placeholder."""
    target: str | None
    stratum: str
    series: list[list[float]] = []
    series_names: list[str] = []


class RunInfo(BaseModel):
    """`run.json`."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    status: Literal["running", "finished", "interrupted"] = "running"
    started: str
    """ISO 8601, UTC."""
    finished: str | None = None
    continued: int = 0
    """How many times the run was started again."""
    config: dict[str, Any]
    """What the results depend on, presets resolved."""
    execution: dict[str, Any] = {}
    """What they do not depend on, such as the batch size."""
    engine: dict[str, Any]
    rewards: dict[str, dict[str, Any]]
    """For each task: name, parts, range."""
    data: dict[str, dict[str, Any]]
    """For each task: number of items, SHA-256 of ids, prompts and inputs."""
    skipped: dict[str, dict[str, str]] = {}
    """For each task, methods that do not apply, and why."""
    versions: dict[str, str | None]
    hardware: dict[str, Any]


class Run(BaseModel):
    """A run directory, read."""

    path: Path
    info: RunInfo
    examples: dict[tuple[str, str], ExampleRecord]
    """By (task, example id), in the order of the tasks."""
    records: list[Record]
    """The latest record of each key, ordered by task, method and example."""
    summary: dict[str, Any] | None

    def trees(self) -> list[tuple[str, str, Path]]:
        """The stored search trees as (task, method, file)."""
        return [(file.parent.parent.name, file.parent.name, file) for file in sorted(self.path.glob("trees/*/*/*.json.gz"))]


def read_run(path: Path) -> Run:
    """Read a run directory, finished or not.

    Raises:
        RunDirectoryError: if it is none, or a file in it is damaged.
    """
    if not (path / "run.json").exists():
        raise RunDirectoryError(f"'{path}' is not a run directory: it has no run.json. Make one with: maxent-ts eval demo")
    info = read_model(path / "run.json", RunInfo)
    examples = {(one.task, one.id): one for one in read_lines(path / "examples.jsonl", ExampleRecord)}
    latest = {record.key: record for record in read_lines(path / "samples.jsonl", Record)}
    rank = {key: index for index, key in enumerate(examples)}
    methods = {method["name"]: index for index, method in enumerate(info.config.get("methods", []))}
    records = sorted(latest.values(), key=lambda one: (rank.get((one.task, one.example_id), len(rank)), methods.get(one.method, 0)))
    summary = None
    if (path / "summary.json").exists():
        try:
            summary = json.loads((path / "summary.json").read_bytes())
        except ValueError as error:
            raise RunDirectoryError(
                f"'{path / 'summary.json'}' is damaged ({error}). Delete it and run the same command again."
            ) from error
    return Run(path=path, info=info, examples=examples, records=records, summary=summary)


def read_tree(file: Path) -> dict[str, Any]:
    """Read a stored search tree.

    Raises:
        RunDirectoryError: if the file is missing or damaged.
    """
    try:
        return json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise RunDirectoryError(
            f"The search tree '{file}' cannot be read: {error}. Run the evaluation again with --overwrite."
        ) from error


def tree_path(path: Path, task: str, method: str, example_id: str) -> Path:
    """Where a search tree is stored."""
    return path / "trees" / quote(task, safe="") / quote(method, safe="") / f"{quote(example_id, safe='')}.json.gz"


def read_model(file: Path, model: type[Model]) -> Model:
    """Read a JSON file.

    Raises:
        RunDirectoryError: if it is missing or damaged.
    """
    try:
        return model.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunDirectoryError(f"'{file}' cannot be read: {_first_line(error)}. Start over with --overwrite.") from error


def read_lines(file: Path, model: type[Model]) -> Iterator[Model]:
    """Read a JSON Lines file, which may be missing; a half-written last line is passed over.

    Raises:
        RunDirectoryError: with the number of a damaged line.
    """
    if not file.exists():
        return
    with contextlib.closing(file.open("rb")) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                raise RunDirectoryError(
                    f"Line {number} of '{file}' is not a valid record: {_first_line(error)}. "
                    "Delete that line and run the same command again, or start over with --overwrite."
                ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first: Sequence[Any] = error.errors()
        return f"{'.'.join(str(part) for part in first[0]['loc'])} {first[0]['msg']}".strip()
    return str(error)
