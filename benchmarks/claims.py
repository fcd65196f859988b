"""How well the reward `claims` tells a caption's own series from another one, on human captions.

Data: TRUCE (Jhamtani and Berg-Kirkpatrick 2021, Apache-2.0), 7,380 human captions of 2,460 series of 12 points. The series are
split by id into halves: the rules of the reward were developed on one, and the figures to quote are those of the other.

Every caption is judged against its own series and against `--others` random series of the same subset. Printed for each subset:
coverage (share of captions with a checkable statement), the area under the ROC curve of precision (own against other series,
covered captions) and of the reward's value (all captions), and the share of pairs in which the own series wins.

    python benchmarks/claims.py [--data ../shared/data/truce_human_captions.parquet] [--half test] [--format json]
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from maxent_ts.rewards.claims import Claims
from maxent_ts.rewards.measure import measure
from maxent_ts.rewards.places import Place
from maxent_ts.rewards.scene import Scene
from maxent_ts.rewards.statements import Statement
from maxent_ts.rewards.truth import judge

KINDS = {
    "trend": ["up", "down"],
    "flat": [""],
    "no trend": [""],
    "extreme": ["maximum", "minimum", "peak", "trough"],
    "ends": ["up", "down", "same"],
    "rough": ["rough", "smooth", "volatile"],
    "rhythm": [""],
    "spread": ["weak", "moderate", "strong"],
    "spread change": ["up", "down"],
    "spike": [""],
    "shift": ["", "up", "down"],
    "level": ["low", "high"],
}

BASELINE = {"synthetic": (0.785, 0.961), "stock": (0.691, 0.925)}
"""AUC and coverage of a checker of 40 lines of regular expressions on the same data (all of it)."""


def area_under_curve(own: np.ndarray, other: np.ndarray) -> float:
    """Return the probability that an own score exceeds an other one, ties counted half."""
    ranks = rankdata(np.concatenate([own, other]))
    return float((ranks[: len(own)].sum() - len(own) * (len(own) + 1) / 2) / (len(own) * len(other)))


def half_of(subset: str, identifier: str) -> str:
    """Return the half a series belongs to, by a hash of its id."""
    return "development" if zlib.crc32((subset + identifier).encode()) % 2 == 0 else "test"


def figures(table: pd.DataFrame, others: int, seed: int) -> dict[str, float]:
    """Judge every caption of one subset against its own and against other series."""
    rng = np.random.default_rng(seed)
    reward = Claims()
    series = [[list(map(float, values))] for values in table["series"]]
    for one in series:
        measure(one[0])
    own_precision, other_precision, own_value, other_value, wins = [], [], [], [], []
    covered = total = 0
    for index, captions in enumerate(table["human_captions"]):
        for caption in captions:
            total += 1
            # Draw among the others only: the own series is left out by skipping its index.
            drawn = rng.integers(0, len(series) - 1, others)
            chosen = [index, *(int(other) + (int(other) >= index) for other in drawn)]
            evidence = reward.explain(
                prompts=[None] * len(chosen),
                completions=[caption] * len(chosen),
                completion_ids=[[]] * len(chosen),
                series=[series[each] for each in chosen],
            )
            values = [each["value"] for each in evidence]
            own_value.append(values[0])
            other_value.extend(values[1:])
            if evidence[0]["statements"]:
                covered += 1
                precisions = [each["parts"]["precision"]["value"] for each in evidence]
                own_precision.append(precisions[0])
                other_precision.extend(precisions[1:])
                wins.extend((precisions[0] > each) + 0.5 * (precisions[0] == each) for each in precisions[1:])
    return {
        "num_captions": total,
        "coverage": covered / total,
        "auc_precision": area_under_curve(np.array(own_precision), np.array(other_precision)),
        "auc_value": area_under_curve(np.array(own_value), np.array(other_value)),
        "pairs_won": float(np.mean(wins)),
        "own_precision": float(np.mean(own_precision)),
        "other_precision": float(np.mean(other_precision)),
    }


def base_rates(folder: Path, count: int, seed: int) -> dict[str, float]:
    """Return the mean truth of every kind of statement over M4 series and HAR windows: what informativeness is made of."""
    rng = np.random.default_rng(seed)
    scenes = []
    for values in pd.read_parquet(folder / "m4_hourly_weekly.parquet")["train"].sample(count, random_state=seed):
        length = min(len(values), int(rng.integers(64, 512)))
        start = int(rng.integers(0, len(values) - length + 1))
        scenes.append(Scene((measure(values[start : start + length]),), ("series",)))
    windows = pd.read_parquet(folder / "uci_har_subset.parquet").sample(count, random_state=seed)
    for _, row in windows.iterrows():
        scenes.append(Scene(tuple(measure(9.80665 * np.array(row[f"{axis}_axis"], dtype=float)) for axis in "xyz"), tuple("xyz")))
    parts = [Place(low / 3, (low + 1) / 3, "in", explicit=True) for low in range(3)]
    rates = {}
    for kind, values in KINDS.items():
        for value in values:
            for name, places in (("", [Place()]), (" in a third", parts)):
                verdicts = [judge(Statement(kind, value, place), scene) for place in places for scene in scenes]
                degrees = [verdict[0] for verdict in verdicts if verdict is not None]
                rates[f"{kind} {value}{name}"] = float(np.mean(degrees))
    return rates


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "truce_human_captions.parquet"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--half", choices=["test", "development"], default="test")
    parser.add_argument("--others", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--base-rates", action="store_true", help="print of which share of series each kind of statement holds")
    arguments = parser.parse_args()
    if arguments.base_rates:
        for statement, rate in base_rates(arguments.data.parent, 300, arguments.seed).items():
            print(f"{statement:32} {rate:.2f}")
        return
    if not arguments.data.is_file():
        raise SystemExit(f"There is no file {arguments.data}. Give the TRUCE captions as --data FILE.parquet.")
    table = pd.read_parquet(arguments.data)
    kept = [half_of(subset, identifier) == arguments.half for subset, identifier in zip(table["subset"], table["id"], strict=True)]
    table = table[kept]
    found = {subset: figures(group, arguments.others, arguments.seed) for subset, group in table.groupby("subset")}
    if arguments.format == "json":
        print(json.dumps({"half": arguments.half, "seed": arguments.seed, "figures": found}, indent=2))
        return
    print(f"{arguments.half} half, {arguments.others} other series per caption, seed {arguments.seed}")
    print("subset     captions coverage    AUC AUC all  pairs    own  other  baseline AUC, coverage")
    for subset, each in found.items():
        auc, coverage = BASELINE[subset]
        print(
            f"{subset:10} {each['num_captions']:8d} {each['coverage']:8.3f} {each['auc_precision']:6.3f} {each['auc_value']:7.3f} "
            f"{each['pairs_won']:6.3f} {each['own_precision']:6.3f} {each['other_precision']:6.3f}  {auc:.3f}, {coverage:.3f}"
        )


if __name__ == "__main__":
    main()
