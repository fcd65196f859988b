"""Reads the answers of completion servers, each in its own dialect, and believes no number without a look at it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maxent_ts.errors import EngineError

__all__ = ["Piece", "Reply", "read_reply", "text_of"]

IMPOSSIBLE = -1000.0
"""nats. Below it stands what servers write for a probability of 0: vLLM -9999, llama.cpp the lowest float."""

ROUNDING = 1e-3
"""nats by which a log-probability may exceed 0, or differ from the same number said twice."""

ID_TEXT = "token_id:"
"""How vLLM writes a token's id in place of its text."""

Key = int | str
"""Names a next token: its id where the server gives it, else its text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One generated token."""

    token: int | None
    """Its id; None where the server does not give it."""
    text: bytes | None
    logprob: float
    """nats, as reported."""
    top: Mapping[Key, float]
    """The most likely tokens at this place and their reported log-probabilities."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion."""

    text: str
    pieces: tuple[Piece, ...]
    """Empty where the server gives no log-probabilities."""
    finish_reason: str
    num_prompt_tokens: int
    num_cached_tokens: int | None
    """Prompt tokens that the server did not compute again; None where it does not say."""
    num_tokens: int
    """Generated."""

    @property
    def num_forwarded(self) -> int:
        """Positions that went through the model for this reply: the last token drawn does not."""
        return max(0, self.num_prompt_tokens - (self.num_cached_tokens or 0) + self.num_tokens - 1)


def read_reply(body: Mapping[str, Any]) -> Reply:
    """Read the answer of `/completions` or `/chat/completions`.

    Raises:
        EngineError: if it has another shape, or log-probabilities that are missing, above 0 or not numbers.
    """
    try:
        choice = body["choices"][0]
        usage = body.get("usage") or {}
        text = choice["text"] if "text" in choice else choice["message"].get("content") or ""
        details = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens")
        pieces = _pieces(choice)
        num_tokens = usage.get("completion_tokens")
        return Reply(
            text=str(text),
            pieces=pieces,
            finish_reason=str(choice.get("finish_reason")),
            num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
            num_cached_tokens=None if cached is None else int(cached),
            num_tokens=len(pieces) if num_tokens is None else int(num_tokens),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"The server's answer is not that of a completions API ({type(error).__name__}: {error}). Does base_url end in /v1?"
        ) from error


def text_of(body: Mapping[str, Any]) -> str:
    """Read the answer of `/detokenize`.

    Raises:
        EngineError: if it has another shape.
    """
    for key in ("prompt", "text", "content"):  # vLLM, SGLang, llama.cpp
        if isinstance(body.get(key), str):
            return body[key]
    raise EngineError(f"The server's /detokenize answers with {sorted(body)}, which is no text.")


def _pieces(choice: Mapping[str, Any]) -> tuple[Piece, ...]:
    logprobs = choice.get("logprobs")
    if not logprobs:
        return ()
    if logprobs.get("content") is not None:  # OpenAI's chat, and llama.cpp everywhere
        pieces = [_from_entry(entry) for entry in logprobs["content"]]
    else:
        pieces = _from_columns(logprobs)
    ids = choice.get("token_ids")
    if ids is not None:
        if len(ids) != len(pieces):
            raise EngineError(f"The server returned {len(ids)} tokens, but {len(pieces)} log-probabilities.")
        pieces = [Piece(int(token), one.text, one.logprob, one.top) for token, one in zip(ids, pieces, strict=True)]
    for piece in pieces:
        said = piece.top.get(piece.token if piece.token is not None else (piece.text or b"").decode(errors="replace"))
        if said is not None and abs(said - piece.logprob) > ROUNDING:
            raise EngineError(f"The server says two log-probabilities of one token: {piece.logprob} and {said}.")
    return tuple(pieces)


def _from_entry(entry: Mapping[str, Any]) -> Piece:
    token = entry.get("id")
    top = {_key(one.get("id"), one["token"]): float(one["logprob"]) for one in entry.get("top_logprobs") or ()}
    text = bytes(entry["bytes"]) if entry.get("bytes") is not None else str(entry["token"]).encode()
    named = _id_of(entry["token"])
    if token is None and named is not None:
        token, text = named, None
    return Piece(None if token is None else int(token), text, _logprob(entry["logprob"]), _possible(top))


def _from_columns(logprobs: Mapping[str, Any]) -> list[Piece]:
    texts: Sequence[str] = logprobs["tokens"]
    values: Sequence[Any] = logprobs["token_logprobs"]
    if len(texts) != len(values):
        raise EngineError(f"The server returned {len(texts)} tokens, but {len(values)} log-probabilities.")
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    pieces = []
    for text, value, top in zip(texts, values, tops, strict=True):
        token = _id_of(text)
        table = {_key(None, name): float(one) for name, one in (top or {}).items()}
        pieces.append(Piece(token, None if token is not None else text.encode(), _logprob(value), _possible(table)))
    return pieces


def _key(token: int | None, text: str) -> Key:
    if token is not None:
        return int(token)
    named = _id_of(text)
    return text if named is None else named


def _id_of(text: str) -> int | None:
    number = text.removeprefix(ID_TEXT)
    return int(number) if number != text and number.isdigit() else None


def _possible(table: Mapping[Key, float]) -> dict[Key, float]:
    for value in table.values():
        _check(value)
    return {key: value for key, value in table.items() if value > IMPOSSIBLE}


def _logprob(value: Any) -> float:
    if value is None:
        raise EngineError("The server left out the log-probability of a token that it drew.")
    _check(float(value))
    if float(value) <= IMPOSSIBLE:
        raise EngineError(f"The server drew a token whose log-probability it gives as {value}.")
    return min(float(value), 0.0)


def _check(value: float) -> None:
    if math.isnan(value) or value > ROUNDING:
        raise EngineError(f"The server returned {value} as a log-probability, which must be a number, at most 0.")
