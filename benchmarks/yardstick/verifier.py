"""Three tests of samplers that steer by an imperfect value of prefixes: ABC, parity and Dyck.

They follow the synthetic tests of VGB (Rohatgi et al. 2025, arXiv 2510.03149, section 5), after its abstract and summaries:
the full definitions were not at hand, so sizes and errors are ours. A completion is accepted or not; r = 1 or 0, and λ = 30
stands for the constraint: what is not accepted has weight e^-30. The prefix reward is ψ(s) = log V̂(s) / λ with
V(s) = E_p[exp(λ r) | s] known exactly and V̂ off by a bounded factor. Token by token the factors multiply over the length of a
completion; a sampler that can go back, or that scores whole completions, need not suffer.

ABC: uniform tokens a, b, c; accepted are completions without c; V̂ = V·(1 + ε) after an a.
Parity: uniform bits; accepted is an even number of ones, which no prefix tells; V̂ = V·e^{±ε}, one sign per prefix.
Dyck: two kinds of brackets, uniform; accepted is what is balanced; V̂ = V·e^{±ε}, one sign per prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.types import Tokens

from .enumerable import TokenReward
from .measure import Subject

__all__ = ["TABLES", "is_balanced", "subject", "value_of"]

TILT = 30.0
ERROR = 0.5
"""ε."""
TABLES = {"ABC, 3^8 leaves": (10, 30, 100), "parity, 2^10 leaves": (10, 30, 100), "Dyck, 4^6 leaves": (30, 100, 300)}


def is_balanced(tokens: Tokens) -> bool:
    """Whether brackets 0 1 and 2 3 are balanced."""
    return _still_open(tokens) == ()


def _still_open(tokens: Tokens) -> Tokens | None:
    """The brackets open after a prefix; None if it can no longer be balanced."""
    stack: list[int] = []
    for token in tokens:
        if token % 2 == 0:
            stack.append(token)
        elif not stack or stack.pop() != token - 1:
            return None
    return tuple(stack)


@cache
def _balanced_share(depth: int, left: int) -> float:
    """Probability that uniform brackets close `depth` open ones in exactly `left` tokens."""
    if depth > left or depth < 0:
        return 0.0
    if left == 0:
        return 1.0
    return 0.5 * _balanced_share(depth + 1, left - 1) + (0.25 * _balanced_share(depth - 1, left - 1) if depth else 0.0)


def _abc(tokens: Tokens, left: int) -> float:
    return 0.0 if 2 in tokens else (2 / 3) ** left


def _parity(tokens: Tokens, left: int) -> float:
    return 0.5 if left else float(sum(tokens) % 2 == 0)


def _dyck(tokens: Tokens, left: int) -> float:
    still_open = _still_open(tokens)
    return 0.0 if still_open is None else _balanced_share(len(still_open), left)


ACCEPTED: dict[str, tuple[int, int, Callable[[Tokens, int], float]]] = {
    "ABC": (3, 8, _abc),
    "parity": (2, 10, _parity),
    "Dyck": (4, 6, _dyck),
}
"""Vocabulary, length, and P(accepted | prefix, tokens left)."""


def value_of(name: str, tokens: Tokens) -> float:
    """V(s) = E_p[exp(λ r) | s]."""
    _, length, accepted = ACCEPTED[name]
    return 1.0 + accepted(tokens, length - len(tokens)) * math.expm1(TILT)


def subject(table: str, seed: int) -> Subject:
    """The test of a table, its errors drawn with a seed."""
    name = table.split(",")[0]
    num_tokens, length, accepted = ACCEPTED[name]
    row = np.full(num_tokens, 1 / num_tokens)

    @cache
    def factor(tokens: Tokens) -> float:
        if name == "ABC":
            return math.log1p(ERROR) if tokens and tokens[-1] == 0 else 0.0
        return ERROR * float(np.random.default_rng((seed, len(tokens), *tokens)).choice((-1, 1)))

    def prefix(tokens: Tokens) -> float:
        return (math.log(value_of(name, tokens)) + factor(tokens)) / TILT

    reward = TokenReward(name, lambda tokens: accepted(tokens, length - len(tokens)), (0.0, 1.0), prefix)
    engine = TableEngine(lambda _: row, "abc" if name == "ABC" else "01" if name == "parity" else "()[]")
    return Subject(engine, reward, length, TILT, seed)
