"""Draw forecasts of one series beside what came, and the spectra of all hourly forecasts: the collapse of greedy decoding.

    python benchmarks/forecast_figure.py runs/forecast/Hourly --item forecast/Hourly/H89 --output docs/images/forecast.svg

Reads a run directory of `benchmarks/forecast.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import periodogram

from maxent_ts.records import Record, read_run
from maxent_ts.rewards.numbers import parse_numbers
from maxent_ts.tasks.forecast import Forecast

METHODS = {"greedy": "C3", "sample": "C0", "maxent": "C2"}
CONTEXT_SHOWN = 72


def power(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over series of the power spectrum of the mean-removed values, each over the variance of what came: [frequencies]."""
    return np.mean([periodogram(one, window="hann", detrend="constant")[1][1:] for one in values], axis=0)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--item", help="[default: the first]")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    run = read_run(arguments.run)
    examples = {one.id: one for one in Forecast().examples(data_dir=arguments.data_dir)}
    by_method: dict[str, dict[str, Record]] = {}
    for record in run.records:
        by_method.setdefault(record.variant, {})[record.example_id] = record
    items = list(by_method["greedy"])
    item = arguments.item or items[0]
    plt.rcParams.update({"svg.hashsalt": "maxent-ts", "font.size": 8})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.1), width_ratios=(2, 1), layout="constrained")
    actual = np.array(json.loads(examples[item].target or "")["values"])
    context = np.array(examples[item].inputs["series"][0][-CONTEXT_SHOWN:])
    after = np.arange(len(actual))
    left.plot(np.arange(-len(context), 0), context, color="0.6", linewidth=1)
    left.plot(after, actual, color="black", linewidth=1.6, label="what came")
    scaled: dict[str, list[np.ndarray]] = {name: [] for name in ("what came", *METHODS)}
    for name, colour in METHODS.items():
        stated = Forecast().forecast(examples[item], by_method[name][item].text or "")
        if stated is not None:
            left.plot(after, stated, color=colour, linewidth=1, label=name)
    for one in items:
        inputs, truth = examples[one].inputs, np.array(json.loads(examples[one].target or "")["values"])
        size = truth.std()
        values = {
            name: parse_numbers(by_method[name][one].text or "", decimals=0, offset=inputs["offset"], scale=inputs["scale"])
            for name in METHODS
        }
        if size > 0 and all(len(value) >= len(truth) for value in values.values()):
            scaled["what came"].append(truth / size)
            for name, value in values.items():
                scaled[name].append(value[: len(truth)] / size)
    periods = len(actual) / np.arange(1, len(actual) // 2 + 1)
    for name, colour in {"what came": "black", **METHODS}.items():
        right.loglog(periods, power(scaled[name]), color=colour, linewidth=1.6 if colour == "black" else 1, label=name)
    right.set_xticks([2, 6, 12, 24, 48], ["2", "6", "12", "24", "48"])
    right.minorticks_off()
    left.set(title=item, xlabel="steps after the forecast begins")
    right.set(title=f"mean spectrum of {len(scaled['greedy'])} forecasts", xlabel="period, steps")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
