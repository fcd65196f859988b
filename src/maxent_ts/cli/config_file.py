"""`--config run.yaml`: options from a file. A flag goes before the file, the file before the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from maxent_ts.registry import unknown_name

__all__ = ["read_config_file"]

NOT_FOR_FILES = frozenset({"config", "help", "debug", "dry_run"})


def read_config_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take the values of a file for the options that the command line leaves out.

    A key is the long name of an option of the command, with `-` or `_`, or the name of its argument. `set` may be a mapping
    from methods to settings. Paths are relative to the folder the command runs in.

    Raises:
        typer.BadParameter: if the file cannot be read, is no mapping, or has a key that the command has not.
    """
    if path is None:
        return None
    parameters = {name: parameter for parameter in context.command.params for name in _names(parameter)}
    values: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in parameters:
            raise typer.BadParameter(f"{path}: {unknown_name('option', name, parameters)}")
        parameter: Any = parameters[name]
        if value is not None:
            values[parameter.name] = _fitting(path, name, parameter, value)
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _names(parameter: Any) -> Iterator[str]:
    longs = [option for option in parameter.opts if option.startswith("--")] or [parameter.name]
    names = (option.removeprefix("--").replace("-", "_") for option in longs)
    return (name for name in names if name not in NOT_FOR_FILES)


def _read(path: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"The file '{path}' cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"The file '{path}' is not YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise typer.BadParameter(
            f"The file '{path}' must hold options as 'name: value', one a line, but holds a {type(found).__name__}."
        )
    return found


def _fitting(path: Path, name: str, parameter: Any, value: Any) -> Any:
    """Return a list where the option may be repeated, and one value where it may not."""
    if name == "set" and isinstance(value, Mapping):
        return [f"{key}={each}" for key, each in _assignments(value)]
    if isinstance(value, Mapping):
        raise typer.BadParameter(f"{path}: '{name}' takes no nested values.")
    if parameter.multiple or parameter.nargs == -1:
        return [str(each) for each in value] if isinstance(value, list) else [str(value)]
    if name == "reward_weights" and isinstance(value, list):
        return ",".join(str(each) for each in value)
    if isinstance(value, list):
        raise typer.BadParameter(f"{path}: '{name}' takes one value, but the file gives {len(value)}.")
    if isinstance(value, bool) != bool(getattr(parameter, "is_flag", False)):
        raise typer.BadParameter(f"{path}: '{name}' cannot be {value!r}; true and false are for options that take no value.")
    return value if isinstance(value, bool) else str(value)


def _assignments(settings: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", each) for name, each in value.items())
        else:
            yield str(key), value
