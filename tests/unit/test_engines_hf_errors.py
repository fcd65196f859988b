"""What can go wrong with the Hugging Face engine: each gives one clear message, or fails one job and no other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from transformers import AutoModelForCausalLM

from maxent_ts.engines.base import NextTokensJob, RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.loading import load_model
from maxent_ts.errors import EngineError, ModelError, OutOfMemoryError, PromptError, SettingError
from maxent_ts.types import Branch, Embeddings, Policy, SeriesSegment, TimeSeriesPrompt
from tests.unit.hf_helpers import answers, plain_rollout, save_model, tiny_model, tiny_tokenizer

POLICY = Policy(max_new_tokens=10)
STREAMS = ((1, 0), (1, 1), (1, 2))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["/no/such/model", "./no/such", Path("nowhere")])
def test_an_unknown_path_is_named(name):
    """Catches a path that is taken for a hub id, with a message about the network."""
    with pytest.raises(ModelError, match=r"There is no model directory .*(such|nowhere)"):
        HFEngine(name)


def test_a_hub_id_without_a_network_says_what_to_do(offline):
    """Catches transformers' own message, which sends the user to a documentation page."""
    with pytest.raises(ModelError, match=r"'nobody/nothing' is neither a directory here nor in the local cache.*hf download"):
        HFEngine("nobody/nothing")


def test_a_gated_repository_lists_the_steps(monkeypatch):
    """Catches a bare 401 or 403."""

    def refuse(*_args, **_kwargs):
        raise OSError("You are trying to access a gated repo.") from GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"'a/b' is gated. Log in .* accept the conditions .* hf auth login"):
        HFEngine("a/b")


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_corrupt_weights_are_named(tmp_path, damage):
    """Catches a SafetensorError that says nothing of the file."""
    weights = save_model(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if damage == "cut" else b"not safetensors at all")
    with pytest.raises(ModelError, match=r"The weights of '.*model' are corrupt or cut short"):
        HFEngine(tmp_path / "model")


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    """Catches transformers' habit to fill missing tensors with random numbers and warn."""
    path = save_model(tmp_path / "model")
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ModelError, match=r"lack .* tensors .* random"):
        HFEngine(path)


def test_a_directory_without_config_or_tokenizer_is_named(tmp_path):
    """Catches a message that is about everything transformers has tried."""
    with pytest.raises(ModelError, match=r"has no config.json"):
        HFEngine(tmp_path)
    tiny_model().save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match=r"has no tokenizer that can be read"):
        HFEngine(tmp_path / "bare")
    engine = HFEngine(tmp_path / "bare", tiny_tokenizer())
    assert engine.open("ab", POLICY).num_prompt_tokens == 3


def test_settings_outside_their_domain_are_refused():
    """Catches a batch of none, an unknown dtype, and a model in memory that would be converted behind its owner's back."""
    model = tiny_model()
    for settings, words in (
        ({"max_batch_size": 0}, "max_batch_size must be at least 1"),
        ({"kv_cache_gib": -1.0}, "kv_cache_gib must be at least 0"),
        ({"kv_cache_gib": math.nan}, "kv_cache_gib must be at least 0"),
        ({"dtype": "float8"}, "dtype must be one of"),
        ({"dtype": "bfloat16"}, "the model given is in float32"),
        ({"device": "abacus"}, "device must be"),
        ({"revision": "main"}, "already loaded"),
    ):
        with pytest.raises(SettingError, match=words):
            HFEngine(model, **settings)
    with pytest.raises(ModelError, match=r"but this is int"):
        HFEngine(3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    """Catches an assertion error from the depths of torch."""
    with pytest.raises(SettingError, match=r"no such device"):
        HFEngine(save_model(tmp_path), device="cuda")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        ([], "empty"),
        (Embeddings(np.zeros((0, 32))), "empty"),
        ([5] * 119, "has 119 tokens and max_new_tokens is 10, together 129, but this model's context is 128"),
        ([5, 99], r"must lie in \[0, 31\), but range from 5 to 99"),
        (Embeddings(np.zeros((4, 31))), r"must have the shape \[length, 32\], but have \[4, 31\]"),
        (Embeddings(np.full((4, 32), np.nan)), "not finite"),
        (TimeSeriesPrompt("a", (SeriesSegment("b", (1.0, 2.0)),), "c"), "is a model of text"),
        (3.5, "but got float"),
        ([{"role": "user", "content": "a"}], "no chat template"),
    ],
)
def test_a_prompt_that_the_model_cannot_take_is_refused(prompt, words):
    """Catches each kind of bad prompt, with its own message, before anything is computed."""
    engine = HFEngine(tiny_model(), tiny_tokenizer(chat_template=None))
    with pytest.raises(PromptError, match=words):
        engine.open(prompt, POLICY)
    assert engine.open([5] * 118, POLICY).num_prompt_tokens == 118


