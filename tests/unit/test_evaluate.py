"""An evaluation gives every item the same result whatever runs beside it, whatever fails, and however often it is stopped."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import pytest

from maxent_ts.errors import EngineError, RunDirectoryError, SettingError
from maxent_ts.evaluate import Silent
from maxent_ts.records import read_run, read_tree

from .evaluation_fakes import NUM_ITEMS, FreeTask, LetterTask, SlowTable
from .toy_runs import FAKES, METHODS, count_lines, essence, make, run_toys


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run_toys(make(tmp_path_factory.mktemp("reference")))


def test_every_method_has_a_full_record_of_every_item(reference):
    """Catches items that are lost and fields that stay empty."""
    assert len(reference.records) == NUM_ITEMS * len(METHODS)
    for record in reference.records:
        assert record.error is None
        assert record.reward == record.evidence["value"]
        assert record.rewards[[one == record.reward for one in record.rewards].index(True)] == record.completions[0].reward
        assert record.completions[0].text == record.text
        assert len(record.rewards) == len(record.logprobs) == len(record.answers) == record.num_completions
        assert record.logprob in record.logprobs
        assert record.usage["generated_tokens"] <= 30
        assert record.trajectory[-1][1] == max(record.rewards)
        assert record.trajectory[-1][0] <= record.usage["generated_tokens"]
        assert record.correct == (record.answer == record.target)
        assert (record.tree is not None) == (record.method == "maxent")
    assert reference.info.status == "finished"
    assert reference.info.versions["numpy"]
    assert reference.info.data["letters"]["num_items"] == NUM_ITEMS


def test_the_summary_has_what_the_report_and_others_read(reference):
    """Catches a summary.json that drifts from its documented form."""
    summary = json.loads((reference.path / "summary.json").read_text())
    assert set(summary["tasks"]["letters"]) == set(METHODS)
    row = summary["tasks"]["letters"]["maxent"]
    expected = {"n", "n_failed", "accuracy", "macro_f1", "reward", "generated_tokens", "forwarded_tokens", "seconds_per_item"}
    assert expected <= set(row)
    assert set(row["reward"]) == {"mean", "ci95"}
    assert (row["n"], row["n_failed"]) == (NUM_ITEMS, 0)


def test_results_do_not_depend_on_what_runs_beside_them(reference, tmp_path):
    """Catches streams named by order of arrival, and searches that see each other."""
    alone = run_toys(make(tmp_path, max_concurrent=1))
    assert essence(alone) == essence(reference)
    for method in METHODS:
        one = essence(run_toys(make(tmp_path, name=method, methods=(method,))))
        assert one == {key: value for key, value in essence(reference).items() if key[1] == method}


def test_a_limit_does_not_change_the_items_that_remain(reference, tmp_path):
    """Catches streams named by an item's position in the list."""
    few = essence(run_toys(make(tmp_path, limit=3)))
    assert few == {key: value for key, value in essence(reference).items() if key in few}
    assert len(few) == 3 * len(METHODS)


def test_another_seed_gives_other_results(reference, tmp_path):
    """Catches a seed that goes nowhere."""
    other = run_toys(make(tmp_path, seed=1))
    pairs = list(zip(reference.records, other.records, strict=True))
    assert any(one.text != two.text for one, two in pairs if one.method == "sample")
    assert all(one.text == two.text for one, two in pairs if one.method == "greedy")


def test_methods_that_draw_alike_draw_the_same_completions_of_an_item(reference):
    """Catches random streams that differ between methods: paired differences would carry that noise."""
    by_key = {record.key: record for record in reference.records}
    for (task, method, example_id), record in by_key.items():
        if method == "sample":
            assert record.rewards[0] == by_key[task, "best_of_n", example_id].rewards[0]
            assert record.text in [one.text for one in by_key[task, "best_of_n", example_id].completions]
        if method == "majority_vote":
            assert record.rewards == by_key[task, "best_of_n", example_id].rewards


