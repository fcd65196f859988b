"""Rewards that a finite automaton counts: occurrences of tokens or words, one definition for searches and for exact posteriors.

r(x) = unit · min(number of occurrences, most).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from maxent_ts.types import Tokens

from .enumerable import TokenReward

__all__ = ["Automaton", "count_tokens", "count_words"]


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton whose steps count."""

    name: str
    following: np.ndarray
    """int [states, vocabulary]: the state after a token. The first state is state 0."""
    gain: np.ndarray
    """int [states, vocabulary]: occurrences that the token completes."""
    most: int
    """Occurrences above this number count no more."""
    unit: float = 1.0

    def count(self, tokens: Tokens) -> int:
        """The number of occurrences, at most `most`."""
        state = total = 0
        for token in tokens:
            total += self.gain[state, token]
            state = self.following[state, token]
        return int(min(total, self.most))

    def reward(self) -> TokenReward:
        """The reward of completions that searches see."""
        following, gain = self.following.tolist(), self.gain.tolist()

        def function(tokens: Tokens) -> float:
            state = total = 0
            for token in tokens:
                total += gain[state][token]
                state = following[state][token]
            return self.unit * min(total, self.most)

        return TokenReward(self.name, function, (0.0, self.unit * self.most))


def count_tokens(name: str, num_tokens: int, counted: Collection[int], most: int, unit: float = 1.0) -> Automaton:
    """Count the tokens of a class, one state.

    Args:
        name: In tables.
        num_tokens: Size of the vocabulary, end token included.
        counted: The token ids of the class.
        most: The highest count.
        unit: Reward of one occurrence.
    """
    gain = np.isin(np.arange(num_tokens), list(counted)).astype(np.int64)[None]
    return Automaton(name, np.zeros((1, num_tokens), dtype=np.int64), gain, most, unit)


def count_words(name: str, num_tokens: int, words: Sequence[Tokens], most: int, unit: float = 1.0) -> Automaton:
    """Count occurrences of token sequences, overlaps included: the automaton of Aho and Corasick (1975).

    Args:
        name: In tables.
        num_tokens: Size of the vocabulary, end token included.
        words: The sequences, none empty.
        most: The highest count.
        unit: Reward of one occurrence.
    """
    children: list[dict[int, int]] = [{}]
    ends = [0]
    for word in words:
        state = 0
        for token in word:
            if token not in children[state]:
                children[state][token] = len(children)
                children.append({})
                ends.append(0)
            state = children[state][token]
        ends[state] += 1
    following = np.zeros((len(children), num_tokens), dtype=np.int64)
    failure = [0] * len(children)
    for token, child in children[0].items():
        following[0, token] = child
    queue = deque(children[0].values())
    while queue:
        state = queue.popleft()
        ends[state] += ends[failure[state]]
        following[state] = following[failure[state]]
        for token, child in children[state].items():
            failure[child] = int(following[state, token])
            following[state, token] = child
            queue.append(child)
    return Automaton(name, following, np.array(ends)[following], most, unit)
