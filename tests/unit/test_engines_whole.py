"""Models whose past rollouts cannot share: decoded without a cache, against full forwards one at a time."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from maxent_ts.engines.base import NextTokensJob, RolloutJob, ScoreJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.errors import ModelError
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Branch, Budget, Embeddings, Policy
from tests.conftest import TokenReward
from tests.unit.hf_helpers import (
    answers,
    largest_difference,
    plain_logprobs,
    plain_rollout,
    plain_rows,
    streams,
    tiny_model,
    tiny_tokenizer,
)

POLICY = Policy(max_new_tokens=8)
PROMPTS = ([5], [7, 8, 9, 10, 11], [3, 4] * 6)
KINDS = ["mamba", "lfm2", "bloom"]


def whole_engine(model, tokenizer=None, **settings) -> HFEngine:
    """An engine for a model of which nothing can be kept, and that says so."""
    with pytest.warns(RuntimeWarning, match="nothing is kept of what went through it"):
        return HFEngine(model, tokenizer, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_of_ragged_prompts_equal_full_forwards_one_by_one(kind):
    """Catches padding that enters a state, a state that one row leaves to the next, and embeddings that miss the continuation."""
    model = tiny_model(kind)
    engine = whole_engine(model, max_batch_size=5)
    values = model.get_input_embeddings()(torch.tensor(PROMPTS[1])).detach()
    contexts = [engine.open(prompt, POLICY) for prompt in (*PROMPTS, Embeddings(values))]
    jobs = [RolloutJob(context, (), streams(3, example=i)) for i, context in enumerate(contexts)]
    jobs += [RolloutJob(context, (4, 9, 2), streams(2, start=7, example=i)) for i, context in enumerate(contexts)]
    for job, finished in zip(jobs, answers(engine, jobs), strict=True):
        assert isinstance(finished.answer, Branch)
        for stream, rollout in zip(job.streams, finished.answer.rollouts, strict=True):
            expected = plain_rollout(model, job.context.inputs, job.prefix, stream, POLICY)
            assert rollout.tokens == expected.tokens
            assert rollout.finish_reason == expected.finish_reason
            np.testing.assert_allclose(rollout.logprobs, expected.logprobs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_looks_and_scores_equal_teacher_forcing(kind):
    """Catches next tokens after another prefix, and scores shifted by one."""
    model = tiny_model(kind)
    engine = whole_engine(model, max_batch_size=3)
    jobs, expected = [], []
    for prompt in PROMPTS:
        context = engine.open(prompt, POLICY)
        jobs += [NextTokensJob(context, (6, 7), 40), ScoreJob(context, (3, 1, 4, 1, 5, 9, 2, 6))]
        expected += [
            np.sort(plain_logprobs(model, context.inputs, (6, 7), POLICY))[::-1],
            plain_rows(model, context.inputs, jobs[-1].tokens, POLICY)[np.arange(8), jobs[-1].tokens],
        ]
    for finished, logprobs in zip(answers(engine, jobs), expected, strict=True):
        found = finished.answer if isinstance(finished.answer, tuple) else finished.answer.logprobs
        np.testing.assert_allclose(found, logprobs, atol=1e-5)


COMMON = {"vocab_size": 31, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
EXPERTS = {"num_experts_per_tok": 1}
HYBRID = ["linear_attention", "full_attention"]
LINEAR = {f"linear_{name}": size for name, size in {"num_key_heads": 2, "num_value_heads": 4}.items()}
OTHERS: dict[str, dict[str, Any]] = {
    "mamba2": {**COMMON, "state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2, "chunk_size": 8},
    "falcon_mamba": {**COMMON, "state_size": 4},
    "falcon_h1": {
        **COMMON, **HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8
    },
    "jamba": {
        **COMMON, **HEADS, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        **COMMON, **HEADS, "num_key_value_heads": 4, "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 4,
        "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "chunk_size": 8, "num_mem_blocks": 1, "adapter_rank": 4,
    },
    "qwen3_next": {
        **COMMON, **HEADS, **EXPERTS, **LINEAR, "layer_types": HYBRID, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "head_dim": 8,
    },
    "minimax": {**COMMON, **HEADS, **EXPERTS, "layer_types": HYBRID, "num_local_experts": 2, "block_size": 8, "head_dim": 8},
    "recurrent_gemma": {
        **COMMON, **HEADS, "num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16
    },
    "gemma3n_text": {
        **COMMON, **HEADS, "num_hidden_layers": 4, "head_dim": 8, "num_kv_shared_layers": 2, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": 31,
        "hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2,
    },
    "rwkv": {**COMMON, "context_length": 128},
    "xlstm": {**COMMON, "num_heads": 2},
    "openai-gpt": {"vocab_size": 31, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_equal_full_forwards_as_well(kind):
    """Catches a kind of cache, or a forward without the usual arguments, that only some architectures have."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **OTHERS[kind])).eval()
    engine = whole_engine(model, max_batch_size=6)
    contexts = [engine.open(prompt, POLICY) for prompt in PROMPTS]
    done = answers(engine, [RolloutJob(context, (), streams(3)) for context in contexts])
    for context, finished in zip(contexts, done, strict=True):
        for rollout in finished.answer.rollouts:
            assert largest_difference(model, context.inputs, (), rollout, POLICY) < 1e-5


