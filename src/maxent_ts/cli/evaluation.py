"""`maxent-ts eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from maxent_ts.cli.progress import make_watcher
from maxent_ts.cli.shared import EXIT_FAILURES, EXIT_INTERRUPTED, Format, hide_loading_bars, note, write_json
from maxent_ts.cli.tables import print_summary
from maxent_ts.config import VARIANT_FIELDS, RunConfig, expand_tasks, make_config, parse_assignments
from maxent_ts.errors import SettingError
from maxent_ts.evaluate import Watchers, evaluate
from maxent_ts.loading import load_named, with_length_of_tasks
from maxent_ts.planning import plan
from maxent_ts.presets import DEFAULT_METHODS, DEMO_LIMIT
from maxent_ts.records import Run
from maxent_ts.registry import METHODS_OF_ONE_COMPLETION, TRACKERS

__all__ = [
    "bounds",
    "build_config",
    "default_directory",
    "own_series",
    "parse_shard",
    "parse_weights",
    "print_run",
    "run_config",
    "run_eval",
    "show_plan",
]

OWN_SERIES = "series"
"""The task that reads a user's own file."""


def own_series(
    tasks: Sequence[str], series: Path | None, question: str | None, labels: str | None, data_dir: Path | None
) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the tasks of a command and what a user's own series add to its configuration.

    Raises:
        SettingError: if options for a user's own series meet others that say where items come from.
    """
    if series is None:
        if question is not None or labels is not None:
            raise SettingError("--question and --labels are about series of your own. Name their file with --series FILE.csv.")
        return tasks, {"data_dir": data_dir}
    if tasks or data_dir is not None:
        raise SettingError("--series takes the place of a task and of --data-dir. Give one or the other.")
    answers = None if labels is None else tuple(part.strip() for part in labels.split(","))
    return (OWN_SERIES,), {"data_dir": series, "question": question, "labels": answers}


def run_eval(
    *,
    tasks: Sequence[str],
    methods: Sequence[str] | None,
    settings: Sequence[str],
    values: Mapping[str, Any],
    reward_weights: str | None,
    overwrite: bool,
    max_failures: int,
    output_format: Format,
    quiet: bool,
    track: Sequence[str],
    dry_run: bool,
) -> None:
    """Run what a command asks for, or show its plan."""
    if not tasks:
        raise SettingError("Name what to evaluate: demo, tasks by name (maxent-ts list tasks), file.py:name, or --series FILE.csv.")
    config = build_config(tasks=tasks, methods=methods, settings=settings, values=values, reward_weights=reward_weights)
    if dry_run:
        show_plan(config, output_format)
    else:
        run_config(config, overwrite=overwrite, max_failures=max_failures, output_format=output_format, quiet=quiet, track=track)


def run_config(
    config: RunConfig,
    *,
    overwrite: bool,
    max_failures: int,
    output_format: Format,
    quiet: bool,
    track: Sequence[str] = (),
    num_probe_items: int = 0,
) -> None:
    """Run, show progress, print the table; leaves with exit code 1 if too many items failed, 130 if stopped."""
    hide_loading_bars(config.model, quiet=quiet)
    watcher = Watchers(make_watcher(quiet=quiet), *(load_named(TRACKERS, name, "tracker")() for name in track))
    try:
        run = evaluate(config, watcher=watcher, overwrite=overwrite, num_probe_items=num_probe_items)
    except KeyboardInterrupt as error:
        note(f"Stopped. What was finished is in {config.output_dir}; the same command again continues from there.")
        raise typer.Exit(EXIT_INTERRUPTED) from error
    print_run(run, output_format, quiet=quiet)
    if run.info.status == "capped":
        note(
            f"Capped: {len(run.records)} of {run.info.num_searches} searches were run. The same command with a higher "
            "--max-total-tokens or --max-seconds, or without, continues from there."
        )
    assert run.summary is not None
    failures = run.summary["failures"]
    if failures:
        first = failures[0]
        note(
            f"{len(failures)} of {len(run.records)} items failed; the first: {first['task']} / {first['method']} / "
            f"{first['example_id']}: {first['error']} Tracebacks: {config.output_dir / 'failures.log'}"
        )
    if len(failures) > max_failures:
        raise typer.Exit(EXIT_FAILURES)


def print_run(run: Run, output_format: Format, *, quiet: bool = False) -> None:
    """Print the summary of a run, and where it is."""
    assert run.summary is not None
    if output_format is Format.JSON:
        write_json(run.summary)
    else:
        print_summary(run.summary, run.info.rewards)
    if not quiet:
        note(f"Records: {run.path}    Page: maxent-ts report {run.path}")


def build_config(
    *,
    tasks: Sequence[str],
    methods: Sequence[str] | None,
    settings: Sequence[str],
    values: Mapping[str, Any],
    reward_weights: str | None,
) -> RunConfig:
    """Return the configuration of a command; the run directory is named after the tasks unless it is given."""
    names = list(methods or DEFAULT_METHODS)
    assigned = parse_assignments(settings, names)
    configs = []
    for name in names:
        rest = dict(assigned[name])
        tilt = rest.pop("tilt", None)
        configs.append({"name": name, "settings": rest, "tilt": None if tilt is None else _number(tilt, f"{name}.tilt")})
    weights = parse_weights(reward_weights)
    limit = DEMO_LIMIT if "demo" in tasks else None
    values = with_length_of_tasks(expand_tasks(tasks), {**values, "limit": values.get("limit") or limit})
    config = make_config(tasks=expand_tasks(tasks), methods=tuple(configs), reward_weights=weights, **values)
    if values.get("output_dir") is not None:
        return config
    default = make_config(**with_length_of_tasks(config.tasks, {"tasks": config.tasks, "limit": limit}))
    whole = config.model_copy(update={"shard": None})
    name = default_directory(tasks, None if whole.digest() == default.digest() else whole)
    if config.shard is not None:
        name = name.with_name(f"{name.name}-shard-{config.shard[0]}-of-{config.shard[1]}")
    return config.model_copy(update={"output_dir": name})


def default_directory(tasks: Sequence[str], config: RunConfig | None = None, prefix: str = "") -> Path:
    """Return where a run goes that has no --output-dir: named after the tasks and, if it is given, the configuration."""
    name = "-".join(Path(task.rpartition(":")[0] or task).stem for task in tasks)
    return Path("runs") / (prefix + name + ("" if config is None else f"-{config.digest()}"))


def parse_weights(text: str | None) -> tuple[float, ...] | None:
    """Turn '1,0.5' into numbers."""
    return None if text is None else tuple(_number(part, "--reward-weights") for part in text.split(","))


def parse_shard(text: str) -> tuple[int, int]:
    """Turn '3/8' into its numbers."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise SettingError(f"--shard takes k/n, the number of the shard and how many there are, such as 3/8, but got '{text}'.")
    return int(number), int(count)


