"""From names to things: tasks, methods and engines that come with the package, or `file.py:name` of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from maxent_ts.config import MethodConfig, RunConfig, check_settings
from maxent_ts.engines.base import Engine
from maxent_ts.errors import MaxentError, MissingExtraError, ModelError, SettingError, UnknownNameError
from maxent_ts.presets import DEFAULT_COMPAT, EMBEDDED_MODEL
from maxent_ts.registry import ENGINES, METHODS, TASKS, load, nearest_name
from maxent_ts.search.base import SearchFactory
from maxent_ts.tasks.base import Task

__all__ = [
    "embedded_model_path",
    "load_engine",
    "load_method",
    "load_named",
    "load_task",
    "shared_settings",
    "with_length_of_tasks",
]

EMBEDDED_FOLDER = "model"
"""Of the embedded model that a task is for which names no other."""

EXTRAS = {"httpx": "openai"}
"""Extras that bring a package; all others come with `hf`."""

EMBEDDED_MODEL_BATCH_SIZE = 128
"""Rollouts side by side in so small a model: twice the tokens per second of 32 on a CPU (2500 against 1370 on one core)."""

EMBEDDED_MODEL_NUM_THREADS = 1
"""Its matrices are so small that a second thread costs more than it brings: 2500 tokens per second with one, 2200 with two that
spin while they wait, 1560 with two that sleep. OMP_NUM_THREADS overrides it."""


def load_named(table: Mapping[str, str], name: str, kind: str) -> Any:
    """Return what a name of `table` stands for, or what `file.py:name` or `package.module:name` holds.

    Raises:
        UnknownNameError: if there is no such name, file, module or attribute.
        MissingExtraError: if what it stands for needs a package that is not installed.
    """
    module_name, colon, attribute = name.rpartition(":")
    if name in table or not colon or not module_name:
        try:
            return load(table, name, kind)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("maxent_ts"):
                raise
            raise MissingExtraError(error.name, EXTRAS.get(error.name, "hf")) from error
    module = _import_file(Path(module_name), kind) if module_name.endswith(".py") else _import_module(module_name, kind)
    if not hasattr(module, attribute):
        hint = nearest_name(attribute, [one for one in vars(module) if not one.startswith("_")])
        raise UnknownNameError(f"The {kind} '{name}' was not found: {module_name} has no '{attribute}'.{hint}")
    return getattr(module, attribute)


def load_task(name: str, config: RunConfig | None = None) -> Task:
    """Return a task by name; a class is called with those fields of the configuration that its parameters name."""
    found: Any = load_named(TASKS, name, "task")
    if not inspect.isclass(found):
        return found
    wanted = inspect.signature(found).parameters
    task: Any = found(**{one: getattr(config, one) for one in RunConfig.model_fields if config is not None and one in wanted})
    return task


def with_length_of_tasks(tasks: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a run with the length that its tasks' completions need, where neither a length nor a preset is given.

    Args:
        tasks: Names.
        values: Fields of `RunConfig`; None for what is not given.
    """
    needed = [getattr(load_task(name), "max_new_tokens", None) for name in tasks]
    longest = max((one for one in needed if one is not None), default=None)
    given = values.get("max_new_tokens") is not None or values.get("preset") is not None
    return dict(values) if longest is None or given else {**values, "max_new_tokens": longest}


def load_method(method: MethodConfig, *, num_rollouts: int, num_return_sequences: int = 1) -> SearchFactory:
    """Return a method with its settings checked and bound, and those that all methods share filled in."""
    factory = load_named(METHODS, method.name, "method")
    shared = shared_settings(factory, num_rollouts=num_rollouts, num_return_sequences=num_return_sequences)
    return partial(factory, **check_settings(method.name, factory, {**shared, **method.settings}))


def shared_settings(factory: Callable[..., Any], *, num_rollouts: int, num_return_sequences: int = 1) -> dict[str, int]:
    """Return what every method is told in its own words: how many completions to return, and the width of a beam.

    A beam of width `num_rollouts` costs as many generated tokens as that many rollouts. The number of rollouts itself is
    no setting but a budget, which the driver keeps.
    """
    values = {"num_beams": num_rollouts, "num_return_sequences": num_return_sequences}
    return {name: value for name, value in values.items() if name in inspect.signature(factory).parameters}


