"""The best reward found against the tokens generated, by method and family of rewards.

    python benchmarks/search_efficiency.py [--instances 30] [--family NAME ...] [--method NAME ...] [--quick] [--json]
    python benchmarks/search_efficiency.py --embedded 30     # also the embedded time-series model's two tasks

Every method runs once per instance with the largest budget; what it had found after fewer tokens is read from the driver's
trajectory. A beam has no such course and is run for each budget, as wide as that pays for. The reward of an incumbent is the
true one where a search sees noise, and the incumbent is the completion that looked best to the search.

`tokens` is the ratio of tokens needed to those of best-of-N: the first count at which the mean over the instances reaches the
mean that best-of-N has with half of the largest budget, over the count at which best-of-N does; in brackets its 95 % bootstrap
interval over instances; inf where it is not reached. What is saved depends on what is aimed at: `a fifth` is the paired difference
to the reward that best-of-N has with five times the tokens, at each budget. `rank` is the mean rank among the methods shown, over
instances and budgets, 1 the best, ties shared. `minus best_of_n` is the paired difference of rewards at the largest budget.

Where a reward counts things, `all of BoN` is what all completions of best-of-N hold together. A search that chooses where to go on,
but not what the model writes there, comes by what it puts together no sooner than the model writes it, so this is about as far
as any search can be after so many tokens; more than that takes completions unlike those before.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from reward_families import EMBEDDED_BUDGETS, FAMILIES, Instance, LoggedReward, embedded, instance
from scipy.stats import rankdata

from maxent_ts.paired import PairedDifference, paired_difference
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, SearchResult, run_searches
from maxent_ts.types import Budget, Policy

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "best_of_n": ("best_of_n", {}),
    "beam": ("beam", {}),
    "diverse_beam": ("diverse_beam", {}),
    "metropolis": ("metropolis", {}),
    "mcts uct": ("mcts", {"selection": "uct"}),
    "mcts puct": ("mcts", {"selection": "puct"}),
    "dts_star": ("dts_star", {}),
    "maxent": ("maxent", {}),
}
"""Rows of the table: methods that look for the best, with their settings; those not registered are left out."""

BEAMS = ("beam", "diverse_beam")
RIVALS = ("beam", "metropolis", "mcts uct", "mcts puct", "dts_star")
FIVE_TIMES = ("additive", "sparse", "word")
"""Families where `maxent` is to need at most a fifth of best-of-N's tokens."""
MORE_TOKENS = 5
"""What best-of-N gets as many times more of, to be reached."""
NUM_RESAMPLES = 500


