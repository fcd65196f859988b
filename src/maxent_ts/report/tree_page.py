"""One search tree as a page to explore: one file, no network, no library. Made from a run directory alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from maxent_ts.errors import RunDirectoryError
from maxent_ts.records import Run
from maxent_ts.report.tree_choice import StoredTree
from maxent_ts.report.tree_data import best_completion
from maxent_ts.report.tree_view import tree_svg

__all__ = ["render_tree_page", "tree_page_data", "write_tree_page"]

SCRIPTS = tuple(f"tree_{name}.js" for name in ("model", "colours", "icicle", "series", "panel", "play", "page"))
NODE_NUMBERS = ("parent", "logprob", "first_logprob", "log_value", "log_known", "log_open", "mass", "visits", "completion")
NUM_DIGITS = 10
"""Significant digits of numbers on the page."""


def write_tree_page(run: Run, stored: StoredTree, output: Path | None = None) -> Path:
    """Write the page of one stored tree.

    Args:
        run: The run it belongs to.
        stored: The tree and what it is of.
        output: Where the page goes; into the run directory, named after task, method and number, if left out.

    Raises:
        RunDirectoryError: if the page cannot be written.
    """
    output = output or run.path / f"tree-{_word(stored.task)}-{_word(stored.method)}-{stored.number}.html"
    page = render_tree_page(tree_page_data(run, stored), tree_svg(stored.tree))
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"The page '{output}' cannot be written: {error}. Name another with --output.") from error
    return output


def tree_page_data(run: Run, stored: StoredTree) -> dict[str, Any]:
    """What the page's script reads: plain JSON values, the nodes as columns."""
    example, record = run.examples.get((stored.task, stored.example_id)), stored.record
    facts: dict[str, Any] = {
        "run": run.path.resolve().name,
        "task": stored.task,
        "method": stored.method,
        "item": stored.example_id,
        "number": stored.number,
        "model": run.info.config.get("model", ""),
        "reward": run.info.rewards.get(stored.task, {}).get("name", "reward"),
        "usage": record.usage if record is not None else {},
        "returned": _returned(stored),
    }
    if example is not None:
        facts |= {"prompt": example.prompt, "target": example.target, "labels": run.info.data.get(stored.task, {}).get("labels")}
        facts |= {"series": [_digits(one) for one in example.series], "series_names": example.series_names}
    return {**facts, **_columns(stored.tree)}


def render_tree_page(data: Mapping[str, Any], picture: str = "") -> str:
    """Return the page as text.

    Args:
        data: See `tree_page_data`.
        picture: An SVG of the tree, for browsers without scripts.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = '(() => {\n"use strict";\n' + "\n".join(_resource(name) for name in SCRIPTS) + "})();"
    rewards = [one["reward"] for one in data["completions"]]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_resource("tree_page.html")).render(
        data=data,
        style=Markup(_resource("tree_page.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        json=Markup(_embedded(data)),
        picture=Markup(picture),
        low=f"{min(rewards):.2f}",
        high=f"{max(rewards):.2f}",
    )


def _columns(tree: Mapping[str, Any]) -> dict[str, Any]:
    nodes: dict[str, list[Any]] = {name: _digits(node[name] for node in tree["nodes"]) for name in NODE_NUMBERS}
    nodes["text"] = [node["text"] for node in tree["nodes"]]
    nodes["num_tokens"] = [len(node["tokens"]) for node in tree["nodes"]]
    return {
        "tilt": tree["tilt"],
        "reward_range": tree["reward_range"],
        "nodes": nodes,
        "completions": [{name: one[name] for name in one if name != "tokens"} for one in tree["completions"]],
        "best": best_completion(tree),
    }


def _returned(stored: StoredTree) -> int | None:
    """Index of the completion that the method returned."""
    if stored.record is None:
        return None
    found = [index for index, one in enumerate(stored.tree["completions"]) if one["tokens"] == stored.record.tokens]
    return found[0] if found else None


def _digits(numbers: Iterable[float | None]) -> list[float | int | None]:
    """Drop digits that nobody sees and every browser would have to read."""
    return [one if one is None or isinstance(one, int) or not math.isfinite(one) else _rounded(one) for one in numbers]


def _rounded(number: float) -> float:
    return float(f"{number:.{NUM_DIGITS}g}")


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element: a text of the model must not close it or open a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _resource(name: str) -> str:
    return resources.files("maxent_ts.report").joinpath(name).read_text(encoding="utf-8")


def _word(name: str) -> str:
    """A name as part of a file name."""
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
