"""Total variation to the enumerated target, by method and tokens spent.

    python benchmarks/exactness.py [--models 12] [--json]

Random tables of 4 tokens without an end token, rows from Dirichlet(concentration), additive reward of standard deviation
about 1. A budget is N rollouts' worth of generated tokens. Means over the models; the law of a tree is a draw that may
leave it (`search.exact.frozen_tree_law`), the law of best-of-N its weights.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.best_of_n import best_of_n_softmax
from maxent_ts.search.exact import exact, frozen_tree_law, total_variation
from maxent_ts.search.maxent import maxent_sample
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.tree import Tree
from maxent_ts.types import Budget, Outcome, Policy

SETTINGS = {"4^6 leaves, tilt 1": (6, 1.0, 0.5, (10, 30, 100, 300)), "4^5 leaves, tilt 3": (5, 3.0, 1.0, (10, 30, 100))}
NUM_TOKENS = 4


class AdditiveReward:
    """Sum over positions of a random number per (position, token)."""

    name = "additive"

    def __init__(self, length: int, seed: int) -> None:
        self.table = np.random.default_rng(1000 + seed).normal(size=(length, NUM_TOKENS)) / math.sqrt(length)
        self.range = float(self.table.min(axis=1).sum()), float(self.table.max(axis=1).sum())

    def __call__(self, *, completion_ids: list[list[int]], **columns: object) -> list[float]:  # noqa: ARG002 - TRL's signature
        """One sum per completion."""
        return [float(sum(self.table[i, token] for i, token in enumerate(ids))) for ids in completion_ids]

    def explain(self, *, completion_ids: list[list[int]], **columns: object) -> list[dict[str, float]]:
        """The sums again."""
        return [{"value": value} for value in self(completion_ids=completion_ids, **columns)]


@contextmanager
def per_token() -> Iterator[None]:
    """A variant: leave the tree in proportion to the unseen value per token that a rollout may cost."""
    kept = Tree.log_leave

    def log_leave(self: Tree, node: int) -> float:
        return kept(self, node) - math.log(self.target.max_new_tokens - self.depth[node])

    Tree.log_leave = log_leave
    try:
        yield
    finally:
        Tree.log_leave = kept


def law(outcome: Outcome, truth: Outcome) -> dict:
    """The law that a method has of its next draw."""
    if outcome.tree is not None:
        return frozen_tree_law(outcome.tree, truth)
    return dict(zip([one.tokens for one in outcome.completions], outcome.weights, strict=True))


def measure(num_models: int) -> dict[str, dict[str, dict[int, float]]]:
    """Mean total variation by setting, method and number of rollouts' worth of tokens."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, (length, tilt, concentration, sizes) in SETTINGS.items():
        distances: dict[tuple[str, int], list[float]] = {}
        for seed in range(num_models):
            engine = TableEngine.random(num_tokens=NUM_TOKENS, concentration=concentration, eos=False, seed=seed)
            reward = AdditiveReward(length, seed)

            def run(method, budget, engine=engine, reward=reward, length=length, tilt=tilt, seed=seed) -> Outcome:
                job = SearchJob("model", (0,), Policy(length), method, tilt, budget, (seed,))
                (result,) = run_searches([job], engine, reward)
                if result.error is not None:
                    raise result.error
                return result.outcome

            truth = run(exact, Budget())
            target = dict(zip([one.tokens for one in truth.completions], truth.weights, strict=True))
            for size in sizes:
                budget = Budget(generated_tokens=size * length)
                outcomes = {"best_of_n_softmax": run(best_of_n_softmax, budget), "maxent_sample": run(maxent_sample, budget)}
                with per_token():
                    outcomes["maxent_sample, per token"] = run(maxent_sample, budget)
                for method, outcome in outcomes.items():
                    distances.setdefault((method, size), []).append(total_variation(law(outcome, truth), target))
        found[name] = {}
        for (method, size), values in distances.items():
            found[name].setdefault(method, {})[size] = float(np.mean(values))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.models)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, methods in found.items():
        print(f"{name}, mean of {arguments.models} models")
        for method, values in methods.items():
            print(f"  {method:30s}" + "".join(f"{size:>6d}: {value:.3f}" for size, value in values.items()))


if __name__ == "__main__":
    main()
