"""Rewards without gold on human activity recognition: what a search for each gains over votes and best-of-N of equal cost.

The embedded model on all 950 windows of the nine test subjects in shared/data (102 of them ship with the package). One run draws
completions from the model, with `--num-rollouts` times 50 generated tokens for each window; majority vote, best-of-N and weighted
vote (exp(λ r) votes each) are read from these draws, for every reward. `maxent` searches for each reward with the same budget, on
all windows or on a seeded stratified subset of `--num-searched`; its answer is that of the best completion, or the one that its
weights elect.

    python benchmarks/har_rewards.py [--data ../shared/data] [--num-rollouts 4] [--num-searched N] [--output-dir runs/har_rewards]

Tables, in %, differences paired by window with 95 % intervals: the controls; choosing among draws by a reward; searching for it;
and whether the reward ranks the model's correct draws above its wrong ones (area under the ROC curve, over all draws, and the mean
over windows that have both). A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.evaluate import evaluate
from maxent_ts.loading import load_engine
from maxent_ts.metrics import accuracy
from maxent_ts.paired import paired_difference
from maxent_ts.records import Record, Run
from maxent_ts.rescore import rescore
from maxent_ts.rewards.classifier import Classifier
from maxent_ts.rewards.contrast import zeroed
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.opentslm import HarCot

GRAVITY = 9.80665
"""m/s² in one g."""
MAX_NEW_TOKENS = 50

MIXTURES: dict[str, dict[str, float]] = {
    "consistency": {"consistency": 1.0},
    "contrast": {"contrast": 1.0},
    "classifier (auxiliary-supervised)": {"classifier": 1.0},
    "format": {"format": 1.0},
    "claims": {"claims": 1.0},
    "claims + format": {"claims": 0.5, "format": 0.5},
    "claims + consistency + contrast": {"claims": 0.4, "consistency": 0.4, "contrast": 0.2},
}
"""Rewards by the name in the tables: parts with weights, none of them tuned."""


class ZeroSignal(HarCot):
    """The same windows with zeros in place of the normalised series."""

    def examples(self, **settings: Any) -> Sequence[Example]:
        """See `HarCot.examples`."""
        return [replace(one, prompt=zeroed(one.prompt)) for one in super().examples(**settings)]


def write_windows(data: Path, folder: Path) -> Path:
    """Write UCI HAR's test windows as OpenTSLM's file, and return the folder."""
    frame = pd.read_parquet(data / "uci_har_subset.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "har_cot_test_cot.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x_axis", "y_axis", "z_axis", "label"])
        for _, row in frame[frame["split"] == "test"].iterrows():
            axes = [np.round(GRAVITY * np.array(row[axis], dtype=float), 4).tolist() for axis in ("x_axis", "y_axis", "z_axis")]
            writer.writerow([*map(json.dumps, axes), row["label"]])
    return folder


def text_only_answers(data: Path, examples: Sequence[Example]) -> list[str]:
    """Answers of logistic regression on the six means and standard deviations that the prompt states."""
    frame = pd.read_parquet(data / "uci_har_subset.parquet")
    train = frame[frame["split"] == "train"]

    def numbers(axes: Sequence[Any]) -> np.ndarray:
        values = np.array([np.asarray(axis, dtype=float) for axis in axes])
        return np.concatenate([values.mean(axis=1), values.std(axis=1, ddof=1)])

    inputs = [GRAVITY * numbers([row[axis] for axis in ("x_axis", "y_axis", "z_axis")]) for _, row in train.iterrows()]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(np.stack(inputs), train["label"])
    return [str(one) for one in model.predict(np.stack([numbers(example.inputs["series"]) for example in examples]))]


def elected(record: Record, votes: Sequence[float]) -> str | None:
    """The answer with most votes, the first of equals."""
    tally: dict[str, float] = {}
    for answer, vote in zip(record.answers, votes, strict=True):
        if answer is not None:
            tally[answer] = tally.get(answer, 0.0) + vote
    return max(tally, key=lambda one: tally[one]) if tally else None


def ranking(records: Sequence[Record]) -> tuple[float, float, int]:
    """Area under the ROC curve of the rewards of draws by correctness: over all, mean within items, and the number of those."""

    def area(rewards: np.ndarray, correct: np.ndarray) -> float:
        ranks, num = rankdata(rewards), int(correct.sum())
        return float((ranks[correct].sum() - num * (num + 1) / 2) / (num * (len(correct) - num)))

    rewards = [np.array(one.rewards, dtype=float) for one in records]
    correct = [np.array([answer == one.target for answer in one.answers]) for one in records]
    within = [area(some, right) for some, right in zip(rewards, correct, strict=True) if 0 < right.sum() < len(right)]
    return area(np.concatenate(rewards), np.concatenate(correct)), float(np.mean(within)), len(within)


Answers = Sequence[str | None]


def row(name: str, answers: Answers, baselines: Sequence[Answers], targets: Sequence[str]) -> str:
    """A line of a table: accuracy, and the difference from each baseline with its interval."""
    share = accuracy(answers, targets)
    assert share is not None
    cells = [name, f"{100 * share:.1f}", *(difference(answers, one, targets) for one in baselines)]
    return f"| {' | '.join(cells)} |"


def difference(answers: Answers, baseline: Answers, targets: Sequence[str]) -> str:
    """The paired difference in accuracy with its interval; nothing where the two are one."""
    if answers is baseline:
        return ""
    right, base = ([float(one == target) for one, target in zip(some, targets, strict=True)] for some in (answers, baseline))
    found = paired_difference(right, base)
    assert found is not None
    assert found.ci95 is not None
    low, high = (100 * one for one in found.ci95)
    return f"{100 * found.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def of(run: Run, method: str) -> list[Record]:
    """The records of a method; a failed one ends the benchmark."""
    records = [one for one in run.records if one.method == method]
    failed = [one.error for one in records if one.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} searches failed; the first: {failed[0]}")
    return records


def cost(records: Sequence[Record]) -> str:
    """Generated and forwarded tokens per item."""
    means = [np.mean([one.usage[name] for one in records]) for name in ("generated_tokens", "forwarded_tokens")]
    return f"{means[0]:.0f} generated, {means[1]:.0f} forwarded"


def main() -> None:
    """Run what has not been run, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--num-rollouts", type=int, default=4)
    parser.add_argument("--num-searched", type=int, help="windows of the searches; all if left out")
    parser.add_argument("--search", action="append", choices=list(MIXTURES), help="rewards that maxent searches for")
    parser.add_argument("--tilt", type=float, default=4.0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/har_rewards"))
    args = parser.parse_args()
    folder = write_windows(args.data, args.output_dir / "windows")
    shared: dict[str, Any] = {"tasks": ("har_cot",), "data_dir": folder, "save_trees": 0, "max_concurrent": 32}
    shared |= {"num_rollouts": args.num_rollouts, "max_new_tokens": MAX_NEW_TOKENS}
    engine = load_engine(RunConfig(**shared))

    def run(name: str, methods: Sequence[str], parts: dict[str, float], tilt: float, task: HarCot, limit: int | None) -> Run:
        variants = tuple(MethodConfig(name=one) for one in methods)
        rewards = {"rewards": tuple(parts), "reward_weights": tuple(parts.values())}
        config = RunConfig(methods=variants, tilt=tilt, output_dir=args.output_dir / name, limit=limit, **rewards, **shared)
        return evaluate(config, engine=engine, tasks=[task])

    draws = run("draws", ["greedy", "best_of_n"], {"contrast": 1.0}, 0.0, HarCot(), None)
    silent = of(run("zero_signal", ["greedy"], {"format": 1.0}, 0.0, ZeroSignal(), None), "greedy")
    drawn, greedy = of(draws, "best_of_n"), [one.answer for one in of(draws, "greedy")]
    examples = {one.id: one for one in HarCot().examples(data_dir=folder)}
    items = [examples[one.example_id] for one in drawn]
    targets = [str(one.target) for one in items]
    # At λ = 0 the weights of best_of_n are the shares of the draws.
    vote = [elected(one, one.weights) for one in drawn]
    likeliest = [one.answers[int(np.argmax(one.logprobs))] for one in drawn]
    print(f"{len(items)} windows, at most {args.num_rollouts * MAX_NEW_TOKENS} generated tokens each, λ = {args.tilt:g}\n")
    print(f"Draws: {cost(drawn)} tokens per window, the scores of `contrast` included.\n")
    print("| control | accuracy | minus majority vote |\n|---|---|---|")
    print(row("greedy", greedy, [vote], targets))
    print(row("majority vote", vote, [vote], targets))
    print(row("best-of-N by log p", likeliest, [vote], targets))
    print(row("greedy, series replaced by zeros", [one.answer for one in silent], [vote], targets))
    print(row("classifier on the six numbers of the prompt", text_only_answers(args.data, items), [vote], targets))
    alone = Classifier().predict([one.inputs["series"] for one in items])
    print(row("classifier on features of the series", alone, [vote], targets))
    chosen_rows, searched_rows, ranking_rows = [], [], []
    for name, parts in MIXTURES.items():
        slug = name.partition(" (")[0].replace(" ", "")
        specs = {"rewards": tuple(parts), "reward_weights": tuple(parts.values())}
        scored = of(rescore(draws.path, args.output_dir / f"draws-{slug}", tasks=[HarCot()], **specs), "best_of_n")
        best = [one.answers[int(np.argmax(np.array(one.rewards, dtype=float)))] for one in scored]
        tilted = [elected(one, one.weights * np.exp(args.tilt * np.array(one.rewards, dtype=float))) for one in scored]
        chosen_rows += [row(f"{name} | best-of-N", best, [vote], targets), row(f"{name} | weighted vote", tilted, [vote], targets)]
        over_all, within, num = ranking(scored)
        ranking_rows.append(f"| {name} | {over_all:.3f} | {within:.3f} ({num}) |")
        if name not in (args.search or MIXTURES):
            continue
        searched = of(run(f"maxent-{slug}", ["maxent"], parts, args.tilt, HarCot(), args.num_searched), "maxent")
        places = {one.example_id: place for place, one in enumerate(drawn)}
        same = [places[one.example_id] for one in searched]
        rivals = [[some[place] for place in same] for some in (greedy, vote, best)]
        some_targets = [targets[place] for place in same]
        rewards = [np.mean([max(one.rewards) for one in records]) for records in ([scored[place] for place in same], searched)]
        found = f"{rewards[0]:.3f}, {rewards[1]:.3f} | {cost(searched)}"
        searched_rows.append(row(f"{name} | best | {found}", [one.answer for one in searched], rivals, some_targets))
        searched_rows.append(row(f"{name} | elected | |", [elected(one, one.weights) for one in searched], rivals, some_targets))
        print(f"{name} is done", file=sys.stderr, flush=True)
    print("\n| reward | choice among the draws | accuracy | minus majority vote |\n|---|---|---|---|")
    print("\n".join(chosen_rows))
    print(f"\n`maxent` on {args.num_searched or len(items)} of the windows:\n")
    print(
        "| reward | answer | best reward of best-of-N, maxent | tokens | accuracy | minus greedy | minus vote | minus best-of-N |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(searched_rows))
    print("\n| reward | AUC, all draws | mean AUC within windows (number) |\n|---|---|---|")
    print("\n".join(ranking_rows))


if __name__ == "__main__":
    main()
