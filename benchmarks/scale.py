"""What more workers bring on this machine, and what the rest of the system costs: the numbers for a model of 1000 GPUs.

    python benchmarks/scale.py                    about 4 minutes on two idle cores
    python benchmarks/scale.py --rounds 1 --json

Three parts. *Workers*: the embedded model on m4_caption, best-of-N, over one and over two single-core nodes of a real Ray cluster,
and in this process without Ray; interleaved rounds, medians. *Costs*: bytes and CPU seconds of a record on its way to the disk,
of an item at the start, of a record at the end. *Model*: a discrete-event simulation of one writer that 1000 workers report to,
with those costs. What is assumed and not measured is printed as such.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import os
import pickle
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from small_cluster import small_cluster

from maxent_ts.config import RunConfig, make_config
from maxent_ts.distributed.actor import SLICE_SECONDS, Reply
from maxent_ts.distributed.executor import RayExecutor
from maxent_ts.distributed.workers import Worker, Workers
from maxent_ts.fingerprint import fingerprint_examples, plain
from maxent_ts.loading import load_engine
from maxent_ts.metering import Meter
from maxent_ts.planning import TaskPlan, describe, now, plan
from maxent_ts.records import read_run
from maxent_ts.run_directory import RunDirectory
from maxent_ts.searches import Finished, Item, LocalExecutor
from maxent_ts.summary import summarize

DAY = 86_400.0


class Limited(Workers):
    """Lets only some of them be used, so that one and two can take turns."""

    most = 1

    @property
    def ready(self) -> list[Worker]:
        """Those that may be used."""
        return super().ready[: self.most]


def config_of(limit: int, method: str, **changes: Any) -> RunConfig:
    """Return the configuration that is measured."""
    values = {"tasks": ("m4_caption",), "methods": ({"name": method},), "limit": limit, **changes}
    return make_config(**values)


def items_of(one: TaskPlan) -> list[Item]:
    """Return all searches of a task."""
    return [Item(method, factory, example) for example in one.examples for method, factory in one.methods]


def timed(executor: Any, one: TaskPlan) -> dict[str, Any]:
    """Run all searches of a task and write nothing."""
    start = time.perf_counter()
    finished = [done for group in executor.run(one, items_of(one), Meter(0, None, None), lambda _: None) for done in group]
    seconds = time.perf_counter() - start
    tokens = sum(done.record.usage["generated_tokens"] for done in finished)
    return {"items_per_second": len(finished) / seconds, "tokens_per_second": tokens / seconds, "finished": finished}


def measure_workers(args: argparse.Namespace) -> dict[str, Any]:
    """Items per second of one and two single-core nodes, and of this process."""
    config = config_of(args.items, "best_of_n", ray="auto", ray_workers=args.workers, ray_timeout=600.0)
    plans = plan(config)
    counts = list(range(1, args.workers + 1))
    found: dict[Any, list[dict[str, Any]]] = {count: [] for count in counts} | {"here": []}
    load = []
    with small_cluster(args.workers) as (ray, _):
        workers = Limited(ray, config, plans, None)
        executor = RayExecutor(workers, config)
        workers.most = args.workers
        start = time.perf_counter()
        workers.wait_for(args.workers)
        started = time.perf_counter() - start
        here = LocalExecutor(config, plans, load_engine(config))
        for _ in range(args.rounds):
            load.append(round(os.getloadavg()[0], 1))
            for count in counts:
                workers.most = count
                found[count].append(timed(executor, plans[0]))
            found["here"].append(timed(here, plans[0]))
        costs = driver_costs(ray, args.gpus, found["here"][0]["finished"][0])
        workers.close()
    rate = {name: statistics.median(one["items_per_second"] for one in runs) for name, runs in found.items()}
    records = {name: {done.record.key: done.record for done in runs[0]["finished"]} for name, runs in found.items()}
    equal = sum(records[1][key].tokens == one.tokens for key, one in records["here"].items())
    return {
        "items_per_second": {str(name): round(value, 2) for name, value in rate.items()},
        "tokens_per_second": {
            str(name): round(statistics.median(one["tokens_per_second"] for one in runs)) for name, runs in found.items()
        },
        "ratio": round(
            statistics.median(
                two["items_per_second"] / one["items_per_second"] for one, two in zip(found[1], found[args.workers], strict=True)
            ),
            3,
        ),
        "ratio_to_one_process": round(rate[1] / rate["here"], 3),
        "same_completion_as_one_process": f"{equal} of {len(records['here'])}",
        "seconds_to_start_workers": round(started, 1),
        "load_average_before_each_round": load,
        **costs,
    }


def driver_costs(ray: Any, num_workers: int, finished: Finished) -> dict[str, float]:
    """Processor time of the driver for a look at the open calls of so many workers, and for one call that returns a record."""

    @ray.remote(num_cpus=0)
    class Echo:
        def sleep(self) -> None:
            time.sleep(60)

        def reply(self, content: Any) -> Any:
            return content

    sleeper, echo = Echo.remote(), Echo.remote()
    reply = Reply([finished])
    ray.get(echo.reply.remote(reply))
    start = time.process_time()
    for _ in range(20):
        refs = [echo.reply.remote(reply) for _ in range(16)]
        ray.wait(refs, num_returns=len(refs))
        ray.get(refs)
    call = (time.process_time() - start) / (20 * 16)
    refs = [sleeper.sleep.remote() for _ in range(num_workers)]
    start = time.process_time()
    for _ in range(20):
        ray.wait(refs, num_returns=1, timeout=0)
    wait = (time.process_time() - start) / 20
    for actor in (sleeper, echo):
        ray.kill(actor)
    return {"ms_of_a_call": round(1e3 * call, 3), f"ms_of_a_look_at_{num_workers}_calls": round(1e3 * wait, 3)}


def measure_costs(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes and seconds of records, trees, items, syncs and summaries."""
    found: dict[str, Any] = {}
    by_method: dict[str, list[Finished]] = {}
    engine = None
    for method in ("greedy", "best_of_n", "maxent"):
        config = config_of(4, method, save_trees=4)
        plans = plan(config)
        engine = engine or load_engine(config)
        executor = LocalExecutor(config, plans, engine)
        by_method[method] = [
            done for group in executor.run(plans[0], items_of(plans[0]), Meter(0, None, None), lambda _: None) for done in group
        ]
    for method, some in by_method.items():
        lines = [len(_json(done.record.model_dump())) for done in some]
        found[f"record_bytes {method}"] = round(statistics.mean(lines))
        found[f"network_bytes {method}"] = round(
            statistics.mean(len(pickle.dumps(Finished(done.record), protocol=5)) for done in some)
        )
    trees = [done.tree for done in by_method["maxent"] if done.tree is not None]
    found["tree_bytes maxent (gzip)"] = round(statistics.mean(len(gzip.compress(_json(tree), mtime=0)) for tree in trees))
    found["tree_network_bytes maxent"] = round(statistics.mean(len(pickle.dumps(tree, protocol=5)) for tree in trees))
    record = by_method["best_of_n"][0].record
    sent = pickle.dumps(Finished(record), protocol=5)
    found["ms_unpickle"] = _milliseconds(lambda: pickle.loads(sent), 200)
    found["ms_serialize"] = _milliseconds(record.model_dump_json, 200)
    config = config_of(4, "best_of_n")
    plans = plan(config)
    info = describe(config, plans, engine.identity if engine is not None else {})
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        for size in (1, 16, 256):
            with RunDirectory(Path(folder) / str(size), info.model_copy(deep=True)) as directory:
                group = [record] * size
                found[f"ms_append {size}"] = _milliseconds(
                    lambda some=group, to=directory: to.append(*some), max(8, 256 // size), time.perf_counter
                )
        path = Path(folder) / "summary"
        with RunDirectory(path, info.model_copy(deep=True)) as directory:
            copies = [record.model_copy(update={"example_id": f"{record.example_id}/{i}"}) for i in range(2000)]
            directory.append(*copies)
            directory.finish(now())
        start = time.process_time()
        run = read_run(path)
        found["us_read_record"] = round((time.process_time() - start) / 2000 * 1e6, 1)
        found["seconds_summary 2000"] = round(_milliseconds(lambda: summarize(run), 1) / 1e3, 2)
    examples = plan(config_of(100, "greedy"))[0].examples
    found["us_fingerprint_item"] = round(_milliseconds(lambda: fingerprint_examples(examples), 5) * 1e3 / len(examples), 1)
    found["bytes_item (pickled)"] = round(len(pickle.dumps(list(examples), protocol=5)) / len(examples))
    found["peak_memory_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def simulate(
    workers: int,
    records_per_second: float,
    ms_reply: float,
    ms_record: float,
    ms_loop: float,
    ms_sync: float,
    seconds: float = 120.0,
) -> dict[str, float]:
    """Simulate one writer that workers report to; each is idle from its answer until it is asked again.

    A worker finishes records at random, evenly on average, and its call returns half a second after it was asked, or with its next
    record if that comes later. The writer takes all answers that are there, pays for the loop, for each answer, for each record and
    for one sync, and asks those workers again.
    """
    rng = random.Random(0)
    rate = records_per_second / workers

    def answer(asked: float) -> tuple[float, int]:
        first = rng.expovariate(rate)
        return asked + max(SLICE_SECONDS, first), 1 + _poisson(rng, rate * max(0.0, SLICE_SECONDS - first))

    # At the start the workers are anywhere between two answers.
    answers = [answer(-rng.random() / rate) for _ in range(workers)]
    answers = [(max(0.0, at), num) for at, num in answers]
    heapq.heapify(answers)
    clock, busy, written, idle, groups = 0.0, 0.0, 0, 0.0, 0
    while clock < seconds:
        clock = max(clock, answers[0][0])
        group = []
        while answers and answers[0][0] <= clock:
            group.append(heapq.heappop(answers))
        num = sum(one for _, one in group)
        cost = (ms_loop + ms_sync + ms_reply * len(group) + ms_record * num) / 1e3
        clock, busy, written, groups = clock + cost, busy + cost, written + num, groups + 1
        for at, _ in group:
            idle += clock - at
            heapq.heappush(answers, answer(clock))
    return {
        "records_per_second": written / clock,
        "utilization": busy / clock,
        "records_per_sync": written / groups,
        "idle": idle / (clock * workers),
    }


def _poisson(rng: random.Random, mean: float) -> int:
    count, left = 0, mean
    while (left := left - rng.expovariate(1.0)) > 0:
        count += 1
    return count


def model(args: argparse.Namespace, costs: dict[str, Any], workers: dict[str, Any] | None) -> dict[str, Any]:
    """What the measured costs come to for many GPUs."""
    searches = args.searches_per_item
    records = args.items_per_day * searches
    tokens = records * args.tokens_per_search
    record_bytes = costs["record_bytes best_of_n"]
    network_bytes = costs["network_bytes best_of_n"]
    ms_record = costs["ms_unpickle"] + costs["ms_serialize"]
    ms_sync = costs["ms_append 1"]
    of_driver = workers or {}
    ms_reply = max(0.0, of_driver.get("ms_of_a_call", 0.5) - costs["ms_unpickle"])
    ms_loop = 2 * of_driver.get(f"ms_of_a_look_at_{args.gpus}_calls", 1.0)
    failures = args.gpus * 24 / args.gpu_hours_between_failures
    lost = failures * args.gpus_per_node * 2 * 16
    one = simulate(args.gpus, records / DAY, ms_reply, ms_record, ms_loop, ms_sync)
    by_record = simulate(args.gpus, records / DAY, ms_reply, ms_record + ms_sync, ms_loop, 0.0)
    load_seconds = args.items_per_day * costs["us_fingerprint_item"] / 1e6
    return {
        "items/s": round(args.items_per_day / DAY, 1),
        "searches/s": round(records / DAY, 1),
        "tokens/s in all": round(tokens / DAY),
        "tokens/s a GPU must make": round(tokens / DAY / args.gpus),
        "network into the writer, MB/s": round(records / DAY * network_bytes / 1e6, 2),
        "storage, GB/day": round(records * record_bytes / 1e9, 1),
        "storage with a tree for every search, GB/day": round(
            records * (record_bytes + costs["tree_bytes maxent (gzip)"]) / 1e9, 1
        ),
        "one writer: share of its time in use": round(one["utilization"], 2),
        "one writer: records/s": round(one["records_per_second"], 1),
        "one writer: records of a sync": round(one["records_per_sync"], 1),
        "one writer: share of their time that workers wait for it": round(one["idle"], 3),
        "one writer that syncs each record: records/s": round(by_record["records_per_second"], 1),
        "one writer that syncs each record: share of its time in use": round(by_record["utilization"], 2),
        "one writer that syncs each record: share of their time that workers wait": round(by_record["idle"], 3),
        "writers (shards) for a third of their time in use": max(1, round(one["utilization"] / (1 / 3) + 0.5)),
        "failures/day of a GPU": round(failures, 2),
        "searches run again/day": round(lost),
        "share of the day's searches": f"{lost / records:.1e}",
        "start of each worker without shards: seconds to fingerprint all items": round(load_seconds),
        "start of each worker without shards: GB of items": round(args.items_per_day * costs["bytes_item (pickled)"] / 1e9, 1),
        "end: minutes to read the records": round(records * costs["us_read_record"] / 1e6 / 60, 1),
    }


def _json(value: Any) -> bytes:
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")).encode()


def _milliseconds(call: Any, times: int, clock: Callable[[], float] = time.process_time) -> float:
    """The median of a call's time: of this process on the processor, or by another clock."""
    seconds = []
    for _ in range(times):
        start = clock()
        call()
        seconds.append(clock() - start)
    return round(statistics.median(seconds) * 1e3, 3)


def _table(title: str, rows: dict[str, Any]) -> None:
    print(title)
    for name, value in rows.items():
        print(f"  {name:<72} {value}")
    print()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=96, help="of m4_caption, which has 100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="single-core nodes")
    parser.add_argument("--sections", nargs="+", choices=("workers", "costs", "model"), default=["workers", "costs", "model"])
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--items-per-day", type=float, default=1e7)
    parser.add_argument("--searches-per-item", type=int, default=8, help="assumed: the default methods")
    parser.add_argument("--tokens-per-search", type=float, default=467, help="assumed: what best_of_n takes in the demo")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="assumed")
    parser.add_argument(
        "--gpu-hours-between-failures",
        type=float,
        default=50_000,
        help="assumed: 419 in 54 days on 16384 H100 (Llama 3, arXiv 2407.21783)",
    )
    parser.add_argument("--directory", help="where records are written [default: the system's for temporary files]")
    parser.add_argument("--json", action="store_true", help="end with the gates as JSON")
    args = parser.parse_args(arguments)
    gates: dict[str, Any] = {}
    workers = costs = None
    if "workers" in args.sections:
        workers = measure_workers(args)
        _table("Workers, measured", workers)
        ratio = workers["ratio"]
        gates[f"{args.workers} single-core nodes against one"] = {"value": ratio, "goal": "≥ 1.7", "ok": ratio >= 1.7}
    if "costs" in args.sections or "model" in args.sections:
        costs = measure_costs(args)
        _table("Costs, measured", costs)
    if "model" in args.sections and costs is not None:
        title = f"Model of {args.gpus} GPUs and {args.items_per_day:.0e} items a day of {args.searches_per_item} searches"
        _table(f"{title} (the costs above; assumed: see --help)", model(args, costs, workers))
    if args.json:
        print(json.dumps({"gates": gates}))


if __name__ == "__main__":
    main()
