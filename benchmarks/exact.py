"""Every method against posteriors that are known exactly.

    python benchmarks/exact.py [--quick] [--section NAME] [--table WORDS] [--method NAME] [--json [PATH]]

A budget is N rollouts' worth of generated tokens, N·max_new_tokens. The law of a method is, for MaxEnt-TS,
that of the walk that may leave the tree (`search.exact.frozen_tree_law`), for all others the outcome's weights. TV and KL are
of the law given one build, or of the mean of the laws of many builds, which is the law of one draw from a fresh build.
Means ± standard errors over random models; in brackets the ratio to dts. The models are in `benchmarks/yardstick/`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from yardstick.methods import ABLATIONS, OPTIMISERS, SAMPLERS, chosen_methods
from yardstick.sections import SECTIONS, Plan, measure_all, units
from yardstick.tables import Means, gates, print_tables

from maxent_ts.registry import METHODS

FULL = Plan(
    num_models=30, num_builds=20, num_models_of_builds=6, num_models_of_large=4, num_models_of_many=4, num_models_of_language=8
)
QUICK = Plan(
    num_models=12, num_builds=20, num_models_of_builds=2, num_models_of_large=2, num_models_of_many=0, num_models_of_language=2
)


def main() -> None:
    """Measure, print the tables, and end with the gates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--section", action="append", choices=SECTIONS, help="may be given several times; all without it")
    parser.add_argument("--table", default="", help="only tables whose name holds this, such as 'tilt 3, additive'")
    parser.add_argument(
        "--method",
        action="append",
        help="may be given several times; without it all samplers, and optimisers where best rewards are compared",
    )
    parser.add_argument("--quick", action="store_true", help="12 models instead of 30, and no budgets above 2048")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", nargs="?", const="-", metavar="PATH", help="write all means to PATH; the last line is the gates")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if unknown := set(arguments.method or ()) - set(METHODS):
        parser.error(f"no method is named {', '.join(sorted(unknown))}; known are {', '.join(METHODS)}")
    methods = chosen_methods(arguments.method, SAMPLERS)
    also = {"enumerable": chosen_methods(arguments.method, ABLATIONS), "language": chosen_methods(arguments.method, OPTIMISERS)}
    work = [one for name in arguments.section or SECTIONS for one in units(name, methods + also.get(name, ()), plan)]
    work = [one for one in work if arguments.table in one.table]
    started = time.perf_counter()

    def on_unit(done: int) -> None:
        if done % 50 == 0 or done == len(work):
            print(f"{done} of {len(work)} models, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    means = Means(measure_all(work, arguments.workers, on_unit))
    found = gates(means, methods)
    print_tables(means, Console(width=160))
    print_seconds(means)
    if arguments.json and arguments.json != "-":
        Path(arguments.json).write_text(json.dumps(means.to_dict() | {"gates": found}, indent=1) + "\n")
    for name, gate in found.items():
        print(f"{'passed' if gate['passed'] else 'MISSED'}  {name}: {gate['value']:.4g}, goal {gate['goal']:g}")
        for cell in gate.get("lost", ()):
            print(
                f"        {cell['table']}, {cell['size']}: {cell['winner']} {cell['winner_tv']:.4f}, maxent_sample {cell['tv']:.4f}"
            )
    if arguments.json:
        print(json.dumps({"gates": found}))


def print_seconds(means: Means) -> None:
    """Print what every method took: processor seconds of its searches, the slowest method first."""
    totals: dict[str, float] = {}
    for table, metric, method, size in means.keys(metric="seconds"):
        totals[method] = totals.get(method, 0.0) + sum(means.values[table, metric, method, size])
    slowest_first = sorted(totals.items(), key=lambda item: -item[1])
    print("seconds in searches: " + ", ".join(f"{name} {value:.1f}" for name, value in slowest_first))


if __name__ == "__main__":
    main()
