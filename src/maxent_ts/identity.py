"""Whether two run.json are of the same run, and where they first differ."""

from __future__ import annotations

import json
from typing import Any

from maxent_ts.records import RunInfo

__all__ = ["first_difference", "run_identity", "shown"]

LENGTH_OF_SHOWN_VALUES = 160
"""Characters of a value in a message about runs that differ."""


def run_identity(info: RunInfo) -> dict[str, Any]:
    """Return what must be equal for two starts to be the same run.

    The size of the batch may change: who ran out of memory lowers it and goes on.
    """
    chosen = info.model_dump(mode="json", include={"config", "engine", "rewards", "data", "sources", "rescored"})
    chosen["engine"].pop("max_batch_size", None)
    return {**chosen, "maxent_ts": info.versions.get("maxent-ts")}


def first_difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Return the place of the first difference between two JSON values, and what stands there; None if there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
            if found is not None:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            found = first_difference(before, after, f"{where}[{index}]")
            if found is not None:
                return found
        return None
    return None if old == new else (where, old, new)


def shown(value: Any) -> str:
    """Return a value as JSON, shortened for a message."""
    text = json.dumps(value)
    return text if len(text) <= LENGTH_OF_SHOWN_VALUES else text[:LENGTH_OF_SHOWN_VALUES] + "…"