def test_a_window_of_another_kind_bounds_the_context():
    """Catches prompts longer than a chunk, where the slots' full attention would differ from the model's."""
    model = tiny_model("mistral")
    model.config.layer_types = ["sliding_attention", "chunked_attention"]
    model.config.attention_chunk_size = 12
    loaded = load_model(model, None, device="auto", dtype="auto", revision=None, model_kwargs={})
    assert loaded.context_length == 12


def test_without_a_tokenizer_text_is_refused_in_and_out():
    """Catches an AttributeError of None."""
    engine = HFEngine(tiny_model())
    with pytest.raises(PromptError, match=r"text needs a tokenizer"):
        engine.open("ab", POLICY)
    with pytest.raises(SettingError, match=r"stop_strings need a tokenizer"):
        engine.open([5], Policy(stop_strings=("a",)))
    with pytest.raises(ModelError, match=r"needs a tokenizer"):
        engine.decode((2, 3))


def test_jobs_that_make_no_sense_fail_alone():
    """Catches a bad job that takes the whole engine down."""
    engine = HFEngine(tiny_model())
    context, closed = engine.open([5], POLICY), engine.open([6], POLICY)
    bad = [RolloutJob(context, (5,) * 10, STREAMS), NextTokensJob(context, (99,), 2), NextTokensJob(context, (), 0)]
    *failed, good = answers(engine, [*bad, RolloutJob(context, (), STREAMS)])
    for finished, words in zip(
        failed, ("shorter than max_new_tokens", "outside the vocabulary", "at least one next token"), strict=True
    ):
        assert isinstance(finished.answer, EngineError)
        assert words in str(finished.answer)
    assert len(good.answer.rollouts) == 3
    engine.close(closed)
    with pytest.raises(EngineError, match=r"closed"):
        engine.submit(RolloutJob(closed, (), STREAMS))


def spoil_when(model, monkeypatch, is_bad):
    """Make the model return NaN logits and NaN keys for rows whose token makes `is_bad` true."""
    forward = model.forward

    def spoiled(**kwargs):
        output = forward(**kwargs)
        ids = kwargs.get("input_ids")
        for row in range(len(ids)) if ids is not None else ():
            if is_bad(ids[row].tolist()):
                output.logits[row] = math.nan
                for layer in output.past_key_values.layers if output.past_key_values is not None else ():
                    layer.keys[row] = math.nan
        return output

    monkeypatch.setattr(model, "forward", spoiled)


