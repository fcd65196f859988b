"""Packed weights, 8-bit rows and compiled kernels: each against the slow obvious computation."""

from __future__ import annotations

import warnings

import pytest
import torch

from maxent_ts.engines import kernels as kernels_module
from maxent_ts.engines import linears
from maxent_ts.engines import replacements as replacements_module
from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.kernels import SWITCH, kernels, kernels_status
from maxent_ts.engines.replacements import Replacements
from maxent_ts.errors import SettingError
from maxent_ts.types import Policy
from tests.unit.hf_helpers import answers, streams, tiny_model

needs_kernels = pytest.mark.skipif(kernels() is None, reason=f"the kernels are {kernels_status()}")
needs_rq8 = pytest.mark.skipif(
    linears.INT8_KERNELS not in torch.backends.quantized.supported_engines, reason="torch has no 8-bit kernels for this processor"
)


def slow_rq8(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Rounded integers, multiplied in float64."""
    scales = weight.abs().amax(dim=1, keepdim=True).double() / 127
    factors = inputs.abs().amax(dim=-1, keepdim=True).double() / 127
    integers = (inputs.double() / factors.clamp(min=1e-300)).round()
    product = integers @ (weight.double() / scales).round().T * factors * scales.T
    return product if bias is None else product + bias


def compiled_or_none(name: str):
    if name == "torch":
        return None
    if kernels() is None:
        pytest.skip(f"the kernels are {kernels_status()}")
    return kernels()


@needs_rq8
@pytest.mark.parametrize("by", ["torch", "compiled"])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(64, 96), (50, 33), (7, 5)])
def test_eight_bit_products_are_those_of_rounded_integers(by, num_inputs, num_outputs):
    """Catches wrong layouts of the weights, rests of tiles and groups, and one scale for all rows."""
    torch.manual_seed(0)
    weight, bias, inputs = torch.randn(num_outputs, num_inputs), torch.randn(num_outputs), torch.randn(27, num_inputs)
    inputs[3] *= 1000
    inputs[5] = 0
    expected = slow_rq8(inputs, weight, bias)
    ours = linears.pack_rq8(weight, bias, compiled_or_none(by))(inputs)
    # Rounding a half either way moves a sum by one step of weight and input.
    step = (weight.abs().amax() * inputs.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-5)
    assert bool(((ours - expected).abs() <= step).all())
    torch.testing.assert_close(ours[5], bias)


@needs_rq8
@pytest.mark.parametrize("by", ["torch", "compiled"])
def test_a_row_in_eight_bits_does_not_move_when_the_others_do(by):
    """Catches dynamic quantisation with one scale for the batch, and products that depend on the number of rows."""
    torch.manual_seed(1)
    product = linears.pack_rq8(torch.randn(70, 60), None, compiled_or_none(by))
    inputs = torch.randn(40, 60)
    alone = product(inputs[:2])[1]
    inputs[2:] *= 1e4
    for num_rows in (3, 12, 13, 25, 40):
        assert torch.equal(product(inputs[:num_rows])[1], alone)


@needs_rq8
@pytest.mark.parametrize("by", ["torch", "compiled"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_does_not_come_out_finite(by, bad):
    """Catches NaN that is rounded to an integer as if nothing had happened."""
    product = linears.pack_rq8(torch.randn(40, 32), None, compiled_or_none(by))
    inputs = torch.ones(3, 32)
    inputs[1, 4] = bad
    outputs = product(inputs)
    assert not outputs[1].isfinite().any()
    assert outputs[[0, 2]].isfinite().all()


@needs_kernels
def test_attention_by_the_kernels_is_softmax_over_prompt_and_own_keys():
    """Catches keys of the wrong prompt, head or row, and lengths that are off by one."""
    compiled = kernels()
    torch.manual_seed(2)
    num_rows, num_heads, num_key_heads, size, num_prompt, num_positions = 7, 6, 2, 80, 45, 24
    query, keys, values = (
        torch.randn(num_rows, heads, *more) for heads, more in ((num_heads, (size,)), *[(num_key_heads, (num_positions, size))] * 2)
    )
    prompt_keys = torch.zeros(num_key_heads, size, 64).transpose(1, 2)
    prompt_values = torch.zeros(num_key_heads, 64, size)
    prompt_keys[:, :num_prompt], prompt_values[:, :num_prompt] = torch.randn(2, num_key_heads, num_prompt, size)
    lengths, rows = torch.tensor([1, 24, 3, 9, 16, 17, 2]), torch.tensor([0, 1, 3, 4, 6])
    output = torch.full((num_rows, num_heads, size), 7.0)
    compiled.attend(query, output, (prompt_keys, prompt_values, num_prompt), (keys, values), lengths, rows, len(rows), 0.3)
    for row in range(num_rows):
        for head in range(num_heads):
            if row not in rows:
                assert output[row, head].eq(7.0).all()
                continue
            which = head // (num_heads // num_key_heads)
            own = slice(int(lengths[row]))
            all_keys = torch.cat([prompt_keys[which, :num_prompt], keys[row, which, own]]).double()
            all_values = torch.cat([prompt_values[which, :num_prompt], values[row, which, own]]).double()
            expected = (all_keys @ query[row, head].double() * 0.3).softmax(0) @ all_values
            torch.testing.assert_close(output[row, head].double(), expected, rtol=0, atol=3e-6)


@needs_kernels
def test_norms_units_and_rotations_are_those_of_torch():
    """Catches a formula that is not the module's."""
    compiled = kernels()
    torch.manual_seed(3)
    x, weight = torch.randn(5, 70) * 3, torch.randn(70)
    expected = weight * (x * (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt().float())
    torch.testing.assert_close(compiled.rms_norm(x, weight, 1e-5), expected)
    gate_up = torch.randn(4, 96) * 8
    gate_up[0, :4] = torch.tensor([-200.0, 200.0, float("nan"), 0.0])
    expected = torch.nn.functional.silu(gate_up[:, :48]) * gate_up[:, 48:]
    torch.testing.assert_close(compiled.silu_product(gate_up), expected, equal_nan=True)
    x, cos, sin = torch.randn(3, 2, 24), torch.randn(3, 24), torch.randn(3, 24)
    half = torch.cat([-x[..., 12:], x[..., :12]], dim=-1)
    torch.testing.assert_close(compiled.rotate(x, cos, sin), x * cos[:, None] + half * sin[:, None])


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_with_replaced_parts_is_the_same_model(architecture, has_kernels, monkeypatch):
    """Catches joined projections in the wrong order, a norm of another kind, and replacements left behind."""
    if not has_kernels:
        monkeypatch.setenv(SWITCH, "0")
    model = tiny_model(architecture, seed=4)
    replacements = Replacements(model)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
    with torch.inference_mode():
        plain = model(ids).logits
        with replacements.applied():
            assert any("forward" in vars(module) for module in model.modules())
            replaced = model(ids).logits
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch.equal(model(ids).logits, plain)
    torch.testing.assert_close(replaced, plain, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_everything_runs_and_says_so(monkeypatch, tmp_path):
    """Catches an engine that needs the kernels, and a status that hides why they are not there."""
    monkeypatch.setattr(kernels_module.shutil, "which", lambda _: None)
    kernels_module._load.cache_clear()
    try:
        assert "no C++ compiler" in kernels_status()
        engine = HFEngine(tiny_model(), max_batch_size=2)
        assert engine.identity["kernels"] is False
        context = engine.open([1, 2, 3], Policy(max_new_tokens=4))
        assert answers(engine, [RolloutJob(context, (), streams(3))])[0].answer.rollouts
    finally:
        kernels_module._load.cache_clear()


def test_a_compiler_that_fails_is_told(monkeypatch, tmp_path):
    """Catches a broken compiler that stops the engine."""
    broken = tmp_path / "c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no such flag >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels_module._load.cache_clear()
    try:
        assert "no such flag" in kernels_status()
        assert kernels() is None
    finally:
        kernels_module._load.cache_clear()


def test_without_memory_for_a_second_copy_the_model_runs_as_it_is(monkeypatch):
    """Catches an engine that takes the machine's last memory."""
    monkeypatch.setattr(replacements_module, "free_bytes", lambda: 0)
    with pytest.warns(RuntimeWarning, match="no room for a second copy"):
        HFEngine(tiny_model(), max_batch_size=2)
    with pytest.raises(SettingError, match="less memory free"):
        HFEngine(tiny_model(), max_batch_size=2, quantization="rq8")


@needs_rq8
def test_the_divergence_of_the_quantised_model_is_measured_on_the_first_prompt():
    """Catches a quantised model that nobody has compared with the exact one."""
    model = tiny_model(seed=5)
    engine = HFEngine(model, max_batch_size=4, quantization="rq8")
    assert engine.stats.quantization_kl is None
    prompt = [1, 5, 2, 6, 3, 7]
    context = engine.open(prompt, Policy(max_new_tokens=3))
    answers(engine, [RolloutJob(context, (), streams(4))])
    with torch.inference_mode():
        exact = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
        with engine._replacements.applied():
            ours = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
    assert engine.stats.quantization_kl == pytest.approx(float((exact.exp() * (exact - ours)).sum(-1).mean()), rel=1e-6)
    assert 0 < engine.stats.quantization_kl < 0.01
    assert engine.identity["quantization"] == "rq8"


@pytest.mark.parametrize(("settings", "message"), [({"quantization": "int4"}, "must be rq8"), ({}, "float32 on a CPU")])
def test_a_quantisation_that_cannot_be_done_is_refused(settings, message):
    """Catches a setting that is passed over in silence."""
    model = tiny_model() if settings else tiny_model().to(torch.bfloat16)
    with warnings.catch_warnings(), pytest.raises(SettingError, match=message):
        HFEngine(model, dtype="auto", **{"quantization": "rq8", **settings})
