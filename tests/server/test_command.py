"""`maxent-ts serve` as a user types it, and the page about it."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from maxent_ts.engines.hf import HFEngine
from maxent_ts.loading import embedded_model_path
from tests.server.conftest import application, serving
from tests.servers.processes import free_port
from tests.unit.conftest import run  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
ENGINE = """
import time
from maxent_ts.engines.table import TableEngine


class Slow(TableEngine):
    def step(self):
        time.sleep(0.3)
        return super().step()


def build(model, *, dtype, device):
    return Slow(TableEngine.random(num_tokens=4, seed=1)._probabilities, "abcd", eos_token_id=3)


def vowels(completions):
    return [float(text.count("a")) for text in completions]
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(ENGINE)
    return tmp_path / "own.py"


def test_the_command_serves_with_a_key_and_finishes_what_it_began(own):
    """Catches an answer that is lost when the server is told to stop, a key that is printed, and a reward of one's own that
    cannot be named."""
    port = free_port()
    program = "from maxent_ts.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "some/model", "--engine", f"{own}:build", "--port", str(port)]
    command += ["--api-key-env", "KEY_OF_CLIENTS", "--reward", f"{own}:vowels", "--reward", "logprob", "--max-new-tokens", "3"]
    environment = {**os.environ, "KEY_OF_CLIENTS": "s3cret"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers={"Authorization": "Bearer s3cret"}) as client:
            for _ in range(600):
                try:
                    if client.get("/health").json() == {"status": "ok", "model": "model"}:
                        break
                except httpx.TransportError:
                    assert process.poll() is None, process.communicate()
                time.sleep(0.1)
            assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
            assert client.get("/v1/models").json()["data"][0]["maxent"]["rewards"] == ["vowels", "logprob"]
            assert client.post("/v1/completions", json={"prompt": "ab", "reward": "claims"}).status_code == 400
            with concurrent.futures.ThreadPoolExecutor() as pool:
                asking = pool.submit(client.post, "/v1/completions", json={"prompt": "ab", "reward": "vowels"})
                while "maxent_searches_live 1.0" not in client.get("/metrics").text:
                    assert not asking.done()
                process.send_signal(signal.SIGTERM)
                reply = asking.result()
        assert reply.status_code == 200
        assert reply.json()["choices"][0]["maxent"]["reward"] == reply.json()["choices"][0]["text"].count("a")
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert out == ""
    assert f"Serving 'model': http://127.0.0.1:{port}/v1" in err
    assert "s3cret" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--reward", "own.py:vowels", "--reward", "own.py:vowels"], "named 'vowels'"),
        (["--reward", "nothing"], "no reward named"),
        (["--max-tokens-per-request", "10"], "max_new_tokens=50"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid:0"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(run, own, monkeypatch, arguments, words):  # noqa: F811
    """One paragraph and exit code 2, not a server that refuses every request."""
    monkeypatch.chdir(own.parent)
    code, out, err = run("serve", "some/model", "--engine", "own.py:build", "--port", "0", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(run):  # noqa: F811
    """Catches a minute of loading for nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = run("serve", "no/such/model", "--port", taken.getsockname()[1])
    assert code == 2
    assert "Choose another" in err


def test_a_missing_extra_names_the_line_that_installs_it(run, monkeypatch):  # noqa: F811
    """As everywhere else."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run("serve")
    assert code == 2
    assert "pip install 'maxent-ts[serve]'" in err


def test_the_examples_of_the_page_run(capsys, monkeypatch):
    """An example that has drifted from the code is worse than none."""
    page = (ROOT / "docs" / "serve.md").read_text()
    (body,) = re.findall(r"-d '(.*?)'", page)
    engine = HFEngine(embedded_model_path())
    with serving(application(engine, ["format", "claims"], model_name="embedded")) as url:
        reply = httpx.post(f"{url}/v1/completions", content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert reply.status_code == 200
        for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(example.replace("http://127.0.0.1:8000", url), "serve.md", "exec"), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"^[01]\.\d", printed, re.MULTILINE)) == 4
    assert "tokens, log Z" in printed