def test_tilt_and_settings_of_one_method_reach_that_method_only(tmp_path):
    """Catches settings that are recorded and not used, or used for all."""
    methods = ({"name": "best_of_n", "settings": {"num_rollouts": "2"}}, {"name": "best_of_n_softmax", "tilt": 0.0})
    run = run_toys(make(tmp_path, methods=methods))
    for record in run.records:
        if record.method == "best_of_n":
            assert (record.usage["rollouts"], record.tilt) == (2, 3.0)
            assert record.settings == {"num_rollouts": 2, "num_return_sequences": 1}
        else:
            assert (record.usage["rollouts"] > 2, record.tilt) == (True, 0.0)


def test_a_method_that_votes_is_left_out_where_there_are_no_labels(tmp_path):
    """Catches a vote that fails on every item of a caption task."""
    run = run_toys(make(tmp_path, tasks=("free",)), FreeTask())
    assert run.info.skipped == {"free": {"majority_vote": "needs labels"}}
    assert {one.method for one in run.records} == set(METHODS) - {"majority_vote"}
    assert all(one.error is None and one.correct is None for one in run.records)
    with pytest.raises(SettingError, match="needs them"):
        run_toys(make(tmp_path, name="vote", tasks=("free",), methods=("majority_vote",)), FreeTask())


def test_a_reward_that_raises_fails_its_items_and_no_others(reference, tmp_path):
    """Catches one bad completion that ends the run, and a failure without a traceback to look at."""
    run = run_toys(make(tmp_path, rewards=(f"{FAKES}:fails_on_ee",)))
    failed = {one.key for one in run.records if one.error is not None}
    assert 0 < len(failed) < len(run.records)
    assert all("two e in a row" in one.error for one in run.records if one.error is not None)
    expected = {key for key, record in essence(reference).items() if any("ee" in text for text in record["texts"])}
    assert expected <= failed
    assert run.summary["tasks"]["letters"]["maxent"]["n_failed"] == sum(key[1] == "maxent" for key in failed)
    log = (run.path / "failures.log").read_text()
    assert "ValueError: two e in a row" in log
    good = {key: value for key, value in essence(run, ("evidence",)).items() if key not in failed}
    assert good == {key: value for key, value in essence(reference, ("evidence",)).items() if key in good}


class BreaksOnItem(LetterTask):
    """Its answer reader has a bug that shows on some texts."""

    def answer(self, text):
        if text.startswith("d"):
            raise KeyError("d")
        return super().answer(text)


def test_a_bug_outside_the_searches_fails_its_items_and_no_others(reference, tmp_path):
    """Catches a broad failure where the driver itself breaks: here the vote calls a task's reader that raises."""
    run = run_toys(make(tmp_path), BreaksOnItem())
    assert len(run.records) == len(reference.records)
    failed = {one.key for one in run.records if one.error is not None}
    assert 0 < len(failed) < len(run.records)
    assert all("KeyError" in one.error for one in run.records if one.error is not None)
    good = {key: value for key, value in essence(run).items() if key not in failed}
    assert good == {key: value for key, value in essence(reference).items() if key in good}


class FailsOnce(SlowTable):
    """Breaks down in the middle of the first run."""

    num_steps = 0

    def step(self):
        self.num_steps += 1
        if self.num_steps == 40:
            raise EngineError("The device fell off the bus.")
        return super().step()


def test_a_failure_of_the_engine_in_the_middle_costs_no_item_its_result(reference, tmp_path):
    """Catches an engine's exception that takes the other searches' results with it."""
    run = run_toys(make(tmp_path), engine=FailsOnce.random(num_tokens=6, concentration=0.5))
    assert essence(run) == essence(reference)
    assert count_lines(run.path / "samples.jsonl") == len(reference.records), "a finished search was run again"


