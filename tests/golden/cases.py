"""One fixed search of every registered method, as plain JSON values."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from maxent_ts.engines.table import TableEngine
from maxent_ts.registry import METHODS, load
from maxent_ts.types import Budget
from tests.conftest import additive_reward, run_one

FOLDER = Path(__file__).parent
SETTINGS: dict[str, Any] = {"tilt": 1.5, "max_new_tokens": 4, "seed": 0}
GENERATED_TOKENS = 60


def run_case(name: str) -> dict[str, Any]:
    """Run a method with its default settings on a table of three letters and an end."""
    method = load(METHODS, name, "method")
    defaults = {key: one.default for key, one in inspect.signature(method).parameters.items() if one.default is not one.empty}
    tokens = None if name == "exact" else GENERATED_TOKENS
    engine = TableEngine.random(num_tokens=4, concentration=0.8, seed=11)
    result = run_one(
        engine,
        additive_reward(4, SETTINGS["max_new_tokens"], 5),
        method,
        budget=Budget(generated_tokens=tokens),
        answer_fn=lambda text: text[:1] or None,
        **SETTINGS,
    )
    outcome = result.outcome
    case = {
        "settings": {**SETTINGS, "generated_tokens": tokens, **defaults},
        "usage": {"generated_tokens": result.usage.generated_tokens, "rollouts": result.usage.rollouts},
        "completions": [
            {"tokens": list(one.tokens), "logprob": one.logprob, "finish_reason": one.finish_reason, "reward": one.reward}
            for one in outcome.completions
        ],
        "weights": list(outcome.weights),
        "chosen": list(outcome.chosen),
        "info": dict(outcome.info),
        "tree": None if outcome.tree is None else outcome.tree.to_dict(),
    }
    return json.loads(json.dumps(case))


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def dump(value: Any, depth: int = 0) -> str:
    """JSON with one completion or node a line, so that a difference can be read."""
    if _height(value) > 2:
        keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
        lines = [" " * (depth + 1) + key + dump(one, depth + 1) for key, one in zip(keys, _children(value), strict=True)]
        first, last = "{}" if isinstance(value, dict) else "[]"
        return first + "\n" + ",\n".join(lines) + "\n" + " " * depth + last
    return json.dumps(value)


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _height(value: Any) -> int:
    return 1 + max(map(_height, _children(value)), default=0) if isinstance(value, (dict, list)) else 0
