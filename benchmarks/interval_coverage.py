"""How often the paired interval of `maxent-ts compare` holds the true difference, by simulation.

    python benchmarks/interval_coverage.py        (a few minutes on one core)

Each row draws samples of n paired differences from a distribution whose mean is known. Beside the interval in use it shows
Student's t interval on the differences, the standard error times a quantile that Miller (2024) recommends.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from maxent_ts.metrics import mean_ci95
from maxent_ts.paired import paired_difference

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def differences(draw: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    """Differences drawn directly: b is 0."""
    return lambda rng, n: (draw(rng, n), np.zeros(n))


def binary(only_a: float, only_b: float) -> Draw:
    """Right or wrong, with these rates of disagreement."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        kind = rng.choice(3, size=n, p=[1 - only_a - only_b, only_a, only_b])
        return (kind == 1).astype(float), (kind == 2).astype(float)

    return draw


def seeds(rate_a: float, rate_b: float, num_seeds: int) -> Draw:
    """Right or wrong, averaged over seeds."""
    return lambda rng, n: ((rng.random((n, num_seeds)) < rate_a).mean(1), (rng.random((n, num_seeds)) < rate_b).mean(1))


DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (differences(lambda rng, n: rng.normal(0.2, 1, n)), 0.2),
    "Student's t, 3 degrees": (differences(lambda rng, n: rng.standard_t(3, n) + 0.1), 0.1),
    "exponential (skewness 2)": (differences(lambda rng, n: rng.exponential(1, n)), 1.0),
    "log-normal (skewness 3.7)": (differences(lambda rng, n: rng.lognormal(0, 0.8, n)), math.exp(0.32)),
    "rewards in [0, 1]": (lambda rng, n: (rng.beta(5, 1, n), rng.beta(6, 2, n)), 5 / 6 - 6 / 8),
    "half ties": (differences(lambda rng, n: rng.normal(0.3, 1, n) * (rng.random(n) < 0.5)), 0.15),
    "0/1, mean of 3 seeds": (seeds(0.08, 0.04, 3), 0.04),
    "0/1, 4 % disagree, no difference": (binary(0.02, 0.02), 0.0),
    "0/1, 4 % disagree, one way": (binary(0.04, 0.0), 0.04),
    "0/1, 10 % disagree, no difference": (binary(0.05, 0.05), 0.0),
    "0/1, 10 % disagree": (binary(0.075, 0.025), 0.05),
    "0/1, 25 % disagree": (binary(0.175, 0.075), 0.1),
}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000, help="samples for each row and n")
    parser.add_argument("--resamples", type=int, default=999, help="of each bootstrap and permutation test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = (24, 48, 100)
    print("| differences | " + " | ".join(f"n = {n}" for n in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name, (draw, truth) in DISTRIBUTIONS.items():
        cells = []
        for n in sizes:
            rng = np.random.default_rng((options.seed, n))
            hits = np.zeros(2)
            for index in range(options.samples):
                a, b = draw(rng, n)
                found = paired_difference(a.tolist(), b.tolist(), seed=index, num_resamples=options.resamples)
                assert found is not None
                for which, interval in enumerate((found.ci95, mean_ci95((a - b).tolist()))):
                    assert interval is not None
                    hits[which] += interval[0] <= truth <= interval[1]
            ours, student = 100 * hits / options.samples
            cells.append(f"{ours:.1f} % ({student:.1f} %)")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
