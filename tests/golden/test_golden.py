"""Every registered method gives today what it gave when its golden file was written."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from maxent_ts.registry import METHODS
from tests.golden.cases import FOLDER, dump, path_of, run_case


def first_difference(found: Any, expected: Any, where: str = "") -> str | None:
    """Where two JSON values differ: numbers by more than 1e-9, everything else at all."""
    if isinstance(found, dict) and isinstance(expected, dict):
        if found.keys() != expected.keys():
            return f"{where}: the keys {sorted(found.keys() ^ expected.keys())} are in one only"
        pairs = [(f"{where}.{key}", found[key], expected[key]) for key in expected]
    elif isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return f"{where}: {len(found)} entries, {len(expected)} in the file"
        pairs = [(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(found, expected, strict=True))]
    elif isinstance(found, float) and isinstance(expected, float):
        is_equal = math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
        return None if is_equal else f"{where}: {found!r}, in the file {expected!r}"
    else:
        return None if found == expected and type(found) is type(expected) else f"{where}: {found!r}, in the file {expected!r}"
    return next((difference for at, one, other in pairs if (difference := first_difference(one, other, at))), None)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reproduces_its_golden_file(name):
    """Any change of draws, weights, choices or trees shows, meant or not."""
    command = f"python -m tests.golden.regenerate {name}"
    assert path_of(name).exists(), f"The method {name} has no golden file. Make it with: {command}"
    difference = first_difference(run_case(name), json.loads(path_of(name).read_text()))
    assert difference is None, f"{name}{difference}. If this is meant, run: {command}"


def test_no_golden_file_is_left_of_a_method_that_is_gone():
    """A renamed method would leave its old file behind."""
    assert {path.stem for path in FOLDER.glob("*.json")} <= set(METHODS)


def test_differences_are_found():
    """A comparison that is blind to a type, a length, a missing key or the last digits would pass everything."""
    case = {"a": [1, 2.0, {"b": None}], "c": "d"}
    assert first_difference(json.loads(dump(case)), case) is None
    assert first_difference({"a": [1, 2.0 + 1e-12, {"b": None}], "c": "d"}, case) is None
    for other in (
        {"a": [1, 2.0, {"b": None}]},
        {"a": [1, 2.0], "c": "d"},
        {"a": [1, 2.0 + 1e-6, {"b": None}], "c": "d"},
        {"a": [1, 2.0, {"b": 0.0}], "c": "d"},
        {"a": [1, math.nan, {"b": None}], "c": "d"},
        {"a": [1.0, 2.0, {"b": None}], "c": "d"},
    ):
        assert first_difference(other, case) is not None
