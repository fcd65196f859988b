"""`maxent-ts sweep`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from maxent_ts.cli.evaluation import default_directory, parse_weights, run_config, show_plan
from maxent_ts.cli.shared import Format
from maxent_ts.config import RunConfig, expand_tasks, make_config, parse_assignments
from maxent_ts.errors import SettingError
from maxent_ts.loading import load_named
from maxent_ts.presets import DEFAULT_METHODS
from maxent_ts.registry import METHODS
from maxent_ts.sweep import expand_variants, split_values

__all__ = ["build_sweep", "run_sweep"]

NUM_PROBE_ITEMS = 2
"""Items of each task that run first, with every variant, for the estimate."""

AXES: Mapping[str, type[int] | type[float]] = {"num_rollouts": int, "max_new_tokens": int, "tilt": float, "seed": int}


def run_sweep(
    *,
    tasks: Sequence[str],
    methods: Sequence[str] | None,
    settings: Sequence[str],
    axes: Mapping[str, str | None],
    num_parallel: str | None,
    values: Mapping[str, Any],
    reward_weights: str | None,
    overwrite: bool,
    max_failures: int,
    output_format: Format,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Run a sweep, or show its plan."""
    config = build_sweep(
        tasks=tasks,
        methods=methods,
        settings=settings,
        axes=axes,
        num_parallel=num_parallel,
        values=values,
        reward_weights=reward_weights,
    )
    if dry_run:
        show_plan(config, output_format)
        return
    run_config(
        config,
        overwrite=overwrite,
        max_failures=max_failures,
        output_format=output_format,
        quiet=quiet,
        num_probe_items=NUM_PROBE_ITEMS,
    )


def build_sweep(
    *,
    tasks: Sequence[str],
    methods: Sequence[str] | None,
    settings: Sequence[str],
    axes: Mapping[str, str | None],
    num_parallel: str | None,
    values: Mapping[str, Any],
    reward_weights: str | None,
) -> RunConfig:
    """Return the configuration of a sweep: one run with a variant for every combination of the listed values.

    Args:
        tasks: As in `eval`.
        methods: As in `eval`.
        settings: As in `eval`, with commas between values.
        axes: Texts with commas between values, by the name of the field; None where it was not given.
        num_parallel: The same, for every method that has this setting.
        values: Other fields of the configuration.
        reward_weights: As in `eval`.

    Raises:
        SettingError: if a value is wrong, or the sweep names the same variant twice.
    """
    names = list(methods or DEFAULT_METHODS)
    own: dict[str, dict[str, Sequence[Any]]] = {
        name: {
            key: split_values(text, float, f"--set {name}.tilt") if key == "tilt" else [part.strip() for part in text.split(",")]
            for key, text in assigned.items()
        }
        for name, assigned in parse_assignments(settings, names).items()
    }
    if num_parallel is not None:
        parallel = split_values(num_parallel, int, "--num-parallel")
        takers = [name for name in names if _takes(name, "num_parallel")]
        if not takers:
            raise SettingError(f"--num-parallel is a setting of none of the methods {', '.join(names)}. Leave it out.")
        for name in takers:
            if "num_parallel" in own[name]:
                raise SettingError(f"num_parallel of '{name}' is given by --num-parallel and by --set. Give one of them.")
            own[name]["num_parallel"] = parallel
    listed = {
        name: split_values(text, AXES[name], "--" + name.replace("_", "-")) for name, text in axes.items() if text is not None
    }
    config = make_config(
        tasks=expand_tasks(tasks),
        methods=tuple(expand_variants(names, listed, own)),
        reward_weights=parse_weights(reward_weights),
        **{name: found[0] for name, found in listed.items()},
        **values,
    )
    if values.get("output_dir") is not None:
        return config
    return config.model_copy(update={"output_dir": default_directory(tasks, config, "sweep-")})


def _takes(method: str, setting: str) -> bool:
    return setting in inspect.signature(load_named(METHODS, method, "method")).parameters
