"""What an engine remembers: the keys and values of every prompt and of every token that went through the model.

A prompt is one entry. A continuation is a chain of segments: a segment holds the tokens that one rollout added behind the
place where it left an earlier one, it is never written again, and it knows its parent. All entries share one limit in
bytes; the one used longest ago goes first. Using a segment uses everything before it, so a segment never goes before
those that continue it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from maxent_ts.models.media import MediaKeyValues
from maxent_ts.types import Tokens

__all__ = ["CacheStats", "KeyValues", "KeyValueStore", "Piece", "PromptEntry", "Segment"]

KeyValues = tuple[torch.Tensor, ...]
"""Key and value of each layer in turn: tensors of shape [key-value heads, length, head size]."""


@dataclass(slots=True)
class CacheStats:
    """What a store and the engine around it have done so far."""

    prompt_hits: int = 0
    prompt_misses: int = 0
    hit_tokens: int = 0
    """Continuation tokens whose keys and values were found."""
    missed_tokens: int = 0
    """Prefix tokens that had to go through the model again, or for the first time."""
    evicted_bytes: int = 0
    held_bytes: int = 0
    model_calls: int = 0
    prefills: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    """Rows of all decoding calls that stood for a token; rows that only fill a batch up are not counted."""
    quantization_kl: float | None = None
    """KL(exact ‖ quantised) of the next token, averaged over the first prompt's positions, nats; None without quantisation."""


@dataclass(eq=False, slots=True)
class PromptEntry:
    """A prompt that went through the model."""

    key_values: KeyValues
    """With zeros behind the `num_tokens` positions."""
    logits: torch.Tensor
    """Of the first token after the prompt: [vocabulary]."""
    num_tokens: int
    media: MediaKeyValues | None = None
    """What cross-attention sees of its series, behind the prompt."""


@dataclass(eq=False, slots=True)
class Segment:
    """Tokens behind the first `start` tokens of a chain of segments. The root of a chain has no tokens."""

    tokens: Tokens = ()
    key_values: KeyValues = ()
    start: int = 0
    parent: Segment | None = None
    children: dict[tuple[int, int], Segment] = field(default_factory=dict)
    """By the number of tokens before the child's first, and that first token."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens from `start` up to `stop` of a continuation, held by one segment."""

    segment: Segment
    start: int
    stop: int

    def key_values(self, start: int) -> KeyValues:
        """Return what belongs to the tokens from `start`, which lies within the piece, up to its end."""
        offset = self.segment.start
        if start == offset and self.stop - offset == len(self.segment.tokens):
            return self.segment.key_values
        return tuple(tensor[:, start - offset : self.stop - offset] for tensor in self.segment.key_values)


class KeyValueStore:
    """Prompts by content, and one tree of segments for each context.

    Args:
        limit: Bytes to hold at most, after each `trim`.
    """

    def __init__(self, limit: int) -> None:
        self.stats = CacheStats()
        self._limit = limit
        self._prompts: dict[bytes, PromptEntry] = {}
        self._sizes: OrderedDict[bytes | Segment, int] = OrderedDict()
        """Bytes of each entry, the one used longest ago first."""

    def prompt(self, key: bytes) -> PromptEntry | None:
        """Look up a prompt."""
        entry = self._prompts.get(key)
        if entry is None:
            self.stats.prompt_misses += 1
        else:
            self.stats.prompt_hits += 1
            self._sizes.move_to_end(key)
        return entry

    def add_prompt(self, key: bytes, entry: PromptEntry) -> None:
        """Remember a prompt that went through the model just now."""
        self.stats.model_calls += 1
        self.stats.prefills += 1
        self.stats.prefill_tokens += entry.num_tokens
        self._prompts[key] = entry
        media = () if entry.media is None else entry.media.tensors
        self._add(key, (*entry.key_values, entry.logits, *media))

    def match(self, root: Segment, tokens: Tokens) -> list[Piece]:
        """Return the pieces that together hold the longest known beginning of `tokens`, in order."""
        pieces: list[Piece] = []
        segment, position = root, 0
        while True:
            stop = min(segment.start + len(segment.tokens), len(tokens))
            start = position
            while position < stop and segment.tokens[position - segment.start] == tokens[position]:
                position += 1
            if position > start:
                pieces.append(Piece(segment, start, position))
            child = segment.children.get((position, tokens[position])) if position < len(tokens) else None
            if child is None:
                break
            segment = child
        for piece in reversed(pieces):
            self._sizes.move_to_end(piece.segment)
        return pieces

    def add(self, root: Segment, tokens: Tokens, read: Callable[[int, int], KeyValues]) -> None:
        """Remember those of `tokens` that are not known yet.

        Args:
            root: Root of the context's segments.
            tokens: A continuation.
            read: Returns own copies of the keys and values from one position of the continuation up to another.
        """
        pieces = self.match(root, tokens)
        known = pieces[-1].stop if pieces else 0
        if known == len(tokens):
            return
        parent = pieces[-1].segment if pieces else root
        segment = Segment(tokens[known:], read(known, len(tokens)), known, parent)
        parent.children[known, tokens[known]] = segment
        self._add(segment, segment.key_values)
        for piece in reversed(pieces):
            self._sizes.move_to_end(piece.segment)

    def drop(self, root: Segment) -> None:
        """Forget every segment of a context. Not counted as evicted."""
        stack = list(root.children.values())
        root.children.clear()
        while stack:
            segment = stack.pop()
            stack.extend(segment.children.values())
            self.stats.held_bytes -= self._sizes.pop(segment)

    def trim(self) -> None:
        """Let go of what was used longest ago until the rest keeps the limit."""
        while self.stats.held_bytes > self._limit:
            entry, size = self._sizes.popitem(last=False)
            self.stats.held_bytes -= size
            self.stats.evicted_bytes += size
            if isinstance(entry, Segment):
                assert entry.parent is not None
                del entry.parent.children[entry.start, entry.tokens[0]]
            else:
                del self._prompts[entry]

    def clear(self) -> None:
        """Let go of everything, as far as the device's memory is concerned."""
        limit, self._limit = self._limit, 0
        self.trim()
        self._limit = limit

    def _add(self, entry: bytes | Segment, tensors: tuple[torch.Tensor, ...]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._sizes[entry] = size
        self.stats.held_bytes += size