def test_the_record_says_that_nothing_is_kept_and_what_it_cost():
    """Catches a fallback that shows nowhere, and tokens put through the model again that are not charged."""
    engine = whole_engine(tiny_model("mamba", eos_token_id=None), max_batch_size=4)
    assert engine.identity["cache"] == "none"
    assert not engine.capabilities.deterministic
    context = engine.open(PROMPTS[1], POLICY)
    first, again = (answers(engine, [RolloutJob(context, (), streams(2, start=start))])[0] for start in (0, 5))
    # The prompt once, and 5 + 1, 5 + 2 … positions for the second token, the third and so on, of either rollout.
    assert first.forwarded_tokens == 5 + 2 * sum(5 + length for length in range(1, 8))
    assert again.forwarded_tokens == first.forwarded_tokens - 5
    branched = answers(engine, [RolloutJob(context, (2, 3, 4), streams(1))])[0]
    assert branched.forwarded_tokens == 5 + 3 + sum(5 + length for length in range(4, 8))
    assert engine.stats.decode_tokens == first.forwarded_tokens + again.forwarded_tokens + branched.forwarded_tokens - 5
    assert engine.stats.held_bytes < 1000  # the logits behind the prompt


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
@pytest.mark.parametrize("name", ["maxent", "best_of_n", "mcts", "smc"])
def test_searches_run_and_know_the_models_log_probability(kind, name):
    """Catches a method that asks for what this way of decoding does not do."""
    model = tiny_model(kind)
    engine = whole_engine(model, tiny_tokenizer(), max_batch_size=8)
    method, budget = load(METHODS, name, "method"), Budget(rollouts=12, generated_tokens=12 * 8)
    jobs = [SearchJob(str(i), prompt, POLICY, method, 1.0, budget, (3, i)) for i, prompt in enumerate(PROMPTS)]
    for result in run_searches(jobs, engine, TokenReward(lambda tokens: float(tokens.count(9)))):
        assert result.error is None
        inputs = engine.open(result.job.prompt, POLICY).inputs
        for one in result.outcome.completions:
            rows = plain_rows(model, inputs, one.tokens, POLICY)[:-1]
            expected = sum(float(row[token]) for row, token in zip(rows, one.tokens, strict=True))
            assert one.logprob == pytest.approx(expected, abs=1e-4)


def test_running_out_of_memory_halves_the_batch_and_charges_nothing_twice(monkeypatch):
    """Catches tokens that are charged for the forward that failed."""
    model = tiny_model("mamba", eos_token_id=None)
    job = lambda engine: RolloutJob(engine.open(PROMPTS[1], POLICY), (), streams(8))  # noqa: E731
    roomy, cramped = (whole_engine(model, max_batch_size=8) for _ in range(2))
    (expected,) = answers(roomy, [job(roomy)])
    forward = model.forward

    def bounded(**kwargs):
        if len(kwargs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return forward(**kwargs)

    monkeypatch.setattr(model, "forward", bounded)
    (found,) = answers(cramped, [job(cramped)])
    assert [rollout.tokens for rollout in found.answer.rollouts] == [rollout.tokens for rollout in expected.answer.rollouts]
    assert found.forwarded_tokens == expected.forwarded_tokens + 5  # the prompt's logits were given back


def test_a_model_that_ignores_positions_is_decoded_without_a_cache(monkeypatch):
    """Catches architectures that decode wrongly side by side without any exception."""
    model = tiny_model("gpt2")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kwargs: forward(**{**kwargs, "position_ids": None}))
    with pytest.warns(RuntimeWarning, match=r"is off by up to .* nats when rows of different lengths decode side by side"):
        engine = HFEngine(model)
    context = engine.open(PROMPTS[1], POLICY)
    (done,) = answers(engine, [RolloutJob(context, (), streams(3))])
    for stream, rollout in zip(streams(3), done.answer.rollouts, strict=True):
        assert rollout.tokens == plain_rollout(model, context.inputs, (), stream, POLICY).tokens


def test_a_model_whose_rows_see_each_other_is_refused(monkeypatch):
    """Catches a fallback that is trusted untried."""
    model = tiny_model("mamba")
    forward = model.forward

    def mixed(**kwargs):
        output = forward(**kwargs)
        output.logits = output.logits + output.logits.roll(1, dims=0) * (len(output.logits) > 1)
        return output

    monkeypatch.setattr(model, "forward", mixed)
    with pytest.raises(ModelError, match="when sequences of one length share a forward"):
        HFEngine(model)


def test_models_with_a_sliding_window_keep_their_cache():
    """Catches a fallback that takes in models that need none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("mistral", "gemma3"):
            assert "cache" not in HFEngine(tiny_model(kind)).identity
