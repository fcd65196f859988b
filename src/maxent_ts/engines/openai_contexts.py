"""A prompt opened on a server, and the two ways in which continuations are written down: token ids, or segments of text."""

from __future__ import annotations

import concurrent.futures
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from maxent_ts.engines.openai_policy import piece_under, table_under
from maxent_ts.engines.openai_probe import Server
from maxent_ts.engines.openai_replies import Reply
from maxent_ts.errors import EngineError
from maxent_ts.types import Policy, Tokens

__all__ = ["EmbeddedPrompt", "Segments", "ServerContext", "Step", "TokenIds", "Written"]

LOOK_FOR_THE_END_FIRST = frozenset({"llamacpp", "vllm"})
"""Servers that call an end-of-sequence token an end also where it is the last token allowed. SGLang calls that an end by length."""

FINISHED = "stop"
"""The server's word for an end by the end-of-sequence token, since no stop strings are sent."""


@dataclass(frozen=True, slots=True)
class EmbeddedPrompt:
    """A prompt as rows of input embeddings."""

    num_rows: int
    written: Callable[[Tokens], str]
    """The rows of the prompt and of a prefix behind it, in base64."""
    continues: bool
    """Whether tokens can be written behind it: that takes an embedding table."""


@dataclass(eq=False, slots=True)
class ServerContext:
    """A prompt as the server takes it, under a policy."""

    number: int
    policy: Policy
    prompt: Any
    """Token ids, text, chat messages, or an `EmbeddedPrompt`."""
    num_top: int
    """Next tokens asked for with every token, so that log p under the policy can be worked out."""
    num_kept: int = 0
    """Next tokens asked for so that a tree can branch."""
    num_prompt_tokens: int = 0
    """0 until the server has counted, where it is the only one who can."""
    root: Place = field(default_factory=lambda: Place())
    futures: set[concurrent.futures.Future[Any]] = field(default_factory=set)
    is_open: bool = True

    def place(self, prefix: Tokens) -> Place:
        """What is known of the tokens that may follow a prefix."""
        found = self.root
        for token in prefix:
            found = found.after.setdefault(token, Place())
        return found

    def learn(self, prefix: Tokens, steps: Sequence[Step], num_asked: int) -> None:
        """Remember log p of what was written after a prefix: where a search branches later, it excludes what it has seen."""
        place = self.place(prefix)
        for step in steps:
            for token, logprob in ((step.token, step.logprob), *step.others.items()):
                place.known.setdefault(token, logprob)
            place.num_asked = max(place.num_asked, num_asked if step.others else 0)
            place = place.after.setdefault(step.token, Place())


@dataclass(eq=False, slots=True)
class Place:
    """What is known of the tokens that may follow a prefix."""

    known: dict[int, float] = field(default_factory=dict)
    """Log p of next tokens, as far as they have been seen, nats."""
    num_asked: int = 0
    """How many next tokens the server has been asked for here."""
    after: dict[int, Place] = field(default_factory=dict)

    def unseen_mass(self, seen: Iterable[int]) -> float:
        """1 - Σ p over tokens seen here."""
        return 1.0 - math.fsum(math.exp(self.known[token]) for token in set(seen))


@dataclass(frozen=True, slots=True)
class Step:
    """One token of the engine's: a token of the model, or a segment of text."""

    token: int
    logprob: float
    num_tokens: int
    """Of the model."""
    others: Mapping[int, float] = field(default_factory=dict)
    """Log p of other tokens at this place."""


@dataclass(frozen=True, slots=True)
class Written:
    """A continuation that a server wrote."""

    steps: tuple[Step, ...]
    finish: Literal["eos", "stop", "cut"]
    """By the end-of-sequence token, by a stop string, or at the number of tokens asked for."""
    num_tokens: int
    """That the model generated; more than are in `steps` where a stop string cut it."""


