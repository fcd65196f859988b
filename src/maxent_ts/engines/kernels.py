"""The compiled parts of a decoding step on a CPU: `kernels.cpp`, built on this machine the first time it is needed.

Building takes seconds and needs a C++ compiler; the result is kept in the user's cache folder, under a name made from the source,
the compiler and the processor. Without a compiler everything runs as well, in torch's own operations, only slower:
`maxent-ts doctor` tells. `MAXENT_TS_KERNELS=0` in the environment leaves the kernels out.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.resources
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from maxent_ts.errors import MaxentError

__all__ = ["PROMPT_MULTIPLE", "Kernels", "kernels", "kernels_status"]

SWITCH = "MAXENT_TS_KERNELS"
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-Wno-psabi")
BUILD_SECONDS = 300
PROMPT_MULTIPLE = 32
"""A prompt's keys are read by so many."""

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES = {
    "attend": [_POINTER] * 2 + [_INTEGER] + [_POINTER] * 2 + [_INTEGER] * 3 + [_POINTER] * 2 + [_INTEGER] + [_POINTER] * 2
    + [_INTEGER] * 4 + [_FLOAT, ctypes.c_int],
    "write": [_POINTER, _INTEGER] * 2 + [_POINTER] * 3 + [_INTEGER] * 4,
    "rotate": [_POINTER, _INTEGER] + [_POINTER] * 3 + [_INTEGER] * 3,
    "rms_norm": [_POINTER] * 3 + [_INTEGER] * 2 + [_FLOAT],
    "silu_product": [_POINTER] * 2 + [_INTEGER] * 2,
    "int8_linear": [_POINTER] * 5 + [_INTEGER] * 3 + [ctypes.c_int],
}  # fmt: skip


class _CannotBuildError(MaxentError):
    """Why there are no kernels here."""


