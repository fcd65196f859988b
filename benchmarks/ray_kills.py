"""Kill nodes of a Ray cluster at random moments of a run and look at what is left of it.

    python benchmarks/ray_kills.py --kills 50

A real cluster on this machine: a head, which computes nothing, and nodes of one core, each with its own raylet and worker. After
a random number of records the raylet of a random node is killed with signal 9, and its worker with it; a node is
added in its place. The run goes on. At the end its records are compared with those of one process without Ray:

    lost        searches without a record without an error
    double      searches with more than one such record
    different   records that are not those of one process, times and forwarded tokens apart
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kill import METHODS, Letters, essence, on_disk
from small_cluster import add_node, small_cluster

from maxent_ts.config import make_config
from maxent_ts.engines.table import TableEngine
from maxent_ts.evaluate import Silent, evaluate
from maxent_ts.records import Record

PAUSE_SECONDS = 0.01


class PausingTable(TableEngine):
    """Takes a while for every step, so that the run outlives the kills."""

    def step(self) -> list[Any]:
        """Wait, then go on."""
        time.sleep(PAUSE_SECONDS)
        return super().step()


def make_engine(model: str, *, dtype: str, device: str) -> TableEngine:
    """Return the engine of a worker."""
    del model, dtype, device
    return PausingTable.random(num_tokens=6, concentration=0.5)


class Killer(Silent):
    """Kills a node after so and so many records, and adds another."""

    def __init__(self, cluster: Any, num_kills: int, num_between: int, rng: random.Random) -> None:
        self.cluster = cluster
        self.left = num_kills
        self.between = num_between
        self.rng = rng
        self.num_records = 0
        self.next = rng.randint(1, 2 * num_between)
        self.at: list[int] = []

    def recorded(self, _: Record) -> None:
        """Count, and strike."""
        self.num_records += 1
        if self.left and self.num_records >= self.next:
            self.left -= 1
            self.at.append(self.num_records)
            self.next = self.num_records + self.rng.randint(1, 2 * self.between)
            nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
            self.cluster.remove_node(self.rng.choice(nodes), allow_graceful=False)
            add_node(self.cluster)


def main() -> None:
    """Print the report as JSON; exit code 1 if anything was lost, double or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--records-between", type=int, default=24, help="on average, between two kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_items = (options.kills + 4) * 2 * options.records_between // len(METHODS)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        values = {"tasks": ("letters",), "methods": tuple({"name": one} for one in METHODS), "model": "table"}
        values |= {"engine": f"{Path(__file__).resolve()}:make_engine", "num_rollouts": 4, "max_new_tokens": 6, "tilt": 3.0}
        values |= {"save_trees": 20, "max_concurrent": 4}
        tasks = [Letters(num_items)]
        with small_cluster(options.nodes) as (_, cluster):
            killer = Killer(cluster, options.kills, options.records_between, random.Random(options.seed))
            killed = evaluate(make_config(**values, ray="auto", output_dir=Path(folder) / "killed"), tasks=tasks, watcher=killer)
        with_kills = time.perf_counter() - start
        engine = TableEngine.random(num_tokens=6, concentration=0.5)
        alone = evaluate(make_config(**values, output_dir=Path(folder) / "alone"), engine=engine, tasks=tasks)
        found, unreadable = on_disk(killed.path)
        whole, after = essence(alone.path), essence(killed.path)
        report = {
            "kills": len(killer.at),
            "records_at_the_last_kill": killer.at[-1] if killer.at else 0,
            "searches": len(whole),
            "records_at_the_end": found.total(),
            "lost": len(set(whole) - set(found)),
            "double": sum(count > 1 for count in found.values()),
            "unreadable": unreadable,
            "failed": Counter(one.error is not None for one in killed.records)[True],
            "different_from_one_process": sum(after.get(key) != values for key, values in whole.items()),
            "seconds_with_kills": round(with_kills, 1),
            "load_average": [round(one, 1) for one in os.getloadavg()],
        }
    print(json.dumps(report, indent=2))
    wrong = ("lost", "double", "unreadable", "failed", "different_from_one_process")
    if len(killer.at) < options.kills or any(report[name] for name in wrong):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
