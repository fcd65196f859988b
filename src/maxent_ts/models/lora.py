"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) merged into the weights they adapt: W + scale · B A."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maxent_ts.errors import ModelError
from maxent_ts.models.files import check_tensors

__all__ = ["adapted_layers", "merge_lora"]

NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.(?P<adapter>[^.]+)\.weight")

NOT_KNOWN = {
    "use_dora": "DoRA",
    "fan_in_fan_out": "transposed weights",
    "lora_bias": "a bias in the adapter",
    "modules_to_save": "whole modules beside the adapters",
    "rank_pattern": "a rank of its own for some layers",
    "alpha_pattern": "an alpha of its own for some layers",
    "layers_to_transform": "some layers only",
    "layer_replication": "replicated layers",
    "target_parameters": "adapters of bare parameters",
    "trainable_token_indices": "adapted embeddings of some tokens",
}
"""Settings of peft's that would make the merged weights wrong if they were passed over."""


def merge_lora(model: nn.Module, state: Any, configs: Any, path: Path) -> None:
    """Add adapters to the weights of a language model, in place.

    Args:
        model: The language model, in fp32.
        state: Tensors by peft's names: `base_model.model.<module>.lora_A.<adapter>.weight`, and the same with `lora_B`.
        configs: peft's configuration by adapter.
        path: The checkpoint, for messages.

    Raises:
        ModelError: if a tensor is missing, unexpected, unpaired, misshaped or not finite, or if the configuration is missing
            or asks for what is not known here.
    """
    adapter, config = _only_config(configs, path)
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path}: lora_state should hold the adapters' tensors by name, but is {_described(state)}.")
    rank, scale = _scale(config, path)
    halves: dict[str, set[str]] = {}
    for name in state:
        match = NAME.fullmatch(str(name))
        if match is None or match["adapter"] != adapter:
            raise ModelError(
                f"{path} holds the unexpected tensor lora_state/{name}; names should be "
                f"base_model.model.<module>.lora_A.{adapter}.weight and the same with lora_B."
            )
        halves.setdefault(match["module"], set()).add(match["half"])
    for module, found in halves.items():
        if len(found) == 1:
            has, lacks = ("A", "B") if "A" in found else ("B", "A")
            raise ModelError(
                f"{path}: the adapter of {module} has a lora_{has} but no lora_{lacks}, and a half alone says nothing. The "
                "checkpoint was cut while it was saved; get it again."
            )
    targets = adapted_layers(model, config, path)
    shapes: dict[str, torch.Size] = {}
    for module, layer in targets.items():
        num_out, num_in = layer.weight.shape
        for half, shape in (("A", (rank, num_in)), ("B", (num_out, rank))):
            shapes[f"base_model.model.{module}.lora_{half}.{adapter}.weight"] = torch.Size(shape)
    check_tensors(path, state, shapes, "the LoRA configuration with this base model", "lora_state/")
    with torch.no_grad():
        for module, layer in targets.items():
            first, second = (state[f"base_model.model.{module}.lora_{half}.{adapter}.weight"].float() for half in "AB")
            layer.weight.add_(second @ first, alpha=scale)


def _only_config(configs: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """The one adapter's name and settings."""
    if not isinstance(configs, Mapping) or len(configs) != 1:
        raise ModelError(
            f"{path}: lora_config should hold the configuration of one adapter by its name, but is {_described(configs)}. Without "
            "it the scale of the adapters is not known. Get the checkpoint again."
        )
    ((adapter, config),) = configs.items()
    settings = dict(config) if isinstance(config, Mapping) else dict(vars(config)) if hasattr(config, "__dict__") else {}
    return str(adapter), settings


def _scale(config: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Rank and scale of an adapter."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise ModelError(f"{path}: lora_config should hold numbers r and lora_alpha, but they are {rank!r} and {alpha!r}.")
    for name, what in NOT_KNOWN.items():
        if config.get(name):
            raise ModelError(f"{path}: its LoRA configuration has {name} = {config[name]!r}, that is {what}, not known here.")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{path}: its LoRA configuration has bias = {config['bias']!r}; only 'none' is known here.")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def adapted_layers(model: nn.Module, config: Mapping[str, Any], path: Path) -> dict[str, nn.Linear]:
    """Return the layers that a configuration adapts by name: all linear ones whose name ends in one of its targets.

    Raises:
        ModelError: if it lists no targets, or one that no layer is called.
    """
    names = config.get("target_modules")
    if isinstance(names, str) or not names:
        raise ModelError(f"{path}: lora_config should list its target_modules, but has {names!r}.")
    wanted = set(names)
    found = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and any(name == one or name.endswith(f".{one}") for one in wanted)
    }
    absent = sorted(one for one in wanted if not any(name == one or name.endswith(f".{one}") for name in found))
    if absent:
        raise ModelError(
            f"{path} adapts layers called {absent[0]}, of which this base model has none. Name the base model that the checkpoint "
            "was trained on with --base-model."
        )
    return found


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary with {len(value)} entries"
    return "missing" if value is None else type(value).__name__
