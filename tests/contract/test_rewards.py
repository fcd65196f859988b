"""What every built-in reward must do, whatever it measures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from maxent_ts.registry import REWARDS
from maxent_ts.rewards.base import Reward
from maxent_ts.rewards.combine import WeightedSum, from_function, load_reward

TEXTS = [
    "",
    "   \n",
    "The x axis carries gravity with mean 9.8 and all axes are steady. Answer: sitting",
    "The values rise at the beginning and fall at the end, with a peak of 3 in the middle. Answer: flying",
    "Die Werte steigen zuerst und fallen dann. 値は上昇します。 Значения растут.",
    "rises " * 1700,
    "x" * 10_000,
    "The mean is 9.8. " * 600,
    "\x00\u202e\U0001f4c8 mean \ud800 9.8 ∞ ½ ٣ １２",
    "1e999 -0 9,999,999.999.9 .5 5. --3 1/3 50% of the way",
    "no not never no trend, and, while but then , , ; : ((",
    "Answer: Answer: walking Answer:",
]
LABELS = ("walking", "sitting")


def columns(count: int) -> dict[str, list[Any]]:
    """Inputs that differ from completion to completion."""
    rng = np.random.default_rng(0)
    return {
        "series": [rng.normal(size=(3, 64)).cumsum(axis=1).tolist() for _ in range(count)],
        "series_names": [["x_axis", "y_axis", "z_axis"]] * count,
        "sampling_rate": [50.0] * count,
        "labels": [LABELS if index % 2 else () for index in range(count)],
        "task": ["a task"] * count,
        "zeroed_logprobs": [(-3.0, -1e9, -math.inf)[index % 3] - index for index in range(count)],
        "logprobs": [-float(index) - 0.5 for index in range(count)],
        "finish_reasons": [("eos", "stop", "length")[index % 3] for index in range(count)],
    }


def inputs(texts: list[str]) -> dict[str, Any]:
    count = len(texts)
    return {"prompts": ["p"] * count, "completions": texts, "completion_ids": [[1]] * count, **columns(count)}


def mixture() -> Reward:
    names = sorted(REWARDS)
    return WeightedSum([load_reward(name) for name in names], [1.0 / (1 + place) for place in range(len(names))])


def of_the_user() -> Reward:
    return from_function(lambda completions, **columns: [float(len(text)) for text in completions], "length")


CASES = {**{name: (lambda name=name: load_reward(name)) for name in REWARDS}, "mixture": mixture, "of the user": of_the_user}


@pytest.fixture(params=CASES, ids=str)
def reward(request: pytest.FixtureRequest) -> Reward:
    return CASES[request.param]()


def test_there_is_one_finite_value_in_range_for_every_completion(reward: Reward):
    """Catches crashes on odd text, NaN, and bounds that lie: a search brackets log Z with them."""
    values = reward(**inputs(TEXTS))
    assert isinstance(values, list)
    assert len(values) == len(TEXTS)
    low, high = reward.range
    for value in values:
        assert type(value) is float
        assert math.isfinite(value)
        assert low <= value <= high


def test_no_completions_give_no_values(reward: Reward):
    """Catches an index into an empty batch."""
    assert reward(**inputs([])) == []


def test_the_same_inputs_give_the_same_values(reward: Reward):
    """Catches hidden randomness, and a cache that answers differently the second time."""
    assert reward(**inputs(TEXTS)) == reward(**inputs(TEXTS))


def test_a_value_depends_on_its_own_row_alone(reward: Reward):
    """Catches scores normalised within a batch: 64 searches together must give what each gives alone."""
    together = inputs(TEXTS)
    values = reward(**together)
    backwards = {name: list(reversed(column)) for name, column in together.items()}
    assert reward(**backwards) == values[::-1]
    for index in range(len(TEXTS)):
        alone = {name: [column[index]] for name, column in together.items()}
        assert reward(**alone) == [values[index]]


def test_the_explained_value_is_the_value_and_the_evidence_is_plain_json(reward: Reward):
    """Catches evidence computed another way than the value, and numpy scalars that break the records."""
    explained = reward.explain(**inputs(TEXTS))
    assert [each["value"] for each in explained] == reward(**inputs(TEXTS))
    for each in explained:
        assert isinstance(each["parts"], dict)
        assert_plain(each)


def assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str
            assert_plain(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool), (value, type(value))
        assert not (type(value) is float and not math.isfinite(value))


@pytest.mark.parametrize("column", ["target", "label", "answer", "rationale", "caption", "solution"])
def test_a_target_column_changes_nothing(reward: Reward, column: str):
    """Catches a reward that peeks: whatever is passed under such a name, the values stay."""
    plain = reward(**inputs(TEXTS))
    for gold in ("sitting", "walking"):
        assert reward(**inputs(TEXTS), **{column: [gold] * len(TEXTS)}) == plain


def test_every_reward_has_a_name_that_is_its_own(reward: Reward):
    """Catches two parts of a record under one name."""
    assert reward.name
    assert all(load_reward(name).name == name for name in REWARDS)


def test_inputs_are_left_as_they_are(reward: Reward):
    """Catches a reward that normalises the series in place and spoils it for the next."""
    given, kept = inputs(TEXTS), inputs(TEXTS)
    reward(**given)
    assert given == kept
