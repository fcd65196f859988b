"""The store of keys and values against a plain list of what was put in."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxent_ts.engines.cache import KeyValueStore, PromptEntry, Segment

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


def add(store: KeyValueStore, root: Segment, tokens: tuple[int, ...]) -> None:
    """Remember tokens, with 'keys' that are the tokens themselves, 8 bytes each."""
    store.add(root, tokens, lambda start, stop: (torch.tensor(tokens[start:stop])[None, :, None],))


def found(store: KeyValueStore, root: Segment, tokens: tuple[int, ...]) -> list[int]:
    """What the store gives back for tokens."""
    held = []
    for piece in store.match(root, tokens):
        assert piece.start == len(held)
        held += piece.key_values(piece.start)[0].flatten().tolist()
    return held


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), TOKENS), max_size=30))
def test_the_longest_known_beginning_is_found_piece_by_piece(sequences):
    """Catches segments joined at the wrong token, and contexts that share continuations."""
    store, roots = KeyValueStore(10**6), (Segment(), Segment())
    added: tuple[list, list] = ([], [])
    for context, tokens in sequences:
        longest = max((shared(tokens, other) for other in added[context]), default=0)
        assert found(store, roots[context], tokens) == list(tokens[:longest])
        add(store, roots[context], tokens)
        added[context].append(tokens)
        assert found(store, roots[context], tokens) == list(tokens)
    unique = sum(len({tokens[:n] for tokens in own for n in range(1, len(tokens) + 1)}) for own in added)
    assert store.stats.held_bytes == 8 * unique


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TOKENS, st.booleans()), max_size=30), st.integers(0, 120))
def test_trimming_keeps_the_limit_and_what_is_left_is_right(sequences, limit):
    """Catches a segment that goes before those that continue it, bytes counted twice, and keys of another sequence."""
    store, root = KeyValueStore(limit), Segment()
    for tokens, is_added in sequences:
        held = found(store, root, tokens)
        assert held == list(tokens[: len(held)])
        if is_added:
            add(store, root, tokens)
        store.trim()
        assert store.stats.held_bytes <= limit
    store.drop(root)
    assert store.stats.held_bytes == 0
    assert found(store, root, (0, 1)) == []


def test_what_was_used_longest_ago_goes_first():
    """Catches first in, first out: a prompt in use would go before one that nobody asks for."""
    store, root = KeyValueStore(8 * 9), Segment()
    for key in (b"old", b"new"):
        store.add_prompt(key, PromptEntry((torch.zeros(1, 3, 1, dtype=torch.long),), torch.zeros(0), 3))
    add(store, root, (0, 1, 2))
    assert store.prompt(b"old") is not None
    assert found(store, root, (0,)) == [0]
    store.add_prompt(b"newest", PromptEntry((torch.zeros(1, 3, 1, dtype=torch.long),), torch.zeros(0), 3))
    store.trim()
    assert store.prompt(b"new") is None
    assert store.prompt(b"old") is not None
    assert found(store, root, (0, 1, 2)) == [0, 1, 2]
    assert store.stats.evicted_bytes == 24


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
