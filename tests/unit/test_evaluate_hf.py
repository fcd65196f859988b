"""An evaluation on a transformers model: the same results after kill -9, and whatever the batch."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")

from maxent_ts.config import make_config
from maxent_ts.evaluate import evaluate
from maxent_ts.records import read_run

from .evaluation_fakes import TextTask
from .hf_helpers import save_model
from .toy_runs import FAKES

METHODS = ("greedy", "best_of_n", "maxent")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    return evaluate(make(model, tmp_path_factory.mktemp("reference") / "run"))


def make(model, output_dir, **changes):
    values = {"num_rollouts": 4, "max_new_tokens": 12, "tilt": 3.0, **changes}
    methods = tuple({"name": one} for one in METHODS)
    return make_config(tasks=(f"{FAKES}:TextTask",), methods=methods, model=str(model), output_dir=output_dir, **values)


def essence(run):
    found = {}
    for record in run.records:
        values = record.model_dump(include={"tokens", "text", "reward", "answer", "rewards", "error", "num_completions"})
        found[record.key] = {**values, "generated_tokens": record.usage["generated_tokens"]}
    return found


def test_every_item_is_finished_with_log_probabilities_of_its_own_tokens(reference):
    """Catches a wiring of engine, search and records that loses or swaps items."""
    assert len(reference.records) == len(METHODS) * len(TextTask().examples())
    assert all(one.error is None for one in reference.records)
    assert all(one.logprob < 0 and one.tokens for one in reference.records)
    assert len({tuple(one.tokens) for one in reference.records if one.method == "best_of_n"}) > 6


def test_the_size_of_the_batch_changes_no_result(reference, model, tmp_path):
    """Catches rows that see each other through the batch, and a resume that depends on the batch."""
    small = evaluate(make(model, tmp_path / "run", batch_size=3, max_concurrent=2))
    assert essence(small) == essence(reference)
    large = evaluate(make(model, tmp_path / "run", batch_size=5))
    assert large.info.continued == 1


def test_kill_9_and_the_same_command_again_give_the_uninterrupted_result(reference, model, tmp_path):
    """Catches state outside the run directory that a result depends on."""
    arguments = ["eval", f"{FAKES}:TextTask", "--model", str(model), "--output-dir", str(tmp_path / "run"), "--quiet"]
    arguments += ["--num-rollouts", "4", "--max-new-tokens", "12", "--tilt", "3", "--batch-size", "1"]
    arguments += [part for method in METHODS for part in ("--method", method)]
    command = [sys.executable, "-c", "from maxent_ts.cli import main; main()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    samples = tmp_path / "run" / "samples.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not (samples.exists() and samples.stat().st_size):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9
    num_before = samples.read_bytes().count(b"\n")
    assert 0 < num_before < len(reference.records)
    whole = evaluate(make(model, tmp_path / "run", batch_size=1))
    assert essence(whole) == essence(reference)
    assert samples.read_bytes().count(b"\n") == len(reference.records)
    assert read_run(tmp_path / "run").info.status == "finished"
