"""Forecasts written in digits, at equal generated tokens, against seasonal naive, ETS and Theta.

    python benchmarks/forecast.py [--num-rollouts 16] [--limit 100] [--data-dir DIR] [--output-dir runs/forecast]

Every frequency is an evaluation of its own, `max_new_tokens` being four characters for each value of its horizon, and a search
may generate `--num-rollouts` times as many; greedy and one sample need one completion. The records stay in `--output-dir`.

Rows: `greedy` and `sample` return one completion. `median of draws` is the pointwise median of the completions of best-of-N,
and its CRPS that of all of them with equal weights: what the same tokens give without a reward. `best_of_n` and `maxent` return
the completion of the highest reward `spectral`. `median by weight` is the weighted median of the completions of
`best_of_n` or `maxent` under their weights: exp(λ r) for draws, the tree's estimate of π. ETS and Theta see the whole past of a
series, the model only the end of it.

MASE and CRPS are over the error that M4 scales by; smaller is better. PSD distance is from what came (nats), variance ratio over
what came (geometric mean over series; 1 is right). The reward is read for every row, whoever maximised it. `none` counts the
series for which a row has no forecast, since a completion ended before its horizon; they are left out of the row's means.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from forecast_baselines import BASELINES

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.evaluate import evaluate
from maxent_ts.forecast_metrics import crps, mase, psd_distance, variance_ratio
from maxent_ts.paired import paired_difference
from maxent_ts.records import Record
from maxent_ts.rewards.spectral import spectral_score
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.excerpts import excerpt_folder
from maxent_ts.tasks.forecast import Forecast
from maxent_ts.tasks.frequencies import FREQUENCIES
from maxent_ts.tasks.m4_files import read_split_series

METHODS = ("greedy", "sample", "best_of_n", "maxent")
CHARACTERS_PER_VALUE = 4
MEASURES = ("mase", "crps", "psd_distance", "log_variance_ratio", "reward")
PAIRS = (
    ("maxent", "greedy"),
    ("maxent", "sample"),
    ("maxent", "best_of_n"),
    ("maxent", "median of draws"),
    ("best_of_n, median by weight", "median of draws"),
    ("best_of_n, median by weight", "seasonal naive"),
    ("best_of_n, median by weight", "ETS"),
    ("best_of_n, median by weight", "Theta"),
    ("maxent, median by weight", "median of draws"),
    ("maxent, median by weight", "seasonal naive"),
    ("maxent, median by weight", "ETS"),
    ("maxent, median by weight", "Theta"),
    ("greedy", "sample"),
)
Ensemble = tuple[np.ndarray, np.ndarray, Sequence[float]]
"""Point forecast [horizon], members [members, horizon], weights [members]."""


class OneFrequency(Forecast):
    """The items of one frequency."""

    def __init__(self, items: Sequence[Example]) -> None:
        self._items = items

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Return them."""
        del data_dir, limit, seed
        return self._items