def bounds(config: RunConfig) -> dict[str, Any]:
    """Return how many searches there are, and upper bounds on what they cost."""
    plans = plan(config)
    searches = [(one, method) for one in plans for method, _ in one.methods]
    by_variant: dict[str, int] = {}
    for one, method in searches:
        by_variant[method.label] = by_variant.get(method.label, 0) + len(one.examples) * (method.generated_tokens or 0)
    budgets = [(len(one.examples), method.generated_tokens or 0, method) for one, method in searches]
    return {
        "items": {one.task.name: len(one.examples) for one in plans},
        "rewards": {one.task.name: one.reward.name for one in plans},
        "skipped": {one.task.name: dict(one.skipped) for one in plans if one.skipped},
        "searches": sum(count for count, _, _ in budgets),
        "generated_tokens_at_most": sum(by_variant.values()),
        "generated_tokens_at_most_by_variant": by_variant,
        "reward_calls_at_most": sum(
            count * (1 if method.name in METHODS_OF_ONE_COMPLETION else tokens) for count, tokens, method in budgets
        ),
        "reward_calls_at_full_length": sum(
            count * max(1, tokens // (method.max_new_tokens or 1)) for count, tokens, method in budgets
        ),
    }


def show_plan(config: RunConfig, output_format: Format) -> None:
    """Print the resolved configuration and upper bounds."""
    found = {"config": config.model_dump(mode="json"), "bounds": bounds(config)}
    if output_format is Format.JSON:
        write_json(found)
        return
    for title, values in found.items():
        typer.echo(f"{title}:")
        for name, value in values.items():
            typer.echo(f"  {name}: {_readable(value)}")


def _readable(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
        return ", ".join(_method(one) for one in value)
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(one)}" for name, one in value.items()) or "–"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _method(method: Mapping[str, Any]) -> str:
    named = {**method["settings"], **{name: method[name] for name in VARIANT_FIELDS if method[name] is not None}}
    return method["name"] + (f"({', '.join(f'{key}={value}' for key, value in named.items())})" if named else "")


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SettingError(f"{what} takes a number, but got '{text}'.") from error
