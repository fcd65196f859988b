"""Matrix products of a model's linear layers on a CPU, from weights laid out once for the kernels that read them.

`torch.nn.functional.linear` hands the library its weights as they are, and for the ten or thirty rows of a decoding step most
of the time goes into laying them out again, each step. Here that is done once. On the machines measured these products also
give a row the same bits whatever the number of the other rows, which those of `linear` do not.

With `quantization="rq8"` the weights are 8-bit integers, one scale for each output, and each row of activations is divided by
its own largest absolute value before it is rounded to 8 bits. The usual dynamic quantisation takes one scale for the whole
batch, so that a row's result moves when another row changes; this one does not.

A model is never changed: its layers compute this way only within `engines.replacements`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from maxent_ts.engines.kernels import Kernels
from maxent_ts.errors import SettingError

__all__ = ["QUANTIZATIONS", "Forward", "can_pack", "check_quantization", "pack", "pack_rq8", "weight_and_bias"]

QUANTIZATIONS = ("rq8",)
USUAL_ROWS = 16
"""Rows for which the layout is chosen. Layouts chosen for 4 to 300 rows were equally quick with 4 to 300."""
INT8_KERNELS = "fbgemm"
LEVELS = 127
ZERO_POINT = 128
TILE, GROUP = 32, 4
"""Outputs and inputs that lie side by side in the layout of `kernels.cpp`."""

Forward = Callable[[torch.Tensor], torch.Tensor]


def can_pack(module: Any) -> bool:
    """Tell whether a module is a linear layer whose weights this module can lay out."""
    if type(module) not in (torch.nn.Linear, Conv1D) or "forward" in vars(module):
        return False
    weight = module.weight
    is_plain = type(weight) is torch.nn.Parameter and type(weight.data) is torch.Tensor
    return is_plain and weight.device.type == "cpu" and weight.numel() > 0 and _has_kernels(weight.dtype)


def _has_kernels(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


def weight_and_bias(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a layer's weight as [outputs, inputs], and the bias."""
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    return (weight.t().contiguous() if isinstance(layer, Conv1D) else weight.contiguous()), bias


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Forward:
    """Lay out a weight [outputs, inputs] and a bias [outputs], and return the product with them."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_ROWS)
    product = torch.ops.mkldnn._linear_pointwise.default

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        return product(inputs, packed, bias, "none", [], "")

    return forward


def check_quantization(model: Any, quantization: str) -> None:
    """Raise a SettingError if a quantisation is unknown, or this machine or model cannot do it."""
    if quantization not in QUANTIZATIONS:
        raise SettingError(
            f"quantization must be {' or '.join(QUANTIZATIONS)}, but is {quantization!r}. For 8 and 4 bits by torchao or "
            "bitsandbytes give model_kwargs={'quantization_config': …}, which goes to transformers untouched."
        )
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise SettingError(
            f"quantization='{quantization}' is for models in float32 on a CPU, but this one is in "
            f"{str(model.dtype).removeprefix('torch.')} on {model.device.type}. Choose device='cpu' and dtype='float32', or leave "
            "quantization out."
        )
    if INT8_KERNELS not in torch.backends.quantized.supported_engines:
        raise SettingError(
            f"quantization='{quantization}' needs torch's {INT8_KERNELS} kernels, which this build of torch does not have for this "
            "processor. Leave quantization out."
        )


def pack_rq8(weight: torch.Tensor, bias: torch.Tensor | None, compiled: Kernels | None) -> Forward:
    """Round a weight [outputs, inputs] to 8 bits, and return the product of rows, rounded one by one, with it."""
    scales = (weight.abs().amax(dim=1).double() / LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
    if compiled is not None and compiled.has_int8_products:
        return _compiled_rq8(weight, scales, bias, compiled)
    return _torch_rq8(weight, scales, bias)


def _compiled_rq8(weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, compiled: Kernels) -> Forward:
    num_outputs, num_inputs = weight.shape
    integers = (weight / scales[:, None]).round_().clamp_(-LEVELS, LEVELS).to(torch.int16) + ZERO_POINT
    more_outputs, more_inputs = -num_outputs % TILE, -num_inputs % GROUP
    filled = torch.nn.functional.pad(integers, (0, more_inputs, 0, more_outputs), value=ZERO_POINT).to(torch.uint8)
    tiles = filled.view(-1, TILE, filled.shape[1] // GROUP, GROUP).transpose(1, 2).contiguous()
    factors = torch.nn.functional.pad(scales.float(), (0, more_outputs))
    shift = None if bias is None else torch.nn.functional.pad(bias, (0, more_outputs))

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        return compiled.int8_linear(inputs.contiguous(), tiles, factors, shift, num_outputs)

    return forward


def _torch_rq8(weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> Forward:
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that these functions will move
        torch.backends.quantized.engine = INT8_KERNELS
        try:
            zeros = torch.zeros(len(scales), dtype=torch.long)
            packed = torch.ops.quantized.linear_prepack(
                torch.quantize_per_channel(weight, scales, zeros, axis=0, dtype=torch.qint8), None
            )
        finally:
            torch.backends.quantized.engine = engine
    product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        # A row of zeros stays one; a row with NaN comes out as NaN.
        largest = inputs.abs().amax(dim=-1, keepdim=True)
        outputs = product(inputs / largest.clamp(min=torch.finfo(torch.float32).tiny), 1 / LEVELS, ZERO_POINT, packed)
        outputs *= largest
        return outputs if bias is None else outputs.add_(bias)

    return forward
