"""Two rewards without a model: `spectral` on true and false futures of M4 series, `consistency` on OpenTSLM's rationales.

    python benchmarks/rewards_alone.py [--data ../shared/data] [--series 150]

spectral: for every series (its last 256 points as context) the true test part competes with forecasts that are wrong in a known
way. Printed: the mean value and its parts, how often the true future is worth more (ties half), and the mean absolute error in
steps of the naive forecast; then Spearman's correlation, within a series, of value and negative error.

consistency, words alone: GPT-4o's rationales of OpenTSLM's test sets, each with its own label and with one on the other side of
the trait. Printed: the share with words about the trait, the area under the ROC curve of own against other label, and the share of
rationales worth more than 1/2 with their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from claims import area_under_curve
from scipy.stats import spearmanr

from maxent_ts.rewards.consistency import TRAITS, Consistency, Trait
from maxent_ts.rewards.spectral import spectral_score

CONTEXT = 256
PARTS = ("spectrum", "backtest", "range")
SEASONS = {"Hourly": 24, "Weekly": 52}
STAGES = ("Wake", "Non-REM stage 1", "Non-REM stage 2", "Non-REM stage 3", "Non-REM stage 4", "REM sleep")


def futures(
    context: np.ndarray, true: np.ndarray, other: np.ndarray, season: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The true future and those that compete with it; `other` is another series' future on this one's scale."""
    size, spread = len(true), context.std()
    lags = np.arange(size) % season
    last_season = context[len(context) - season + lags] if season <= len(context) else np.full(size, context[-1])
    return {
        "true future": true,
        "last season": last_season,
        "last values again": context[-size:],
        "last value": np.full(size, context[-1]),
        "true, with noise": true + 0.5 * spread * rng.normal(size=size),
        "true, shuffled": rng.permutation(true),
        "another series": other * spread + context.mean(),
        "random walk": context[-1] + np.cumsum(rng.normal(size=size)) * np.abs(np.diff(context)).mean(),
        "noise": rng.normal(size=size) * spread + context.mean(),
    }


def spectral_table(table: pd.DataFrame, season: int, rng: np.random.Generator) -> str:
    """The table of one frequency."""
    contexts = [np.asarray(one, dtype=float)[-CONTEXT:] for one in table["train"]]
    tests = [np.asarray(one, dtype=float) for one in table["test"]]
    rows: dict[str, list[list[float]]] = {}
    for index, (context, true) in enumerate(zip(contexts, tests, strict=True)):
        place = int(rng.integers(len(tests) - 1))
        place += place >= index
        other = (tests[place] - contexts[place].mean()) / (contexts[place].std() or 1.0)
        step = np.abs(np.diff(context)).mean() or 1.0
        for name, path in futures(context, true, other, season, rng).items():
            value, evidence = spectral_score(context, path)
            parts = [evidence["parts"].get(part, {"value": np.nan})["value"] for part in PARTS]
            rows.setdefault(name, []).append([value, *parts, float(np.abs(path - true).mean() / step)])
    arrays = {name: np.array(one) for name, one in rows.items()}
    own = arrays["true future"][:, 0]
    lines = [f"| {' | '.join(('future', 'value', *PARTS, 'true one is worth more', 'error'))} |", "|---" * 7 + "|"]
    for name, one in arrays.items():
        wins = np.mean((own > one[:, 0]) + 0.5 * (own == one[:, 0]))
        cells = [f"{value:.2f}" for value in np.nanmean(one[:, :4], axis=0)]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {'' if one is arrays['true future'] else f'{wins:.2f}'} | {one[:, 4].mean():.1f} |"
        )
    stacked = np.stack(list(arrays.values()))
    within = [spearmanr(stacked[:, item, 0], -stacked[:, item, 4]).statistic for item in range(stacked.shape[1])]
    return "\n".join([*lines, f"\nvalue and negative error within a series: mean Spearman correlation {np.nanmean(within):.2f}"])


def consistency_line(rationales: Sequence[str], labels: Sequence[str], vocabulary: Sequence[str], trait: Trait) -> str:
    """One line about one data set."""
    texts, answers = [], []
    for text, label in zip(rationales, labels, strict=True):
        has = label.lower() in trait.having
        if has or label.lower() in trait.lacking:
            other = next(one for one in vocabulary if one.lower() in (trait.lacking if has else trait.having))
            body = text.rpartition("Answer:")[0] or text
            texts += [f"{body} Answer: {label}", f"{body} Answer: {other}"]
            answers.append(label)
    evidence = Consistency().explain(
        prompts=[None] * len(texts), completions=texts, completion_ids=[[]] * len(texts), labels=[vocabulary] * len(texts)
    )
    values = np.array([one["value"] for one in evidence])
    covered = np.mean(["words" in one["parts"] for one in evidence[::2]])
    area = area_under_curve(values[::2], values[1::2])
    return f"| {trait.name} | {len(answers)} | {covered:.2f} | {area:.3f} | {np.mean(values[::2] > 0.5):.3f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--series", type=int, default=150)
    args = parser.parse_args()
    series = pd.read_parquet(args.data / "m4_hourly_weekly.parquet").sample(args.series, random_state=0)
    for frequency, table in series.groupby("frequency"):
        print(f"\n{frequency}: {len(table)} series\n")
        print(spectral_table(table, SEASONS[str(frequency)], np.random.default_rng(0)))
    moving, waves = TRAITS
    gold = pd.read_parquet(args.data / "opentslm_gold_rationales_test200.parquet")
    gold = gold[gold["dataset"] == "har_cot"]
    sleep = pd.read_parquet(args.data / "sleep_cot_gold_test930.parquet")
    print("\n| trait | rationales | with words | AUC | above 1/2 |\n|---|---|---|---|---|")
    print(consistency_line(gold["gold_text"].tolist(), gold["gold_label"].tolist(), list(gold["label_vocab"].iloc[0]), moving))
    print(consistency_line(sleep["gold_rationale"].tolist(), [str(one) for one in sleep["gold_label"]], STAGES, waves))


if __name__ == "__main__":
    main()