def weighted_median(members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the pointwise lower weighted median, float64 [horizon], of members [members, horizon]."""
    order = np.argsort(members, axis=0)
    below = np.cumsum(weights[order], axis=0) / weights.sum()
    return np.take_along_axis(np.take_along_axis(members, order, axis=0), (below < 0.5 - 1e-12).sum(axis=0)[None], axis=0)[0]


def of_completions(task: Forecast, example: Example, record: Record, *, weighted: bool) -> Ensemble | None:
    """Return the median of a record's complete forecasts, and them; None if there is none."""
    found = [(task.forecast(example, text), weight) for text, weight in zip(record.texts, record.weights, strict=True)]
    kept = [
        (values, weight if weighted else 1.0) for values, weight in found if values is not None and (weight > 0 or not weighted)
    ]
    if not kept:
        return None
    members, weights = np.array([values for values, _ in kept]), np.array([weight for _, weight in kept])
    return weighted_median(members, weights), members, weights.tolist()


def rows_of_item(task: Forecast, example: Example, past: np.ndarray, records: dict[str, Record]) -> dict[str, Ensemble | None]:
    """Return for each row of the table what it forecasts for an item; None where no completion reaches the horizon."""
    rows: dict[str, Ensemble | None] = {}
    for name, record in records.items():
        stated = task.forecast(example, record.text or "")
        rows[name] = None if stated is None else (stated, stated[None], [1.0])
    rows["median of draws"] = of_completions(task, example, records["best_of_n"], weighted=False)
    for name in ("best_of_n", "maxent"):
        rows[f"{name}, median by weight"] = of_completions(task, example, records[name], weighted=True)
    for name, function in BASELINES.items():
        point, members = function(past, example.inputs["horizon"], example.inputs["period"])
        rows[name] = point, members, [1.0] * len(members)
    return rows


def measured(example: Example, row: Ensemble) -> dict[str, float] | None:
    """Return the measures of a forecast; None where there is nothing to scale by."""
    target = json.loads(example.target or "{}")
    actual, error = np.array(target["values"]), target["seasonal_naive_error"]
    if error is None:
        return None
    point, members, weights = row
    ratio = variance_ratio(point, actual)
    context = np.array(example.inputs["series"][0])
    reward, _ = spectral_score(context, point, horizon=example.inputs["horizon"], period=example.inputs["period"])
    return {
        "mase": mase(point, actual, error),
        "crps": crps(members, actual, weights) / error,
        "psd_distance": psd_distance(point, actual),
        # A flat forecast has no variance: a thousandth of the truth's stands for it.
        "log_variance_ratio": math.nan if ratio is None else math.log(max(ratio, 1e-3)),
        "reward": reward,
    }


def run_frequency(frequency: str, items: Sequence[Example], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluate one frequency; return the measures of every row and item."""
    task = OneFrequency(items)
    folder = arguments.data_dir or excerpt_folder(None, "forecast", "")
    pasts = {one.id: np.array(one.past) for one in read_split_series(folder, (frequency,))}
    length = CHARACTERS_PER_VALUE * FREQUENCIES[frequency].horizon
    config = RunConfig(
        tasks=(task.name,),
        methods=tuple(MethodConfig(name=name) for name in METHODS),
        model=arguments.model,
        tilt=arguments.tilt,
        num_rollouts=arguments.num_rollouts,
        max_new_tokens=length,
        seed=arguments.seed,
        output_dir=arguments.output_dir / frequency,
        save_trees=0,
    )
    run = evaluate(config, tasks=[task], overwrite=arguments.overwrite)
    by_item: dict[str, dict[str, Record]] = {}
    for record in run.records:
        if record.error is not None:
            raise SystemExit(f"{record.example_id} with {record.variant} failed: {record.error}")
        by_item.setdefault(record.example_id, {})[record.variant] = record
    found = []
    for example in items:
        records = by_item[example.id]
        ensembles = rows_of_item(task, example, pasts[example.id.rpartition("/")[2]], records)
        tokens = {name: record.usage["generated_tokens"] for name, record in records.items()}
        for name, ensemble in ensembles.items():
            values = None if ensemble is None else measured(example, ensemble)
            spent = tokens.get(name.partition(",")[0], tokens["best_of_n"] if name == "median of draws" else 0)
            found.append({"frequency": frequency, "item": example.id, "row": name, "tokens": spent, "values": values})
    return found


def show(title: str, found: Sequence[dict[str, Any]]) -> None:
    """Print the means of every row, and the paired differences in MASE and CRPS."""
    rows = list(dict.fromkeys(one["row"] for one in found))
    items = list(dict.fromkeys(one["item"] for one in found))
    table = {(one["row"], one["item"]): one["values"] for one in found}
    print(f"\n{title}: {len(items)} series")
    print(f"{'':36} tokens  none   MASE   CRPS  PSD dist.  variance ratio  reward")
    for row in rows:
        own = [table[row, item] for item in items if table[row, item] is not None]
        tokens = np.mean([one["tokens"] for one in found if one["row"] == row])
        means = {name: _mean([one[name] for one in own]) for name in MEASURES}
        print(
            f"{row:36} {tokens:6.0f} {len(items) - len(own):5d} {means['mase']:6.3f} {means['crps']:6.3f} "
            f"{means['psd_distance']:10.3f} {math.exp(means['log_variance_ratio']):15.3f} {means['reward']:7.3f}"
        )
    for measure in ("mase", "crps", "psd_distance"):
        for ours, theirs in PAIRS:
            shared = [item for item in items if table[ours, item] and table[theirs, item]]
            difference = paired_difference(*([table[row, item][measure] for item in shared] for row in (ours, theirs)))
            if difference is None or difference.ci95 is None:
                continue
            low, high = difference.ci95
            print(f"{measure}: {ours} − {theirs} = {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}], p = {difference.p_value:.3g}")


def _mean(values: Sequence[float]) -> float:
    """Mean of what is there; NaN of nothing."""
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data-dir", type=Path, help="M4's files [default: the embedded excerpt]")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--num-rollouts", type=int, default=16)
    parser.add_argument("--tilt", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/forecast"))
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--json", type=Path, help="write the measures of every row and item here")
    arguments = parser.parse_args()
    examples = Forecast().examples(data_dir=arguments.data_dir, limit=arguments.limit, seed=arguments.seed)
    found: list[dict[str, Any]] = []
    for frequency in FREQUENCIES:
        items = [one for one in examples if one.stratum == frequency]
        if items:
            some = run_frequency(frequency, items, arguments)
            show(frequency, some)
            found += some
    show("all frequencies", found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
