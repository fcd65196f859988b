"""Kill a run with signal 9 at random moments and look at what is left of it.

    python benchmarks/kill.py --kills 100

A child process evaluates the table engine; after every append it says so through a pipe, so that the parent knows what had
been promised to be on disk when the child died. After each kill the parent reads the run directory and counts

    lost        searches that were acknowledged, or seen on disk after an earlier kill, and are not in samples.jsonl
    double      searches with more than one record without an error
    unreadable  times that the directory could not be read, or that a line other than the last was no record

At the end the run is finished and compared, record by record, with one that was never disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxent_ts.config import RunConfig, make_config
from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import RunDirectoryError
from maxent_ts.evaluate import Silent, evaluate
from maxent_ts.records import Record, read_run, read_tree
from maxent_ts.tasks.base import Example

METHODS = ("greedy", "sample", "best_of_n", "maxent")
NOT_REPEATED = ("seconds", "forwarded_tokens")
"""Parts of the usage that depend on the moment and on what runs beside a search."""


class Letters:
    """Continue three letters."""

    name = "letters"
    labels = ("a", "b")
    rewards: Mapping[str, float] = {f"{Path(__file__).resolve()}:share_of_a": 1.0}

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items

    def examples(self, **_: Any) -> list[Example]:
        """Return the items."""
        return [
            Example(f"item/{i}", [i % 5, i // 5 % 5, i // 25 % 5], {}, "ab"[i % 2], "ab"[i % 2]) for i in range(self._num_items)
        ]

    def answer(self, text: str) -> str | None:
        """Return the last letter."""
        return text[-1] if text[-1:] in self.labels else None


def share_of_a(completions: Sequence[str], **_: Any) -> list[float]:
    """Return the share of the letter a."""
    return [text.count("a") / max(1, len(text)) for text in completions]


class Acknowledging(Silent):
    """Tells the parent of every record that `append` has returned from."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def started(self, *_: Any) -> None:
        """Say that the searches begin."""
        os.write(self._pipe, b"started\n")

    def recorded(self, record: Record) -> None:
        """Write the key as a line."""
        os.write(self._pipe, json.dumps(record.key).encode() + b"\n")


def run(config: RunConfig, num_items: int, watcher: Silent | None = None) -> None:
    """Evaluate, or continue."""
    engine = TableEngine.random(num_tokens=6, concentration=0.5)
    evaluate(config, engine=engine, tasks=[Letters(num_items)], watcher=watcher)


def run_and_kill(config: RunConfig, num_items: int, num_records: int | None, seconds: float) -> tuple[list[str], bool]:
    """Run in a child and kill it.

    Args:
        config: What to run.
        num_items: Of the task.
        num_records: How many records are acknowledged before the clock starts; None starts it with the process.
        seconds: From then to the kill.

    Returns:
        The acknowledged keys, and whether the run was over before.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            run(config, num_items, Acknowledging(writer))
        finally:
            os._exit(0)
    os.close(writer)
    deadline = None if num_records is not None else time.perf_counter() + seconds
    received, is_over = b"", False
    while not is_over and (deadline is None or time.perf_counter() < deadline):
        left = None if deadline is None else max(0.0, deadline - time.perf_counter())
        if select.select([reader], [], [], left)[0]:
            part = os.read(reader, 1 << 16)
            received, is_over = received + part, not part
        if deadline is None and num_records is not None and received.count(b"\n") > num_records:
            deadline = time.perf_counter() + seconds
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reader, 1 << 16):
        received += part
    os.close(reader)
    return [line for line in received.decode().split("\n")[:-1] if line != "started"], is_over


def on_disk(path: Path) -> tuple[Counter[str], int]:
    """Return how often each search has a record without an error, and the number of unreadable things."""
    file = path / "samples.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    found: Counter[str] = Counter()
    num_unreadable = 0
    for line in lines:
        try:
            record = Record.model_validate_json(line)
        except ValueError:
            num_unreadable += 1
            continue
        if record.error is None:
            found[json.dumps(record.key)] += 1
    if (path / "run.json").exists():
        try:
            for _, _, tree in read_run(path).trees():
                read_tree(tree)
        except RunDirectoryError:
            num_unreadable += 1
    elif lines:
        num_unreadable += 1
    return found, num_unreadable


def essence(path: Path) -> dict[str, Any]:
    """Return the records without what depends on the moment."""
    found = {}
    for record in read_run(path).records:
        values = record.model_dump()
        values["usage"] = {name: value for name, value in record.usage.items() if name not in NOT_REPEATED}
        found[json.dumps(record.key)] = values
    return found


def main() -> None:
    """Print the report as JSON; exit code 1 if anything was lost, double, unreadable or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument(
        "--delay", type=float, default=0.05, help="seconds: a kill comes after some records and a random part of it"
    )
    parser.add_argument("--start-delay", type=float, default=1.0, help="the same for kills from the start of the process")
    parser.add_argument("--directory", help="where the runs are written [default: the system's for temporary files]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        values = {"tasks": ("letters",), "methods": tuple({"name": one} for one in METHODS), "model": "table"}
        values |= {"num_rollouts": 4, "max_new_tokens": 6, "tilt": 3.0, "save_trees": 20}
        config = make_config(**values, output_dir=Path(folder) / "killed")
        promised: set[str] = set()
        lost = double = unreadable = kills = num_without_progress = 0
        sizes = [0]
        while kills < options.kills:
            # Every fourth kill may hit the start, before the first search; the others come after up to 15 records.
            num_records = None if kills % 4 == 0 else rng.randint(0, 15)
            seconds = rng.random() * (options.start_delay if num_records is None else options.delay)
            acknowledged, is_over = run_and_kill(config, options.items, num_records, seconds)
            if is_over:
                raise SystemExit(f"The run was over after {kills} kills: give more --items.")
            kills += 1
            found, num_unreadable = on_disk(config.output_dir)
            promised |= set(acknowledged)
            lost += len(promised - set(found))
            double += sum(count > 1 for count in found.values())
            unreadable += num_unreadable
            num_without_progress += len(found) == sizes[-1]
            sizes.append(len(found))
            promised |= set(found)
        run(config, options.items)
        undisturbed = make_config(**values, output_dir=Path(folder) / "undisturbed")
        run(undisturbed, options.items)
        killed, whole = essence(config.output_dir), essence(undisturbed.output_dir)
        final, _ = on_disk(config.output_dir)
        report = {
            "kills": kills,
            "kills_without_progress": num_without_progress,
            "records_at_the_last_kill": sizes[-1],
            "searches": len(whole),
            "records_at_the_end": final.total(),
            "lost": lost + len(set(whole) - set(killed)),
            "double": double + sum(count > 1 for count in final.values()),
            "unreadable": unreadable,
            "different_from_an_undisturbed_run": sum(killed.get(key) != values for key, values in whole.items()),
            "seconds": round(time.perf_counter() - start, 1),
        }
    print(json.dumps(report, indent=2))
    if any(report[name] for name in ("lost", "double", "unreadable", "different_from_an_undisturbed_run")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
