"""The rows that decode together: which continuation sits in which slot, one step of all of them, and its draws."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maxent_ts.engines.attention import PromptGroup, group_rows, round_up
from maxent_ts.engines.cache import CacheStats, Piece, PromptEntry
from maxent_ts.engines.memory import GIB, free_bytes, rows_that_fit
from maxent_ts.engines.sampler import draw, log_probabilities, scores, top
from maxent_ts.engines.slots import SlotCache, decode, prefill
from maxent_ts.models.media import Media
from maxent_ts.types import Policy, Tokens

__all__ = ["Batch", "Row"]

POSITIONS_MULTIPLE = 64
"""Slots grow by so many positions at least, so that they seldom grow."""


@dataclass(eq=False, slots=True)
class Row:
    """One continuation under way."""

    task: Any
    """The job it belongs to, as the engine keeps it."""
    index: int | None
    """Which rollout of the job; None: the row only looks at what may come after the job's prefix."""
    tokens: list[int]
    """The continuation so far: the job's prefix, and what was drawn."""
    logprobs: list[float]
    """Of what was drawn."""
    numbers: np.ndarray
    """Uniform numbers, one for each position of the continuation."""
    policy: Policy
    do_sample: bool = True
    limit: int = 0
    """Length of the continuation at which the row ends."""
    num_forwarded: int = 0
    """Tokens put through the model for this row so far."""
    forced: Tokens = ()
    """The tokens to be written in place of drawn ones, for a row that only scores them."""


@dataclass(slots=True)
class Content:
    """What a slot's keys and values are of, also after its row has left."""

    prompt: bytes
    entry: PromptEntry
    tokens: Tokens