class TokenIds:
    """Continuations are the model's own token ids."""

    is_by_id = True

    def __init__(self, server: Server) -> None:
        self._server = server
        self.eos_token_ids: set[int] = set()
        self.other_token_ids: set[int] = set()
        """Tokens that are known not to end a completion."""
        self.pieces: dict[int, bytes] = {}

    def body(self, context: ServerContext, prefix: Tokens) -> dict[str, Any]:
        """The fields of a request that say what is continued."""
        if isinstance(context.prompt, EmbeddedPrompt):
            return {"prompt_embeds": context.prompt.written(prefix)}
        return {"prompt": [*context.prompt, *prefix]}

    def num_tokens(self, prefix: Tokens) -> int:
        """Tokens of the model in a continuation."""
        return len(prefix)

    def read(self, reply: Reply, context: ServerContext) -> Written:
        """Take a reply apart.

        Raises:
            EngineError: if a token comes without its id or log-probability.
        """
        if len(reply.pieces) != reply.num_tokens:
            raise EngineError(
                f"The server generated {reply.num_tokens} tokens, but returned the log-probabilities of {len(reply.pieces)}. "
                "llama.cpp leaves out those of tokens that are part of a character."
            )
        steps = []
        for piece in reply.pieces:
            if piece.token is None:
                raise EngineError("The server returned a token without its id.")
            if piece.text is not None:
                self.pieces[piece.token] = piece.text
            table = table_under(piece.top, context.policy, self._server.reports) if piece.top else {}
            others = {key: value for key, value in table.items() if isinstance(key, int)}
            steps.append(Step(piece.token, piece_under(piece, context.policy, self._server.reports), 1, others))
        self.learn_end(reply)
        # Some servers call an end at the last token allowed an end by length.
        is_end = bool(steps) and steps[-1].token in self.eos_token_ids
        return Written(tuple(steps), "eos" if is_end else "cut", len(steps))

    def has_text(self, token: int) -> bool:
        """Whether the text of a token is known."""
        return token in self.pieces or token in self.eos_token_ids

    def cut(self, written: Written, context: ServerContext, prefix: Tokens) -> Written:
        """End a continuation with the token that completes a stop string.

        Raises:
            EngineError: if the text of a token is not known.
        """
        tokens = (*prefix, *(step.token for step in written.steps))
        for num in range(1, len(written.steps) + 1) if context.policy.stop_strings else ():
            text = self.text(tokens[: len(prefix) + num])
            if text is None:
                raise EngineError("Stop strings need the text of every token, which this server does not return with the ids.")
            if any(stop in text for stop in context.policy.stop_strings):
                return Written(written.steps[:num], "stop", written.num_tokens)
        return written

    def learn_end(self, reply: Reply) -> None:
        """Remember which tokens ended a completion, and which did not."""
        ids = [piece.token for piece in reply.pieces if piece.token is not None]
        if reply.finish_reason == FINISHED and ids:
            self.eos_token_ids.add(ids.pop())
        elif ids and self._server.kind not in LOOK_FOR_THE_END_FIRST:
            ids.pop()  # it may yet be found to end completions
        self.other_token_ids.update(ids)

    def text(self, tokens: Sequence[int]) -> str | None:
        """The text of tokens whose bytes are all known, without end-of-sequence tokens; None if one is not."""
        if not all(map(self.has_text, tokens)):
            return None
        own = [token for token in tokens if token not in self.eos_token_ids]
        return b"".join(self.pieces[token] for token in own).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Segment:
    text: str
    num_tokens: int


class Segments:
    """Continuations are segments of text, numbered by a hash of what they hold.

    Where the server gives log-probabilities, a segment is `num_tokens` tokens of the model, known by their texts, and is
    continued by sending its text. Where it gives none, a whole completion is one segment and its log-probability is NaN.
    """

    is_by_id = False

    def __init__(self, server: Server, segment_tokens: int) -> None:
        self._server = server
        self.segment_tokens = segment_tokens
        self._segments: dict[int, _Segment] = {}

    def body(self, context: ServerContext, prefix: Tokens) -> dict[str, Any]:
        """The fields of a request that say what is continued.

        Raises:
            EngineError: if the text to be continued ends inside a character.
        """
        text = self.text(prefix)
        if "\ufffd" in text:
            raise EngineError("A segment ends inside a character, and half a character cannot be sent. Use another segment_tokens.")
        if isinstance(context.prompt, str) and self._server.endpoint == "/completions":
            return {"prompt": context.prompt + text}
        messages: list[Any] = list(context.prompt)
        if not prefix:
            return {"messages": messages}
        messages.append({"role": "assistant", "content": text})
        return {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}

    def num_tokens(self, prefix: Tokens) -> int:
        """Tokens of the model in a continuation."""
        return sum(self._segments[one].num_tokens for one in prefix)

    def read(self, reply: Reply, context: ServerContext) -> Written:
        """Take a reply apart.

        Raises:
            EngineError: if a completion ends without the log-probability of its end.
        """
        is_end = reply.finish_reason == FINISHED
        if self._server.level == "completion":
            number = self._number((reply.text.encode(),), reply.text, reply.num_tokens, is_end)
            step = Step(number, math.nan, reply.num_tokens)
            return Written((step,), "eos" if is_end else "cut", reply.num_tokens)
        if len(reply.pieces) != reply.num_tokens or any(piece.text is None for piece in reply.pieces):
            raise EngineError(
                f"The server generated {reply.num_tokens} tokens, but returned the log-probabilities of {len(reply.pieces)}."
            )
        texts = [piece.text or b"" for piece in reply.pieces]
        if is_end and b"".join(texts).decode(errors="replace") == reply.text and texts and texts[-1]:
            raise EngineError(
                "The server leaves out the log-probability of the end of a completion, so that log p of a whole completion "
                "cannot be known. Give logprobs=False to OpenAIEngine (--no-logprobs) for the methods that need none."
            )
        steps = []
        for start in range(0, len(texts), self.segment_tokens):
            part = reply.pieces[start : start + self.segment_tokens]
            ends = is_end and start + self.segment_tokens >= len(texts)
            own = tuple(texts[start : start + self.segment_tokens])
            shown = b"".join(own[:-1] if ends else own).decode(errors="replace")
            logprob = math.fsum(piece_under(piece, context.policy, self._server.reports) for piece in part)
            steps.append(Step(self._number(own, shown, len(own), ends), logprob, len(own)))
        return Written(tuple(steps), "eos" if is_end else "cut", len(texts))

    def text(self, tokens: Sequence[int]) -> str:
        """The text of segments."""
        return "".join(self._segments[token].text for token in tokens)

    def _number(self, texts: tuple[bytes, ...], text: str, num_tokens: int, is_end: bool) -> int:
        number = int.from_bytes(hashlib.sha256(repr((texts, is_end)).encode()).digest()[:6], "big")
        self._segments[number] = _Segment(text, num_tokens)
        return number
