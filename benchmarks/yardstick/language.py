"""Three language models trained on the text in text/genesis.txt: an HMM and a bounded-depth PCFG of words, an n-gram of characters.

A verse is a completion. Words are the most frequent ones and punctuation; all others are one token, "*". The HMM and the PCFG
are trained by expectation-maximisation (Baum and Welch), the PCFG as the HMM over its stacks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from .machine import NEVER, Machine

__all__ = ["character_ngram", "characters", "hmm", "pcfg", "verses", "words"]

TEXT = Path(__file__).parent / "text" / "genesis.txt"
OTHER = "*"
END = "<end>"


@cache
def verses() -> tuple[str, ...]:
    """The text, verse by verse, in small letters."""
    return tuple(TEXT.read_text(encoding="utf-8").lower().splitlines())


@cache
def words(num_words: int = 47) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """The vocabulary of words, the end token last, and every verse as token ids with the end token."""
    split = [re.findall(r"[a-z']+|[.,:;?()]", verse) for verse in verses()]
    frequent = [word for word, _ in Counter(word for verse in split for word in verse).most_common(num_words - 1)]
    vocabulary = (*frequent, OTHER, END)
    number = {word: i for i, word in enumerate(vocabulary)}
    encoded = tuple((*(number.get(word, number[OTHER]) for word in verse), number[END]) for verse in split)
    return vocabulary, encoded


@cache
def characters() -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """The vocabulary of characters, the end token last, and every verse as token ids with the end token."""
    vocabulary = (*sorted(set("".join(verses()))), END)
    number = {character: i for i, character in enumerate(vocabulary)}
    return vocabulary, tuple((*(number[character] for character in verse), number[END]) for verse in verses())


@cache
def character_ngram(order: int = 6, discount: float = 0.75) -> Machine:
    """An n-gram that backs off by absolute discounting: p(a|h) = max(n(ha) - d, 0) / n(h) + d·k(h) / n(h) · p(a|h').

    n counts, k(h) is the number of different tokens seen after h, h' is h without its first character, and the shortest
    context backs off to the uniform distribution (Ney, Essen and Kneser 1994). Hidden states are the contexts seen in training.
    """
    vocabulary, sequences = characters()
    end = len(vocabulary) - 1
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for sequence in sequences:
        for i, token in enumerate(sequence):
            for start in range(max(0, i - order + 1), i + 1):
                counts.setdefault(sequence[start:i], Counter())[token] += 1
    contexts = sorted(counts, key=len)
    number = {context: i for i, context in enumerate(contexts)}
    rows = np.empty((len(contexts), len(vocabulary)))
    for i, context in enumerate(contexts):
        shorter = rows[number[context[1:]]] if context else np.full(len(vocabulary), 1 / len(vocabulary))
        seen = np.zeros(len(vocabulary))
        seen[list(counts[context])] = list(counts[context].values())
        rows[i] = (np.maximum(seen - discount, 0) + discount * np.count_nonzero(seen) * shorter) / seen.sum()
    source, token = np.meshgrid(np.arange(len(contexts)), np.arange(end), indexing="ij")
    target = np.array([[_longest((*context, a), order - 1, number) for a in range(end)] for context in contexts])
    start = np.zeros(len(contexts))
    start[number[()]] = 1.0
    name = f"character {order}-gram"
    return Machine(name, vocabulary, start, source.ravel(), token.ravel(), target.ravel(), rows[:, :end].ravel(), rows[:, end], end)


def _longest(history: tuple[int, ...], most: int, number: dict[tuple[int, ...], int]) -> int:
    """The longest end of a history that is a context."""
    history = history[-most:] if most else ()
    while history not in number:
        history = history[1:]
    return number[history]


@cache
def hmm(num_states: int = 12, with_end: bool = True, num_iterations: int = 40, seed: int = 0) -> Machine:
    """An HMM of words.

    Args:
        num_states: Hidden states besides the end.
        with_end: False: after a verse the next one begins, and a completion ends at `max_new_tokens` only.
        num_iterations: Of expectation-maximisation.
        seed: Of the first parameters.
    """
    vocabulary, sequences = words()
    rng, end = np.random.default_rng(seed), len(vocabulary) - 1
    start = np.append(rng.dirichlet(np.ones(num_states)), 0.0)
    transition = np.zeros((num_states + 1, num_states + 1))
    transition[:num_states] = rng.dirichlet(np.ones(num_states + 1), size=num_states)
    emission = np.zeros((num_states + 1, end + 1))
    emission[:num_states, :end] = rng.dirichlet(np.ones(end), size=num_states)
    emission[num_states, end] = 1.0

    def maximise(first: np.ndarray, moves: np.ndarray, emitted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _normalised(first), _normalised(moves), _normalised(emitted)

    start, transition, emission = _baum_welch(start, transition, emission, sequences, maximise, num_iterations)
    return _machine("HMM", vocabulary, start, transition, emission, num_states, with_end)


@cache
def pcfg(num_symbols: int = 4, depth: int = 3, num_iterations: int = 40, seed: int = 0) -> Machine:
    """A PCFG in Greibach's normal form, A → a α with α of no, one or two symbols, whose stack holds at most `depth` symbols.

    Rules have probability p(a | A)·p(α | A), those that overflow the stack being left out and the rest rescaled. The hidden
    state is the stack; a verse ends when it is empty. Bounded-depth grammars: Jin et al. 2018 (TACL 6).

    Args:
        num_symbols: Nonterminals.
        depth: Most symbols on the stack.
        num_iterations: Of expectation-maximisation; counts of a symbol are summed over the stacks it is on top of.
        seed: Of the first parameters.
    """
    vocabulary, sequences = words()
    rng, end = np.random.default_rng(seed), len(vocabulary) - 1
    stacks = [stack for size in range(1, depth + 1) for stack in product(range(num_symbols), repeat=size)] + [()]
    empty = len(stacks) - 1
    number = {stack: i for i, stack in enumerate(stacks)}
    right_sides = [right for size in range(3) for right in product(range(num_symbols), repeat=size)]
    top = np.array([stack[0] for stack in stacks[:empty]])
    moved = np.array([[number.get(right + stack[1:], -1) for right in right_sides] for stack in stacks[:empty]])
    expansion = rng.dirichlet(np.ones(len(right_sides)), size=num_symbols)
    words_of = rng.dirichlet(np.ones(end), size=num_symbols)

    def tables(expansion: np.ndarray, words_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        transition = np.zeros((len(stacks), len(stacks)))
        for stack in range(empty):
            allowed = moved[stack] >= 0
            transition[stack, moved[stack, allowed]] = _normalised(expansion[top[stack], allowed])
        emission = np.zeros((len(stacks), end + 1))
        emission[:empty, :end] = words_of[top]
        emission[empty, end] = 1.0
        return transition, emission

    def maximise(first: np.ndarray, moves: np.ndarray, emitted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        expanded, spoken = np.zeros_like(expansion), np.zeros_like(words_of)
        for stack in range(empty):
            allowed = moved[stack] >= 0
            expanded[top[stack], allowed] += moves[stack, moved[stack, allowed]]
            spoken[top[stack]] += emitted[stack, :end]
        return first, *tables(_normalised(expanded), _normalised(spoken))

    start = np.zeros(len(stacks))
    start[number[(0,)]] = 1.0
    start, transition, emission = _baum_welch(start, *tables(expansion, words_of), sequences, maximise, num_iterations)
    return _machine("PCFG", vocabulary, start, transition, emission, empty, True)


def _baum_welch(
    start: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    sequences: Sequence[tuple[int, ...]],
    maximise: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    num_iterations: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expectation-maximisation over all sequences at once; each ends with the end token, which the last state alone emits."""
    end = emission.shape[1] - 1
    length = max(map(len, sequences))
    tokens = np.full((len(sequences), length), end)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = sequence
    last = np.array([len(sequence) - 1 for sequence in sequences])
    for _ in range(num_iterations):
        seen = emission[:, tokens]  # [states, sequences, length]
        forward = np.zeros((length, len(sequences), len(start)))
        scale = np.ones((length, len(sequences)))
        for t in range(length):
            arriving = np.broadcast_to(start, forward[0].shape) if t == 0 else forward[t - 1] @ transition
            joint = arriving * seen[:, :, t].T * (t <= last)[:, None]
            scale[t] = np.where(t <= last, joint.sum(axis=1), 1.0)
            forward[t] = joint / scale[t][:, None]
        backward = np.zeros_like(forward[0])
        emitted, moves = np.zeros_like(emission), np.zeros_like(transition)
        for t in range(length - 1, -1, -1):
            if t < length - 1:
                ahead = backward * seen[:, :, t + 1].T / scale[t + 1][:, None] * (t + 1 <= last)[:, None]
                moves += (forward[t].T @ ahead) * transition
                backward = ahead @ transition.T
            backward = np.where((t == last)[:, None], 1.0, backward)
            np.add.at(emitted.T, tokens[:, t], forward[t] * backward)
        first = (forward[0] * backward).sum(axis=0)
        start, transition, emission = maximise(_normalised(first), moves, emitted)
    return start, transition, emission


def _machine(
    name: str,
    vocabulary: tuple[str, ...],
    start: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    last: int,
    with_end: bool,
) -> Machine:
    """Edges from the tables of an HMM whose last state emits the end token and nothing else."""
    end = emission.shape[1] - 1
    moves = transition[:last, :]
    if not with_end:
        vocabulary, name = vocabulary[:end], f"{name} without end"
        moves = moves[:, :last] + moves[:, last:] * start[:last]
        start, emission = start[:last], emission[:last, :end]
    source, target = np.nonzero(moves)
    edge, token = np.nonzero(emission[source, :end])
    source, target = source[edge], target[edge]
    probability = emission[source, token] * moves[source, target]
    ending = emission[:, end] if with_end else np.zeros(last)
    texts = tuple(f" {word}" for word in vocabulary)
    return Machine(name, texts, start, source, token, target, probability, ending, end if with_end else NEVER)


def _normalised(counts: np.ndarray) -> np.ndarray:
    """Divide by the sum along the last axis; rows without counts stay 0."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
