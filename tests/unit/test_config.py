"""The configuration is strict: nothing that a user types is ignored."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.config import RunConfig, check_settings, expand_tasks, make_config, parse_assignments
from maxent_ts.errors import SettingError, UnknownNameError
from maxent_ts.presets import PRESETS


def method(
    rng, target, *, num_parallel: int = 4, mode: Literal["best", "sample"] = "best", width: float | None = None, flag: bool = False
):
    raise NotImplementedError


def needy(rng, target, *, num_beams: int):
    raise NotImplementedError


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_rollouts_length_and_budget(name):
    """Catches a stored configuration that says less than what was done."""
    config = make_config(tasks=("t",), preset=name)
    assert (config.num_rollouts, config.max_new_tokens) == (PRESETS[name].num_rollouts, PRESETS[name].max_new_tokens)
    assert config.generated_tokens == config.num_rollouts * config.max_new_tokens


def test_what_is_given_goes_before_the_preset():
    """Catches a preset that overrides the user, and a budget that ignores the override."""
    config = make_config(tasks=("t",), preset="quick", num_rollouts=7)
    assert (config.num_rollouts, config.max_new_tokens, config.generated_tokens) == (7, 30, 210)
    assert make_config(tasks=("t",), generated_tokens=99).generated_tokens == 99


def test_a_resolved_configuration_reads_back_as_itself():
    """Catches a value that is lost or resolved twice on its way through run.json."""
    config = make_config(tasks=("t",), tilt=2.5, top_p=0.9, rewards=("format",), reward_weights=(0.5,))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tilts": 1.0}, "Did you mean 'tilt'"),
        ({"preset": "quik"}, "Did you mean 'quick'"),
        ({"tilt": -1.0}, "tilt"),
        ({"num_rollouts": 0}, "num_rollouts"),
        ({"limit": "many"}, "limit"),
        ({"top_p": 1.5}, "top_p"),
        ({"generated_tokens": 10, "max_new_tokens": 20}, "no room for one completion"),
        ({"rewards": ("a", "b"), "reward_weights": (1.0,)}, "1 reward weights were given for 2 rewards"),
        ({"rewards": ("a",), "reward_weights": (math.nan,)}, "finite"),
        ({"methods": ({"name": "greedy"}, {"name": "greedy"})}, "named twice"),
        ({"methods": ({"name": "greedy", "setings": {}},)}, "setings"),
    ],
)
def test_a_wrong_value_gives_one_clear_message(values, expected):
    """Catches pydantic's own many-line report, and values that pass silently."""
    with pytest.raises(SettingError, match=expected) as caught:
        make_config(tasks=("t",), **values)
    assert "\n" not in str(caught.value)


def test_the_digest_depends_on_what_is_computed_and_on_nothing_else():
    """Catches a run directory that changes its name with the batch size, or keeps it when the seed changes."""
    base = make_config(tasks=("t",))
    assert base.digest() == make_config(tasks=("t",), batch_size=7, max_concurrent=3, output_dir="x").digest()
    others = [make_config(tasks=("t",), **one) for one in ({"seed": 1}, {"tilt": 2.0}, {"limit": 3}, {"preset": "quick"})]
    assert len({base.digest(), *(one.digest() for one in others)}) == 5


def test_demo_stands_for_both_tasks():
    """Catches a demo that loses a task or the user's own beside it."""
    assert expand_tasks(["demo", "own.py:Task"]) == ("m4_caption", "har_cot", "own.py:Task")


def test_texts_become_the_types_of_the_method_s_keywords():
    """Catches settings that reach a method as text."""
    found = check_settings("method", method, {"num_parallel": "8", "mode": "sample", "width": "none", "flag": "true"})
    assert found == {"num_parallel": 8, "mode": "sample", "width": None, "flag": True}


@given(st.integers(), st.floats(allow_nan=False))
def test_numbers_survive_the_way_through_the_command_line(number, width):
    """Catches rounding or another base on the way."""
    assert check_settings("method", method, {"num_parallel": str(number), "width": repr(width)}) == {
        "num_parallel": number,
        "width": width,
    }


@pytest.mark.parametrize(
    ("factory", "settings", "expected"),
    [
        (method, {"num_paralel": "8"}, "Did you mean 'num_parallel'"),
        (method, {"mode": "wurst"}, "'mode' of 'method' cannot be 'wurst'"),
        (method, {"num_parallel": "2.5"}, "cannot be '2.5'"),
        (method, {"rng": "1"}, "no setting of 'method' named 'rng'"),
        (needy, {}, "needs a value for 'num_beams'"),
    ],
)
def test_a_wrong_setting_names_the_method_and_the_nearest_keyword(factory, settings, expected):
    """Catches a typing error that is taken for a default."""
    with pytest.raises(SettingError, match=expected):
        check_settings("method", factory, settings)


def test_assignments_go_to_their_method():
    """Catches settings given to the wrong method."""
    assert parse_assignments(["a.x=1", "b.y=p=q"], ["a", "b"]) == {"a": {"x": "1"}, "b": {"y": "p=q"}}
    assert parse_assignments(["x=1"], ["a"]) == {"a": {"x": "1"}}


@pytest.mark.parametrize("assignment", ["x=1", "a.x", "a.=1", ".x=1", "", "=1"])
def test_an_assignment_of_another_form_is_refused(assignment):
    """Catches a setting that goes nowhere."""
    with pytest.raises(SettingError, match="--set takes"):
        parse_assignments([assignment], ["a", "b"])


def test_an_assignment_for_a_method_that_does_not_take_part_is_refused():
    """Catches settings for a method that was left out, and a value given twice."""
    with pytest.raises(UnknownNameError, match="Did you mean 'maxent'"):
        parse_assignments(["maxnt.x=1"], ["maxent"])
    with pytest.raises(SettingError, match="twice"):
        parse_assignments(["a.x=1", "a.x=2"], ["a"])
