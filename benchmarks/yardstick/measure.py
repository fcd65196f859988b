"""One search on one model, and how far its law is from π.

Legend: π the enumerated target, q a method's law, TV = ½ Σ |q - π|, KL = Σ q log(q / π): finite if q leaves completions out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.exact import exact, frozen_tree_law
from maxent_ts.search.run import SearchJob, SearchResult, run_searches
from maxent_ts.types import Budget, Outcome, Policy, Tokens

from .methods import factory

__all__ = ["Row", "Subject", "Truth", "distances", "enumerate_truth", "law", "measure_builds", "measure_method", "search"]

FROZEN_TREE_METHODS = ("maxent", "maxent_sample")
"""Their trees are estimates of π in which a draw may leave the tree. Others that show a tree draw by their weights."""


@dataclass(frozen=True)
class Row:
    """One measurement: a method at a budget on a model."""

    table: str
    method: str
    size: int
    """The budget, in rollouts' worth of generated tokens."""
    seed: int
    """The model's."""
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""
    """Why there are no values."""


@dataclass(frozen=True)
class Subject:
    """A model, a reward, and what π is."""

    engine: TableEngine
    reward: Any
    length: int
    tilt: float
    seed: int


@dataclass(frozen=True)
class Truth:
    """π of a subject, completion by completion."""

    outcome: Outcome
    weights: np.ndarray
    """float64 [completions], sums to 1."""
    position: dict[Tokens, int]
    log_z: float


def search(subject: Subject, method: Any, size: int | None, build: int = 0, temperature: float = 1.0) -> SearchResult:
    """Run a method once. `usage.seconds` are those of the processor, so that workers beside it do not count.

    Args:
        subject: What it is run on.
        method: A name of `registry.METHODS`, or a search factory.
        size: Rollouts' worth of generated tokens; None has no bound.
        build: Another number, another run on the same model.
        temperature: Of the policy.
    """
    made = factory(method, size) if isinstance(method, str) else method
    budget = Budget() if size is None else Budget(generated_tokens=size * subject.length)
    policy = Policy(subject.length, temperature=temperature)
    seed = (subject.seed, build) if build else (subject.seed,)
    job = SearchJob("model", (0,), policy, made, subject.tilt, budget, seed)
    started = time.process_time()
    (result,) = run_searches([job], subject.engine, subject.reward)
    result.usage.seconds = time.process_time() - started
    return result


def enumerate_truth(subject: Subject) -> Truth:
    """Enumerate π."""
    result = search(subject, exact, None)
    if result.error is not None:
        raise result.error
    outcome = result.outcome
    assert outcome is not None
    weights = np.array(outcome.weights)
    return Truth(
        outcome, weights / weights.sum(), {one.tokens: i for i, one in enumerate(outcome.completions)}, outcome.info["log_z"]
    )


def law(method: str, outcome: Outcome, truth: Truth) -> np.ndarray:
    """The law that a method has of a draw, given all it has built: float64 [completions] in the order of `truth`."""
    if method in FROZEN_TREE_METHODS and outcome.tree is not None:
        return np.fromiter(frozen_tree_law(outcome.tree, truth.outcome).values(), dtype=np.float64, count=len(truth.weights))
    return law_of_weights(outcome, truth)


def law_of_weights(outcome: Outcome, truth: Truth) -> np.ndarray:
    """The law of an outcome's weights, which is on what was evaluated only: float64 [completions] in the order of `truth`."""
    found = np.zeros(len(truth.weights))
    found[[truth.position[one.tokens] for one in outcome.completions]] = outcome.weights
    return found


def distances(found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """TV and KL of a law to the target."""
    seen = found > 0
    kl = float(np.sum(found[seen] * (np.log(found[seen]) - np.log(np.maximum(target[seen], np.finfo(float).tiny)))))
    return {"tv": 0.5 * float(np.abs(found - target).sum()), "kl": max(0.0, kl)}


def costs(result: SearchResult, log_z: float) -> dict[str, float]:
    """What a search says of log Z and of exact samples, and what it cost."""
    outcome, usage = result.outcome, result.usage
    assert outcome is not None
    values = {
        "seconds": usage.seconds,
        "generated_tokens": float(usage.generated_tokens),
        "reward_calls": float(usage.reward_calls),
    }
    if math.isfinite(outcome.info.get("log_z", math.nan)):
        values["log_z_error"] = abs(outcome.info["log_z"] - log_z)
    samples = outcome.info.get("exact_samples", 0.0)
    if samples > 0:
        values["tokens_per_sample"] = usage.generated_tokens / samples
        values["rewards_per_sample"] = usage.reward_calls / samples
    return values


def measure_method(
    table: str,
    method: str,
    subject: Subject,
    truth: Truth,
    sizes: Sequence[int],
    also: Callable[[np.ndarray, Truth], dict[str, float]] | None = None,
) -> list[Row]:
    """One build per budget: the distance of the law given what was built, and what `also` reads from the law."""
    rows = []
    for size in sizes:
        result = search(subject, method, size)
        if result.error is not None or result.outcome is None:
            rows.append(Row(table, method, size, subject.seed, error=str(result.error)))
            continue
        found = law(method, result.outcome, truth)
        values = distances(found, truth.weights) | costs(result, truth.log_z) | (also(found, truth) if also else {})
        if method in FROZEN_TREE_METHODS:
            values["tv_of_weights"] = distances(law_of_weights(result.outcome, truth), truth.weights)["tv"]
        rows.append(Row(table, method, size, subject.seed, values))
    return rows


def measure_builds(table: str, method: str, subject: Subject, truth: Truth, sizes: Sequence[int], num_builds: int) -> list[Row]:
    """Many builds per budget: the distance of the law of one draw from a fresh build, which is the mean of their laws."""
    rows = []
    for size in sizes:
        mean = np.zeros(len(truth.weights))
        seconds, error = 0.0, ""
        for build in range(num_builds):
            result = search(subject, method, size, build)
            if result.error is not None or result.outcome is None:
                error = str(result.error)
                break
            mean += law(method, result.outcome, truth) / num_builds
            seconds += result.usage.seconds
        values = {} if error else distances(mean, truth.weights) | {"seconds": seconds}
        rows.append(Row(table, method, size, subject.seed, values, error))
    return rows
