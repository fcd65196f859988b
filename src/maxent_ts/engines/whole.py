"""Decoding without a cache: for models whose past cannot be shared by rollouts that begin alike.

A recurrent state holds all that came before in one lump. It cannot be cut back to where another rollout branches off, and rows
of different lengths cannot wait for each other in it. So each step puts the whole of every sequence through the model again, and
sequences of one length share a forward: nothing is filled up, and no padding enters a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from maxent_ts.engines.batch import Batch, Row
from maxent_ts.engines.cache import Piece, PromptEntry
from maxent_ts.engines.slots import last_only
from maxent_ts.models.media import Media
from maxent_ts.types import Tokens

__all__ = ["WholeSequences", "last_logits"]


class WholeSequences(Batch):
    """At most `max_rows` rows, of which nothing is kept but their tokens. The arguments are those of `Batch`."""

    def prefill(self, inputs: torch.Tensor, media: Media | None) -> PromptEntry:
        """Put one prompt through the model, for the logits behind it."""
        assert media is None, "a model with cross-attention is never decoded without a cache"
        return PromptEntry((), last_logits(self._model, [inputs])[0].clone(), len(inputs))

    def add(self, row: Row, prompt: bytes, entry: PromptEntry, pieces: list[Piece]) -> None:
        """Give a row a place. What came before its last token is known, though not kept."""
        assert not pieces
        self._seat(self._rows.index(None), row, prompt, entry, len(row.tokens) - 1)

    def step(self) -> tuple[np.ndarray, torch.Tensor]:
        """Put the sequence of every row through the model, those of one length together.

        Returns:
            The slots of all rows, int64 [rows], and the logits behind them, [rows, vocabulary].
        """
        by_length: dict[int, list[int]] = {}
        for slot, row in enumerate(self._rows):
            if row is not None:
                by_length.setdefault(int(self._num_prompt_tokens[slot] + self._num_tokens[slot]), []).append(slot)
        logits = []
        for slots in by_length.values():
            logits.append(last_logits(self._model, [self._sequence(slot) for slot in slots]))
            self._stats.model_calls += 1
        # Counted when all have succeeded: a step that runs out of memory is tried once more from its beginning.
        for length, slots in by_length.items():
            self._stats.decode_tokens += length * len(slots)
            for slot in slots:
                self.at(slot).num_forwarded += length - 1
                self._num_fed[slot] += 1
        together = torch.cat(logits)
        return np.concatenate([np.array(slots) for slots in by_length.values()]), (
            together.cpu() if together.device.type == "mps" else together  # which has no float64
        )

    def fed_tokens(self, slot: int) -> Tokens:  # noqa: ARG002 - the base class's signature
        """Nothing: there are no keys and values to remember."""
        return ()

    def _sequence(self, slot: int) -> torch.Tensor:
        """Prompt and continuation of the row in a slot: token ids, or embeddings where the prompt is made of them."""
        inputs = self.at(slot).task.job.context.inputs
        tokens = torch.tensor(self.tokens_at(slot), device=inputs.device)
        return torch.cat([inputs, tokens if inputs.ndim == 1 else self._model.get_input_embeddings()(tokens)])


def last_logits(model: Any, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the logits behind sequences of one length, from a plain forward: [sequences, vocabulary].

    Args:
        model: A causal language model.
        sequences: Of token ids [length], or of input embeddings [length, hidden size].
    """
    if len({sequence.ndim for sequence in sequences}) > 1:
        lookup = model.get_input_embeddings()
        sequences = [lookup(sequence) if sequence.ndim == 1 else sequence for sequence in sequences]
    name = "input_ids" if sequences[0].ndim == 1 else "inputs_embeds"
    return model(**{name: torch.stack(list(sequences))}, use_cache=False, **last_only(model)).logits[:, -1]
