"""A quantised model that draws, and the exact one whose log-probabilities count."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from maxent_ts.config import RunConfig
from maxent_ts.engines.base import NextTokensJob, RolloutJob, ScoreJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.linears import INT8_KERNELS
from maxent_ts.errors import SettingError
from maxent_ts.loading import load_engine
from maxent_ts.search.maxent import maxent_sample
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Embeddings, Policy
from tests.conftest import TokenReward
from tests.unit.hf_helpers import answers, plain_logprobs, plain_rows, streams, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(
    INT8_KERNELS not in torch.backends.quantized.supported_engines, reason="this processor has no 8-bit kernels of torch"
)
POLICY = Policy(max_new_tokens=10, temperature=0.8)
PROMPTS = ([5], [7, 8, 9, 10, 11], list(range(2, 30)))


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mistral", "gpt2"])
def test_log_probabilities_are_those_of_the_exact_model(kind):
    """Catches values of the quantised model, a token scored at another's place, and unseen mass of the wrong model."""
    model = tiny_model(kind)
    engine = HFEngine(model, max_batch_size=4, quantization="rq8", exact_logprobs=True)
    values = model.get_input_embeddings()(torch.tensor(PROMPTS[1])).detach()
    for prompt in (*PROMPTS, Embeddings(values)):
        context = engine.open(prompt, POLICY)
        jobs = [
            RolloutJob(context, (), streams(5), exclude=(4,), distinct=True),
            RolloutJob(context, (8, 2, 9), streams(3, start=7)),
            NextTokensJob(context, (8, 2), 40),
            NextTokensJob(context, (), 40),
            ScoreJob(context, (3, 1, 4, 1, 5, 9, 2, 6)),
        ]
        *branches, looked, first, scored = (finished.answer for finished in answers(engine, jobs))
        for job, branch in zip(jobs[:2], branches, strict=True):
            for rollout in branch.rollouts:
                whole = (*job.prefix, *rollout.tokens)
                rows = plain_rows(model, context.inputs, whole, POLICY)[len(job.prefix) : -1]
                np.testing.assert_allclose(rollout.logprobs, rows[np.arange(len(rows)), rollout.tokens], atol=1e-5)
            left = np.exp(plain_logprobs(model, context.inputs, job.prefix, POLICY))
            left[[*job.exclude, *(rollout.tokens[0] for rollout in branch.rollouts)]] = 0.0
            assert branch.log_unseen == pytest.approx(np.log(left.sum()), abs=1e-5)
        for answer, prefix in ((looked, (8, 2)), (first, ())):
            expected = plain_logprobs(model, context.inputs, prefix, POLICY)
            np.testing.assert_allclose(answer.logprobs, expected[list(answer.tokens)], atol=1e-5)
        rows = plain_rows(model, context.inputs, jobs[-1].tokens, POLICY)[:-1]
        np.testing.assert_allclose(scored, rows[np.arange(len(rows)), jobs[-1].tokens], atol=1e-5)


def test_the_quantised_model_draws_the_tokens():
    """Catches a model that is quantised in name only: the same tokens, other log-probabilities, and rules that look back."""
    policy = Policy(max_new_tokens=10, repetition_penalty=1.3)
    plain, exact = (HFEngine(tiny_model(), max_batch_size=4, quantization="rq8", exact_logprobs=on) for on in (False, True))
    ours, theirs = (answers(one, [RolloutJob(one.open(PROMPTS[1], policy), (), streams(6))])[0].answer for one in (plain, exact))
    reference = HFEngine(tiny_model(), max_batch_size=4)
    context = reference.open(PROMPTS[1], policy)
    for one, other in zip(ours.rollouts, theirs.rollouts, strict=True):
        assert one.tokens == other.tokens
        assert 1e-4 < np.abs(np.subtract(one.logprobs, other.logprobs)).max() < 0.5
        (scored,) = answers(reference, [ScoreJob(context, other.tokens)])
        np.testing.assert_allclose(other.logprobs, scored.answer, atol=1e-5)
    assert exact.identity["exact_logprobs"]
    assert "exact_logprobs" not in plain.identity


