"""`maxent-ts serve --embedder`: a server in front of one that takes input embeddings, which is a stand-in of our own."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
import uvicorn

from maxent_ts.types import Policy, SeriesSegment, TimeSeriesPrompt
from tests.server.conftest import asked, completed
from tests.servers.embeddings import embeddings_server
from tests.unit.conftest import run  # noqa: F401 - a fixture
from tests.unit.hf_helpers import EOS, VOCABULARY, plain_rows
from tests.unit.test_engines_openai_embeddings import soft_prompt_model

PROMPT = TimeSeriesPrompt("ab", (SeriesSegment("cd", tuple(math.sin(i) for i in range(9))),), "fg")
SAME = 1e-4
"""nats: between float32 forwards with and without a cache."""


@pytest.fixture(scope="module")
def model():
    return soft_prompt_model()


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("soft prompt") / "model"
    model.save(path)
    return path


@pytest.fixture
def serve(run, monkeypatch):  # noqa: F811
    """Run the command to where it would listen; returns its exit code, its standard error and the application."""
    apps = []

    def listen(server: uvicorn.Server, sockets) -> None:
        apps.append(server.config.app)

    monkeypatch.setattr(uvicorn.Server, "run", listen)
    # In this process it would close handlers that pytest and others still write to.
    monkeypatch.setattr(uvicorn.Config, "configure_logging", lambda _: None)

    def start(*arguments):
        code, _, err = run("serve", "--port", 0, "--engine", "openai", *arguments)
        return code, " ".join(err.split()), apps.pop() if apps else None

    return start


def test_series_go_through_two_servers_and_keep_their_log_p(serve, model, directory):
    """Catches an option that is lost on its way, and rows of another prompt."""
    with embeddings_server(model.language_model) as (url, _):
        code, err, app = serve("--base-url", url, "--embedder", directory, "--reward", "logprob")
        assert code == 0, err
        assert "Serving 'table'" in err  # the name on the server behind, where none is given
        body = {"prompt": asdict(PROMPT), "max_tokens": 6, "num_rollouts": 6, "seed": 3, "n": 3, "method": "maxent"}
        (reply,) = completed(app, {**body, "reward": "logprob"})
    with torch.inference_mode():
        rows = model.embed(PROMPT).clone()
    assert reply["usage"]["prompt_tokens"] == len(rows)
    assert len(reply["choices"]) == 3
    for choice in reply["choices"]:
        tokens = [VOCABULARY.index(one) for one in choice["text"]]
        tokens += [EOS] * (choice["maxent"]["finish_reason"] == "eos")
        law = plain_rows(model.language_model, rows, tokens, Policy(6))
        expected = sum(law[i, token] for i, token in enumerate(tokens))
        assert choice["maxent"]["logprob"] == pytest.approx(expected, abs=SAME * len(tokens))


def test_what_cannot_be_served_is_said(serve, model, directory):
    """Catches a server that starts and then fails every request, and one that answers to a prompt without its series."""
    with embeddings_server(model.language_model, knows="refuses") as (url, _):
        code, err, app = serve("--base-url", url, "--embedder", directory)
        assert (code, app) == (2, None)
        assert "Start vLLM with --enable-prompt-embeds" in err
        code, _, app = serve("--base-url", url)
        assert code == 0
        (reply,) = asked(app, {"prompt": asdict(PROMPT), "max_tokens": 3})
        assert reply.status_code == 400
        assert "--embedder" in reply.json()["error"]["message"]
