"""Scoring again needs no model, changes nothing but scores, and never mixes them with others."""

from __future__ import annotations

import dataclasses
from itertools import accumulate

import pytest

from maxent_ts.cli import main
from maxent_ts.errors import DataError, RunDirectoryError, SettingError
from maxent_ts.records import read_run
from maxent_ts.registry import METHODS
from maxent_ts.rescore import rescore

from .evaluation_fakes import FreeTask, LetterTask, score_e
from .toy_runs import FAKES, make, run_toys

SEARCHES = tuple(name for name in METHODS if name not in ("exact", "exact_sample"))  # the reward here has no known bound


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_toys(make(tmp_path_factory.mktemp("run"), methods=SEARCHES))


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    def loaded(config):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("maxent_ts.evaluate.load_engine", loaded)
    monkeypatch.setattr("maxent_ts.loading.load_engine", loaded)


def test_the_same_reward_gives_the_same_records(run, tmp_path):
    """Catches a field that is lost or changed on the way, for any method."""
    again = rescore(run.path, tmp_path / "again", tasks=[LetterTask()])
    assert [one.model_dump() for one in again.records] == [one.model_dump() for one in run.records]
    assert again.summary == run.summary
    assert again.info.rescored["rewards"] == run.info.rewards
    assert again.info.status == "finished"


def test_weights_alone_are_those_of_the_run_s_rewards(run, tmp_path):
    """Catches weights that are silently dropped."""
    rescore(run.path, tmp_path / "one", rewards=[f"{FAKES}:score_e"], tasks=[LetterTask()])
    halved = rescore(tmp_path / "one", tmp_path / "halved", reward_weights=[0.5], tasks=[LetterTask()])
    assert halved.records[0].rewards == [0.5 * value for value in score_e(halved.records[0].texts)]
    with pytest.raises(SettingError, match="2 reward weights were given for 1 rewards"):
        rescore(tmp_path / "one", tmp_path / "more", reward_weights=[0.5, 1.0], tasks=[LetterTask()])


def test_another_reward_scores_all_completions_and_leaves_the_searches_alone(run, tmp_path):
    """Catches a choice that follows the new reward, as if the search had looked for it, and scores of the old one left."""
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    scored = rescore(run.path, tmp_path / "scored", rewards=[f"{FAKES}:score_e"], tasks=[LetterTask()])
    fields = (
        "text",
        "tokens",
        "chosen",
        "texts",
        "completion_ids",
        "logprobs",
        "weights",
        "usage",
        "info",
        "tree",
        "answers",
        "seed",
    )
    for old, new in zip(run.records, scored.records, strict=True):
        assert new.rewards == score_e(new.texts)
        assert new.reward == new.evidence["value"] == new.rewards[new.chosen[0]]
        assert [best for _, best in new.trajectory] == list(accumulate(new.rewards, max))
        assert [tokens for tokens, _ in new.trajectory] == [tokens for tokens, _ in old.trajectory]
        assert all(getattr(new, name) == getattr(old, name) for name in fields)
    assert scored.info.config["rewards"] == [f"{FAKES}:score_e"]
    assert scored.info.rescored["run"] == str(run.path)
    assert scored.summary["tasks"]["letters"]["maxent"]["reward"] != run.summary["tasks"]["letters"]["maxent"]["reward"]
    assert scored.summary["tasks"]["letters"]["maxent"]["accuracy"] == run.summary["tasks"]["letters"]["maxent"]["accuracy"]
    assert before == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


class LenientTask(LetterTask):
    """Reads an answer that the first parser did not."""

    def answer(self, text):
        return text.rstrip("cdef")[-1:] or None


