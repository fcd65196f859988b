"""What every task promises. A task that is added to the registry is tested here without a line of code."""

from __future__ import annotations

import dataclasses
import json

import pytest

from maxent_ts import registry
from maxent_ts.rewards.numbers import parse_numbers
from maxent_ts.tasks.base import measure_function
from maxent_ts.types import TimeSeriesPrompt

from ..task_data import make_data, make_task

TASKS = sorted(registry.TASKS)

WRITING = {"horizon", "period", "decimals", "offset", "scale"}
"""What a task of numbers as text tells a reward about how they are written."""


@pytest.fixture(scope="module", params=TASKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def task(name):
    return make_task(name)


@pytest.fixture(scope="module")
def data_dir(name, tmp_path_factory):
    return make_data(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def examples(task, data_dir):
    return task.examples(data_dir=data_dir)


def test_the_name_is_the_one_in_the_registry(task):
    """Catches records filed under a name that the command line does not know."""
    assert task.name in TASKS


def test_ids_are_unique_and_stable(task, data_dir, examples):
    """Catches two items that share a record, and ids that count positions in the subset instead of naming the item."""
    ids = [example.id for example in examples]
    assert len(set(ids)) == len(ids) >= 50
    by_id = {example.id: example for example in examples}
    for example in task.examples(data_dir=data_dir, limit=7, seed=11):
        assert by_id[example.id] == example


def test_examples_are_frozen(examples):
    """Catches a reward or method that could change what the metrics see."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        examples[0].target = "other"


@pytest.mark.parametrize("limit", [1, 5, 24])
def test_limit_is_respected(task, data_dir, limit):
    """Catches rounding that returns more or fewer items than asked for."""
    assert len(task.examples(data_dir=data_dir, limit=limit)) == limit


def test_same_seed_same_subset_and_another_seed_another(task, data_dir):
    """Catches unseeded subsets, and a seed that is not used."""
    once, again, other = (tuple(item.id for item in task.examples(data_dir=data_dir, limit=10, seed=seed)) for seed in (4, 4, 5))
    assert once == again
    assert once != other


def test_a_subset_spreads_over_strata_and_is_not_the_head(task, data_dir, examples):
    """Catches first-N subsets."""
    strata = {example.stratum for example in examples}
    subset = task.examples(data_dir=data_dir, limit=len(strata) * 3)
    assert {example.stratum for example in subset} == strata
    assert [example.id for example in subset] != [example.id for example in examples[: len(subset)]]


def test_inputs_never_contain_the_target(task, examples):
    """Catches a leak of the gold answer into what rewards see: only the list of possible answers may hold it."""
    by_stratum = {example.stratum: example.inputs["labels"] for example in examples}
    for example in examples:
        visible = {key: value for key, value in example.inputs.items() if key != "labels"}
        assert set(visible) - {"sampling_rate"} - WRITING == {"series", "series_names", "task"}
        assert example.inputs.get("sampling_rate") == examples[0].inputs.get("sampling_rate")
        # Possible answers may depend on the question, which the prompt states with them, and on nothing else.
        if getattr(task, "averages_strata", False):
            assert example.inputs["labels"] == by_stratum[example.stratum]
            assert ", ".join(example.inputs["labels"]) in example.prompt.post_prompt
        else:
            assert example.inputs["labels"] == examples[0].inputs["labels"]
        if example.target is not None:
            assert example.target not in json.dumps(visible)


def test_targets_are_labels_that_the_parser_reads_back(task, examples):
    """Catches a vocabulary in which the right answer cannot be given."""
    for example in examples:
        if task.labels:
            assert example.target in example.inputs["labels"]
            assert example.target in task.labels
            assert task.answer(f"It is so. Answer: {example.target}") == example.target


def test_text_without_an_answer_has_none(task):
    """Catches a parser that finds an answer anywhere."""
    for text in ("", "Answer:", "Answer: 42", "nothing of note"):
        assert task.answer(text) is None


def test_series_are_finite_plain_lists_that_match_the_prompt(examples):
    """Catches numpy values that JSON cannot write, and a prompt made from other series than the rewards see."""
    for example in examples:
        series = example.inputs["series"]
        json.dumps(series, allow_nan=False)
        assert len(series) == len(example.inputs["series_names"])
        if isinstance(example.prompt, str):
            (values,) = series
            assert len(parse_numbers(example.prompt.strip("HDWMQYO\n"), decimals=0)) == len(values)
        else:
            assert isinstance(example.prompt, TimeSeriesPrompt)
            assert [len(values) for values in series] == [len(segment.values) for segment in example.prompt.series]


def test_measures_are_plain_numbers_of_one_set_of_names(task, examples):
    """Catches measures that JSON cannot write, that differ in name from item to item, or that raise on odd texts."""
    function = measure_function(task)
    if function is None:
        return
    names = None
    for example in examples[:10]:
        for text in ("", "The values rise to 7 and fall.", "1,2,3", "9" * 200):
            found = function(example, text, [text, "x"], [0.75, 0.25])
            json.dumps(found, allow_nan=False)
            assert all(value is None or type(value) is float for value in found.values())
            assert names in (None, list(found))
            names = list(found)


def test_default_rewards_are_in_the_registry_and_their_weights_add_up(task):
    """Catches a task whose default cannot be loaded."""
    assert set(task.rewards) <= set(registry.REWARDS)
    assert sum(task.rewards.values()) == pytest.approx(1)


def test_an_upstream_scorer_reads_the_gold_text_as_right(task, examples):
    """Catches a parser with which the authors' own reference would fail, and a target taken from another place than the text."""
    if not hasattr(task, "upstream"):
        pytest.skip("this task's data has no parser of its own authors")
    for example in examples:
        score = task.upstream.score(example.reference, example)
        assert score.correct
        assert score.answer == score.target
        assert task.upstream.score("I do not know", example).correct is False
