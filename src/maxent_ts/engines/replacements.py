"""What the parts of a model compute with while an engine decodes on a CPU.

The model's own `forward` runs, whatever its architecture. Within `Replacements.applied`, and only there, some of its modules
compute the same function another way: linear layers from packed weights (`engines.linears`), projections that read the same
tensor in one product, and, where the compiled kernels are there, norms, gated units and rotary embeddings in one pass each.
Which modules these are is told by their parts; that a replacement computes the same as the module is then tried out.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from maxent_ts.engines.attention import ROW_MULTIPLE
from maxent_ts.engines.kernels import Kernels, kernels
from maxent_ts.engines.linears import Forward, can_pack, check_quantization, pack, pack_rq8, weight_and_bias
from maxent_ts.engines.memory import GIB, free_bytes
from maxent_ts.errors import SettingError

__all__ = ["Replacements"]

TOLERANCE = 1e-5
"""Largest difference between a replacement and its module, relative to the largest value."""
SMALLEST_BATCH = 2
"""A product with packed weights may take another kernel for a single row."""
ROTARY = "apply_rotary_pos_emb"


class Replacements:
    """The replaced parts of a model.

    Args:
        model: A causal language model.
        quantization: "rq8", or None for products in the model's own number type.
        beside: What runs with the model and is no part of it, such as cross-attention before its layers.

    Raises:
        SettingError: if the quantisation is unknown, or this machine or model cannot do it.
    """

    def __init__(self, model: torch.nn.Module, quantization: str | None = None, beside: torch.nn.Module | None = None) -> None:
        if quantization is not None:
            check_quantization(model, quantization)
        self.quantization = quantization
        self.kernels = kernels() if _is_float32_on_cpu(model) else None
        modules = [*model.modules(), *(() if beside is None else beside.modules())]
        self._pack = _packer(modules, quantization, self.kernels)
        self._entries: list[tuple[dict[str, Any], str, Any]] = []
        self._done: set[torch.nn.Module] = set()
        with torch.inference_mode():
            for module in modules:
                self._replace(module)
        self._replaced = [replacement for *_, replacement in self._entries]
        self._originals = [namespace.get(name) for namespace, name, _ in self._entries]

    @property
    def row_multiple(self) -> int:
        """Of what number a batch's rows must be a multiple for each to have the same bits whatever the others."""
        return SMALLEST_BATCH if self.kernels is not None and self._pack is not None else ROW_MULTIPLE

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the replacements are in place."""
        self._put(self._replaced)
        try:
            yield
        finally:
            self._put(self._originals)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within `applied`: here, the model is as it was."""
        self._put(self._originals)
        try:
            yield
        finally:
            self._put(self._replaced)

    def _put(self, values: list[Any]) -> None:
        for (namespace, name, _), value in zip(self._entries, values, strict=True):
            if value is None:
                namespace.pop(name, None)
            else:
                namespace[name] = value

    def _replace(self, module: Any) -> None:
        if "forward" in vars(module):
            return  # accelerate's hooks, or another's replacement
        projections = [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
        if self._pack is not None and all(can_pack(one) for one in projections) and _read_alike(projections):
            self._replace_projections(projections)
        elif self._pack is not None and self.kernels is not None and _is_gated_unit(module):
            self._replace_gated_unit(module, self.kernels)
        elif self._pack is not None and module not in self._done and can_pack(module):
            self._set(module, self._pack(*weight_and_bias(module)))
        elif self.kernels is not None and _is_rms_norm(module):
            self._replace_norm(module, self.kernels)
        if self.kernels is not None and projections[0] is not None:
            self._replace_rotary(module, self.kernels)

    def _set(self, module: torch.nn.Module, forward: Forward) -> None:
        self._entries.append((vars(module), "forward", forward))
        self._done.add(module)

    def _replace_projections(self, layers: list[Any]) -> None:
        """One product for queries, keys and values."""
        assert self._pack is not None
        joined = _JoinedLayers(layers, self._pack)
        for index, layer in enumerate(layers):
            self._set(layer, joined.forward(index))

    def _replace_gated_unit(self, module: Any, compiled: Kernels) -> None:
        assert self._pack is not None
        size = module.gate_proj.in_features
        trial = torch.linspace(-3, 3, 4 * size).view(4, size)
        both = torch.cat([module.gate_proj(trial), module.up_proj(trial)], dim=-1)
        if not _agree(module.down_proj(compiled.silu_product(both)), module(trial)):
            return
        together, down = self._pack(*_joined([module.gate_proj, module.up_proj])), self._pack(*weight_and_bias(module.down_proj))
        self._set(module, lambda inputs: down(compiled.silu_product(together(inputs))))
        self._done.update((module.gate_proj, module.up_proj, module.down_proj))

    def _replace_norm(self, module: Any, compiled: Kernels) -> None:
        weight, epsilon = module.weight.detach().contiguous(), float(module.variance_epsilon)
        trial = torch.linspace(-3, 5, 2 * len(weight)).view(2, len(weight))
        if _agree(compiled.rms_norm(trial, weight, epsilon), module(trial)):
            self._set(module, lambda inputs: compiled.rms_norm(inputs.contiguous(), weight, epsilon))

    def _replace_rotary(self, module: Any, compiled: Kernels) -> None:
        """The function of that name in the module's own file, for one position of each row."""
        namespace = vars(sys.modules[type(module).__module__])
        own = namespace.get(ROTARY)
        if own is None or any(entry[0] is namespace for entry in self._entries):
            return
        replacement = _rotary(own, compiled)
        query, key = torch.linspace(-2, 2, 3 * 4 * 32).view(3, 4, 1, 32), torch.linspace(-1, 3, 3 * 2 * 32).view(3, 2, 1, 32)
        angles = torch.linspace(0, 5, 3 * 32).view(3, 1, 32)
        try:
            ours, theirs = (function(query, key, angles.cos(), angles.sin()) for function in (replacement, own))
        except (TypeError, RuntimeError, IndexError, ValueError):
            return  # another function of the same name
        if all(_agree(one, other) for one, other in zip(ours, theirs, strict=True)):
            self._entries.append((namespace, ROTARY, replacement))


class _JoinedLayers:
    """Linear layers that are given the same tensor one after the other, in one product."""

    def __init__(self, layers: list[Any], packer: Callable[..., Forward]) -> None:
        self._product = packer(*_joined(layers))
        self._sizes = [layer.out_features for layer in layers]
        self._inputs: torch.Tensor | None = None
        self._outputs: list[torch.Tensor] = []

    def forward(self, index: int) -> Forward:
        """Return what the layer of this index computes."""

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            if self._inputs is not inputs:
                self._inputs, self._outputs = inputs, list(self._product(inputs).split(self._sizes, dim=-1))
            output = self._outputs[index]
            if index == len(self._sizes) - 1:
                self._inputs, self._outputs = None, []
            return output

        return forward


def _packer(modules: Sequence[Any], quantization: str | None, compiled: Kernels | None) -> Callable[..., Forward] | None:
    """What lays out weights, or None where a second copy of them has no room."""
    layers = [module for module in modules if can_pack(module)]
    num_bytes = sum(layer.weight.numel() * (layer.weight.element_size() if quantization is None else 1) for layer in layers)
    if num_bytes <= free_bytes():
        return pack if quantization is None else lambda weight, bias: pack_rq8(weight, bias, compiled)
    if quantization is not None:
        raise SettingError(
            f"quantization='{quantization}' keeps a copy of the weights of {num_bytes / GIB:.2f} GiB besides the model's own, "
            "and this machine has less memory free. Leave quantization out."
        )
    warnings.warn(
        f"There is no room for a second copy of the weights ({num_bytes / GIB:.2f} GiB), so decoding runs with torch's ordinary "
        "products, which take longer on a CPU.",
        RuntimeWarning,
        stacklevel=4,
    )
    return None


def _joined(layers: list[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of one layer that computes what these do, side by side."""
    weights, biases = zip(*(weight_and_bias(layer) for layer in layers), strict=True)
    if all(bias is None for bias in biases):
        return torch.cat(weights), None
    zeros = (weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True))
    return torch.cat(weights), torch.cat(list(zeros))


def _read_alike(layers: list[Any]) -> bool:
    return all(type(layer) is torch.nn.Linear for layer in layers) and len({layer.in_features for layer in layers}) == 1


def _is_gated_unit(module: Any) -> bool:
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return (
        all(type(layer) is torch.nn.Linear and can_pack(layer) for layer in layers)
        and len(list(module.children())) == len(layers) + 1
        and hasattr(module, "act_fn")
        and module.gate_proj.out_features == module.up_proj.out_features
        and module.gate_proj.out_features % 16 == 0
    )


def _is_rms_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and hasattr(module, "variance_epsilon")
        and isinstance(weight, torch.Tensor)
        and weight.ndim == 1
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
    )


def _rotary(own: Callable[..., Any], compiled: Kernels) -> Callable[..., Any]:
    def rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        fits = q.ndim == k.ndim == 4 and q.shape[2] == 1 and cos.shape == (len(q), 1, q.shape[3]) and q.dtype == torch.float32
        if args or kwargs or not fits or q.stride(1) != q.shape[3] or k.stride(1) != k.shape[3]:
            return own(q, k, cos, sin, *args, **kwargs)
        cos, sin = cos[:, 0].contiguous(), sin[:, 0].contiguous()
        return tuple(compiled.rotate(x[:, :, 0], cos, sin)[:, :, None] for x in (q, k))

    return rotary


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


def _is_float32_on_cpu(model: Any) -> bool:
    return model.device.type == "cpu" and model.dtype == torch.float32