def test_a_mended_parser_changes_answers_and_metrics(run, tmp_path):
    """Catches answers that are copied."""
    scored = rescore(run.path, tmp_path / "scored", tasks=[LenientTask()])
    assert all(one.answers == [LenientTask().answer(text) for text in one.texts] for one in scored.records)
    assert all(one.correct == (one.answer == one.target) for one in scored.records)
    row, old = (one.summary["tasks"]["letters"]["sample"] for one in (scored, run))
    assert row["valid_answer_rate"] > old["valid_answer_rate"]
    assert row["reward"] == old["reward"]


def test_targets_that_were_corrected_are_used(run, tmp_path):
    """Catches metrics against the targets that a record was written with."""

    class Corrected(LetterTask):
        def examples(self, **rest):
            return [dataclasses.replace(one, target="a") for one in super().examples(**rest)]

    scored = rescore(run.path, tmp_path / "scored", tasks=[Corrected()])
    assert all(one.target == "a" and one.correct == (one.answer == "a") for one in scored.records)


def test_a_reward_that_fails_on_a_completion_fails_that_record_only(run, tmp_path):
    """Catches one completion that ends the scoring, and a failure that counts as zero."""
    scored = rescore(run.path, tmp_path / "scored", rewards=[f"{FAKES}:fails_on_ee"], tasks=[LetterTask()])
    failed = {one.key for one in scored.records if one.error is not None}
    assert failed == {one.key for one in run.records if any("ee" in text for text in one.texts)}
    assert 0 < len(failed) < len(run.records)
    assert all(one.reward is None and one.rewards == [] for one in scored.records if one.error is not None)
    again = rescore(run.path, tmp_path / "scored", rewards=[f"{FAKES}:fails_on_ee"], tasks=[LetterTask()])
    assert {one.key for one in again.records if one.error is not None} == failed


def test_scores_never_mix(run, tmp_path):
    """Catches a rescored run that is continued by searches, or by scores of another reward, or written over its source."""
    place = tmp_path / "scored"
    rescore(run.path, place, tasks=[LetterTask()])
    with pytest.raises(RunDirectoryError, match=r"rescored"):
        run_toys(make(tmp_path, methods=SEARCHES, output_dir=place))
    with pytest.raises(RunDirectoryError, match=r"config\.rewards"):
        rescore(run.path, place, rewards=[f"{FAKES}:score_e"], tasks=[LetterTask()])
    with pytest.raises(RunDirectoryError, match="directory of its own"):
        rescore(run.path, run.path, tasks=[LetterTask()])


def test_other_items_under_the_same_ids_are_refused(run, tmp_path):
    """Catches completions scored against another series."""

    class Changed(LetterTask):
        def examples(self, **rest):
            return [dataclasses.replace(one, inputs={**one.inputs, "series": [[0.0]]}) for one in super().examples(**rest)]

    with pytest.raises(DataError, match="not those of the run"):
        rescore(run.path, tmp_path / "scored", tasks=[Changed()])
    assert not (tmp_path / "scored").exists()


def test_a_task_without_labels_is_scored_too(tmp_path):
    """Catches answers that are read where there are none."""
    run = run_toys(make(tmp_path, tasks=("free",), methods=("best_of_n",)), FreeTask())
    scored = rescore(run.path, tmp_path / "scored", tasks=[FreeTask()])
    assert [one.model_dump() for one in scored.records] == [one.model_dump() for one in run.records]


def test_the_command_writes_beside_the_run(tmp_path, capsys, monkeypatch):
    """Catches options that are lost, and a summary of the wrong run."""
    monkeypatch.undo()
    arguments = ["eval", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "best_of_n"]
    with pytest.raises(SystemExit):
        main([*arguments, "--num-rollouts", "4", "--max-new-tokens", "6", "--output-dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as left:
        main(["rescore", str(tmp_path / "run"), "--reward", f"{FAKES}:score_e", "--reward-weights", "0.5"])
    assert left.value.code == 0
    assert "run-rescored" in capsys.readouterr().err
    scored = read_run(tmp_path / "run-rescored")
    assert all(one.rewards == [0.5 * value for value in score_e(one.texts)] for one in scored.records)
