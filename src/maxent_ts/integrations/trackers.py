"""Experiment trackers as watchers of an evaluation: trackio, wandb and mlflow.

    evaluate(config, watcher=trackers.trackio())        or        maxent-ts eval … --track trackio

Every record is one step with the reward, the tokens, the seconds and whether it failed, and the summary is one more. A tracker
is somebody else's server: whatever it raises is said once in the log, the tracker is let go, and the run goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from maxent_ts.errors import MissingExtraError
from maxent_ts.evaluate import Silent
from maxent_ts.records import Record, RunInfo

__all__ = ["Backend", "Tracker", "mlflow", "trackio", "wandb"]

PROJECT = "maxent-ts"

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What a tracker must be able to do."""

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """Open a run."""
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers to the run."""
        ...

    def finish(self) -> None:
        """Close the run."""
        ...


class Tracker(Silent):
    """Tells a backend what an evaluation does.

    A run that is continued becomes another run of the tracker with the same name; its steps go on where the first one stopped.

    Args:
        backend: Where the numbers go.
        name: What to call it in a warning.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend: Backend | None = backend
        self._name = name
        self._step = self._num_failed = 0

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        """Open a run named after the run directory, with the configuration flattened to `config.key`."""
        config = flat({"config": info.config, "engine": info.engine, "versions": info.versions, "num_items": num_items}, ".")
        self._step = num_finished
        self._call(lambda backend: backend.start(Path(info.execution["output_dir"]).name, config))

    def recorded(self, record: Record) -> None:
        """Log one search under `task/variant/…`."""
        self._step += 1
        self._num_failed += record.error is not None
        usage = record.usage or {}
        own = {
            "reward": record.reward,
            "correct": record.correct,
            "generated_tokens": usage.get("generated_tokens"),
            "forwarded_tokens": usage.get("forwarded_tokens"),
            "seconds": usage.get("seconds"),
            "failed": record.error is not None,
        }
        values = {f"{record.task}/{record.variant}/{name}": value for name, value in own.items()}
        self._log({**values, "failed_items": self._num_failed})

    def ended(self, summary: Mapping[str, Any] | None) -> None:
        """Log the summary's table under `summary/task/variant/…`, if the run came to its end, and close the run."""
        if summary is not None:
            self._step += 1
            self._log(flat({"summary": summary["tasks"]}, "/"))
        self._call(lambda backend: backend.finish())
        self._backend = None

    def _log(self, values: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (bool, int, float))}
        self._call(lambda backend: backend.log(numbers, self._step))

    def _call(self, action: Callable[[Backend], None]) -> None:
        if self._backend is None:
            return
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some trackers print, and standard output is for data
                action(self._backend)
        except Exception as error:  # noqa: BLE001 - a tracker that fails must never stop a run
            self._backend = None
            reason = " ".join(str(error).split())
            logger.warning("The tracker %s failed and is left out from here on: %s: %s", self._name, type(error).__name__, reason)


class _InitLogFinish:
    """Anything with wandb's interface: `init`, `log` of what it returns, `finish`."""

    def __init__(self, module: ModuleType, project: str) -> None:
        self._module, self._project = module, project
        self._run: Any = None

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        self._run = self._module.init(project=self._project, name=name, config=dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._module.finish()  # not the run's own: the module would finish it a second time at exit


class _MLflow:
    """MLflow's client, which needs no active run and so disturbs none."""

    def __init__(self, module: ModuleType, project: str) -> None:
        self._module, self._project = module, project
        self._client: Any = None
        self._id = ""

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        self._client = self._module.MlflowClient()
        found = self._client.get_experiment_by_name(self._project)
        experiment = self._client.create_experiment(self._project) if found is None else found.experiment_id
        self._id = self._client.create_run(experiment, run_name=name).info.run_id
        entities = importlib.import_module("mlflow.entities")
        self._client.log_batch(self._id, params=[entities.Param(_allowed(key), str(value)) for key, value in config.items()])

    def log(self, values: Mapping[str, float], step: int) -> None:
        entities, now = importlib.import_module("mlflow.entities"), importlib.import_module("time").time_ns() // 1_000_000
        self._client.log_batch(self._id, metrics=[entities.Metric(_allowed(key), each, now, step) for key, each in values.items()])

    def finish(self) -> None:
        self._client.set_terminated(self._id)


def trackio(project: str = PROJECT) -> Tracker:
    """Track with trackio: a local database, shown by `trackio show`.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return Tracker(_InitLogFinish(_module("trackio", "trackio"), project), "trackio")


def wandb(project: str = PROJECT) -> Tracker:
    """Track with Weights & Biases; `WANDB_MODE=offline` keeps everything on this machine.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return Tracker(_InitLogFinish(_module("wandb", "wandb"), project), "wandb")


def mlflow(project: str = PROJECT) -> Tracker:
    """Track with MLflow: where `MLFLOW_TRACKING_URI` says, else in `mlflow.db` here.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return Tracker(_MLflow(_module("mlflow", "mlflow"), project), "mlflow")


def flat(values: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with the keys joined; lists become texts, and what is None is left out."""
    return dict(_flat(values, separator, prefix))


def _flat(values: Mapping[str, Any], separator: str, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, separator, f"{prefix}{key}{separator}")
        elif value is not None:
            yield f"{prefix}{key}", value if isinstance(value, (bool, int, float, str)) else str(value)


def _allowed(name: str) -> str:
    """MLflow takes letters, digits and these marks in names, nothing else."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _module(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtraError(name, extra) from error