class Batch:
    """At most `max_rows` rows in slots, and their state as arrays over slots.

    Args:
        model: The causal language model.
        max_rows: Most rows at once.
        shares_prompts: Whether rows share their prompts' keys and values, or each slot holds its own copy.
        row_multiple: The rows of a step are filled up to a multiple of this.
        stats: Where to count.
    """

    def __init__(self, model: Any, max_rows: int, shares_prompts: bool, row_multiple: int, stats: CacheStats) -> None:
        self.max_rows = max_rows
        self._row_multiple = row_multiple
        self._shares_prompts = shares_prompts
        self._groups: list[PromptGroup] | None = None
        """Of the rows as they are; None when they have changed."""
        self._model = model
        self._stats = stats
        self._cache: SlotCache | None = None
        num_slots = round_up(max_rows, row_multiple)
        self._rows: list[Row | None] = [None] * num_slots
        self._contents: list[Content | None] = [None] * num_slots
        self._tokens = np.zeros((num_slots, 1), dtype=np.int64)
        self._logprobs = np.zeros((num_slots, 1))
        self._numbers = np.zeros((num_slots, 1))
        self._num_tokens = np.zeros(num_slots, dtype=np.int64)
        self._num_fed = np.zeros(num_slots, dtype=np.int64)
        """Tokens of the continuation whose keys and values are in the slot."""
        self._num_prompt_tokens = np.zeros(num_slots, dtype=np.int64)
        self._offsets = np.zeros(num_slots, dtype=np.int64)
        """Where in its slot a row's continuation begins."""
        self._limits = np.zeros(num_slots, dtype=np.int64)
        self.has_stop_strings = np.zeros(num_slots, dtype=bool)
        """Whether the row's policy has any: [slots]."""

    @property
    def rows(self) -> list[Row]:
        """The rows under way."""
        return [row for row in self._rows if row is not None]

    @property
    def has_room(self) -> bool:
        """Whether another row may join."""
        return sum(row is not None for row in self._rows) < self.max_rows

    def prefill(self, inputs: torch.Tensor, media: Media | None) -> PromptEntry:
        """Put one prompt through the model: see `engines.slots.prefill`."""
        return prefill(self._model, inputs, media)

    def add(self, row: Row, prompt: bytes, entry: PromptEntry, pieces: list[Piece]) -> None:
        """Give a row a slot, and fill it as far as keys and values are known.

        Args:
            row: It must have at least one token; the last is fed in the next step.
            prompt: Key of its prompt.
            entry: The prompt's keys and values.
            pieces: Those of the known beginning of its tokens, the last token left out.
        """
        slot, shared = self._best_slot(prompt, row.tokens)
        offset = 0 if self._shares_prompts else entry.num_tokens
        self._ensure(entry, slot + 1, offset + row.policy.max_new_tokens)
        assert self._cache is not None
        content = self._contents[slot]
        self._contents[slot] = None
        if not self._shares_prompts and (content is None or content.prompt != prompt):
            self._cache.write(slot, 0, tuple(tensor[:, : entry.num_tokens] for tensor in entry.key_values))
        missing = [piece for piece in pieces if piece.stop > shared]
        known = missing[-1].stop if missing else shared
        if missing:
            # Joined before they are written: a beam's path is one segment per token, and many small copies are slow.
            parts = [piece.key_values(max(shared, piece.start)) for piece in missing]
            self._cache.write(slot, offset + shared, tuple(torch.cat(one, dim=1) for one in zip(*parts, strict=True)))
        self._stats.hit_tokens += known
        self._stats.missed_tokens += len(row.tokens) - known
        self._seat(slot, row, prompt, entry, known)
        self._offsets[slot] = offset

    def _seat(self, slot: int, row: Row, prompt: bytes, entry: PromptEntry, known: int) -> None:
        """Put a row into a slot, of whose tokens so many went through the model before."""
        self._widen(row.policy.max_new_tokens)
        self._rows[slot] = row
        self._contents[slot] = Content(prompt, entry, ())
        self._groups = None
        self._tokens[slot, : len(row.tokens)] = row.tokens
        self._logprobs[slot, len(row.tokens) - len(row.logprobs) : len(row.tokens)] = row.logprobs
        self._numbers[slot, : len(row.numbers)] = row.numbers
        self._num_tokens[slot] = len(row.tokens)
        self._num_fed[slot] = known
        self._num_prompt_tokens[slot] = entry.num_tokens
        self._limits[slot] = row.limit
        self.has_stop_strings[slot] = bool(row.policy.stop_strings)
        row.num_forwarded -= known

    def step(self) -> tuple[np.ndarray, torch.Tensor]:
        """Feed every row its next token.

        Returns:
            The slots whose continuation went through to its last token, int64 [rows], and the logits there,
            [rows, vocabulary].
        """
        self._compact()
        assert self._cache is not None
        num_live = len(self.rows)
        num_rows = min(round_up(num_live, self._row_multiple), self._cache.num_slots)
        if self._groups is None:
            self._groups = group_rows([content.entry for content in self._contents[:num_live] if content is not None])
        num_fed = self._num_fed[:num_rows]
        logits = decode(
            self._model,
            self._cache,
            tokens=self._tokens[np.arange(num_rows), num_fed],
            lengths=self._offsets[:num_rows] + num_fed,
            positions=self._num_prompt_tokens[:num_rows] + num_fed,
            groups=self._groups,
            num_live=num_live,
            shares_prompts=self._shares_prompts,
        )
        self._stats.model_calls += 1
        self._stats.decode_tokens += num_live
        self._num_fed[:num_live] += 1
        ready = np.flatnonzero(self._num_fed[:num_live] == self._num_tokens[:num_live])
        if logits.device.type == "mps":  # which has no float64
            logits = logits.cpu()
        return ready, logits[:num_live] if len(ready) == num_live else logits[torch.from_numpy(ready).to(logits.device)]

    def draw(self, slots: np.ndarray, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Draw the next token of rows.

        Args:
            slots: Where the rows are, int64 [rows].
            logits: [rows, vocabulary].

        Returns:
            The tokens, int64 [rows], and their log-probabilities, float64 [rows], NaN where the logits are not finite.
        """
        groups: dict[tuple[Policy, bool, bool], list[int]] = {}
        for place, slot in enumerate(slots.tolist()):
            row = self.at(slot)
            groups.setdefault((row.policy, row.do_sample, bool(row.forced)), []).append(place)
        tokens, logprobs = np.empty(len(slots), dtype=np.int64), np.empty(len(slots))
        for (policy, do_sample, is_forced), places in groups.items():
            own = logits if len(groups) == 1 else logits[torch.tensor(places, device=logits.device)]
            histories = [self._history(slot) for slot in slots[places].tolist()] if policy.has_history else None
            if is_forced:
                written = [self.at(slot).forced[self._num_tokens[slot]] for slot in slots[places].tolist()]
                logprobs[places] = log_probabilities(own, policy, histories)[np.arange(len(places)), written].cpu().numpy()
                tokens[places] = written
                continue
            weighed = scores(own, policy, histories)
            if do_sample:
                numbers = self._numbers[slots[places], self._num_tokens[slots[places]]]
                drawn, chosen = draw(weighed, torch.from_numpy(numbers).to(weighed.device))
            else:
                drawn, chosen = top(weighed)
            tokens[places], logprobs[places] = drawn.cpu().numpy(), chosen.cpu().numpy()
        return tokens, logprobs

    def append(self, slots: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
        """Add drawn tokens to rows; returns whether each has reached its limit: bool [rows]."""
        lengths = self._num_tokens[slots]
        self._tokens[slots, lengths], self._logprobs[slots, lengths] = tokens, logprobs
        self._num_tokens[slots] += 1
        return lengths + 1 >= self._limits[slots]

    def is_live(self, slot: int) -> bool:
        """Whether a row is in a slot."""
        return self._rows[slot] is not None

    def at(self, slot: int) -> Row:
        """Return the row in a slot."""
        row = self._rows[slot]
        assert row is not None
        return row

    def slot_of(self, row: Row) -> int:
        """Return the slot of a row."""
        return self._rows.index(row)

    def tokens_at(self, slot: int) -> list[int]:
        """Return the continuation of the row in a slot."""
        return self._tokens[slot, : self._num_tokens[slot]].tolist()

    def _history(self, slot: int) -> list[int]:
        return [*self.at(slot).task.job.context.prompt_ids, *self.tokens_at(slot)]

    def fed_tokens(self, slot: int) -> Tokens:
        """Return the beginning of a row's continuation that went through the model."""
        return tuple(self._tokens[slot, : self._num_fed[slot]].tolist())

    def remove(self, slot: int, *, is_sound: bool = True) -> Row:
        """Take a row out, its tokens and log-probabilities brought up to date.

        Args:
            slot: Where it is.
            is_sound: False: its keys and values may hold NaN, and are wiped.
        """
        row, content = self.at(slot), self._contents[slot]
        assert content is not None
        row.tokens = self.tokens_at(slot)
        start = len(row.task.job.prefix)
        row.logprobs = self._logprobs[slot, start : len(row.tokens)].tolist() if row.index is not None else []
        row.num_forwarded += int(self._num_fed[slot])
        content.tokens = self.fed_tokens(slot)
        if not is_sound:
            if self._cache is not None:
                self._cache.wipe(slot)
            self._contents[slot] = None
        self._rows[slot] = None
        self._groups = None
        self._num_fed[slot] = self._num_tokens[slot] = self._num_prompt_tokens[slot] = self._offsets[slot] = 0
        return row

    def read(self, slot: int, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        """Return own copies of the keys and values of the row in a slot, from one token of its continuation up to another."""
        assert self._cache is not None
        offset = int(self._offsets[slot])
        return self._cache.read(slot, offset + start, offset + stop)

    def release(self) -> None:
        """Give back the memory of the slots. No row may be under way."""
        self._cache = None
        self._contents = [None] * len(self._contents)

    def _best_slot(self, prompt: bytes, tokens: list[int]) -> tuple[int, int]:
        """Return the free slot that holds most of what a row needs, and how many of its tokens it holds."""
        best, most = -1, -2
        for slot, row in enumerate(self._rows[: round_up(self.max_rows, self._row_multiple)]):
            if row is not None:
                continue
            content = self._contents[slot]
            shared = -1 if content is None or content.prompt != prompt else _num_shared(content.tokens, tokens)
            if shared > most:
                best, most = slot, shared
        return best, max(most, 0)

    def _fit(self, entry: PromptEntry, num_positions: int) -> None:
        """Have fewer rows where the device has no room for all of them, before slots are made of so many positions."""
        one_row = num_positions * sum(tensor.shape[0] * tensor.shape[2] * tensor.element_size() for tensor in entry.key_values)
        free = free_bytes(entry.logits.device)
        # Rows that are under way keep their slots. What does not fit then halves the batch, when memory has run out.
        num_rows = max(rows_that_fit(free, one_row, self.max_rows), len(self.rows))
        if num_rows < self.max_rows:
            warnings.warn(
                f"The batch is lowered from {self.max_rows} rows to {num_rows}: the keys and values of a row of {num_positions} "
                f"positions take {one_row / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free on {entry.logits.device}.",
                RuntimeWarning,
                stacklevel=2,
            )
            self.max_rows = num_rows

    def _ensure(self, entry: PromptEntry, num_slots: int, num_positions: int) -> None:
        """Make the slots many and long enough."""
        num_positions = round_up(num_positions, POSITIONS_MULTIPLE)
        if self._cache is None or num_positions > self._cache.num_positions:
            self._fit(entry, num_positions)
        if self._cache is None:
            self._cache = SlotCache(entry.key_values, round_up(num_slots, self._row_multiple), num_positions)
        elif num_slots > self._cache.num_slots or num_positions > self._cache.num_positions:
            if num_slots > self._cache.num_slots:
                num_slots = min(max(round_up(num_slots, self._row_multiple), 2 * self._cache.num_slots), len(self._rows))
            self._cache = self._cache.enlarged(max(num_slots, self._cache.num_slots), max(num_positions, self._cache.num_positions))

    def _widen(self, num_tokens: int) -> None:
        """Make the arrays long enough for continuations of so many tokens."""
        missing = num_tokens - self._tokens.shape[1]
        if missing > 0:
            self._tokens, self._logprobs, self._numbers = (
                np.pad(array, ((0, 0), (0, missing))) for array in (self._tokens, self._logprobs, self._numbers)
            )

    def _arrays(self) -> tuple[np.ndarray, ...]:
        counts = (self._num_tokens, self._num_fed, self._num_prompt_tokens, self._offsets, self._limits, self.has_stop_strings)
        return (self._tokens, self._logprobs, self._numbers, *counts)

    def _compact(self) -> None:
        """Move rows so that the first slots are the live ones."""
        assert self._cache is not None
        num_live = len(self.rows)
        holes = [slot for slot in range(num_live) if self._rows[slot] is None]
        movers = [slot for slot in range(num_live, len(self._rows)) if self._rows[slot] is not None]
        for source, target in zip(movers, holes, strict=True):
            length = int(self._offsets[source] + self._num_fed[source])
            self._groups = None
            self._cache.move(source, target, length)
            for array in self._arrays():
                array[target] = array[source]
            content = self._contents[source]
            assert content is not None
            self._rows[target], self._rows[source] = self._rows[source], None
            self._contents[target] = content
            self._contents[source] = Content(content.prompt, content.entry, self.fed_tokens(source))
            self._num_fed[source] = self._num_tokens[source] = self._num_prompt_tokens[source] = self._offsets[source] = 0


def _num_shared(first: Tokens, second: list[int]) -> int:
    """Length of the common beginning, the last of `second` left out: it must be fed to see what comes after it."""
    num = 0
    for one, other in zip(first, second[:-1], strict=False):
        if one != other:
            break
        num += 1
    return num