def test_logits_that_are_not_finite_fail_their_own_job_only(monkeypatch):
    """Catches NaN that ends every job, NaN that is sampled, and a slot that hands its NaN to the next row."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=3)
    good, bad = engine.open([5, 6], POLICY), engine.open([7, 29], POLICY)
    expected = [plain_rollout(model, good.inputs, (3,), stream, POLICY).tokens for stream in STREAMS]
    spoil_when(model, monkeypatch, lambda ids: 29 in ids)
    jobs = [
        RolloutJob(bad, (), STREAMS),
        RolloutJob(good, (29,), STREAMS),
        RolloutJob(good, (3,), STREAMS),
        NextTokensJob(good, (4, 29), 2),
    ]
    in_prompt, in_prefix, fine, looking = answers(engine, jobs)
    for failed in (in_prompt, in_prefix, looking):
        assert isinstance(failed.answer, EngineError)
        assert "not finite" in str(failed.answer)
    if not any(29 in tokens[:-1] for tokens in expected):
        assert [rollout.tokens for rollout in fine.answer.rollouts] == expected
    monkeypatch.undo()
    again = answers(engine, [RolloutJob(good, (3,), STREAMS)] * 3)
    assert all([rollout.tokens for rollout in one.answer.rollouts] == expected for one in again)


def test_a_rollout_that_runs_into_nan_fails_its_whole_job(monkeypatch):
    """Catches a job with some rollouts done and one failed, which then never finishes."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=8)
    context = engine.open([5, 6], POLICY)
    spoil_when(model, monkeypatch, lambda ids: ids == [9])
    jobs = [RolloutJob(context, (), ((2, i),)) for i in range(30)]
    done = answers(engine, jobs)
    failed = [finished for finished in done if isinstance(finished.answer, EngineError)]
    assert 0 < len(failed) < 30
    for finished in done:
        if isinstance(finished.answer, Branch):
            assert 9 not in finished.answer.rollouts[0].tokens[:-1]


class Memory:
    """A model's forward that has room for so many rows."""

    def __init__(self, model, monkeypatch, num_rows: int, error: Exception) -> None:
        self.refused: list[int] = []
        forward = model.forward

        def bounded(**kwargs):
            rows = len(kwargs["position_ids"])
            if rows > num_rows:
                self.refused.append(rows)
                raise error
            return forward(**kwargs)

        monkeypatch.setattr(model, "forward", bounded)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, error):
    """Catches rollouts lost, drawn twice or changed when the batch is cut in the middle of them."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=16)
    context = engine.open([5, 6], POLICY)
    streams = tuple((3, i) for i in range(16))
    expected = [plain_rollout(model, context.inputs, (), stream, POLICY).tokens for stream in streams]
    first, second = engine.submit(RolloutJob(context, (), streams[:6])), engine.submit(RolloutJob(context, (), streams[6:]))
    assert engine.step() == []
    memory = Memory(model, monkeypatch, 8, error)
    done = {finished.ticket: finished.answer for _ in range(60) for finished in engine.step()}
    assert memory.refused == [16]
    assert [rollout.tokens for ticket in (first, second) for rollout in done[ticket].rollouts] == expected


def test_out_of_memory_twice_fails_the_jobs_in_the_batch_and_tells_the_need(monkeypatch):
    """Catches an engine that retries for ever, and one that cannot go on afterwards."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=8)
    context = engine.open([5, 6], POLICY)
    engine.submit(RolloutJob(context, (), STREAMS))
    with monkeypatch.context() as patch:
        Memory(model, patch, 0, torch.OutOfMemoryError("out of memory"))
        finished = [one for _ in range(3) for one in engine.step()]
    assert [type(one.answer) for one in finished] == [OutOfMemoryError]
    assert "The weights take" in str(finished[0].answer)
    assert "lower max_batch_size" in str(finished[0].answer)
    assert len(answers(engine, [RolloutJob(context, (), STREAMS)])[0].answer.rollouts) == 3


def test_any_other_runtime_error_is_not_swallowed(monkeypatch):
    """Catches a retry that hides a bug."""
    model = tiny_model()
    engine = HFEngine(model)
    engine.submit(RolloutJob(engine.open([5], POLICY), (), STREAMS))
    Memory(model, monkeypatch, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match=r"shape mismatch"):
        engine.step()


def test_decoding_that_goes_wrong_behind_a_long_prompt_only_is_found(monkeypatch):
    """Catches a self-check at a handful of tokens, where nothing is padded beyond the first keys."""
    model = tiny_model("gpt2")
    forward = model.forward

    def near(**kwargs):
        positions = kwargs.get("position_ids")
        if positions is not None and positions.shape[1] == 1:
            kwargs["position_ids"] = positions.clamp(max=64)
        return forward(**kwargs)

    monkeypatch.setattr(model, "forward", near)
    with pytest.warns(RuntimeWarning, match=r"is off by up to .* when rows of different lengths"):
        HFEngine(model)
