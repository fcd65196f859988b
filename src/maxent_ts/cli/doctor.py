"""`maxent-ts doctor`: does this installation work, and if not, what to do. Nothing of it uses the network."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from maxent_ts.cli.shared import EXIT_FAILURES, Format, hide_loading_bars, write_json
from maxent_ts.errors import MaxentError
from maxent_ts.fingerprint import hardware, versions
from maxent_ts.loading import embedded_model_path, load_engine, load_task
from maxent_ts.presets import DEMO_TASKS, EMBEDDED_MODEL

__all__ = ["examine", "run_doctor"]

EXTRAS = {
    "report": "matplotlib",
    "serve": "fastapi",
    "trackio": "trackio",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "lm-eval": "lm_eval",
    "ecg": "wfdb",
    "ray": "ray",
}
"""What may be missing without harm, and the module that tells."""

DTYPES = ("float32", "bfloat16", "float16")


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
    """Return the checks as `{"name", "ok", "found"}`. An optional package that is missing is no failure."""
    hide_loading_bars(EMBEDDED_MODEL)  # counts only before huggingface_hub is imported, which a check does
    steps: dict[str, Callable[[], str]] = {
        "versions": lambda: ", ".join(f"{name} {number or 'not installed'}" for name, number in versions().items()),
        "machine": lambda: ", ".join(f"{name} {value}" for name, value in hardware().items()),
        "free memory": _free_memory,
        "devices": _devices,
        **{f"extra {name}": lambda name=name, module=module: _extra(name, module) for name, module in EXTRAS.items()},
        "hub": _hub,
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


def _free_memory() -> str:
    listing = Path("/proc/meminfo")
    if not listing.exists():
        return "not known on this system"
    numbers = dict(line.split(":", 1) for line in listing.read_text().splitlines())
    available = int(numbers["MemAvailable"].split()[0]) / 2**20
    return f"{available:.1f} GiB"


def _devices() -> str:
    """Every device with its free memory and the number types that it can multiply in."""
    if importlib.util.find_spec("torch") is None:
        raise MaxentError("torch is not installed; only the table engine works without it. Run: pip install 'maxent-ts[hf]'")
    import torch

    from maxent_ts.engines.kernels import kernels_status

    found = [f"cpu ({_dtypes('cpu')}; {torch.get_num_threads()} threads; kernels: {kernels_status()})"]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        found.append(f"cuda:{index} ({torch.cuda.get_device_name(index)}, {memory}; {_dtypes(f'cuda:{index}')})")
    if torch.backends.mps.is_available():
        found.append(f"mps ({_dtypes('mps')})")
    return ", ".join(found)


def _dtypes(device: str) -> str:
    import torch

    works = []
    for name in DTYPES:
        try:
            one = torch.ones(2, 2, dtype=getattr(torch, name), device=device)
            if bool((one @ one == 2).all()):
                works.append(name)
        except (RuntimeError, TypeError):  # the device has no arithmetic for this type
            continue
    return ", ".join(works)


def _extra(name: str, module: str) -> str:
    if importlib.util.find_spec(module) is None:
        return f"not installed. Run: pip install 'maxent-ts[{name}]'"
    packages = metadata.packages_distributions().get(module, [module])
    return ", ".join(f"{package} {metadata.version(package)}" for package in sorted(set(packages)))


def _hub() -> str:
    """Whether a token is there, which no one has asked the hub about, and where downloads go."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return "huggingface_hub is not installed. Run: pip install 'maxent-ts[hf]'"
    from huggingface_hub import constants, get_token

    cache = Path(constants.HF_HUB_CACHE)
    place = next(one for one in (cache, *cache.parents) if one.exists())
    free = shutil.disk_usage(place).free / 2**30
    login = "logged in" if get_token() else "not logged in (hf auth login; needed for gated and private models alone)"
    mode = ", offline" if constants.HF_HUB_OFFLINE else ""
    writable = "" if os.access(place, os.W_OK) else ", which cannot be written"
    return f"{login}{mode}; cache {cache}{writable}, {free:.0f} GiB free"


def _generate() -> str:
    from maxent_ts.config import make_config
    from maxent_ts.planning import plan
    from maxent_ts.search.run import SearchJob, run_searches
    from maxent_ts.types import Budget, Policy

    config = make_config(tasks=DEMO_TASKS[:1], methods=({"name": "greedy"},), limit=1, num_rollouts=1, max_new_tokens=5)
    (one,) = plan(config)
    job = SearchJob("doctor", one.examples[0].prompt, Policy(5), one.methods[0][1], budget=Budget(5), inputs=one.examples[0].inputs)
    (result,) = run_searches([job], load_engine(config), one.reward)
    if result.error is not None:
        raise MaxentError(str(result.error)) from result.error
    assert result.outcome is not None
    return f"{result.usage.generated_tokens} tokens in {result.usage.seconds:.2f} s: {result.outcome.best.text!r}"
