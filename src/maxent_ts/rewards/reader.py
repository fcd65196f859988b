"""Checkable statements about series, found in English text.

Meanings of words are bound to statements clause by clause: what happens (rises, peaks, repeats, averages), where (the
beginning, from the middle on, 70 % of the way), on which series (the x-axis), with which number, negated or not. What is not
understood is left out: no text is blamed for a sentence that cannot be checked.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from maxent_ts.rewards.clause import CLOSING, OPENING, ClauseReader
from maxent_ts.rewards.places import Place
from maxent_ts.rewards.statements import Statement
from maxent_ts.rewards.words import clauses, split_words

__all__ = ["read"]

_ANSWER = re.compile(r"\banswer\s*:", re.IGNORECASE)

_NOT_ASSERTED = re.compile(
    r"\b(?:would|might|could|may|if|unlike|rather than|instead of|as opposed to|associated with|typical of|characteristic of)\b.*",
    re.IGNORECASE | re.DOTALL,
)
"""What a sentence only considers, from such a word to its end."""

_SENTENCE = re.compile(r"(?:[^.!?;\n]|[.](?=\d))+")


def read(text: str, names: tuple[str, ...] = (), length: int = 0) -> list[Statement]:
    """Find the checkable statements of a text, in order.

    Args:
        text: English prose. A stated answer ("Answer: …") and what follows it is not read.
        names: Names of the series, such as ("x_axis", "y_axis", "z_axis"), by which the text may tell them apart.
        length: Points of the series, to place "step 24".
    """
    answer = _ANSWER.search(text)
    body = text[: answer.start()] if answer else text
    statements: list[Statement] = []
    for match in _SENTENCE.finditer(body):
        offset = match.start()
        for statement in _read_sentence(match.group(), names, length):
            statements.append(replace(statement, start=statement.start + offset, end=statement.end + offset))
    return statements


@lru_cache(maxsize=8192)
def _read_sentence(sentence: str, names: tuple[str, ...], length: int) -> tuple[Statement, ...]:
    """Read one sentence. Kept, because the completions of a search share their beginnings."""
    statements: list[Statement] = []
    named: tuple[int, ...] = ()
    before: list[Statement] = []
    for words in clauses(split_words(_NOT_ASSERTED.sub("", sentence), names)):
        reader = ClauseReader(words, length, named, len(names))
        named = reader.series
        found = reader.statements()
        if before and found:
            _put_in_order(statements, found)
        statements.extend(found)
        before = found
    return tuple(statements)


def _put_in_order(statements: list[Statement], found: list[Statement]) -> None:
    """Give a course without a place the one that follows the course before it: "rises and then falls"."""
    earlier, later = statements[-1], found[0]
    if (
        not (_is_course(earlier) and _is_course(later))
        or later.place.explicit
        or (earlier.kind, earlier.value) == (later.kind, later.value)
    ):
        return
    if earlier.place.relation in ("whole", "closing"):
        if not earlier.place.explicit:
            statements[-1] = replace(earlier, place=OPENING)
        found[0] = replace(later, place=CLOSING)
    elif earlier.place.high < 0.9:
        found[0] = replace(later, place=Place(earlier.place.high, 1.0, "from", explicit=True))


def _is_course(statement: Statement) -> bool:
    return statement.kind in ("trend", "flat")
