"""What a run was made from: data, package versions, machine. Needed to tell whether two runs may be compared."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from maxent_ts.tasks.base import Example

__all__ = ["example_seed", "fingerprint_examples", "fingerprint_sources", "hardware", "plain", "versions"]


def example_seed(example_id: str) -> int:
    """Return a 64-bit number that is the same for the same id on every machine (Python's own `hash` is not)."""
    return int.from_bytes(hashlib.sha256(example_id.encode()).digest()[:8], "big")


def fingerprint_examples(examples: Sequence[Example]) -> str:
    """Return the SHA-256, in hexadecimal, of the ids, prompts and inputs of examples in order. Targets do not count."""
    digest = hashlib.sha256()
    for example in examples:
        line = json.dumps([example.id, plain(example.prompt), plain(dict(example.inputs))], sort_keys=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def fingerprint_sources(specs: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256, in hexadecimal, of the file behind each name of the form `file.py:name` or `module:name`.

    What such a file imports does not count. Names of this package's registries have no file of the user's and are left out.
    """
    found = {}
    for spec in sorted(set(specs)):
        place, colon, _ = spec.rpartition(":")
        if not colon:
            continue
        module = None if place.endswith(".py") else importlib.util.find_spec(place)
        file = Path(place) if module is None else Path(module.origin or "")
        if file.is_file():
            found[spec] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def plain(value: Any) -> Any:
    """Turn a value into plain JSON: numpy scalars and arrays, tuples and dataclasses included.

    Numbers that are not finite become the texts "NaN", "Infinity" and "-Infinity": JSON has no numbers for them, and
    pydantic reads these texts back as floats.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        if value != value:
            return "NaN"
        return float(value) if abs(value) != float("inf") else ("Infinity" if value > 0 else "-Infinity")
    to_list = getattr(value, "tolist", None)  # numpy arrays and scalars, torch tensors
    return plain(to_list()) if callable(to_list) else repr(value)


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that results may depend on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("maxent-ts", "numpy", "scipy", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, Any]:
    """Return the machine: processor, cores this process may use, memory in GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.platform(), "processor": _processor(), "cores": cores, "memory_gib": _memory_gib()}


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
