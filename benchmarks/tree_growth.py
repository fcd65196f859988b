"""What one search costs beside the model, from 10 to 10 000 rollouts: time per node and per rollout, and bytes per node.

    python benchmarks/tree_growth.py [--rollouts 10 100 1000 10000] [--length 12] [--method maxent] [--json]

The engine and the reward are those of `benchmarks/driver.py`: they cost next to nothing. Process CPU seconds of one core; the
bytes are the process's growth in resident memory, once the search is over and while its tree is held.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.driver import ListedReward, NullEngine

from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy

MOST_MILLISECONDS = 0.3
MOST_GIB = 1.0
NUM_NODES = 100_000
FLATNESS = 2.0
"""Time per rollout of the largest search, as a multiple of that of the smallest but one: the first warms up."""


def grown(name: str, num_rollouts: int, length: int) -> dict[str, Any]:
    """One search, and what it cost."""
    gc.collect()
    before = _resident_bytes()
    job = SearchJob("0", (0,), Policy(length), load(METHODS, name, "method"), 4.0, Budget(generated_tokens=num_rollouts * length))
    start = time.process_time()
    (result,) = run_searches([job], NullEngine(length), ListedReward())
    seconds = time.process_time() - start
    if result.outcome is None or result.outcome.tree is None:
        raise result.error or ValueError(f"{name} grows no tree")
    num_nodes = len(result.outcome.tree)
    gc.collect()
    return {
        "rollouts": result.usage.rollouts,
        "nodes": num_nodes,
        "ms_per_rollout": round(1e3 * seconds / result.usage.rollouts, 4),
        "ms_per_node": round(1e3 * seconds / num_nodes, 4),
        "bytes_per_node": round(max(0, _resident_bytes() - before) / num_nodes),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--length", type=int, default=12)
    parser.add_argument("--method", default="maxent")
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object with the gates")
    args = parser.parse_args()
    grown(args.method, 100, args.length)
    results = [grown(args.method, num, args.length) for num in args.rollouts]
    for result in results:
        print("  ".join(f"{name}={value}" for name, value in result.items()))
    largest, second = results[-1], results[min(1, len(results) - 1)]
    gates = {
        "ms per node": (largest["ms_per_node"], MOST_MILLISECONDS),
        f"GiB for {NUM_NODES} nodes": (largest["bytes_per_node"] * NUM_NODES / 2**30, MOST_GIB),
        "time per rollout, largest / second": (
            largest["ms_per_rollout"] / second["ms_per_rollout"],
            FLATNESS,
        ),
    }
    report = {name: {"value": round(value, 3), "goal": goal, "ok": value <= goal} for name, (value, goal) in gates.items()}
    for name, gate in report.items():
        print(f"{name}: {gate['value']} (at most {gate['goal']}, {'met' if gate['ok'] else 'not met'})")
    if args.json:
        print(json.dumps({"setting": vars(args), "results": results, "gates": report}))


def _resident_bytes() -> int:
    """Of this process, from the kernel's own count."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


if __name__ == "__main__":
    main()