def search(one: Instance, name: str, budget: int) -> tuple[SearchResult, Any]:
    """Run a method once; its error is raised."""
    method, settings = VARIANTS[name]
    if name in BEAMS:
        settings = {**settings, "num_beams": budget // one.length}
    factory = partial(load(METHODS, method, "method"), **settings)
    reward = one.reward()
    bound = Budget(generated_tokens=budget)
    job = SearchJob(name, one.prompt, Policy(one.length), factory, one.tilt, bound, one.seed, one.inputs)
    (result,) = run_searches([job], one.engine, reward)
    if result.error is not None:
        raise result.error
    return result, reward


def course(one: Instance, name: str, budgets: Sequence[int]) -> np.ndarray:
    """The reward of the incumbent by generated tokens, float64 [largest budget + 1]; NaN before the first completion."""
    found = np.full(budgets[-1] + 1, np.nan)
    for budget in budgets if name in BEAMS else budgets[-1:]:
        result, reward = search(one, name, budget)
        true_values = reward.true_values if isinstance(reward, LoggedReward) else [best for _, best in result.trajectory]
        highest, incumbent, first = -math.inf, math.nan, result.trajectory[0][0]
        for (tokens, best), value in zip(result.trajectory, true_values, strict=True):
            if best > highest:
                found[first:tokens] = incumbent
                highest, incumbent, first = best, value, tokens
        found[first:] = incumbent
    return found


def measure(instances: Sequence[Instance], methods: Sequence[str], budgets: Sequence[int]) -> dict[str, np.ndarray]:
    """Courses by method, float64 [instances, largest budget + 1], that of best-of-N `MORE_TOKENS` times as long.

    Before a method's first completion stands the worst first one.
    """
    longer = [MORE_TOKENS * budgets[-1]]
    found = {
        name: np.array([course(one, name, longer if name == "best_of_n" else budgets) for one in instances]) for name in methods
    }
    for row in range(len(instances)):
        firsts = [courses[row][~np.isnan(courses[row])][0] for courses in found.values()]
        for courses in found.values():
            courses[row][np.isnan(courses[row])] = min(firsts)
    return found


def pooled(one: Instance, budget: int) -> np.ndarray:
    """What the completions of best-of-N hold together, by generated tokens, float64 [budget + 1]; 0 before the first."""
    assert one.pool is not None
    result, _ = search(one, "best_of_n", budget)
    found, num_tokens, held = np.zeros(budget + 1), 0, Counter[int]()
    assert result.outcome is not None
    for completion in result.outcome.completions:
        num_tokens += len(completion.tokens)
        held = one.pool.joined(held, one.pool.found(completion.tokens))
        found[num_tokens:] = held.total()
    return found


def ratio(courses: np.ndarray, baseline: np.ndarray) -> float:
    """Tokens to reach the baseline's mean at half of the budget, over those of the baseline; both have the same columns."""
    goal = baseline.mean(axis=0)[baseline.shape[1] // 2]

    def tokens(rows: np.ndarray) -> float:
        reached = np.flatnonzero(rows.mean(axis=0) >= goal - 1e-12)
        return float(reached[0]) if len(reached) else math.inf

    return tokens(courses) / max(tokens(baseline), 1.0)


def summarise(found: dict[str, np.ndarray], budgets: Sequence[int], seed: int) -> dict[str, dict[str, Any]]:
    """The rows of one family's table."""
    longer = found["best_of_n"]
    found = {name: courses[:, : budgets[-1] + 1] for name, courses in found.items()}
    baseline = found["best_of_n"]
    rng = np.random.default_rng(seed)
    resamples = rng.integers(len(baseline), size=(NUM_RESAMPLES, len(baseline)))
    # A thousand token counts are fine enough for the interval.
    step = max(1, baseline.shape[1] // 1000)
    at_budgets = np.array([courses[:, list(budgets)] for courses in found.values()])
    ranks = rankdata(-at_budgets.round(9), axis=0).mean(axis=(1, 2))
    rows = {}
    for (name, courses), rank in zip(found.items(), ranks, strict=True):
        sampled = [ratio(courses[rows_][:, ::step], baseline[rows_][:, ::step]) for rows_ in resamples]
        difference = _paired(courses[:, -1], baseline[:, -1])
        to_more = {budget: _paired(courses[:, budget], longer[:, MORE_TOKENS * budget]) for budget in budgets}
        rows[name] = {
            "reward": {budget: float(courses[:, budget].mean()) for budget in budgets},
            "tokens_ratio": ratio(courses, baseline),
            "tokens_ratio_ci95": np.quantile(sampled, [0.025, 0.975], method="nearest").tolist(),
            "rank": float(rank),
            "minus_best_of_n": difference.mean,
            "minus_best_of_n_ci95": difference.ci95,
            "a_fifth": {budget: [one.mean, one.ci95] for budget, one in to_more.items()},
        }
    return rows


def add_pooled(
    rows: dict[str, dict[str, Any]], instances: Sequence[Instance], baseline: np.ndarray, budgets: Sequence[int]
) -> None:
    """Add what best-of-N's completions hold together, which is no method: it has no rank."""
    courses = np.array([pooled(one, budgets[-1]) for one in instances])
    rows["best_of_n"]["pooled"] = {budget: float(courses[:, budget].mean()) for budget in budgets}
    rows["best_of_n"]["pooled_tokens_ratio"] = ratio(courses, baseline[:, : budgets[-1] + 1])


def _paired(ours: np.ndarray, theirs: np.ndarray) -> PairedDifference:
    difference = paired_difference(ours.tolist(), theirs.tolist())
    assert difference is not None
    return difference


def gates(tables: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What is hoped for, and whether it holds; only of families that were run."""
    made: dict[str, dict[str, Any]] = {}

    def gate(name: str, value: float, goal: float) -> None:
        made[name] = {"value": value, "goal": goal, "ok": bool(value <= goal)}

    for family, rows in tables.items():
        if family in FIVE_TIMES:
            gate(f"maxent: tokens of best_of_n's, {family}, at most", rows["maxent"]["tokens_ratio"], 0.2)
            (mean, _) = list(rows["maxent"]["a_fifth"].values())[-1]
            gate(f"best_of_n of {MORE_TOKENS} times the tokens minus maxent, {family}, at most", -mean, 0.0)
    worst = max(rows["maxent"]["tokens_ratio"] for rows in tables.values())
    gate("maxent: tokens of best_of_n's, worst family, at most", worst, 1.1)
    rivals = {name: mean_rank(tables, name) for name in RIVALS if all(name in rows for rows in tables.values())}
    if rivals:
        gate("maxent: mean rank, at most that of the best rival", mean_rank(tables, "maxent"), min(rivals.values()))
    return made


def mean_rank(tables: dict[str, dict[str, dict[str, Any]]], name: str) -> float:
    """Mean over families."""
    return float(np.mean([rows[name]["rank"] for rows in tables.values()]))


def show(family: str, rows: dict[str, dict[str, Any]], num_instances: int, seconds: float) -> None:
    """Print one family's table, and say where `maxent` is behind."""
    budgets = list(rows["best_of_n"]["reward"])
    print(f"\n{family}, {num_instances} instances, {seconds:.0f} s: best reward by generated tokens")
    head = "".join(f"{budget:9d}" for budget in budgets)
    print(f"  {'method':14}{head}    tokens  [95 %]         rank  minus best_of_n [95 %]  a fifth")
    for name, row in rows.items():
        rewards = "".join(f"{value:9.3f}" for value in row["reward"].values())
        low, high = row["tokens_ratio_ci95"]
        left, right = row["minus_best_of_n_ci95"] or (math.nan, math.nan)
        print(
            f"  {name:14}{rewards}  {row['tokens_ratio']:8.2f}  [{low:5.2f}, {high:5.2f}]  {row['rank']:5.2f}"
            f"  {row['minus_best_of_n']:+.3f} [{left:+.3f}, {right:+.3f}]"
            f"  {' '.join(f'{mean:+.2f}' for mean, _ in row['a_fifth'].values())}"
        )
    if "pooled" in rows["best_of_n"]:
        rewards = "".join(f"{value:9.3f}" for value in rows["best_of_n"]["pooled"].values())
        print(f"  {'all of BoN':14}{rewards}  {rows['best_of_n']['pooled_tokens_ratio']:8.2f}")
    final = {name: row["reward"][budgets[-1]] for name, row in rows.items()}
    ahead = [name for name in final if final[name] > final["maxent"] + 1e-9]
    if ahead:
        print(f"  maxent is behind {', '.join(ahead)} at {budgets[-1]} tokens.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    parser.add_argument("--method", action="append", choices=list(VARIANTS))
    parser.add_argument("--embedded", type=int, default=0, metavar="ITEMS", help="items of each task of the embedded model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three instances and the smallest budget: a smoke test")
    parser.add_argument("--json", action="store_true", help="the last line is JSON with all figures and the gates")
    arguments = parser.parse_args()
    num_instances = 3 if arguments.quick else arguments.instances
    wanted = ("best_of_n", "maxent", *(arguments.method or VARIANTS))
    methods = [name for name, (method, _) in VARIANTS.items() if name in wanted and method in METHODS]
    left_out = [name for name, (method, _) in VARIANTS.items() if method not in METHODS]
    if left_out:
        print(f"not registered, left out: {', '.join(left_out)}")
    jobs = [(name, FAMILIES[name]) for name in arguments.family or FAMILIES]
    jobs += [(name, EMBEDDED_BUDGETS) for name in ("m4_caption", "har_cot") if arguments.embedded]
    tables = {}
    for family, budgets in jobs:
        if arguments.quick:
            budgets = budgets[:1]
        start = time.perf_counter()
        if family in FAMILIES:
            instances = [instance(family, 1000 * arguments.seed + i) for i in range(num_instances)]
        else:
            instances = embedded(family, min(arguments.embedded, num_instances), arguments.seed)
        found = measure(instances, methods, budgets)
        tables[family] = summarise(found, budgets, arguments.seed)
        if instances[0].pool is not None:
            add_pooled(tables[family], instances, found["best_of_n"], budgets)
        show(family, tables[family], len(instances), time.perf_counter() - start)
        sys.stdout.flush()
    print("\nmean rank over families: " + ", ".join(f"{name} {mean_rank(tables, name):.2f}" for name in methods))
    made = gates(tables)
    for name, one in made.items():
        print(f"{'ok    ' if one['ok'] else 'MISSED'} {name} {one['goal']:.3g}: {one['value']:.3g}")
    if arguments.json:
        print(json.dumps(_finite({"gates": made, "families": tables})))


def _finite(value: Any) -> Any:
    """Infinite ratios as null: JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
