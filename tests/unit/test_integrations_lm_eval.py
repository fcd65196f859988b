"""The real lm-eval on local tasks with a tiny random model: our command, its tasks, its scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import pytest

from maxent_ts.engines.hf import HFEngine
from maxent_ts.registry import METHODS, load
from maxent_ts.rewards.function import from_function
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy

from .hf_helpers import save_model, tiny_tokenizer

pytest.importorskip("lm_eval")

CONTEXTS = ["abc", "d e", "xyz"]
COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
num_fewshot: 0
"""
GENERATE = f"""
task: letters{COMMON}
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: ["q"], max_gen_toks: 6, do_sample: false, temperature: 0.0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOOSE = f"""
task: choices{COMMON}
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
REWARD = "def vowels(prompts, completions):\n    assert set(prompts) <= {'abc', 'd e', 'xyz'}\n"
REWARD += "    return [float(sum(letter in 'aeiou' for letter in text)) for text in completions]\n"


def vowels(completions):
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]


def searched(path):
    """What the same searches return when they are asked for without lm-eval."""
    method = partial(load(METHODS, "maxent", "method"), exploration=0.5)
    engine, tokenizer = HFEngine(path, tiny_tokenizer(), dtype="float32"), tiny_tokenizer()
    policy = Policy(6, 0.9, stop_strings=("q",))
    jobs = [
        SearchJob(str(i), tokenizer(text)["input_ids"], policy, method, 2.0, Budget(rollouts=5), (7, i))
        for i, text in enumerate(CONTEXTS)
    ]
    found = {result.job.id: result.outcome.best.text for result in run_searches(jobs, engine, from_function(vowels))}
    return [found[job.id].split("q")[0] for job in jobs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm_eval")
    save_model(path / "model")
    expected = searched(path / "model")
    targets = [expected[0], "no such answer", expected[2]]
    rows = [{"question": one, "target": target} for one, target in zip(CONTEXTS, targets, strict=True)]
    (path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "tasks").mkdir()
    for name, text in (("letters", GENERATE), ("choices", CHOOSE)):
        (path / "tasks" / f"{name}.yaml").write_text(text.replace("DATA", str(path / "data.jsonl")))
    (path / "my.py").write_text(REWARD)
    return path


SCRIPT = """
import functools, sys
from lm_eval.tasks import TaskManager
from maxent_ts.integrations.lm_eval import MaxentLM, main
# To index the thousands of tasks that lm-eval brings takes longer than to run these two.
TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)
main()
class Request:
    args = ("abc", {"until": [], "max_gen_toks": 3, "repetition_penalty": 1.2})
try:
    MaxentLM(sys.argv[1 + sys.argv.index("--model_args")].split(",")[0].split("=")[1], device="cpu").generate_until([Request()])
except Exception as error:
    print("---", type(error).__name__, error)
"""


def test_a_task_of_lm_eval_is_answered_by_our_search_and_scored_by_lm_eval(folder):
    """Catches contexts tokenised otherwise, lost settings, stop strings in answers, and what no engine applies but none refuses."""
    arguments = "method=maxent,exploration=0.5,reward=my.py:vowels,tilt=2,num_rollouts=5,temperature=0.9,seed=7,dtype=float32"
    command = [sys.executable, "-c", SCRIPT, "run", "--model", "maxent-ts", "--tasks", "letters,choices"]
    command += ["--model_args", f"pretrained={folder / 'model'},{arguments}", "--include_path", str(folder / "tasks")]
    command += ["--output_path", str(folder / "out"), "--log_samples", "--device", "cpu"]
    environment = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (folder / "out").rglob("results_*.json")
    scores = json.loads(results.read_text())["results"]
    (samples,) = (folder / "out").rglob("samples_letters_*.jsonl")
    answers = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert answers == searched(folder / "model")
    assert scores["letters"]["exact_match,none"] == pytest.approx(2 / 3)
    (samples,) = (folder / "out").rglob("samples_choices_*.jsonl")
    for line in samples.read_text().splitlines():
        assert all(float(response[0][0]) < 0 for response in json.loads(line)["resps"])
    assert "--- SettingError The task sets repetition_penalty for generation" in done.stdout
