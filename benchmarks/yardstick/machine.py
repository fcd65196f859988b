"""A language model with finitely many hidden states: HMM, bounded-depth PCFG and n-gram are all of this form.

Legend: h a hidden state, a a token, b the belief P(h | tokens so far).

    p(h', a | h)      an edge; Σ over h' and a of one h, and the end token's probability, is 1
    p(a | tokens)     = Σ_h b(h) · Σ_h' p(h', a | h): the forward algorithm (Rabiner 1989, section III.A)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from maxent_ts.engines.table import TableEngine
from maxent_ts.types import Tokens

__all__ = ["Machine", "NEVER"]

NEVER = -1
"""The `end` of a machine without an end token."""
REMEMBERED = 20_000
"""Beliefs kept per engine; the oldest go first."""


@dataclass(frozen=True)
class Machine:
    """Edges between hidden states, one entry each."""

    name: str
    vocabulary: tuple[str, ...]
    start: np.ndarray
    """float64 [states]: probabilities of the first hidden state."""
    source: np.ndarray
    token: np.ndarray
    target: np.ndarray
    probability: np.ndarray
    """float64 [edges]: p(target, token | source). Edges of the end token are not among them."""
    ending: np.ndarray
    """float64 [states]: probability of the end token."""
    end: int
    """The end token's id, or `NEVER`."""

    @property
    def num_states(self) -> int:
        """Hidden states."""
        return len(self.start)

    @cached_property
    def emission(self) -> np.ndarray:
        """Table of shape [states, vocabulary]: p(token | hidden state), end token included."""
        table = np.zeros((self.num_states, len(self.vocabulary)))
        np.add.at(table, (self.source, self.token), self.probability)
        if self.end != NEVER:
            table[:, self.end] += self.ending
        return table

    @cached_property
    def following(self) -> np.ndarray | None:
        """Table [states, vocabulary]: the next state where every token leads to one state; None for machines with a choice."""
        pairs = self.source * len(self.vocabulary) + self.token
        if len(np.unique(pairs)) != len(pairs) or np.count_nonzero(self.start) != 1:
            return None
        table = np.full((self.num_states, len(self.vocabulary)), -1)
        table[self.source, self.token] = self.target
        return table

    @cached_property
    def _steps(self) -> tuple[csr_array, ...]:
        """Per token, p(target, token | source) transposed: [target, source]."""
        shape = (self.num_states, self.num_states)
        steps = []
        for token in range(len(self.vocabulary)):
            chosen = self.token == token
            steps.append(csr_array((self.probability[chosen], (self.target[chosen], self.source[chosen])), shape=shape))
        return tuple(steps)

    def advance(self, belief: np.ndarray, token: int) -> np.ndarray:
        """The belief after one more token."""
        moved = self._steps[token] @ belief
        return moved / moved.sum()

    def engine(self) -> TableEngine:
        """A table engine of this model; the prompt is any one token, and says nothing.

        A step costs one product with a sparse matrix, or one look-up where the hidden state is known from the tokens.
        """
        emission, following = self.emission, self.following
        beliefs: OrderedDict[Tokens, Any] = OrderedDict()

        if following is None:

            def probabilities(tokens: Tokens) -> np.ndarray:
                row = _recall(beliefs, tokens, self.start, self.advance) @ emission
                return row / row.sum()
        else:
            first, table = int(np.argmax(self.start)), following.tolist()

            def probabilities(tokens: Tokens) -> np.ndarray:
                return emission[_recall(beliefs, tokens, first, lambda state, token: table[state][token])]

        return TableEngine(probabilities, self.vocabulary, eos_token_id=None if self.end == NEVER else self.end)


def _recall(known: OrderedDict[Tokens, Any], tokens: Tokens, first: Any, step: Callable[[Any, int], Any]) -> Any:
    """The belief after a prompt token and a prefix, from that of the longest prefix known."""
    found = known.get(tokens)
    if found is not None:
        return found
    length = len(tokens)
    while length > 1 and tokens[:length] not in known:
        length -= 1
    found = first if length == 1 else known[tokens[:length]]
    for token in tokens[length:]:
        found = step(found, token)
    known[tokens] = found
    if len(known) > REMEMBERED:
        known.popitem(last=False)
    return found
