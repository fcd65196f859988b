"""(g) llama.cpp, where the packages xllamacpp and gguf are installed: the same random weights, at Q8_0 and Q4_0.

Its server runs within this process, so that its threads' CPU time is counted; one request asks for all rollouts of a prompt,
which it prefills once and then decodes in one batch.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.decoding.shapes import prompt

__all__ = ["variants"]

TYPES = ("Q8_0", "Q4_0")


def variants(model: Any, shape: str, rows: int, length: int, num_new: int) -> dict[str, Callable[[int], float]]:
    """CPU seconds for a round's work by each type; none where llama.cpp is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gguf")):
        return {}
    return {f"g {kind}: llama.cpp": _runner(_file(model, shape, kind), rows, length, num_new) for kind in TYPES}


def _runner(path: Path, rows: int, length: int, num_new: int) -> Callable[[int], float]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.n_ctx = str(path), rows, (length + num_new + 32) * rows
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.kv_unified, params.fit_params, params.warmup, params.verbosity, params.port = True, False, False, 0, 0
    server = xllamacpp.Server(params)

    def work(round_: int) -> float:
        request = {
            "prompt": prompt(round_, length).tolist(),
            "n": rows,
            "max_tokens": num_new,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "ignore_eos": True,
            "samplers": ["temperature"],
        }
        answers: list[Any] = []
        start = time.process_time()
        server.handle_completions(json.dumps(request), answers.append)
        seconds = time.process_time() - start
        found = answers[-1] if isinstance(answers[-1], dict) else json.loads(answers[-1])
        if [choice["finish_reason"] for choice in found.get("choices", ())] != ["length"] * rows:
            raise RuntimeError(f"llama.cpp answered with {str(found)[:500]}")
        return seconds

    return work


def _file(model: Any, shape: str, kind: str) -> Path:
    """The model as a GGUF file, with a vocabulary of made-up words."""
    from benchmarks.decoding.gguf_file import Vocabulary, write_gguf

    path = Path(tempfile.gettempdir()) / f"maxent-ts-{shape}-{kind}.gguf"
    if path.exists():
        return path
    vocabulary = Vocabulary([f"w{index}" for index in range(model.config.vocab_size)])
    return write_gguf(path.with_suffix(".part"), model, vocabulary, kind=kind).rename(path)
