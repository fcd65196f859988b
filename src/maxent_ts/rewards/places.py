"""Where in a series a clause says that something happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maxent_ts.rewards.words import Word

__all__ = ["WHOLE", "Place", "find_places"]


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a series, in fractions of the way from the first point (0) to the last (1)."""

    low: float = 0.0
    high: float = 1.0
    relation: str = "whole"
    """`whole`; `in` a part; `from` a part on; `until` a part; `across` from one part to another; `at` one point; `opening` or
    `closing`, before or after a point that the text does not name."""
    explicit: bool = False
    """Whether the text says so, or the whole is meant because it says nothing."""


WHOLE = Place()
"""What a clause that names no place is about."""

_PARTS = {"begin": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "end": (2 / 3, 1.0)}
_LINKS = {"from": "from", "until": "until"}


def find_places(words: Sequence[Word], length: int) -> list[tuple[int, Place]]:
    """Find the places a clause names.

    Args:
        words: The words of the clause.
        length: Points of the series, to place "step 24"; 0 where unknown.

    Returns:
        For each place the index of its first word, and the place.
    """
    found: list[tuple[int, Place]] = []
    index = 0
    while index < len(words):
        parsed = _part(words, index, length)
        if parsed is None:
            if words[index].kind == "whole":
                found.append((index, Place(explicit=True)))
            index += 1
            continue
        low, high, after = parsed
        link = _link(words, index)
        if link == "until" and found and found[-1][1].relation == "from" and index - found[-1][0] <= 6:
            first, earlier = found.pop()
            begin = earlier.low
            found.append((first, Place(begin, max(high, begin + 1e-9), "across", True)))
        elif low == high:
            found.append((index, Place(low, high, "at", True)))
        elif link == "from" or (after < len(words) and words[after].kind == "onward"):
            found.append((index, Place(_start(words, index, low, high), 1.0, "from", explicit=True)))
        elif link == "until":
            found.append((index, Place(0.0, high, "until", True)))
        else:
            found.append((index, Place(low, high, "in", True)))
        index = after
    return found


def _start(words: Sequence[Word], index: int, low: float, high: float) -> float:
    """Return where "from" or "after" a part begins: at its middle for the middle, else at its near or far end."""
    if words[index].value == "middle":
        return 0.5 * (low + high)
    is_after = any(word.text in ("after", "following", "past") for word in words[max(index - 3, 0) : index])
    return high if is_after and high < 1.0 else low


def _link(words: Sequence[Word], index: int) -> str:
    """Return how the part at `index` is linked: the preposition before it, past articles and the like."""
    for before in range(index - 1, max(index - 4, -1), -1):
        kind = words[before].kind
        if kind in _LINKS:
            return _LINKS[kind]
        if kind not in ("filler", "about", "strength"):
            return ""
    return ""


def _part(words: Sequence[Word], index: int, length: int) -> tuple[float, float, int] | None:
    """Read a part of the series at `index`: its ends, and the index after it."""
    word = words[index]
    following = words[index + 1] if index + 1 < len(words) else None
    if word.kind == "number":
        if following is not None and following.text == "%" and 0 <= word.number <= 100 and _speaks_of_the_way(words, index + 2):
            return word.number / 100.0, word.number / 100.0, index + 2
        before = words[index - 1] if index else None
        if before is not None and before.kind == "step" and length > 1 and 0 <= word.number <= length:
            position = min(word.number / (length - 1), 1.0)
            return position, position, index + 1
        return None
    if word.kind in ("ordinal", "part"):
        count, at = 1, index + 1
        if following is not None and following.kind == "count":
            count, at = int(following.value), index + 2
        unit = words[at] if at < len(words) else None
        pieces = 0
        if unit is not None and (unit.kind == "fraction" or (unit.kind == "ordinal" and unit.value == "3" and word.value != "3")):
            pieces = int(unit.value)
        if pieces:
            rank = {"begin": 1, "middle": 2, "end": pieces, "last": pieces}.get(word.value) or int(word.value)
            if word.value in ("end", "last"):
                return 1.0 - count / pieces, 1.0, at + 1
            if rank <= pieces:
                return (rank - 1) / pieces, min((rank - 1 + count) / pieces, 1.0), at + 1
        if word.kind == "ordinal":
            end = index + 1 + (following is not None and following.kind == "section")
            if word.value == "1":
                return *_PARTS["begin"], end
            return (*_PARTS["end"], end) if word.value == "last" and end > index + 1 else None
    if word.kind == "part":
        return *_PARTS[word.value], index + 1
    return None


def _speaks_of_the_way(words: Sequence[Word], index: int) -> bool:
    return any(word.kind in ("way", "until") or word.text in ("mark", "point") for word in words[index : index + 4])
