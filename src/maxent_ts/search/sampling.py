"""What the model does by itself: its most likely completion, and one draw. The yardsticks below every search."""

from __future__ import annotations

import numpy as np

from maxent_ts.search.base import Search
from maxent_ts.search.completions import draw, score
from maxent_ts.types import Outcome, Target

__all__ = ["greedy", "sample"]


def greedy(rng: np.random.Generator, target: Target) -> Search:
    """Take the most likely token at every step: one completion, no search."""
    completions = yield from draw(1, do_sample=False)
    completions = yield from score(completions)
    return Outcome(completions, (1.0,), (0,))


def sample(rng: np.random.Generator, target: Target) -> Search:
    """Draw one completion from p: what the model itself does."""
    completions = yield from draw(1)
    completions = yield from score(completions)
    return Outcome(completions, (1.0,), (0,))
