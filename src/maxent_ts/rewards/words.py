"""A text as words with meanings, cut into clauses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from maxent_ts.rewards.lexicon import meaning

__all__ = ["Word", "clauses", "split_words"]


class Word(NamedTuple):
    """One token of a text with its meaning."""

    text: str
    kind: str
    """Category in the lexicon, or `number`, `mark`, `name`; empty where the word means nothing here."""
    value: str
    start: int
    end: int
    number: float = 0.0
    precision: float = 0.0
    """Half a unit of the last digit of a number."""
    series: int = -1
    """Index of the series that a `name` names."""


_TOKEN = re.compile(
    r"(?P<number>(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w))"
    r"|(?P<word>(?:[a-z]+|[1-4](?:st|nd|rd|th))(?:['’]t)?)"
    r"|(?P<mark>[.!?;,:()%\n])",
    re.IGNORECASE,
)
_NAME_WORD = re.compile(r"[a-z0-9]+")
_BREAKS = frozenset({",", "and", "then"})
_PREDICATES = frozenset(
    {"direction", "flat", "extreme", "spike", "rough", "rhythm", "frequency", "hertz", "gravity", "statistic", "spread", "between"}
)


@lru_cache(maxsize=256)
def _identifiers(names: tuple[str, ...]) -> dict[str, int]:
    """Map words that name exactly one of several series to its index: "x" for "x_axis" beside "y_axis"."""
    if len(names) < 2:
        return {}
    words = [set(_NAME_WORD.findall(name.lower().replace("_", " "))) for name in names]
    return {
        word: index
        for index, own in enumerate(words)
        for word in own
        if not any(word in other for position, other in enumerate(words) if position != index)
    }


def split_words(text: str, names: tuple[str, ...] = ()) -> list[Word]:
    """Split a sentence into words with their meanings."""
    identifiers = _identifiers(names)
    words = []
    for match in _TOKEN.finditer(text):
        token, start, end = match.group().lower(), match.start(), match.end()
        if match.lastgroup == "number":
            digits = token.replace(",", "").replace("−", "-")
            decimals = len(digits.partition(".")[2])
            words.append(Word(token, "number", "", start, end, float(digits), 0.5 * 10.0**-decimals))
        elif match.lastgroup == "mark":
            words.append(Word(token, "," if token == "," else "mark", token, start, end))
        elif token in identifiers:
            words.append(Word(token, "name", "", start, end, series=identifiers[token]))
        else:
            words.append(Word(token, *meaning(token), start, end))
    return words


def _says_something(words: Sequence[Word]) -> bool:
    kinds = {word.kind for word in words}
    return (
        not kinds.isdisjoint(_PREDICATES)
        or ("name" in kinds and not kinds.isdisjoint({"rank", "number"}))
        or {"slope", "not"} <= kinds
        or {"level", "off"} <= kinds
        or ("part" in kinds and any(word.text in ("high", "low") for word in words))
        or (not kinds.isdisjoint({"stay", "part"}) and not kinds.isdisjoint({"steady", "number", "compare"}))
    )


def clauses(words: list[Word]) -> list[tuple[Word, ...]]:
    """Cut a sentence at commas and conjunctions where both sides say something of their own."""
    pieces: list[list[Word]] = [[]]
    for index, word in enumerate(words):
        if word.kind in _BREAKS and not _joins_words(words, index):
            pieces.append([])
        else:
            pieces[-1].append(word)
    joined: list[list[Word]] = []
    for piece in pieces:
        if not piece:
            continue
        if joined and not (_says_something(joined[-1]) and _says_something(piece)):
            joined[-1].extend(piece)
        else:
            joined.append(piece)
    return [tuple(piece) for piece in joined]


def _joins_words(words: list[Word], index: int) -> bool:
    """Whether the separator stands between two names or opposites, as in "x, y and z axes" or "up and down"."""
    if not 0 < index < len(words) - 1:
        return False
    before, after = words[index - 1], words[index + 1]
    return before.kind == after.kind == "name" or {before.text, after.text} == {"up", "down"}