def test_failed_items_are_tried_again_and_finished_ones_are_not(reference, tmp_path):
    """Catches a resume that keeps a failure for good, or repeats what is done."""

    class Flaky(LetterTask):
        num_calls = 0
        broken = True

        def answer(self, text):
            self.num_calls += 1
            if self.broken and text.startswith("d"):
                raise KeyError("d")
            return super().answer(text)

    task = Flaky()
    first = run_toys(make(tmp_path), task)
    failed = {one.key for one in first.records if one.error is not None}
    task.broken = False
    seen = []

    class Watcher(Silent):
        def recorded(self, record):
            seen.append(record.key)

    second = run_toys(make(tmp_path), task, watcher=Watcher())
    assert set(seen) == failed
    assert essence(second) == essence(reference)
    task.num_calls = 0
    third = run_toys(make(tmp_path), task)
    assert task.num_calls == 0
    assert third.summary == second.summary


def test_ctrl_c_leaves_a_run_that_can_be_continued(reference, tmp_path):
    """Catches an interrupt that is swallowed as a failed item, or loses what was finished."""

    class Impatient(Silent):
        num = 0

        def recorded(self, record):
            self.num += 1
            if self.num == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toys(make(tmp_path), watcher=Impatient())
    half = read_run(tmp_path / "run")
    assert (len(half.records), half.info.status, half.summary) == (7, "interrupted", None)
    assert all(one.error is None for one in half.records)
    whole = run_toys(make(tmp_path))
    assert essence(whole) == essence(reference)


def test_a_changed_configuration_does_not_mix_with_the_records_there(tmp_path):
    """Catches results of two temperatures in one table."""
    run_toys(make(tmp_path, methods=("greedy",)))
    with pytest.raises(RunDirectoryError, match=r"config\.temperature was 1\.0, now it is 0\.5"):
        run_toys(make(tmp_path, methods=("greedy",), temperature=0.5))
    run = run_toys(make(tmp_path, methods=("greedy",), temperature=0.5), overwrite=True)
    assert run.info.config["temperature"] == 0.5


def test_the_first_item_s_tree_is_stored_with_texts_that_add_up(reference):
    """Catches trees of the wrong item, and node texts decoded without what stands before them."""
    ((task, method, file),) = reference.trees()
    tree = read_tree(file)
    assert (task, method, tree["example_id"]) == ("letters", "maxent", "item/0")
    texts = []
    for node in tree["nodes"]:
        texts.append((texts[node["parent"]] if node["parent"] >= 0 else "") + node["text"])
        if node["completion"] is not None:
            assert texts[-1] == tree["completions"][node["completion"]]["text"]
    (record,) = [one for one in reference.records if one.key == ("letters", "maxent", "item/0")]
    assert sorted(one["reward"] for one in tree["completions"]) == sorted(record.rewards)


COMMAND = "from maxent_ts.cli import main; main()"


def test_kill_9_at_random_moments_changes_no_result(reference, tmp_path):
    """Catches lost, doubled or different items after crashes: the files are all that survives."""
    arguments = ["eval", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--tilt", "3"]
    arguments += ["--num-rollouts", "5", "--max-new-tokens", "6", "--output-dir", str(tmp_path / "run"), "--quiet"]
    arguments += [part for method in METHODS for part in ("--method", method)]
    command = [sys.executable, "-c", COMMAND, *arguments]
    environment = {**os.environ, "TEST_ENGINE_PAUSE": "0.004"}
    samples = tmp_path / "run" / "samples.jsonl"
    rng = random.Random(0)
    num_lines = 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = num_lines + rng.randint(1, 12)
        deadline = time.monotonic() + 60
        while process.poll() is None and count_lines(samples) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.01)
        process.kill()
        assert process.wait() == -9, "the run was over before it was killed: make the engine slower"
        num_lines = count_lines(samples)
        assert num_lines >= wanted
    assert read_run(tmp_path / "run").info.status == "running"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = read_run(tmp_path / "run")
    assert whole.info.status == "finished"
    assert whole.info.continued == 3
    assert count_lines(samples) == len(reference.records), "an item was computed twice"
    assert essence(whole) == essence(reference)
