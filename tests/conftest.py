"""Shared by all tests: how many examples property tests try, rewards on token ids, and one call that runs one search.

HYPOTHESIS_PROFILE=long makes every property test without a number of its own try fifty times as many examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.run import SearchJob, SearchResult, run_searches
from maxent_ts.types import Budget, Policy, Tokens

# A deadline would time the machine, not the code.
settings.register_profile("default", max_examples=40, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


class TokenReward:
    """A reward that looks at token ids: exact tests need no text."""

    def __init__(self, function: Callable[[Tokens], float], bounds: tuple[float, float] = (-np.inf, np.inf)) -> None:
        self.name = "tokens"
        self.range = bounds
        self.function = function

    def __call__(self, *, completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        return [self.function(tuple(ids)) for ids in completion_ids]

    def explain(self, *, completion_ids: list[list[int]], **columns: Any) -> list[Mapping[str, Any]]:
        return [{"value": self.function(tuple(ids))} for ids in completion_ids]


def additive_reward(num_tokens: int, length: int, seed: int, scale: float = 1.0) -> TokenReward:
    """Sum over positions of a random number per (position, token); its standard deviation is about `scale`."""
    table = np.random.default_rng(seed).normal(size=(length, num_tokens)) * scale / np.sqrt(length)
    low, high = float(np.minimum(table.min(axis=1), 0).sum()), float(np.maximum(table.max(axis=1), 0).sum())
    return TokenReward(lambda tokens: float(sum(table[i, token] for i, token in enumerate(tokens))), (low, high))


def run_one(
    engine: TableEngine,
    reward: TokenReward,
    method: Callable[..., Any],
    *,
    tilt: float = 1.0,
    max_new_tokens: int = 4,
    budget: Budget | None = None,
    seed: int = 0,
    **options: Any,
) -> SearchResult:
    """Run one search; an error in it is raised."""
    policy = Policy(max_new_tokens=max_new_tokens)
    job = SearchJob("one", (0,), policy, method, tilt, budget or Budget(rollouts=20), (seed, 1))
    (result,) = run_searches([job], engine, reward, **options)
    if result.error is not None:
        raise result.error
    return result


@pytest.fixture
def table_engine() -> TableEngine:
    """Four tokens, the last of them ends a completion."""
    return TableEngine.random(num_tokens=4, concentration=0.7, seed=3)
