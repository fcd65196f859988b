"""`maxent-ts serve` under load: latencies, lost requests, memory; then beyond its bound.

    python benchmarks/serve.py [--clients 200] [--seconds 60] [--max-queue 256] [--model DIR] [--json]

Starts the server as a process over a random tiny Llama (or `--model`). Locust, in a process of its own, sends requests of several
kinds: every client asks again as soon as it has its answer. A request is lost if the clients and the server do not count it alike,
or if the server has not done with it at the end. Memory is the server's resident set, as its own /metrics tells it. In the second
phase the server may have few searches outstanding; whatever it has no room for must be answered 429.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SECONDS_TO_START = 120

LOAD = """
import json, random
from locust import constant, events, task
from locust.contrib.fasthttp import FastHttpUser

PROMPTS = ["abc", "the model", "hello there", "a.b.c", "xyz" * 5]
KINDS = [
    ("sample", {}),
    ("best_of_n", {"method": "best_of_n", "reward": "format", "num_rollouts": 8}),
    ("maxent", {"reward": "logprob", "tilt": 0.5, "num_rollouts": 8}),
    ("stream", {"reward": "logprob", "num_rollouts": 8, "stream": True}),
]


class Client(FastHttpUser):
    wait_time = constant(0)
    network_timeout = connection_timeout = 120.0

    @task
    def complete(self):
        name, extra = random.choice(KINDS)
        body = {"prompt": random.choice(PROMPTS), "max_tokens": 16, **extra}
        with self.client.post("/v1/completions", json=body, name=name, catch_response=True) as reply:
            if reply.status_code == 429:
                counts["429"] += 1
                reply.success()
                return
            counts[str(reply.status_code)] = counts.get(str(reply.status_code), 0) + 1
            whole = reply.status_code == 200 and ("[DONE]" in reply.text if extra.get("stream") else "choices" in reply.json())
            if whole:
                reply.success()
            else:
                reply.failure(f"{reply.status_code}: {reply.text[:200]}")


counts = {"429": 0}


@events.quitting.add_listener
def told(environment, **_):
    total = environment.stats.total
    found = {
        "requests": total.num_requests,
        "failures": total.num_failures,
        "errors": [f"{one.error} x{one.occurrences}" for one in environment.stats.errors.values()],
        "statuses": counts,
        "p50": total.get_response_time_percentile(0.5),
        "p95": total.get_response_time_percentile(0.95),
        "p99": total.get_response_time_percentile(0.99),
        "max": total.max_response_time,
        "kinds": {one.name: [one.num_requests, one.get_response_time_percentile(0.5), one.get_response_time_percentile(0.99)]
                  for one in environment.stats.entries.values()},
    }
    print("FOUND " + json.dumps(found), flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max-queue", type=int, default=256)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = given.model or tiny(Path(directory) / "tiny")
        print(f"{given.clients} clients for {given.seconds:g} s, each asking again at once; at most 32 searches under way")
        with server(model, max_queue=given.max_queue) as url:
            within = loaded(url, given.clients, given.seconds, directory)
        report(within)
        print(
            f"\nbeyond the bound: {given.clients} clients for {given.seconds / 4:g} s, at most 32 searches under way and 8 waiting"
        )
        with server(model, max_queue=8) as url:
            beyond = loaded(url, given.clients, given.seconds / 4, directory)
        report(beyond)
    gates = gates_of(within, beyond)
    for name, gate in gates.items():
        print(f"{name}: {gate['value']}")
    if given.json:
        print(json.dumps({"gates": gates}))


def tiny(path: Path) -> Path:
    """Write the model of the tests."""
    from tests.unit.hf_helpers import save_model

    return save_model(path)


@contextmanager
def server(model: Path, *, max_queue: int) -> Iterator[str]:
    """`maxent-ts serve` in a process of its own; yields its URL."""
    from tests.servers.processes import free_port

    port = free_port()
    program = "from maxent_ts.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(model), "--port", str(port), "--max-queue", str(max_queue), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + SECONDS_TO_START
        while not answers(url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("The server did not start.")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(url: str) -> bool:
    """Whether the server is there."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def loaded(url: str, clients: int, seconds: float, directory: str) -> dict[str, Any]:
    """Let locust work, look at the server's memory at the start, in the middle and at the end; returns what was found."""
    script = Path(directory) / "load.py"
    script.write_text(LOAD)
    command = [sys.executable, "-m", "locust", "-f", str(script), "--headless", "--host", url, "--users", str(clients)]
    command += ["--spawn-rate", str(clients), "--run-time", f"{max(1, round(seconds))}s", "--stop-timeout", "120", "--only-summary"]
    measured(url, "process_resident_memory_bytes")
    memory = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    begun = time.monotonic()
    for share in (0.1, 0.5, 0.9):
        time.sleep(max(0.0, begun + share * seconds - time.monotonic()))
        memory.append(measured(url, "process_resident_memory_bytes") / 2**20)
    output, _ = process.communicate(timeout=seconds + 300)
    found = json.loads(re.search(r"^FOUND (.*)$", output, re.MULTILINE)[1])  # type: ignore[index]
    tokens = measured(url, "maxent_generated_tokens_total")
    left = measured(url, "maxent_searches_live") + measured(url, "maxent_searches_waiting")
    left += measured(url, "maxent_requests_in_flight") - 1  # which is that of asking
    answered = sum(measured_all(url, 'maxent_requests_total{method="[^"]*",path="/v1/completions"'))
    return {**found, "memory": memory, "seconds": time.monotonic() - begun, "tokens": tokens, "left": left, "answered": answered}


def measured(url: str, name: str) -> float:
    """One of the server's own figures."""
    return measured_all(url, name)[0]


def measured_all(url: str, pattern: str) -> Sequence[float]:
    """The server's own figures whose names begin with a pattern."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=120) as reply:
        text = reply.read().decode()
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line)]


def report(found: dict[str, Any]) -> None:
    """Print one phase."""
    print(f"requests {found['requests']}, by status {found['statuses']}, failures {found['failures']}", *found["errors"])
    print(f"{found['requests'] / found['seconds']:.0f} requests / s, {found['tokens'] / found['seconds']:.0f} generated tokens / s")
    print(f"seconds: p50 {found['p50'] / 1e3:.2f}, p95 {found['p95'] / 1e3:.2f}, p99 {found['p99'] / 1e3:.2f}")
    print("memory of the server, MiB: " + ", ".join(f"{one:.0f}" for one in found["memory"]))


def gates_of(within: dict[str, Any], beyond: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What must hold."""
    lost = int(abs(within["requests"] - within["answered"]) + within["left"])
    growth = within["memory"][-1] / within["memory"][1]
    others = sum(count for status, count in beyond["statuses"].items() if status not in ("200", "429"))
    values: dict[str, tuple[float, Any, bool]] = {
        "failed within the bound": (within["failures"], 0, within["failures"] == 0),
        "lost within the bound": (lost, 0, lost == 0),
        "answered 429 within the bound": (within["statuses"]["429"], 0, within["statuses"]["429"] == 0),
        "p99 within the bound, s": (round(within["p99"] / 1e3, 2), None, True),
        "memory, end / middle": (round(growth, 3), 1.1, growth <= 1.1),
        "answered 429 beyond the bound": (beyond["statuses"]["429"], None, beyond["statuses"]["429"] > 0),
        "answered neither 200 nor 429 beyond the bound": (others + beyond["failures"], 0, others + beyond["failures"] == 0),
    }
    return {name: {"value": value, "goal": goal, "ok": ok} for name, (value, goal, ok) in values.items()}


if __name__ == "__main__":
    main()
