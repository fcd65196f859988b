"""Servers from the command line: llama.cpp by tokens, `transformers serve` by whole texts."""

from __future__ import annotations

import importlib.util
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.records import read_run
from maxent_ts.types import Policy
from tests.servers import tasks
from tests.servers.processes import llama_server, transformers_serve
from tests.unit.hf_helpers import VOCABULARY, answers, plain_rows, save_model, tiny_model

TASKS = tasks.__file__


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp, which is not installed")
    from tests.servers.gguf_file import write_gguf

    with llama_server(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_model())) as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}: pip install 'transformers[serving]'")
    path = save_model(tmp_path_factory.mktemp("model"))
    with transformers_serve(path) as url:
        yield url, str(path)


def test_eval_and_generate_run_on_a_server(run, llama, tmp_path):
    """Catches an option that is lost on its way, and an engine that the records do not name."""
    server = ("--engine", "openai", "--base-url", llama)
    size = ("--max-new-tokens", 6, "--num-rollouts", 6)
    methods = ("--method", "best_of_n", "--method", "maxent")
    code, out, err = run("eval", f"{TASKS}:Letters", *server, *size, *methods, "--output-dir", tmp_path / "run", "--batch-size", 4)
    assert code == 0, err
    assert "llamacpp, token" in err
    found = read_run(tmp_path / "run")
    assert len(found.records) == 6
    assert found.info.engine["engine"] == "openai"
    assert found.info.engine["logprobs"] == "temperature raw, truncation raw"
    assert all(record.error is None and record.usage["generated_tokens"] <= 36 for record in found.records)
    code, out, err = run(
        "generate", "ab", *server, *size, "--method", "maxent", "--reward", f"{TASKS}:share_of_l", "--format", "json"
    )
    assert code == 0, err
    assert json.loads(out)["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "openai"), "add --base-url"),
        (("--base-url", "http://localhost:1/v1"), "Add --engine openai"),
        (("--engine", "openai", "--base-url", "http://localhost:1/v1", "--dtype", "bfloat16"), "decided by the server"),
        (("--engine", "openai", "--base-url", "ftp://localhost"), "base_url must look like"),
    ],
)
def test_what_does_not_fit_a_server_is_said_at_once(run, arguments, message):
    """Catches an option that would be ignored."""
    code, _, err = run("generate", "ab", *arguments)
    assert code == 2
    assert message in " ".join(err.split())


def test_transformers_serve_samples_the_model_and_says_no_log_p(served):
    """χ² of the first character over 150 completions: `transformers serve` follows the model's defaults if it is not told."""
    url, model = served
    engine = OpenAIEngine(url, model, timeout=20, max_retries=1)
    assert (engine.server.level, engine.server.varies) == ("completion", True)
    context = engine.open("ab", Policy(max_new_tokens=2))
    (done,) = answers(engine, [RolloutJob(context, (), tuple((1, 0, i) for i in range(150)))])
    engine_texts = [engine.decode(one.tokens) for one in done.answer.rollouts]
    assert all(math.isnan(one.logprobs[0]) for one in done.answer.rollouts)
    assert context.num_prompt_tokens == 3
    assert {one.num_generated_tokens or 1 for one in done.answer.rollouts} <= {1, 2}
    row = np.exp(plain_rows(tiny_model(), torch.tensor([0, 2, 3]), [], Policy(2))[-1])
    ended = sum(one.finish_reason == "eos" and one.num_generated_tokens is None for one in done.answer.rollouts)
    assert chisquare([ended, 150 - ended], [150 * row[1], 150 * (1 - row[1])]).pvalue > 1e-4
    full = Counter(text[0] for text in engine_texts if len(text) == 2)  # no special token, whose text is empty
    second = np.array(
        [plain_rows(tiny_model(), torch.tensor([0, 2, 3]), [token], Policy(2))[-1] for token in range(len(VOCABULARY))]
    )
    law = row * (1 - np.exp(second)[:, :2].sum(-1))
    law[:2] = 0
    keep = [token for token in range(2, len(VOCABULARY)) if law[token] / law.sum() * sum(full.values()) > 1]
    observed = [full[VOCABULARY[token]] for token in keep]
    rest = sum(full.values()) - sum(observed)
    expected = [*law[keep] / law.sum() * sum(full.values()), (1 - law[keep].sum() / law.sum()) * sum(full.values())]
    assert chisquare([*observed, rest], expected).pvalue > 1e-4
    engine.shut_down()


def test_transformers_serve_runs_what_needs_no_log_p_and_fails_the_rest_item_by_item(run, served, tmp_path):
    """Catches records with a made-up log p, and a run that breaks on a method which cannot work."""
    url, model = served
    arguments = ("--engine", "openai", "--base-url", url, "--model", model, "--max-new-tokens", 4, "--num-rollouts", 4)
    methods = ("--method", "best_of_n", "--method", "maxent")
    code, _, _ = run("eval", f"{TASKS}:Letters", *arguments, *methods, "--output-dir", tmp_path / "run")
    assert code == 1
    found = {record.key: record for record in read_run(tmp_path / "run").records}
    assert len(found) == 6
    for record in found.values():
        if record.method == "best_of_n":
            assert record.error is None
            assert 4 <= record.usage["generated_tokens"] <= 16
            assert all(math.isnan(one) for one in record.logprobs)
        else:
            assert "needs log-probabilities" in str(record.error)
    code, out, _ = run("generate", "ab", *arguments, "--method", "best_of_n", "--reward", f"{TASKS}:share_of_l", "--format", "json")
    assert code == 0
    assert json.loads(out)["completions"][0]["logprob"] is None