@dataclass(frozen=True)
class Kernels:
    """The functions of `kernels.cpp`, for float32 tensors whose last dimension is contiguous. Shapes are as told there."""

    library: ctypes.CDLL

    def attend(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        prompt: tuple[torch.Tensor, torch.Tensor, int],
        own: tuple[torch.Tensor, torch.Tensor],
        lengths: torch.Tensor,
        rows: torch.Tensor,
        num_rows: int,
        scaling: float,
    ) -> None:
        """Attend over a prompt and each row's own keys.

        Args:
            query: [rows, heads, size].
            output: [rows, heads, size], contiguous; the given rows are written.
            prompt: Keys [key heads, keys, size] whose storage is [key heads, size, keys], with the number of keys a multiple of
                32; values [key heads, keys, size]; and how many of them are real.
            own: Keys and values in slots, [slots, key heads, keys, size], the first positions of contiguous slots.
            lengths: Own keys of each row, int64 [rows].
            rows: Those that continue the prompt, int64.
            num_rows: How many of `rows` to take.
            scaling: Of the products.
        """
        keys, values, num_tokens = prompt
        own_keys, own_values = own
        _, num_heads, size = query.shape
        if keys.stride(1) != 1 or keys.shape[1] % PROMPT_MULTIPLE or not values.is_contiguous():
            raise ValueError(f"A prompt's keys are stored transposed and filled up, but have strides {keys.stride()}.")
        self.library.attend(
            query.data_ptr(), output.data_ptr(), query.stride(0), keys.data_ptr(), values.data_ptr(), num_tokens, keys.shape[1],
            keys.stride(2), own_keys.data_ptr(), own_values.data_ptr(), own_keys.stride(1) // size, lengths.data_ptr(),
            rows.data_ptr(), num_rows, num_heads, keys.shape[0], size, scaling, torch.get_num_threads(),
        )  # fmt: skip

    def write(
        self, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Write key and value [rows, key heads, size] into the slots' buffers at each row's position, int64 [rows]."""
        _, num_heads, num_positions, size = keys.shape
        self.library.write(
            key.data_ptr(), key.stride(0), value.data_ptr(), value.stride(0), keys.data_ptr(), values.data_ptr(),
            positions.data_ptr(), len(positions), num_heads, num_positions, size,
        )  # fmt: skip

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding of [rows, heads, size], with cos and sin [rows, size] contiguous."""
        output = x.new_empty(x.shape)
        self.library.rotate(
            x.data_ptr(), x.stride(0), output.data_ptr(), cos.data_ptr(), sin.data_ptr(), x.shape[0], x.shape[1], x.shape[2]
        )
        return output

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Return x / sqrt(mean(x²) + ε) · weight, over the last dimension of a contiguous tensor."""
        output = torch.empty_like(x)
        size = x.shape[-1]
        self.library.rms_norm(x.data_ptr(), weight.data_ptr(), output.data_ptr(), x.numel() // size, size, epsilon)
        return output

    def silu_product(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) · up of a contiguous [..., gate and up], each a multiple of 16 wide."""
        size = gate_up.shape[-1] // 2
        output = gate_up.new_empty((*gate_up.shape[:-1], size))
        self.library.silu_product(gate_up.data_ptr(), output.data_ptr(), output.numel() // size, size)
        return output

    @property
    def has_int8_products(self) -> bool:
        """Whether this processor multiplies 8-bit integers in groups of four, which `int8_linear` needs."""
        return bool(self.library.has_int8_products())

    def int8_linear(
        self, x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, num_outputs: int
    ) -> torch.Tensor:
        """Return x @ weightᵀ + bias, with each row of a contiguous x [..., inputs] rounded to 8 bits by its own largest value.

        Args:
            x: [..., inputs], contiguous.
            weight: uint8, in the layout told in `kernels.cpp`.
            scales: Of the outputs, filled up to a multiple of 32.
            bias: The same, or None.
            num_outputs: Without what fills up.
        """
        output = x.new_empty((*x.shape[:-1], num_outputs))
        num_inputs = x.shape[-1]
        self.library.int8_linear(
            x.data_ptr(), output.data_ptr(), weight.data_ptr(), scales.data_ptr(), None if bias is None else bias.data_ptr(),
            x.numel() // num_inputs, num_inputs, num_outputs, torch.get_num_threads(),
        )  # fmt: skip
        return output


def kernels() -> Kernels | None:
    """Return the kernels, built now if need be; None if this machine cannot build them or the environment says not to."""
    loaded = None if os.environ.get(SWITCH) == "0" else _load()
    return loaded if isinstance(loaded, Kernels) else None


def kernels_status() -> str:
    """Say in one line whether the kernels are there, and if not, why."""
    if os.environ.get(SWITCH) == "0":
        return f"left out ({SWITCH}=0)"
    loaded = _load()
    return "compiled for this processor" if isinstance(loaded, Kernels) else loaded


@cache
def _load() -> Kernels | str:
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, subprocess.SubprocessError, _CannotBuildError) as error:
        return f"not built: {' '.join(str(error).split())[:300]}"
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            continue  # what this processor cannot do is not compiled
        function.argtypes, function.restype = arguments, None
    return Kernels(library)


def _build() -> Path:
    compiler = next(
        (found for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (found := shutil.which(name))), ""
    )
    if not compiler:
        raise _CannotBuildError("no C++ compiler (c++, g++ or clang++) was found; with one, decoding on a CPU is faster")
    source = importlib.resources.files("maxent_ts.engines") / "kernels.cpp"
    flags = (*FLAGS, "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=BUILD_SECONDS).stdout
    digest = hashlib.sha256("\n".join((source.read_text(), compiler, version, *flags, _processor())).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maxent-ts"
    target = folder / f"kernels-{digest[:16]}.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work, importlib.resources.as_file(source) as path:
        built = Path(work) / target.name
        result = subprocess.run(
            [compiler, *flags, str(path), "-o", str(built)], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if result.returncode:
            raise _CannotBuildError(f"{compiler} failed: {result.stderr}")
        built.replace(target)  # at once, so that another process never loads half a file
    return target


def _processor() -> str:
    """What code made for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
