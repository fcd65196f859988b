"""Rewards from names and functions, and sums of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxent_ts.errors import RewardError, SettingError, UnknownNameError
from maxent_ts.rewards.combine import WeightedSum, from_function, load_reward, parse_rewards

CALL: dict[str, Any] = {
    "prompts": ["p", "p"],
    "completions": ["one", "three"],
    "completion_ids": [[1], [2, 3]],
    "logprobs": [-1.0, -2.0],
    "finish_reasons": ["eos", "length"],
    "labels": [(), ()],
}


def lengths(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def ones_where_short(completions: list[str], **columns: Any) -> list[float | None]:
    return [1.0 if len(text) < 4 else None for text in completions]


def test_a_function_gets_only_the_columns_it_names():
    """Catches a TypeError for every function without **kwargs."""
    assert from_function(lengths)(**CALL) == [3.0, 5.0]
    assert from_function(lambda logprobs, labels=None: logprobs)(**CALL) == [-1.0, -2.0]


def test_a_function_with_kwargs_gets_everything():
    """Catches columns lost on the way."""
    seen: dict[str, Any] = {}

    def spy(completions: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(completions)

    from_function(spy)(**CALL)
    assert set(seen) == {*CALL, "trainer_state", "log_extra", "log_metric"} - {"completions"}


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1.0], "2 were given, 1 came back"),
        (1.0, "must return a list"),
        (None, "must return a list"),
        (["high", 1.0], "'high'.*example 0"),
        ([1.0, math.nan], "nan for example 1"),
        ([math.inf, 1.0], "inf for example 0"),
        ([[1.0], 1.0], "example 0"),
    ],
)
def test_what_is_no_list_of_finite_numbers_is_refused_with_name_and_example(returned: Any, words: str):
    """Catches values that reach the search and poison every weight."""
    with pytest.raises(RewardError, match=words) as caught:
        from_function(lambda completions: returned, name="mine")(**CALL)
    assert "'mine'" in str(caught.value)


@pytest.mark.parametrize("returned", [np.array([1.0, 2.0]), (1, True), [np.float32(1.0), None]])
def test_arrays_tuples_integers_and_none_are_values(returned: Any):
    """Catches refusing what TRL accepts."""
    values = from_function(lambda completions: returned)(**CALL)
    assert values[0] == 1.0
    assert all(value is None or type(value) is float for value in values)


def test_an_exception_in_the_users_function_becomes_a_reward_error_that_keeps_its_words():
    """Catches a bare KeyError without the reward's name."""

    def broken(completions: list[str]) -> list[float]:
        raise KeyError("colour")

    with pytest.raises(RewardError, match=r"'broken' raised KeyError: 'colour'") as caught:
        from_function(broken)(**CALL)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_missing_column_is_named_together_with_those_there_are():
    """Catches a TypeError about a missing argument, and a gold column that appears from nowhere."""
    with pytest.raises(RewardError, match=r"'answer_key'.*completions"):
        from_function(lambda completions, answer_key: [0.0, 0.0], name="mine")(**CALL)


def test_positional_only_parameters_and_things_that_cannot_be_called_are_refused():
    """Catches failing at the first completion instead of at the start."""
    with pytest.raises(SettingError, match="positional-only"):
        from_function(lambda completions, /: [0.0])
    with pytest.raises(SettingError, match="callable"):
        from_function(3)  # type: ignore[arg-type]


def test_a_weighted_sum_leaves_none_out_and_is_none_where_all_are():
    """Catches None counted as 0 for a single reward, or an error for a mixture."""
    both = WeightedSum([from_function(lengths), from_function(ones_where_short)], [0.5, 10.0])
    assert both(**CALL) == [11.5, 2.5]
    assert WeightedSum([from_function(ones_where_short)], [2.0])(**CALL) == [2.0, None]
    assert both.name == "0.5·lengths + 10·ones_where_short"


def test_the_range_of_a_sum_holds_every_value_and_respects_clip_and_negative_weights():
    """Catches bounds in the wrong order, inf - inf, and bounds that forget a part left out."""
    assert parse_rewards(["claims", "format"], [0.5, 0.5]).range == (0.0, 1.0)
    assert parse_rewards(["format"], [-2.0]).range == (-2.0, 0.0)
    assert parse_rewards(["format", "logprob"], [1.0, 0.1]).range == (-math.inf, 1.0)
    assert parse_rewards(["format", "logprob"], [1.0, 0.0]).range == (0.0, 1.0)
    clipped = WeightedSum([from_function(lengths)], [1.0], clip=(0.0, 4.0))
    assert clipped.range == (0.0, 4.0)
    assert clipped(**CALL) == [3.0, 4.0]


