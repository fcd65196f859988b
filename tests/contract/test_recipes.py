"""The recipes of the documentation, put into the registry by one line each, keep what everything in the registry promises."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from maxent_ts import registry
from maxent_ts.cli import main
from maxent_ts.rewards.combine import load_reward
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy
from tests.conftest import TokenReward
from tests.contract import test_methods, test_rewards, test_tasks

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
TEXT = "abba\nbaba\nab\nbaa\naab\n"
UNSUITED = {
    test_methods: {"test_enumeration_refuses_a_budget_that_would_leave_something_out"},  # takes no name
    test_rewards: {"test_every_reward_has_a_name_that_is_its_own"},  # walks through the registry
    test_tasks: set(),
}


def promises(module):
    """The contract tests of a module that are about one thing by name."""
    return [name for name in vars(module) if name.startswith("test_") and name not in UNSUITED[module]]


def keep(module, name, given):
    """Run one contract test for each combination of what its parameters may be."""
    function = getattr(module, name)
    wanted = [one for one in inspect.signature(function).parameters if one != "capsys"]
    marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
    values = {mark.args[0]: mark.args[1] for mark in marks if isinstance(mark.args[0], str)} | {
        key: [value] for key, value in given.items()
    }
    unknown = set(wanted) - set(values)
    if unknown:
        pytest.skip(f"needs {', '.join(sorted(unknown))}")
    for combination in itertools.product(*(values[one] for one in wanted)):
        function(**dict(zip(wanted, combination, strict=True)))


@pytest.fixture
def recipes(monkeypatch):
    """The folder of recipes, importable, with the names of the standard library it hides put back afterwards."""
    monkeypatch.syspath_prepend(str(RECIPES))
    before = set(sys.modules)
    yield RECIPES
    for name in set(sys.modules) - before:
        if (RECIPES / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("promise", promises(test_methods))
def test_the_method(recipes, monkeypatch, promise):
    """Catches a recipe that teaches a method which breaks its contract."""
    monkeypatch.setitem(registry.METHODS, "good_enough", "method:good_enough")
    keep(test_methods, promise, {"name": "good_enough"})


@pytest.mark.parametrize("promise", promises(test_rewards))
def test_the_reward(promise):
    """Catches a recipe that teaches a reward which peeks, normalises in a batch, or breaks on odd text."""
    keep(test_rewards, promise, {"reward": load_reward(f"{RECIPES / 'reward.py'}:names_the_extremes")})


@pytest.mark.parametrize("promise", promises(test_tasks))
def test_the_task(recipes, monkeypatch, promise):
    """Catches a recipe that teaches a task which leaks its targets or takes the first items."""
    monkeypatch.setitem(registry.TASKS, "trend", "task:Trend")
    monkeypatch.setattr(test_tasks, "TASKS", [*test_tasks.TASKS, "trend"])
    task = registry.load(registry.TASKS, "trend", "task")()
    keep(test_tasks, promise, {"task": task, "examples": task.examples()})


def letter_engine():
    return registry.load({"letters": "engine:LetterEngine"}, "letters", "engine")(TEXT)


def length(tokens):
    return float(len(tokens)) + float(tokens[0] == 1)


def searched(method, seeds=(0,), budget=None, **settings):
    """Outcomes of searches on the letter engine, side by side."""
    factory, reward = registry.load(registry.METHODS, method, "method"), TokenReward(length, (1.0, 5.0))
    jobs = [
        SearchJob(str(seed), "b", Policy(4), lambda rng, target: factory(rng, target, **settings), 0.7, budget or Budget(), (seed,))
        for seed in seeds
    ]
    found = {
        result.job.id: result for result in run_searches(jobs, letter_engine(), reward, answer_fn=lambda text: text[:1] or None)
    }
    assert [result.error for result in found.values()] == [None] * len(seeds)
    return [found[str(seed)].outcome for seed in seeds]


def test_the_engine_and_what_maxent_finds_on_it_agree_with_enumeration(recipes):
    """Catches log-probabilities that are not the model's, and a log of unseen mass that is wrong: the tree would not add up."""
    counts = np.ones((3, 3))
    letters = "\nab"
    for one, other in itertools.pairwise(letters.index(letter) for letter in TEXT):
        counts[one, other] += 1
    rows = counts / counts.sum(axis=1, keepdims=True)
    truth = {}
    for tokens in (one for size in range(1, 5) for one in itertools.product(range(3), repeat=size)):
        if 0 in tokens[:-1] or (len(tokens) < 4 and tokens[-1] != 0):
            continue
        truth[tokens] = sum(math.log(rows[one, other]) for one, other in itertools.pairwise((2, *tokens)))
    log_z = np.logaddexp.reduce([logprob + 0.7 * length(tokens) for tokens, logprob in truth.items()])
    for method in ("exact", "maxent"):
        (outcome,) = searched(method)
        found = {one.tokens: one.logprob for one in outcome.completions}
        assert found.keys() == truth.keys()
        assert all(found[tokens] == pytest.approx(truth[tokens], abs=1e-12) for tokens in truth)
        assert outcome.info["log_z"] == pytest.approx(log_z, abs=1e-9)
        for one, weight in zip(outcome.completions, outcome.weights, strict=True):
            assert math.log(weight) == pytest.approx(one.logprob + 0.7 * one.reward - log_z, abs=1e-6)


@pytest.mark.parametrize("method", [name for name in registry.METHODS if name != "exact"])
def test_every_method_runs_on_the_engine_alone_as_among_others(recipes, method):
    """Catches an engine whose draws depend on its queue."""
    budget = Budget(generated_tokens=24)
    together = searched(method, range(5), budget)
    for seed in (0, 4):
        assert searched(method, (seed,), budget)[0].completions == together[seed].completions


def test_the_recipes_work_from_the_command_line(recipes, tmp_path, capsys, monkeypatch):
    """Catches a shape that the command line calls otherwise, and a table without the recipe's method."""
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    engine = ["--engine", f"{RECIPES}/engine.py:make_engine", "--model", "text.txt", "--max-new-tokens", "6", "--format", "json"]
    with pytest.raises(SystemExit) as left:
        main(["generate", "ab", "--method", f"{RECIPES}/method.py:good_enough", "--set", "enough=-3", "--tilt", "2", *engine])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["completions"]
    reward = ["--reward", f"{RECIPES}/reward.py:names_the_extremes", "--reward", "format"]
    with pytest.raises(SystemExit) as left:
        main(["eval", f"{RECIPES}/task.py:Trend", *reward, "--method", "best_of_n", "--limit", "3", "--quiet", "--format", "json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["trend"]["best_of_n"]["n"] == 3
