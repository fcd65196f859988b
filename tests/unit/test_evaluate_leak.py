"""Targets reach the metrics and nothing else."""

from __future__ import annotations

import dataclasses

from maxent_ts.config import make_config
from maxent_ts.evaluate import evaluate
from maxent_ts.registry import METHODS

from .evaluation_fakes import LetterTask, make_engine

SEARCHES = tuple(name for name in METHODS if name != "exact")


class PermutedTargets(LetterTask):
    """The same items, each with another item's target."""

    def examples(self, **rest):
        items = super().examples(**rest)
        return [dataclasses.replace(item, target="ba"[index % 2]) for index, item in enumerate(items)]


def outputs(task, path):
    config = make_config(
        tasks=("letters",),
        methods=tuple({"name": one} for one in SEARCHES),
        num_rollouts=6,
        max_new_tokens=6,
        tilt=4.0,
        model="toy",
        output_dir=path,
    )
    run = evaluate(config, engine=make_engine("toy", dtype="float32", device="cpu"), tasks=[task])
    kept = []
    for record in run.records:
        values = record.model_dump(exclude={"target", "correct"})
        values["usage"].pop("seconds")
        kept.append(values)
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
