"""Targets reach the metrics and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from maxent_ts.config import make_config
from maxent_ts.evaluate import evaluate
from maxent_ts.registry import METHODS, REWARDS, TASKS

from ..task_data import make_data, make_task
from .evaluation_fakes import LetterTask, WordTable
from .toy_runs import make, run_toys

SEARCHES = tuple(name for name in METHODS if name != "exact")


class PermutedTargets(LetterTask):
    """The same items, each with another item's target."""

    def examples(self, **rest):
        items = super().examples(**rest)
        return [dataclasses.replace(item, target="ba"[index % 2]) for index, item in enumerate(items)]


class Permuting:
    """A task of the registry, with the targets and gold texts of its items handed on by one item."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def examples(self, **rest):
        items = list(self._task.examples(**rest))
        given = zip(items, [items[-1], *items[:-1]], strict=True)
        return [dataclasses.replace(item, target=other.target, reference=other.reference) for item, other in given]


OF_TARGETS = {"target", "correct", "scores"}
"""What a record says about targets, and nothing else of it may depend on them."""


REFUSED = {
    *((name, "classifier") for name in TASKS if name != "har_cot"),
    ("forecast", "contrast"),
}
"""Rewards that are for other tasks: the classifier knows activities alone, and contrast needs series in the prompt."""


def kept_records(run):
    kept = []
    for record in run.records:
        values = record.model_dump(exclude=OF_TARGETS)
        values["usage"].pop("seconds", None)
        kept.append(values)
    return kept


def outputs(task, path):
    run = run_toys(make(path, methods=SEARCHES, num_rollouts=6, tilt=4.0), task)
    kept = kept_records(run)
    trees = {(method, file.name): file.read_bytes() for _, method, file in run.trees()}
    return kept, trees, run


def test_permuting_all_targets_changes_no_output_of_any_search(tmp_path):
    """Catches the gold answer inside a reward, a vote, a prompt or a seed."""
    kept, trees, run = outputs(LetterTask(), tmp_path / "true")
    permuted, permuted_trees, permuted_run = outputs(PermutedTargets(), tmp_path / "permuted")
    assert kept == permuted
    assert trees == permuted_trees
    assert len(trees) >= 2
    assert run.info.data == permuted_run.info.data, "the fingerprint of what searches see depends on targets"
    true_scores = [row["accuracy"] for row in run.summary["tasks"]["letters"].values()]
    assert true_scores != [row["accuracy"] for row in permuted_run.summary["tasks"]["letters"].values()]


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory):
    return {name: make_data(name, tmp_path_factory.mktemp(name)) for name in TASKS}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("name", TASKS)
def test_no_task_and_no_reward_of_the_registry_shows_a_search_its_targets(name, reward, data_dirs, tmp_path):
    """Catches the same in the tasks and rewards that ship, gold texts included."""
    methods = ("best_of_n", "majority_vote", "maxent") if make_task(name).labels else ("best_of_n", "maxent")
    runs = []
    for kind, task in (("true", make_task(name)), ("permuted", Permuting(make_task(name)))):
        config = make_config(
            tasks=(name,),
            methods=tuple({"name": one} for one in methods),
            rewards=(reward,),
            num_rollouts=4,
            max_new_tokens=6,
            tilt=4.0,
            limit=5,
            data_dir=data_dirs[name],
            output_dir=tmp_path / kind,
        )
        runs.append(evaluate(config, engine=WordTable(), tasks=[task]))
    true, permuted = runs
    # A reward that is not for this task refuses every item, whatever its target.
    refusals = {one.error is not None for one in true.records}
    assert refusals == {(name, reward) in REFUSED}, true.records[0].error
    assert kept_records(true) == kept_records(permuted)
    assert true.info.data == permuted.info.data
    if make_task(name).labels:
        assert [one.target for one in true.records] != [one.target for one in permuted.records], "nothing was permuted"


class Spy:
    """A reward that keeps all it is shown."""

    name = "spy"
    range = (0.0, 0.0)

    def __init__(self):
        self.seen = []

    def __call__(self, **columns):
        self.seen.append(repr(columns))
        return [0.0] * len(columns["completions"])

    def explain(self, **columns):
        return [{"value": value} for value in self(**columns)]


def test_a_reward_is_never_shown_a_target(tmp_path, monkeypatch):
    """Catches a target among the columns, in the prompt, or in the call that asks for evidence."""
    marker = "the-gold-answer"

    class Marked(LetterTask):
        def examples(self, **rest):
            return [dataclasses.replace(item, target=marker) for item in super().examples(**rest)]

    spy = Spy()
    monkeypatch.setattr("maxent_ts.planning.parse_rewards", lambda specs, weights: spy)
    _, _, run = outputs(Marked(), tmp_path)
    assert all(one.target == marker for one in run.records)
    assert len(spy.seen) > len(run.records)
    assert not any(marker in one for one in spy.seen)