def test_the_evidence_of_a_sum_has_every_part_and_adds_up_to_the_value():
    """Catches evidence in another order than the rewards."""
    both = WeightedSum([from_function(lengths), from_function(ones_where_short)], [0.5, 10.0])
    explained = both.explain(**CALL)
    assert [each["value"] for each in explained] == both(**CALL)
    assert explained[0]["parts"]["lengths"] == {"value": 3.0, "parts": {"lengths": {"value": 3.0}}, "weight": 0.5}
    assert explained[1]["parts"]["ones_where_short"]["value"] is None


@pytest.mark.parametrize(
    ("specs", "weights", "words"),
    [
        ([], None, "at least one"),
        (["format"], [1.0, 2.0], "one weight for each"),
        (["format", "format"], None, "named twice"),
        (["format"], [math.nan], "finite"),
    ],
)
def test_lists_that_do_not_fit_are_refused(specs: list[str], weights: list[float] | None, words: str):
    """Catches weights silently cut to the shorter list."""
    with pytest.raises(SettingError, match=words):
        parse_rewards(specs, weights)


def test_a_reward_object_that_raises_or_returns_nonsense_is_caught_in_a_sum():
    """Catches unchecked values of the user's own classes."""

    class Nonsense:
        name = "nonsense"
        range = (0.0, 1.0)

        def __call__(self, **columns: Any) -> Any:
            return "nonsense"

        def explain(self, **columns: Any) -> Any:
            return []

    with pytest.raises(RewardError, match="'nonsense' must return a list"):
        WeightedSum([Nonsense()], [1.0])(**CALL)


SOURCE = """
NUMBER = 3
def by_length(completions):
    return [float(len(text)) for text in completions]
class Constant:
    name, range = "constant", (0.0, 2.0)
    def __call__(self, *, completions, **columns):
        return [2.0] * len(completions)
    def explain(self, *, completions, **columns):
        return [{"value": 2.0, "parts": {}}] * len(completions)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my rewards.py"
    path.write_text(SOURCE)
    return path


def test_functions_and_classes_are_loaded_from_a_file(source: Path):
    """Catches a path with a space or a colon cut in the wrong place."""
    assert load_reward(f"{source}:by_length")(**CALL) == [3.0, 5.0]
    assert load_reward(f"{source}:by_length").name == "by_length"
    assert load_reward(f"{source}:Constant").range == (0.0, 2.0)
    assert parse_rewards([f"{source}:by_length", "format"], [0.1, 1.0])(**CALL)[0] > 0.3


def test_functions_are_loaded_from_a_module():
    """Catches module:function taken for a file."""
    assert load_reward("statistics:mean").name == "mean"


def test_every_way_to_misspell_a_reward_is_answered_with_a_hint(source: Path, tmp_path: Path):
    """Catches a traceback of the import machinery."""
    with pytest.raises(UnknownNameError, match="Did you mean 'claims'"):
        load_reward("claim")
    with pytest.raises(UnknownNameError, match="Did you mean 'by_length'"):
        load_reward(f"{source}:by_lenght")
    with pytest.raises(UnknownNameError, match=r"Did you mean .*my rewards.py"):
        load_reward(f"{tmp_path / 'my_rewards.py'}:by_length")
    with pytest.raises(UnknownNameError, match="names only a file"):
        load_reward(str(source))
    with pytest.raises(UnknownNameError, match="no module 'no_such_module'"):
        load_reward("no_such_module:by_length")
    with pytest.raises(SettingError, match=r"'NUMBER'.*3 of type int"):
        load_reward(f"{source}:NUMBER")


def test_a_class_that_needs_arguments_and_a_callable_without_signature_are_explained(source: Path):
    """Catches a bare TypeError or ValueError at the start of a run."""
    source.write_text("class Needs:\n    def __init__(self, strength): ...\n")
    with pytest.raises(RewardError, match=r"'Needs'.*without arguments.*strength"):
        load_reward(f"{source}:Needs")
    with pytest.raises(SettingError, match="signature"):
        from_function(type("Odd", (), {"__call__": max})(), "odd")


def test_a_file_that_fails_to_run_says_why(tmp_path: Path):
    """Catches a SyntaxError that looks like a fault of this package."""
    path = tmp_path / "broken.py"
    path.write_text("import no_such_package\n")
    with pytest.raises(RewardError, match=r"ModuleNotFoundError.*no_such_package"):
        load_reward(f"{path}:reward")
    path.write_text("def reward(:\n")
    with pytest.raises(RewardError, match="SyntaxError"):
        load_reward(f"{path}:reward")
