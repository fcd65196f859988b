"""The true law of a small model by enumeration, and the comparisons with it that exact tests make."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import chi2

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.exact import exact
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Outcome, Policy, Tokens
from tests.conftest import TokenReward, run_one


def enumerate_all(engine: TableEngine, reward: TokenReward, *, tilt: float, max_new_tokens: int) -> Outcome:
    """Every completion with p, r and π, and log Z."""
    return run_one(engine, reward, exact, tilt=tilt, max_new_tokens=max_new_tokens, budget=Budget()).outcome


def law_of_weights(outcome: Outcome) -> dict[Tokens, float]:
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def outcomes(
    engine: TableEngine,
    reward: TokenReward,
    method: Callable[..., Any],
    *,
    num: int,
    tilt: float,
    max_new_tokens: int,
    budget: Budget,
    **options: Any,
) -> Iterator[Outcome]:
    """Run the same search with `num` seeds."""
    policy = Policy(max_new_tokens)
    jobs = (SearchJob(str(seed), (0,), policy, method, tilt, budget, (seed, 1)) for seed in range(num))
    for result in run_searches(jobs, engine, reward, **options):
        if result.error is not None:
            raise result.error
        yield result.outcome


def chi_squared_excess(drawn: Iterable[Hashable], law: Mapping[Any, float]) -> float:
    """χ² of draws against a law, divided by what it exceeds by chance once in 10⁵; below 1 where they agree.

    Cells that expect fewer than five draws are put together. A draw that the law does not know is an error.
    """
    counts = dict.fromkeys(law, 0)
    for one in drawn:
        counts[one] += 1
    num = sum(counts.values())
    cells = [(counts[one], num * p) for one, p in law.items() if num * p >= 5]
    cells.append((num - sum(count for count, _ in cells), num - sum(expected for _, expected in cells)))
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells if expected > 1e-9)
    return statistic / float(chi2.ppf(1 - 1e-5, len(cells) - 1))


def standard_errors_from(values: Iterable[float], truth: float) -> float:
    """How many standard errors the mean of independent values lies from the truth."""
    array = np.array(list(values))
    return float(abs(array.mean() - truth) / max(1e-12, array.std(ddof=1) / np.sqrt(len(array))))
