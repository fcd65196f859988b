"""Which stored tree is meant: by the item's id or number, the task and the method; and what to do when it was not stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxent_ts.errors import RunDirectoryError, UnknownNameError
from maxent_ts.records import Record, Run, read_tree, tree_path

__all__ = ["StoredTree", "choose_tree"]

NUM_NAMED = 5
"""Items that an error names."""


@dataclass(frozen=True, slots=True)
class StoredTree:
    """A search tree from a run directory."""

    task: str
    method: str
    example_id: str
    number: int
    """Of the item among its task's items, from 1, in the run's order."""
    tree: dict[str, Any]
    record: Record | None


def choose_tree(run: Run, *, item: str | None = None, task: str | None = None, method: str | None = None) -> StoredTree:
    """Read the stored tree that is meant.

    Args:
        run: The run.
        item: An item's id, or its number in its task, from 1 in the run's order; the first with a stored tree if left out.
        task: The item's task; if left out, the task that has an item of this id, else the first with a stored tree.
        method: The method; the first in the run with a stored tree of the item if left out.

    Raises:
        UnknownNameError: if the run has no such task, method or item.
        RunDirectoryError: if no tree of it was stored, with those that were; or if the file is damaged.
    """
    stored = [one for one in ((*key, _file(run, *key)) for key in _keys(run)) if one[3].exists()]
    if not stored:
        raise RunDirectoryError(f"The run '{run.path}' holds no search tree. {_remedy(run)}")
    _check(task, _tasks(run), "task")
    _check(method, [one["name"] for one in run.info.config["methods"]], "method")
    fitting = [one for one in stored if task in (None, one[0])]
    if item is not None:
        task, example_id = _item(run, item, task or (fitting or stored)[0][0], anywhere=task is None)
        fitting = [one for one in fitting if one[0] == task and one[2] == example_id]
    fitting = [one for one in fitting if method in (None, one[1])]
    if not fitting:
        wanted = " and ".join(
            part for part in (item and f"item '{item}'", task and f"task '{task}'", method and f"method '{method}'") if part
        )
        raise RunDirectoryError(f"The run '{run.path}' holds no search tree of {wanted}. {_stored(run, stored)} {_remedy(run)}")
    task, method, example_id, file = fitting[0]
    tree = read_tree(file)
    if any("first_logprob" not in node for node in tree["nodes"]):
        raise RunDirectoryError(
            f"The search tree '{file}' was stored by an earlier version, without all that its views need. "
            "Run the evaluation again with --overwrite."
        )
    record = next((one for one in run.records if one.key == (task, method, example_id)), None)
    return StoredTree(task, method, example_id, _ids(run, task).index(example_id) + 1, tree, record)


def _keys(run: Run) -> list[tuple[str, str, str]]:
    """(task, method, example id) in the order of tasks, items and methods."""
    methods = [one["name"] for one in run.info.config["methods"]]
    return [(task, method, example_id) for task, example_id in run.examples for method in methods]


def _file(run: Run, task: str, method: str, example_id: str) -> Path:
    return tree_path(run.path, task, method, example_id)


def _tasks(run: Run) -> list[str]:
    return list(dict.fromkeys(task for task, _ in run.examples))


def _ids(run: Run, task: str) -> list[str]:
    return [example_id for found, example_id in run.examples if found == task]


def _check(name: str | None, known: Sequence[str], what: str) -> None:
    if name is not None and name not in known:
        raise UnknownNameError(f"The run has no {what} '{name}'. It has: {', '.join(known)}.")


def _item(run: Run, item: str, task: str, *, anywhere: bool) -> tuple[str, str]:
    """Return task and id of an item; an id counts before a number."""
    for found, example_id in run.examples:
        if example_id == item and (anywhere or found == task):
            return found, example_id
    ids = _ids(run, task)
    if item.isdecimal() and 1 <= int(item) <= len(ids):
        return task, ids[int(item) - 1]
    some = ", ".join(f"{number} ({one})" for number, one in enumerate(ids[:NUM_NAMED], start=1))
    raise UnknownNameError(
        f"The task '{task}' has no item '{item}' in this run. Expected an id, or a number from 1 to {len(ids)}, such as {some}."
    )


def _stored(run: Run, stored: Sequence[tuple[str, str, str, Path]]) -> str:
    """Say of which items and methods there are trees."""
    methods = list(dict.fromkeys(method for _, method, _, _ in stored))
    items = list(dict.fromkeys((task, example_id) for task, _, example_id, _ in stored))
    named = [f"{task} item {_ids(run, task).index(example_id) + 1} ({example_id})" for task, example_id in items]
    more = f" and {len(named) - NUM_NAMED} more" if len(named) > NUM_NAMED else ""
    return f"There are trees of {', '.join(methods)} for {', '.join(named[:NUM_NAMED])}{more}."


def _remedy(run: Run) -> str:
    number = run.info.execution.get("save_trees")
    kept = "a few items" if number is None else f"the first {number} items of each task"
    return (
        f"This run keeps those of {kept}, for methods that grow one. For more, run it with a larger --save-trees and --overwrite."
    )
