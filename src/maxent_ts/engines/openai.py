"""Any server with an OpenAI-compatible completions API as an engine: vLLM, SGLang, llama.cpp, transformers serve and others.

What a server can do is asked once, when the engine is made. Where it returns and takes token ids with log-probabilities, a
search works on tokens as with `HFEngine`. Where it gives log-probabilities of texts alone, the tree's tokens are segments of
text. Where it gives texts alone, the methods work that need no log p.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import queue
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from maxent_ts.engines.base import Capabilities, Finished, Job, RolloutJob, ScoreJob
from maxent_ts.engines.openai_client import Client, RefusedError
from maxent_ts.engines.openai_contexts import EmbeddedPrompt, Place, Segments, ServerContext, TokenIds
from maxent_ts.engines.openai_jobs import JobRunner
from maxent_ts.engines.openai_policy import num_top_needed
from maxent_ts.engines.openai_probe import Level, Server, probe
from maxent_ts.engines.openai_replies import text_of
from maxent_ts.engines.openai_rows import ask_rows, probe_rows
from maxent_ts.errors import EngineError, MaxentError, MissingExtraError, PromptError, SettingError
from maxent_ts.presets import DEFAULT_COMPAT
from maxent_ts.types import Embeddings, Policy, Prompt, TimeSeriesPrompt

__all__ = ["OpenAIEngine"]

API_KEY_VARIABLE = "OPENAI_API_KEY"

SECONDS_PER_STEP = 1.0
"""How long `step` waits for something to finish."""


class OpenAIEngine:
    """p(next token | prefix) on a server.

    Args:
        base_url: Where the API is, such as `http://localhost:8000/v1`.
        model: The model's name on the server; None if it serves only one.
        api_key_variable: The environment variable that holds the key, if the server wants one. The key is sent in the
            header and appears nowhere else.
        max_concurrent_requests: Requests under way at once. Fewer while the server says that it has too much to do.
        max_retries: How often a request is sent again after a lost connection, a broken answer or a status such as 429 or 503.
        timeout: Seconds for one answer, the last byte included.
        level: Work on "segment" or "completion" although the server can do more.
        segment_tokens: Tokens of the model in a segment.
        endpoint: "completions" or "chat/completions"; None for the first of them that the server has.
        embedder: What embeds prompts and tokens here, for a server that takes input embeddings: a soft-prompt model (a
            directory, checkpoint or hub id, or the model), or an embedding table (an array [vocabulary, hidden size], a module,
            or a function from ids to rows). See `maxent_ts.engines.openai_embedder.Embedder`.
        base_model: Of an embedder that is a checkpoint: directory or hub id of its language model; None for what its name tells.
        compat: Of an embedder: which of OpenTSLM's ways to read a prompt.

    Raises:
        EngineError: if the server does not answer, or is no completions server; or if there is an embedder, but the server
            takes no input embeddings, or is of another model.
        ModelError: if it does not serve the model, or if the embedder cannot be found or read.
        SettingError: if an argument is outside its domain.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key_variable: str = API_KEY_VARIABLE,
        max_concurrent_requests: int = 32,
        max_retries: int = 5,
        timeout: float = 600.0,
        level: Level | None = None,
        segment_tokens: int = 8,
        endpoint: str | None = None,
        embedder: Any = None,
        base_model: str | Path | None = None,
        compat: str = DEFAULT_COMPAT,
    ) -> None:
        if segment_tokens < 1:
            raise SettingError(f"segment_tokens must be at least 1, but is {segment_tokens}.")
        if embedder is None and (base_model is not None or compat != DEFAULT_COMPAT):
            raise SettingError("base_model and compat are of an embedder, and there is none. Give embedder=…, or leave them out.")
        self._client = Client(
            base_url,
            api_key=os.environ.get(api_key_variable),
            max_concurrent_requests=max_concurrent_requests,
            max_retries=max_retries,
            timeout=timeout,
        )
        self._shut_down = weakref.finalize(self, Client.shut_down, self._client)
        try:
            server: Server = self._client.start(probe(self._client, model, endpoint)).result()
            self._server = server if level is None else server.at(level)
            self._embedder = None if embedder is None else _embedding().Embedder(embedder, base_model=base_model, compat=compat)
            if self._embedder is not None:
                rows = probe_rows(self._client, self._server, self._embedder.written, self._embedder.law)
                self._server = self._client.start(rows).result()
                self._embedder.forget_language_model()
        except BaseException:
            self._shut_down()
            raise
        self._writing = TokenIds(self._server) if self._server.level == "token" else Segments(self._server, segment_tokens)
        self._runner = JobRunner(self._client, self._server, self._writing)
        self._segment_tokens, self._compat = segment_tokens, compat
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._knows_rows = self._embedder is not None
        """That the server takes input embeddings."""
        self._num_tickets = 0
        self._num_contexts = 0
        self._num_open = 0
        if self._server.num_slots:
            self._client.gate.bound(self._server.num_slots)
        self._under_way: set[int] = set()
        self._stepped = asyncio.Event()
        """Set by the next step: what is submitted before it begins together, so that the gate can choose what goes first."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can promise."""
        return Capabilities(
            deterministic=False,
            time_series=self._embedder is not None and self._embedder.time_series,
            logprobs=self._server.level != "completion",
        )

    @property
    def server(self) -> Server:
        """What the server can do, as found out by asking it."""
        return self._server

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's name, the kind of server, and what its log-probabilities are of. Where it runs is not part of it."""
        segment = {"segment_tokens": self._segment_tokens} if self._server.level == "segment" else {}
        embedder = {} if self._embedder is None else self._embedder.identity
        compat = {} if self._compat == DEFAULT_COMPAT else {"compat": self._compat}
        return {"engine": "openai", "model": self._server.model, **self._server.described(), **segment, **embedder, **compat}

    @property
    def stats(self) -> Mapping[str, int]:
        """Requests sent, the prompt tokens in them, and those of them that the server had in its cache."""
        runner = self._runner
        return {
            "requests": self._client.num_requests,
            "prompt_tokens": runner.num_prompt_tokens,
            "cached_prompt_tokens": runner.num_cached_tokens,
        }

    def open(self, prompt: Prompt, policy: Policy) -> ServerContext:
        """Take a prompt of text, chat messages or, where the server takes them, token ids, input embeddings or time series.

        Raises:
            PromptError: if the prompt is empty, too long, or of a kind that this server cannot take.
            EngineError: if the server takes no input embeddings.
            SettingError: if log p under this policy cannot be known here.
        """
        if policy.stop_strings and self._server.level != "token":
            raise SettingError(
                "Stop strings need a server that works on token ids: others do not say at which token one ended. Leave them out."
            )
        if policy.min_p is not None or policy.has_history:
            raise SettingError(
                "min_p, repetition_penalty and no_repeat_ngram_size are not supported with a server: log p under them cannot "
                "be worked out from what it returns. Leave them out, or use --engine hf."
            )
        num_top = 0 if self._server.level == "completion" else num_top_needed(policy, self._server.reports)
        if policy.top_k is not None and "top_k" not in self._server.fields:
            raise SettingError("This server does not know top_k. Leave it out.")
        content = self._encoded(prompt)
        self._num_contexts += 1
        is_ids = isinstance(content, list) and all(isinstance(token, int) for token in content)
        num = content.num_rows if isinstance(content, EmbeddedPrompt) else len(content) if is_ids else 0
        context = ServerContext(self._num_contexts, policy, content, num_top, num_prompt_tokens=num)
        limit = self._server.context_length
        if limit is not None and context.num_prompt_tokens + policy.max_new_tokens > limit:
            raise PromptError(
                f"The prompt has {context.num_prompt_tokens} tokens and max_new_tokens is {policy.max_new_tokens}, but the "
                f"server's context is {limit}. Shorten the prompt or lower max_new_tokens."
            )
        self._num_open += 1
        self._spread()
        return context

    def close(self, context: ServerContext) -> None:
        """Forget a context, and cancel its requests: a server stops generating when the connection ends."""
        self._num_open -= context.is_open
        self._spread()
        context.is_open = False
        for future in list(context.futures):
            future.cancel()
        context.root = Place()
        self._client.soon(self._client.gate.forget, context.number)

    def submit(self, job: Job) -> int:
        """Begin a job; returns its ticket.

        Raises:
            EngineError: if its context is closed.
        """
        context: ServerContext = job.context
        if not context.is_open:
            raise EngineError("The job's context is closed. Open the prompt again.")
        self._num_tickets += 1
        ticket = self._num_tickets
        self._under_way.add(ticket)
        future = self._client.start(_answer(self._runner, self._finished, ticket, job, self._stepped))
        context.futures.add(future)
        future.add_done_callback(context.futures.discard)
        future.add_done_callback(lambda _: self._under_way.discard(ticket))
        return ticket

    def step(self) -> list[Finished]:
        """Let jobs submitted since the last step begin, wait up to a second for some to finish, and return those that have."""
        self._client.soon(self._stepped.set)
        self._stepped = asyncio.Event()
        found: list[Finished] = []
        try:
            found.append(self._finished.get(timeout=SECONDS_PER_STEP if self._under_way else 0.001))
            while True:
                found.append(self._finished.get_nowait())
        except queue.Empty:
            return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn continuation tokens into text, without special tokens.

        Raises:
            EngineError: if the server says neither what tokens mean nor how to turn them into text.
        """
        known = self._writing.text(tokens)
        if known is not None or not isinstance(self._writing, TokenIds):
            return known or ""
        if not self._server.detokenizes:
            raise EngineError("The server returned tokens without their text, and has no /detokenize. Use level='segment'.")
        own = [token for token in tokens if token not in self._writing.eos_token_ids]
        return text_of(self._ask("/detokenize", {"model": self._server.model, "tokens": own}))

    def shut_down(self) -> None:
        """Cancel what is under way and close the connections. Happens by itself when the engine is no longer used."""
        self._shut_down()

    def _spread(self) -> None:
        """Let every prompt have one slot of llama.cpp's while there are as many prompts as slots; fewer share the idle ones."""
        self._client.gate.one_of_each = 0 < self._server.num_slots <= self._num_open

    def _encoded(self, prompt: Prompt) -> Any:
        """A prompt as this server takes it: ids where it works on tokens."""
        if isinstance(prompt, (Embeddings, TimeSeriesPrompt)):
            return self._of_rows(prompt)
        parts: list[Any] = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else []
        if isinstance(prompt, Sequence) and not prompt:
            raise PromptError("The prompt is empty. Give at least one token.")
        if parts and all(isinstance(message, Mapping) for message in parts):
            return self._of_messages([dict(message) for message in parts])
        if parts and all(isinstance(token, SupportsIndex) for token in parts):
            if self._server.level != "token":
                raise PromptError("This server takes no token ids. Give the prompt as text.")
            return [int(token) for token in parts]
        if not isinstance(prompt, str):
            raise PromptError(
                "A prompt is text, a list of chat messages, a list of token ids, Embeddings or a TimeSeriesPrompt, but got "
                f"{type(prompt).__name__}."
            )
        if self._server.level == "token":
            if not self._server.tokenizes:
                raise PromptError("The server has no /tokenize, so it takes no text here. Give token ids, or use level='segment'.")
            fields = {"add_special_tokens": True, "add_special": True, "parse_special": True}
            body = {"model": self._server.model, "prompt": prompt, "content": prompt, **fields}
            return [int(token) for token in self._ask("/tokenize", body)["tokens"]]
        return prompt if self._server.endpoint == "/completions" else [{"role": "user", "content": prompt}]

    def _of_rows(self, prompt: Embeddings | TimeSeriesPrompt) -> EmbeddedPrompt:
        """A prompt as rows of input embeddings; whether the server takes any was asked before, or is asked with the first."""
        found: EmbeddedPrompt = _embedding().embedded_prompt(prompt, self._embedder)
        if not self._knows_rows:
            self._client.start(ask_rows(self._client, self._server, found.written(()), found.num_rows)).result()
            self._knows_rows = True
        return found

    def _of_messages(self, messages: list[dict[str, Any]]) -> Any:
        """Chat messages through the server's own template."""
        if self._server.endpoint != "/completions":
            return messages
        body = {"model": self._server.model, "messages": messages, "add_generation_prompt": True}
        if self._server.level == "token":
            try:
                found = self._ask("/tokenize", body)
                if found.get("tokens"):
                    return [int(token) for token in found["tokens"]]
            except RefusedError:
                pass
        try:
            text = self._ask("/apply-template", body)["prompt"]
        except (RefusedError, KeyError) as error:
            raise PromptError(
                "This server does not say how it puts chat messages into a prompt. Give text, or use endpoint='chat/completions'."
            ) from error
        return self._encoded(str(text))

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._client.start(self._client.ask(path, body, at_root=True)).result()


def _embedding() -> Any:
    """The module that needs torch, which a server of text does not."""
    try:
        return importlib.import_module("maxent_ts.engines.openai_embedder")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("maxent_ts"):
            raise
        raise MissingExtraError(error.name, "hf") from error


async def _answer(runner: JobRunner, finished: queue.SimpleQueue[Finished], ticket: int, job: Job, stepped: asyncio.Event) -> None:
    """Carry out one job and report it, whatever becomes of it."""
    await stepped.wait()
    try:
        if isinstance(job, ScoreJob):
            raise EngineError("This engine does not score given tokens: a server would compute their prompt again for each.")
        work = runner.roll_out(job) if isinstance(job, RolloutJob) else runner.next_tokens(job)
        answer, num_forwarded = await work
        finished.put(Finished(ticket, answer, num_forwarded))
    except MaxentError as error:
        finished.put(Finished(ticket, error, 0))
    except Exception as error:  # noqa: BLE001 - a fault here must reach the one search it belongs to, or that would wait forever
        finished.put(Finished(ticket, EngineError(f"The request failed inside the engine: {type(error).__name__}: {error}."), 0))
