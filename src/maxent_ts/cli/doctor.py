"""`maxent-ts doctor`: does this installation work, and if not, what to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import typer

from maxent_ts.cli.shared import EXIT_FAILURES, Format, hide_loading_bars, write_json
from maxent_ts.errors import MaxentError
from maxent_ts.fingerprint import hardware, versions
from maxent_ts.loading import embedded_model_path, load_engine, load_task
from maxent_ts.presets import DEMO_TASKS, EMBEDDED_MODEL

__all__ = ["examine", "run_doctor"]


def run_doctor(output_format: Format) -> None:
    """Print every check; leaves with exit code 1 if one failed."""
    checks = examine()
    if output_format is Format.JSON:
        write_json(checks)
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}: {check['found']}")
    if not all(check["ok"] for check in checks):
        raise typer.Exit(EXIT_FAILURES)


def examine() -> list[dict[str, Any]]:
    """Return the checks as `{"name", "ok", "found"}`."""
    steps: dict[str, Callable[[], str]] = {
        "versions": lambda: ", ".join(f"{name} {number or 'not installed'}" for name, number in versions().items()),
        "machine": lambda: ", ".join(f"{name} {value}" for name, value in hardware().items()),
        "engine hf": _torch,
        "report": _matplotlib,
        "embedded data": lambda: ", ".join(f"{name}: {len(load_task(name).examples())} items" for name in DEMO_TASKS),
        "embedded model": lambda: str(embedded_model_path()),
        "generation": _generate,
    }
    return [_check(name, step) for name, step in steps.items()]


def _check(name: str, step: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "found": step()}
    except MaxentError as error:
        return {"name": name, "ok": False, "found": str(error)}


def _torch() -> str:
    if importlib.util.find_spec("torch") is None:
        raise MaxentError("torch is not installed. Run: pip install 'maxent-ts[hf]'")
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        devices.append(
            f"cuda ({torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
            f"bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'})"
        )
    if torch.backends.mps.is_available():
        devices.append("mps")
    return f"{', '.join(devices)}; {torch.get_num_threads()} threads"


def _matplotlib() -> str:
    if importlib.util.find_spec("matplotlib") is None:
        raise MaxentError("matplotlib is not installed; reports need it. Run: pip install 'maxent-ts[report]'")
    return "matplotlib is there"


def _generate() -> str:
    from maxent_ts.config import make_config
    from maxent_ts.planning import plan
    from maxent_ts.search.run import SearchJob, run_searches
    from maxent_ts.types import Budget, Policy

    hide_loading_bars(EMBEDDED_MODEL)
    config = make_config(tasks=DEMO_TASKS[:1], methods=({"name": "greedy"},), limit=1, num_rollouts=1, max_new_tokens=5)
    (one,) = plan(config)
    job = SearchJob("doctor", one.examples[0].prompt, Policy(5), one.methods[0][1], budget=Budget(5), inputs=one.examples[0].inputs)
    (result,) = run_searches([job], load_engine(config), one.reward)
    if result.error is not None:
        raise MaxentError(str(result.error)) from result.error
    assert result.outcome is not None
    return f"{result.usage.generated_tokens} tokens in {result.usage.seconds:.2f} s: {result.outcome.best.text!r}"