def load_engine(config: RunConfig) -> Engine:
    """Build the engine of a configuration.

    An engine of the user's own, `file.py:function`, is called with the model and with `dtype`, `device` and, if it was
    given, `max_batch_size`, `kv_cache_gib`, `quantization`, `exact_logprobs`, `base_model` and
    `compat` by keyword, as `HFEngine` is.

    Raises:
        ModelError: if the model cannot be found or read.
        SettingError: if the tasks are for different embedded models and no other is named.
    """
    build = load_named(ENGINES, config.engine, "engine")
    if "base_url" in inspect.signature(build).parameters:
        return _load_server_engine(build, config)
    for option, value in (("--base-url", config.base_url), ("--embedder", config.embedder)):
        if value is not None:
            raise SettingError(f"{option} is for a server, but the engine is '{config.engine}'. Add --engine openai.")
    if "device" not in inspect.signature(build).parameters:
        raise SettingError(
            f"The engine '{config.engine}' is made in Python, not from a model directory. Use --engine hf, or "
            "--engine file.py:function with a function (model, *, dtype, device) that returns the engine."
        )
    settings: dict[str, Any] = {"dtype": config.dtype, "device": config.device}
    model = config.model
    if model == EMBEDDED_MODEL and config.engine == "hf":
        model = str(embedded_model_path(_embedded_folder(config.tasks)))
        settings["max_batch_size"] = EMBEDDED_MODEL_BATCH_SIZE
        if "OMP_NUM_THREADS" not in os.environ:
            importlib.import_module("torch").set_num_threads(EMBEDDED_MODEL_NUM_THREADS)
    chosen = {"max_batch_size": config.batch_size, "kv_cache_gib": config.kv_cache_gib, "quantization": config.quantization}
    chosen |= {"exact_logprobs": config.exact_logprobs or None}
    chosen |= {"base_model": config.base_model, "compat": None if config.compat == DEFAULT_COMPAT else config.compat}
    settings.update({name: value for name, value in chosen.items() if value is not None})
    _check_takes(build, settings, config.engine)
    return build(model, **settings)


def _check_takes(build: Callable[..., Engine], settings: Mapping[str, Any], engine: str) -> None:
    unknown = [name for name in settings if name not in inspect.signature(build).parameters]
    if unknown:
        raise SettingError(f"The engine '{engine}' takes no {unknown[0]}. Leave the option out.")


def _load_server_engine(build: Callable[..., Engine], config: RunConfig) -> Engine:
    """An engine that speaks to a server, which has its own number type and device."""
    if config.base_url is None:
        raise SettingError(f"The engine '{config.engine}' needs a server: add --base-url http://localhost:8000/v1.")
    defaults = RunConfig.model_fields
    for name in ("dtype", "device", "quantization", "exact_logprobs", "kv_cache_gib"):
        if getattr(config, name) != defaults[name].default:
            option = f"--{name.replace('_', '-')}"
            raise SettingError(f"{option} is decided by the server, not by the engine '{config.engine}'. Leave it out.")
    settings: dict[str, Any] = {"api_key_variable": config.api_key_variable}
    if config.batch_size is not None:
        settings["max_concurrent_requests"] = config.batch_size
    chosen = {"embedder": config.embedder, "base_model": config.base_model, "compat": config.compat}
    settings.update({name: value for name, value in chosen.items() if value != defaults[name].default})
    _check_takes(build, settings, config.engine)
    return build(config.base_url, None if config.model == EMBEDDED_MODEL else config.model, **settings)


def embedded_model_path(folder: str = EMBEDDED_FOLDER) -> Path:
    """Where an embedded model lies.

    Args:
        folder: Its name below `assets/`: "model" for time series as soft prompts, "forecast_model" for digits.

    Raises:
        ModelError: if this installation came without it.
    """
    path = Path(str(resources.files("maxent_ts"))) / "assets" / folder
    if not (path / "config.json").exists():
        raise ModelError(
            "The embedded model is not part of this installation. Name a model directory or a hub id with --model, "
            "or install the package with its assets."
        )
    return path


def _embedded_folder(tasks: Sequence[str]) -> str:
    """The embedded model that tasks are for; a name that is no task's stands for something that needs none in particular."""
    named = [name for name in tasks if name in TASKS or ":" in name]
    folders = {name: getattr(load_task(name), "embedded_model", EMBEDDED_FOLDER) for name in named}
    if len(set(folders.values())) > 1:
        raise SettingError(
            f"The tasks {', '.join(folders)} are for different embedded models ({', '.join(sorted(set(folders.values())))}), and a "
            "run has one. Run them one by one, or name a --model for all of them."
        )
    return next(iter(folders.values()), EMBEDDED_FOLDER)


def _import_file(path: Path, kind: str) -> Any:
    if not path.is_file():
        raise UnknownNameError(f"The file '{path}' of the {kind} does not exist. Give it as path/to/file.py:name.")
    name = f"maxent_ts_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except MaxentError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise UnknownNameError(f"The file '{path}' of the {kind} raised {type(error).__name__} when imported: {error}.") from error
    return module


def _import_module(name: str, kind: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnknownNameError(f"The module '{name}' of the {kind} cannot be imported: {error}.") from error
