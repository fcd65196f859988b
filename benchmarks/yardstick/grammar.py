"""Small grammars as constraints: r = 1 for a sentence of the language, else 0, with λ = 30.

λ = 30 is a soft stand-in for a hard constraint: what the grammar rejects keeps weight e^-30 ≈ 1e-13, below what any of the
distances shows. The models are random tables with an end token; a completion that is cut at `length` is no sentence.

    expression   E → T | T + E        T → x | ( E )
    list         L → [ ] | [ I ]      I → V | V , I      V → 1 | L
"""

from __future__ import annotations

from maxent_ts.engines.table import TableEngine
from maxent_ts.types import Tokens

from .enumerable import TokenReward
from .measure import Subject

__all__ = ["TABLES", "is_expression", "is_list", "subject"]

TILT = 30.0
LENGTH = 6
VOCABULARIES = {"expression": "x+()", "list": "[],1"}
END = 4
TABLES = {"expression, 5461 leaves": (10, 30, 100, 300), "list, 5461 leaves": (10, 30, 100, 300)}


def is_expression(text: str) -> bool:
    """Whether the text is an E."""
    return _expression(text, 0) == len(text)


def _expression(text: str, start: int) -> int:
    """Where the longest E that begins at `start` ends; -1 if none does."""
    end = -1
    if text[start : start + 1] == "x":
        end = start + 1
    elif text[start : start + 1] == "(":
        inner = _expression(text, start + 1)
        end = inner + 1 if inner >= 0 and text[inner : inner + 1] == ")" else -1
    if end >= 0 and text[end : end + 1] == "+":
        return _expression(text, end + 1)
    return end


def is_list(text: str) -> bool:
    """Whether the text is an L."""
    return _list(text, 0) == len(text)


def _list(text: str, start: int) -> int:
    """Where the L that begins at `start` ends; -1 if none does."""
    if text[start : start + 1] != "[":
        return -1
    if text[start + 1 : start + 2] == "]":
        return start + 2
    end = start
    while end == start or text[end : end + 1] == ",":
        end = end + 2 if text[end + 1 : end + 2] == "1" else _list(text, end + 1)
        if end < 0:
            return -1
    return end + 1 if text[end : end + 1] == "]" else -1


def subject(table: str, seed: int) -> Subject:
    """A random model and the constraint of a table."""
    name = table.split(",")[0]
    vocabulary = VOCABULARIES[name]
    accepts = is_expression if name == "expression" else is_list

    def function(tokens: Tokens) -> float:
        return float(tokens[-1] == END and accepts("".join(vocabulary[token] for token in tokens[:-1])))

    engine = TableEngine.random(num_tokens=len(vocabulary) + 1, concentration=1.0, eos=True, seed=seed)
    return Subject(engine, TokenReward(name, function, (0.0, 1.0)), LENGTH, TILT, seed)
