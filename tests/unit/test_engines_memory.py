"""What fits into memory: the size of a batch, what is kept for later, and on which device."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from maxent_ts.engines import batch, memory
from maxent_ts.engines.attention import _fits_kernels
from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.memory import bytes_per_position, free_bytes, memory_message, rows_that_fit, store_limit
from maxent_ts.types import Policy
from tests.unit.hf_helpers import answers, plain_rollout, streams, tiny_model


@pytest.mark.parametrize(
    ("config", "itemsize", "expected"),
    [
        (
            LlamaConfig(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8),
            2,
            2 * 16 * 8 * 64 * 2,
        ),
        (LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=32), 4, 2 * 3 * 4 * 32 * 4),
        (GPT2Config(n_embd=32, n_layer=2, n_head=4), 4, 2 * 2 * 32 * 4),
    ],
)
def test_a_position_takes_the_bytes_of_its_key_value_heads(config, itemsize, expected):
    """Catches grouped heads that are counted as often as queries, and heads of a size of their own."""
    assert bytes_per_position(config, itemsize) == expected


def test_the_bytes_are_those_of_the_prompts_own_tensors():
    """Catches a formula that no tensor has."""
    for kind in ("llama", "gpt2", "gemma3"):
        model = tiny_model(kind)
        engine = HFEngine(model, max_batch_size=2)
        entry = engine._jobs._batch.prefill(torch.arange(70) % 31, None)
        held = sum(tensor.shape[0] * tensor.shape[2] * tensor.element_size() for tensor in entry.key_values)
        assert held == bytes_per_position(model.config, 4)


@pytest.mark.parametrize(("free", "rows"), [(0, 1), (100, 1), (400, 3), (10_000, 32)])
def test_as_many_rows_as_three_quarters_of_the_free_memory_hold(free, rows):
    """Catches a batch of none, and one larger than was asked for."""
    assert rows_that_fit(free, 100, 32) == rows


def test_a_batch_that_has_no_room_is_lowered_and_its_rollouts_are_the_same(monkeypatch):
    """Catches a batch cut while rows are under way, and one that is never cut."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=16)
    short, long = (engine.open([5, 6], Policy(max_new_tokens=num)) for num in (8, 100))
    one_row = 64 * bytes_per_position(model.config, 4)
    monkeypatch.setattr(batch, "free_bytes", lambda _device: 10 * one_row)
    with pytest.warns(RuntimeWarning, match=r"from 16 rows to 7: the keys and values of a row of 64 positions take 0\.00 GiB"):
        (done,) = answers(engine, [RolloutJob(short, (), streams(12))])
    for stream, rollout in zip(streams(12), done.answer.rollouts, strict=True):
        assert rollout.tokens == plain_rollout(model, short.inputs, (), stream, short.policy).tokens
    tickets = [engine.submit(RolloutJob(short, (), streams(2))), engine.submit(RolloutJob(long, (), streams(6)))]
    with pytest.warns(RuntimeWarning, match=r"from 7 rows to 3: the keys and values of a row of 128 positions"):
        found = {one.ticket: one.answer for _ in range(400) for one in engine.step()}
    assert [rollout.tokens for rollout in found[tickets[0]].rollouts] == [one.tokens for one in done.answer.rollouts[:2]]
    for stream, rollout in zip(streams(6), found[tickets[1]].rollouts, strict=True):
        assert rollout.tokens == plain_rollout(model, long.inputs, (), stream, long.policy).tokens


def test_what_is_kept_for_later_takes_at_most_half_of_what_is_free(monkeypatch, caplog):
    """Catches a store that leaves no memory for the batch, in silence."""
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000)
    assert store_limit(500, torch.device("cpu")) == 500
    assert not caplog.messages
    assert store_limit(501, torch.device("cpu")) == 500
    assert "kv_cache_gib is lowered" in caplog.text


def test_a_cuda_device_is_asked_for_its_own_memory(monkeypatch):
    """Catches the machine's memory taken for the device's, and torch's own reserve counted as used."""
    Info = namedtuple("Info", ["free", "total"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: Info(100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 50)
    assert free_bytes(torch.device("cuda")) == 120
    assert free_bytes(torch.device("cpu")) == pytest.approx(free_bytes(), rel=0.5)


def test_the_message_tells_the_need_of_grouped_heads():
    """Catches a need that is told several times too large."""
    model = tiny_model("llama")
    assert f"up to {bytes_per_position(model.config, 4) * 2**20 / 2**30:.2f} GiB" in memory_message(model, 4, 2**20)


def test_compiled_kernels_are_for_tensors_of_the_cpu():
    """Catches a device's addresses read as the machine's: that ends the process."""
    query, key = torch.zeros(2, 4, 1, 16), torch.zeros(2, 2, 8, 16)
    assert _fits_kernels(query, key, key)
    assert not _fits_kernels(query.to("meta"), key.to("meta"), key.to("meta"))