def test_a_fully_expanded_tree_has_the_law_of_the_exact_model():
    """Catches a target that is the quantised model's: π by enumeration of plain forwards."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=7, **sizes, initializer_range=0.3, bos_token_id=0, eos_token_id=1)).eval()
    policy, tilt = Policy(max_new_tokens=3), 2.0
    reward = TokenReward(lambda tokens: float(tokens.count(3)) - 0.5 * len(tokens))
    distances = {}
    for is_exact in (False, True):
        engine = HFEngine(model, tiny_tokenizer(), max_batch_size=8, quantization="rq8", exact_logprobs=is_exact)
        method = partial(maxent_sample, num_return_sequences=1)
        (result,) = run_searches([SearchJob("a", [2, 4], policy, method, tilt, Budget(rollouts=400), (0, 1))], engine, reward)
        assert result.error is None, result.error
        completions = result.outcome.completions
        assert len(completions) == 1 + 6 + 6 * 6 * 7  # every one that there is
        logits = []
        for one in completions:
            rows = plain_rows(model, torch.tensor([2, 4]), one.tokens, policy)
            logits.append(float(rows[np.arange(len(one.tokens)), one.tokens].sum()) + tilt * one.reward)
        law = np.exp(np.array(logits) - np.logaddexp.reduce(logits))
        distances[is_exact] = 0.5 * np.abs(law - result.outcome.weights).sum()
    assert distances[True] < 1e-6
    assert distances[False] > 1e-4


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_stream_gives_the_same_bits_alone_and_among_others(num_threads):
    """Catches a second pass whose products depend on which jobs end in the same step."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        model = tiny_model("llama-16")

        def run(num_others: int) -> Any:
            engine = HFEngine(model, max_batch_size=16, quantization="rq8", exact_logprobs=True)
            assert engine.capabilities.deterministic
            others = [RolloutJob(engine.open([2 + i] * (1 + i), POLICY), (), streams(3, example=9 + i)) for i in range(num_others)]
            return answers(engine, [*others, RolloutJob(engine.open(PROMPTS[1], POLICY), (), streams(4))])[-1].answer

        alone = run(0)
        assert [run(num) for num in (1, 7, 12)] == [alone] * 3
    finally:
        torch.set_num_threads(before)


def test_the_second_pass_is_charged():
    """Catches log-probabilities that are free."""
    engine = HFEngine(tiny_model(eos_token_id=None), max_batch_size=4, quantization="rq8", exact_logprobs=True)
    context = engine.open(PROMPTS[1], POLICY)
    first, second = (answers(engine, [RolloutJob(context, (), streams(2, start=start))])[0] for start in (0, 5))
    assert first.forwarded_tokens == 2 * (5 + 2 * 9)
    assert second.forwarded_tokens == 2 * (2 * 9)
    assert engine.stats.prefills == 2


def test_running_out_of_memory_in_the_second_pass_loses_no_rollout(monkeypatch):
    """Catches rollouts that are done, have left the batch, and are forgotten."""
    engine = HFEngine(tiny_model(), max_batch_size=4, quantization="rq8", exact_logprobs=True)
    context = engine.open(PROMPTS[1], POLICY)
    assert engine._jobs._exact is not None
    answer, failures = engine._jobs._exact.answer, iter((True, False))

    def failing(*arguments):
        if next(failures, False):
            raise torch.OutOfMemoryError("out of memory")
        return answer(*arguments)

    monkeypatch.setattr(engine._jobs._exact, "answer", failing)
    done = answers(engine, [RolloutJob(context, (), streams(3)), ScoreJob(context, (3, 4))])
    assert len(done[0].answer.rollouts) == 3
    rows = plain_rows(engine._model, context.inputs, (3, 4), POLICY)
    np.testing.assert_allclose(done[1].answer, [rows[0][3], rows[1][4]], atol=1e-5)


def test_a_run_hands_the_setting_to_its_engine():
    """Catches an option that is read and forgotten."""
    config = RunConfig(tasks=("har_cot",), device="cpu", quantization="rq8", exact_logprobs=True)
    assert load_engine(config).identity["exact_logprobs"]
    assert config.digest() != config.model_copy(update={"exact_logprobs": False}).digest()


def test_settings_that_cannot_go_together_are_refused():
    """Catches a correction of nothing, and one that would give drawn tokens probability zero."""
    with pytest.raises(SettingError, match="without quantization"):
        HFEngine(tiny_model(), exact_logprobs=True)
    engine = HFEngine(tiny_model(), max_batch_size=2, quantization="rq8", exact_logprobs=True)
    for policy in (Policy(top_k=5), Policy(top_p=0.9), Policy(min_p=0.1)):
        with pytest.raises(SettingError, match="may leave out a token"):
            engine.open([5], policy)
