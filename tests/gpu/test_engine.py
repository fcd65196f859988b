"""The Hugging Face engine on a CUDA device, against plain forwards there: `pytest tests/gpu`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maxent_ts.engines import batch
from maxent_ts.engines.base import NextTokensJob, RolloutJob, ScoreJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy
from tests.conftest import TokenReward
from tests.unit.hf_helpers import answers, largest_difference, plain_rows, streams, tiny_model, tiny_tokenizer

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")]

POLICY = Policy(max_new_tokens=12)
PROMPTS = ([5], [7, 8, 9, 10, 11], [3, 4] * 40)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5}


def engine_of(kind: str, dtype: torch.dtype = torch.float32, **settings) -> HFEngine:
    """An engine for a tiny model on the device."""
    model = tiny_model(kind, eos_token_id=None).to(device=DEVICE, dtype=dtype)
    return HFEngine(model, tiny_tokenizer(), dtype="auto", **{"max_batch_size": 8, **settings})


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["llama", "llama-16", "qwen3", "gpt2", "gemma2", "gemma3", "mistral"])
def test_rollouts_equal_plain_forwards(kind, dtype):
    """Catches kernels of the CPU given a device's tensors, masks of the wrong type, and rows that see each other."""
    engine = engine_of(kind, dtype)
    assert "cache" not in engine.identity
    contexts = [engine.open(prompt, POLICY) for prompt in PROMPTS]
    jobs = [RolloutJob(context, prefix, streams(5, example=i)) for i, context in enumerate(contexts) for prefix in ((), (4, 9))]
    for job, done in zip(jobs, answers(engine, jobs), strict=True):
        for rollout in done.answer.rollouts:
            assert largest_difference(engine._model, job.context.inputs, job.prefix, rollout, POLICY) < TOLERANCE[dtype]


def test_looks_and_scores_equal_plain_forwards():
    """Catches distributions that are read on the wrong device."""
    engine = engine_of("llama")
    context = engine.open(PROMPTS[1], POLICY)
    looked, scored = answers(engine, [NextTokensJob(context, (6, 7), 5), ScoreJob(context, (3, 1, 4, 1, 5))])
    rows = plain_rows(engine._model, context.inputs, (6, 7), POLICY)
    assert looked.answer.logprobs == pytest.approx(rows[-1][list(looked.answer.tokens)].tolist(), abs=1e-4)
    rows = plain_rows(engine._model, context.inputs, (3, 1, 4, 1, 5), POLICY)
    assert scored.answer == pytest.approx([float(rows[place][token]) for place, token in enumerate((3, 1, 4, 1, 5))], abs=1e-4)


def test_a_model_with_a_recurrent_state_is_decoded_without_a_cache():
    """Catches sequences put together on the wrong device."""
    with pytest.warns(RuntimeWarning, match="nothing is kept"):
        engine = engine_of("mamba")
    context = engine.open(PROMPTS[1], POLICY)
    (done,) = answers(engine, [RolloutJob(context, (), streams(4))])
    assert max(largest_difference(engine._model, context.inputs, (), one, POLICY) for one in done.answer.rollouts) < 1e-3


def test_running_out_of_memory_halves_the_batch(monkeypatch):
    """Catches memory that is not given back to the device, and rollouts that are lost."""
    engine = engine_of("llama", max_batch_size=16)
    context = engine.open(PROMPTS[1], POLICY)
    (expected,) = answers(engine, [RolloutJob(context, (), streams(16))])
    forward, refused = engine._model.forward, []

    def bounded(**kwargs):
        if len(kwargs["position_ids"]) > 8:
            refused.append(len(kwargs["position_ids"]))
            torch.empty(2**50, dtype=torch.uint8, device=DEVICE)  # the device's own error
        return forward(**kwargs)

    monkeypatch.setattr(engine._model, "forward", bounded)
    (found,) = answers(engine, [RolloutJob(context, (), streams(16))])
    assert len(refused) == 1
    assert [one.tokens for one in found.answer.rollouts] == [one.tokens for one in expected.answer.rollouts]


def test_a_batch_that_the_device_has_no_room_for_is_lowered(monkeypatch):
    """Catches a size that is asked of the machine's memory and not of the device's."""
    engine = engine_of("llama", max_batch_size=16)
    monkeypatch.setattr(batch, "free_bytes", lambda device: 100_000 if device.type == DEVICE else 10**12)
    with pytest.warns(RuntimeWarning, match="The batch is lowered from 16 rows"):
        (done,) = answers(engine, [RolloutJob(engine.open(PROMPTS[1], POLICY), (), streams(16))])
    assert len(done.answer.rollouts) == 16


@pytest.mark.parametrize("name", ["maxent", "maxent_sample", "best_of_n", "beam"])
def test_whole_searches_run(name):
    """Catches what only a search asks of the engine."""
    engine = engine_of("llama")
    method, budget = load(METHODS, name, "method"), Budget(rollouts=20, generated_tokens=20 * 12)
    jobs = [SearchJob(str(i), prompt, POLICY, method, 1.0, budget, (3, i)) for i, prompt in enumerate(PROMPTS)]
    for result in run_searches(jobs, engine, TokenReward(lambda tokens: float(tokens.count(9)))):
        assert result.error is None, result.error
        inputs = engine.open(result.job.prompt, POLICY).inputs
        for one in result.outcome.completions:
            rows = plain_rows(engine._model, inputs, one.tokens, POLICY)
            expected = sum(float(row[token]) for row, token in zip(rows, one.tokens, strict=False))
            assert one.logprob == pytest.approx(expected, abs=1e-3)


def test_the_engines_benchmark_runs_on_the_device():
    """Catches a benchmark that times the launch of kernels, or whose tensors stay behind."""
    root = Path(__file__).parents[2]
    arguments = ["--device", DEVICE, "--rounds", "1", "--rollouts", "4", "--new-tokens", "8", "--without", "d", "g", "--json"]
    command = [sys.executable, "benchmarks/engine.py", *arguments, "--sections", "speed", "memory", "overhead"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert {one["variant"] for one in results} >= {"b: generate, one at a time", "this engine, exact"}
