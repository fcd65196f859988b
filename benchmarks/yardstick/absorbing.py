"""The toy of power sampling: a wrong early token leads to many unlikely futures, the right one to few likely ones.

The power distribution p^α weighs whole completions, so it takes the right token; sampling at temperature 1/α weighs tokens
one by one, so it takes the token that is likelier now, and cannot come back (Karan and Du 2025, arXiv 2510.14901, section 4.1).
With r = log p and λ = α - 1, p·exp(λ r) = p^α.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.exact import exact
from maxent_ts.types import Tokens

from .measure import Row, Subject, Truth, distances, search

__all__ = ["POWER", "TABLES", "low_temperature", "right_share", "subject"]

POWER = 4.0
"""α."""
LENGTH = 5
NUM_TOKENS = 5
RIGHT = 0
"""The token that leads to few likely futures. It is less likely than all the others together, and than token 1 alone."""
TABLES = {"4^4 futures, power 4": (3, 10, 30, 100)}


class Logprob:
    """r(x) = log p(x), nats."""

    name = "logprob"
    range = (-np.inf, 0.0)

    def __call__(self, *, logprobs: list[float], **columns: Any) -> list[float]:  # noqa: ARG002 - TRL's signature
        """The column of the driver."""
        return list(logprobs)

    def explain(self, *, logprobs: list[float], **columns: Any) -> list[dict[str, float]]:  # noqa: ARG002 - TRL's signature
        """The values again."""
        return [{"value": value} for value in logprobs]


def subject(table: str, seed: int) -> Subject:  # noqa: ARG001 - one table
    """After token 0 a continuation of probability about 0.8 a step, after token 1 rows that are nearly flat."""
    rows: dict[Tokens, np.ndarray] = {}

    def probabilities(tokens: Tokens) -> np.ndarray:
        if tokens not in rows:
            rng = np.random.default_rng((seed, len(tokens), *tokens))
            if len(tokens) == 1:
                row = np.array([0.35, 0.55, 0.1, 0.0, 0.0])
            elif tokens[1] == RIGHT:
                row = rng.permutation(np.concatenate([[0.8], 0.2 * rng.dirichlet(np.ones(NUM_TOKENS - 1))]))
            else:
                row = rng.dirichlet(np.full(NUM_TOKENS, 50.0))
            rows[tokens] = row
        return rows[tokens]

    return Subject(TableEngine(probabilities, "abcde"), Logprob(), LENGTH, POWER - 1, seed)


def right_share(found: np.ndarray, truth: Truth) -> dict[str, float]:
    """The probability of the right first token under a law."""
    return {"right": float(sum(p for p, one in zip(found, truth.outcome.completions, strict=True) if one.tokens[0] == RIGHT))}


def low_temperature(table: str, one: Subject, truth: Truth) -> Row:
    """What sampling token by token at temperature 1/α draws from, enumerated."""
    under = Subject(one.engine, one.reward, one.length, 0.0, one.seed)
    outcome = search(under, exact, None, temperature=1 / POWER).outcome
    assert outcome is not None
    found = np.zeros(len(truth.weights))
    found[[truth.position[completion.tokens] for completion in outcome.completions]] = outcome.weights
    values = distances(found, truth.weights) | right_share(found, truth)
    return Row(table, "temperature 1/power", 0, one.seed, values)
