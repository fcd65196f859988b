"""Starts the servers of other projects on loopback, each in a process of its own, and stops them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

SECONDS_TO_START = 90

LLAMA_SERVER = """
import sys, threading, xllamacpp
model, port, num_slots, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames, params.n_parallel = model, port, ["127.0.0.1"], num_slots
params.n_ctx, params.n_threads_http, params.cpuparams.n_threads, params.cpuparams_batch.n_threads = length * num_slots, 32, 1, 1
params.warmup, params.kv_unified, params.fit_params = False, False, False
params.verbosity, params.slot_prompt_similarity = 1, float(sys.argv[5])
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
"""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def llama_server(model: Path, *, num_slots: int = 4, length: int = 128, similarity: float = 0.1) -> Iterator[str]:
    """llama.cpp's own server over a GGUF file; yields its base URL. `similarity` is its `--slot-prompt-similarity`."""
    port = free_port()
    command = [sys.executable, "-c", LLAMA_SERVER, str(model), str(port), str(num_slots), str(length), str(similarity)]
    with _running(command, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    """`transformers serve` over a directory; yields its base URL."""
    port = free_port()
    program = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with _running(command, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def _running(command: Sequence[str], root: str) -> Iterator[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as log:  # a pipe that nobody reads would stop the server
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, root, log)
            yield root + "/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen, root: str, log: IO[bytes]) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"The server ended: {log.read().decode(errors='replace')[-3000:]}")
        try:
            if httpx.get(root + "/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("The server did not start in time.")
