"""A small server of the project's own over a table, that speaks the dialects of servers which cannot run here.

It shows what the engine makes of their answers. It is no test of those servers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

VOCABULARY = [*"abcdefgh", "<end>"]
END = len(VOCABULARY) - 1


class Table:
    """p(next token | everything before): a function of the last two tokens."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._rows = self._rng.dirichlet(np.full(len(VOCABULARY), 0.7), size=(len(VOCABULARY) + 1) ** 2)

    def row(self, tokens) -> np.ndarray:
        """float64 [vocabulary]."""
        one, two = ([-1, -1, *tokens])[-2:]
        return self._rows[(one + 1) * (len(VOCABULARY) + 1) + two + 1]


class Dialect(BaseHTTPRequestHandler):
    """vLLM's answers; `scaled` and `renormalised` make them SGLang's."""

    table: Table
    scaled: bool
    renormalised: bool
    by_id: bool
    most_top: int
    asked: list[dict]
    vocabulary: list[str] = VOCABULARY
    end: int = END
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        owner = "sglang" if self.scaled else "vllm"
        self._send(200, {"data": [{"id": "table", "owned_by": owner, "max_model_len": 64}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, **body})
        if self.path == "/tokenize":
            self._send(200, {"tokens": [self.vocabulary.index(one) for one in body["prompt"]]})
        elif self.path == "/detokenize":
            self._send(200, {"prompt": "".join(self.vocabulary[one] for one in body["tokens"])})
        elif self.path != "/v1/completions":
            self._send(404, {"error": "not found"})
        elif (body.get("logprobs") or 0) > self.most_top:
            self._send(400, {"error": f"logprobs must be at most {self.most_top}"})
        else:
            self._complete(body)

    def _prompt(self, body: dict) -> tuple[int, Callable[[list[int]], np.ndarray]]:
        """The number of prompt tokens, and p(next token) after further ones."""
        prompt = body["prompt"]
        ids = [self.vocabulary.index(one) for one in prompt] if isinstance(prompt, str) else prompt
        return len(ids), lambda tokens: self.table.row([*ids, *tokens])

    def _complete(self, body: dict) -> None:
        num_prompt_tokens, row_after = self._prompt(body)
        rng = np.random.default_rng(body.get("seed"))
        tokens, values, tops, reason = [], [], [], "length"
        for _ in range(body["max_tokens"]):
            raw = row_after(tokens)
            drawn, reported = self._laws(raw, body)
            token = int(rng.choice(len(raw), p=drawn)) if body["temperature"] else int(np.argmax(raw))
            tokens.append(token)
            with np.errstate(divide="ignore"):
                logs = np.maximum(np.log(reported), -9999.0)
            values.append(float(logs[token]))
            order = np.argsort(-logs)[: body.get("logprobs") or 0].tolist()
            tops.append({self._name(one, body): float(logs[one]) for one in dict.fromkeys([*order, token])})
            if token == self.end:
                reason = "stop"
                break
        choice = {
            "text": "".join(self.vocabulary[one] for one in tokens if one != self.end),
            "finish_reason": reason,
            "logprobs": {
                "tokens": [self._name(one, body) for one in tokens],
                "token_logprobs": values,
                "top_logprobs": tops,
            },
        }
        if body.get("return_token_ids"):
            choice["token_ids"] = tokens
        self._send(200, {"choices": [choice], "usage": {"prompt_tokens": num_prompt_tokens, "completion_tokens": len(tokens)}})

    def _laws(self, raw: np.ndarray, body: dict) -> tuple[np.ndarray, np.ndarray]:
        """What is drawn from, and what is reported."""
        with np.errstate(divide="ignore"):
            logits = np.log(raw)
        scaled = logits / (body["temperature"] or 1.0)
        biased = scaled.copy()
        for token, bias in (body.get("logit_bias") or {}).items():
            biased[int(token)] += bias
        drawn = np.exp(biased - biased.max())
        drawn /= drawn.sum()
        if body.get("top_k", -1) > 0:
            drawn = np.where(drawn >= np.sort(drawn)[-body["top_k"]], drawn, 0.0)
            drawn /= drawn.sum()
        if self.renormalised:
            return drawn, drawn
        reported = np.exp(scaled - scaled.max()) if self.scaled else raw
        return drawn, reported / reported.sum()

    def _name(self, token: int, body: dict) -> str:
        return f"token_id:{token}" if self.by_id and body.get("return_tokens_as_token_ids") else self.vocabulary[token]

    def _send(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def dialect_server(
    *, scaled: bool = False, renormalised: bool = False, by_id: bool = True, most_top: int = 5
) -> Iterator[tuple[str, Table, list[dict]]]:
    """Start one; yields its base URL, its table, and what it has been asked."""
    table, asked = Table(), []
    attributes = {"table": table, "scaled": scaled, "renormalised": renormalised, "by_id": by_id, "most_top": most_top}
    with serving(type("Handler", (Dialect,), {**attributes, "asked": asked})) as url:
        yield url, table, asked


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Start a server; yields its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a connection that the engine has closed
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
