"""How good captions of M4 series are, and whether they change when the series does: the embedded model, at equal generated tokens.

    python benchmarks/caption_quality.py [--limit 50] [--preset balanced] [--output-dir runs/captions]

Every method captions every series, and again after each of four changes of it (`maxent_ts.caption_metrics.changed_series`), with
the same random streams. The first table holds the task's own measures of the captions of the series as they are, the second what
the changes do:

    same text       the caption of the changed series is word for word that of the series
    same claims     it makes the same checkable statements
    stale           it states something that is true of the series and false of the changed one
    follows         it states something that is true of the changed series and false of the series, and nothing stale

`flip rate` in the first table asks less: whether the change makes a statement of the old caption false.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from maxent_ts.caption_metrics import CHANGES, changed_series, flips
from maxent_ts.config import MethodConfig, make_config
from maxent_ts.evaluate import evaluate
from maxent_ts.metrics import mean_ci95
from maxent_ts.paired import paired_difference
from maxent_ts.records import Record
from maxent_ts.rewards.claims import judge_text
from maxent_ts.rewards.measure import measure
from maxent_ts.rewards.scene import Scene
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.opentslm import M4Caption
from maxent_ts.tasks.prompts import m4_prompt

METHODS = ("greedy", "sample", "best_of_n", "maxent")
MEASURES = ("claim_precision", "claim_coverage", "numeric_fidelity", "claim_flip_rate")
EFFECTS = ("same text", "same claims", "stale", "follows")


class Captions(M4Caption):
    """Given items in place of those of a folder."""

    def __init__(self, items: Sequence[Example]) -> None:
        self._items = items

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Return them."""
        del data_dir, limit, seed
        return self._items


def changed(example: Example, change: str) -> Example:
    """Return an item with its series changed. The id stays, and with it the random streams."""
    series = changed_series(example.inputs["series"][0])[change]
    return replace(example, prompt=m4_prompt(series), inputs={**example.inputs, "series": [series]})


def captions(items: Sequence[Example], output_dir: Path, arguments: argparse.Namespace) -> dict[tuple[str, str], Record]:
    """Caption items with every method; return the records by method and item."""
    config = make_config(
        tasks=(M4Caption.name,),
        methods=tuple(MethodConfig(name=name) for name in METHODS),
        preset=arguments.preset,
        seed=arguments.seed,
        output_dir=output_dir,
        save_trees=0,
    )
    run = evaluate(config, tasks=[Captions(items)], overwrite=arguments.overwrite)
    failed = [record for record in run.records if record.error is not None]
    if failed:
        raise SystemExit(f"{failed[0].example_id} with {failed[0].variant} failed: {failed[0].error}")
    return {(record.variant, record.example_id): record for record in run.records}


def effects(before: str, after: str, series: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Return what a change of the series did to its caption, 0 or 1 each."""
    own, theirs = (Scene((measure(values),), ("series",)) for values in (series, other))
    old, kept = (judge_text(text, own) for text in (before, after))
    new = judge_text(after, theirs)
    stale = flips(kept, theirs)
    return {
        "same text": float(before == after),
        "same claims": float({one.statement.claim for one in old} == {one.statement.claim for one in new}),
        "stale": float(stale),
        "follows": float(flips(new, own) and not stale),
    }


def with_interval(values: Sequence[float]) -> str:
    """Format a mean with its 95 % interval."""
    interval = mean_ci95(values)
    return f"{np.mean(values):.3f} ± {(interval[1] - interval[0]) / 2:.3f}" if interval else f"{np.mean(values):.3f}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/captions"))
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    items = M4Caption().examples(limit=arguments.limit, seed=arguments.seed)
    original = captions(items, arguments.output_dir / "original", arguments)
    print(f"{len(items)} series\n{'method':10} tokens " + " ".join(f"{name:>17}" for name in MEASURES))
    for method in METHODS:
        records = [original[method, item.id] for item in items]
        tokens = np.mean([record.usage["generated_tokens"] for record in records])
        cells = [[value for record in records if (value := record.measures[name]) is not None] for name in MEASURES]
        print(f"{method:10} {tokens:6.0f} " + " ".join(f"{with_interval(values):>17}" for values in cells))
    for name in MEASURES:
        for baseline in ("greedy", "best_of_n"):
            pairs = [(original["maxent", item.id].measures[name], original[baseline, item.id].measures[name]) for item in items]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            found = paired_difference([a for a, _ in both], [b for _, b in both])
            if found is not None and found.ci95 is not None:
                low, high = found.ci95
                text = f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}], p = {found.p_value:.3g}, {found.num_pairs} series"
                print(f"{name}: maxent − {baseline} = {text}")
    table: dict[tuple[str, str], list[dict[str, float]]] = {}
    for change in CHANGES:
        others = [changed(item, change) for item in items]
        records = captions(others, arguments.output_dir / change, arguments)
        for method in METHODS:
            table[method, change] = [
                effects(
                    original[method, item.id].text or "",
                    records[method, item.id].text or "",
                    item.inputs["series"][0],
                    other.inputs["series"][0],
                )
                for item, other in zip(items, others, strict=True)
            ]
    print(f"\n{'method':10} {'change':14} " + " ".join(f"{name:>15}" for name in EFFECTS))
    for method in METHODS:
        for change in (*CHANGES, "all four"):
            # All four together are averaged within a series first: they are not independent.
            parts = [table[method, one] for one in (CHANGES if change == "all four" else (change,))]
            cells = [[float(np.mean([one[name] for one in row])) for row in zip(*parts, strict=True)] for name in EFFECTS]
            print(f"{method:10} {change:14} " + " ".join(f"{with_interval(values):>15}" for values in cells))


if __name__ == "__main__":
    main()
