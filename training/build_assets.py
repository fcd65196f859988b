"""Write the embedded test sample in OpenTSLM's file layout.

    python training/build_assets.py --shared ../shared/data

HAR: 17 windows of each of UCI HAR's six activities from UCI's nine test subjects, in proportion to what each subject has.
M4: 50 hourly and 50 weekly series that `data.is_held_out` keeps from training, one window of 64 to 512 points each; series that
are almost copies of one left for training are passed over. Forecast: 20 held-out series of each of five frequencies of M4 and M3,
whole, in M4's own layout. Same seed, same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path

import numpy as np

from data import SEED, crop, har_frame, is_held_out, m4_frame
from forecast_data import forecast_frame
from maxent_ts.tasks.subset import stratified_subset

ASSETS = Path(__file__).resolve().parent.parent / "src" / "maxent_ts" / "assets"
WINDOWS_PER_LABEL = 17
SERIES_PER_FREQUENCY = 50
MAX_CORRELATION = 0.99
FORECAST_FREQUENCIES = ("Hourly", "Weekly", "Monthly", "Quarterly", "Yearly")
FORECASTS_PER_FREQUENCY = 20
MAX_FORECAST_POINTS = 1200
"""Longer series are passed over: the excerpt is to stay small."""


def har_rows(shared_dir: Path) -> tuple[list[list[str]], list[dict[str, object]]]:
    """Return the rows of `har_cot_test_cot.csv` and where each comes from."""
    frame = har_frame(shared_dir, "test")
    rng = np.random.default_rng(SEED)
    chosen: list[int] = []
    for _, windows in frame.groupby("label", sort=True):
        subjects = [str(subject) for subject in windows["subject_inferred"]]
        chosen.extend(windows.index[position] for position in stratified_subset(subjects, WINDOWS_PER_LABEL, SEED))
    rows, origins = [], []
    for index in rng.permutation(chosen):
        item = frame.loc[index]
        axes = [json.dumps([round(float(value), 4) for value in item[axis]]) for axis in ("x_axis", "y_axis", "z_axis")]
        # There is no gold rationale: the column holds what every OpenTSLM rationale ends in, so that its own loader works too.
        rows.append([*axes, item["label"], f"Answer: {item['label']}"])
        origins.append({"window": int(item["window"]), "subject": int(item["subject_inferred"])})
    return rows, origins


def distinct_series(shared_dir: Path, frequency: str) -> list[tuple[str, np.ndarray]]:
    """Return the held-out series of a frequency that correlate with no training series beyond 0.99 in absolute value.

    Compared over the points that all series of the frequency have, from their beginning on.
    """
    frame = m4_frame(shared_dir)
    frame = frame[frame["frequency"] == frequency]
    length = min(len(series) for series in frame["series"])
    heads = np.stack([series[:length] for series in frame["series"]])
    heads = heads - heads.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(heads, axis=1, keepdims=True)
    heads = heads / np.where(norms > 0, norms, 1)
    held_out = np.array([is_held_out(name) for name in frame["id"]])
    closest = np.abs(heads @ heads[~held_out].T).max(axis=1)
    keep = held_out & (closest <= MAX_CORRELATION)
    return [(name, series) for name, series, kept in zip(frame["id"], frame["series"], keep, strict=True) if kept]


def m4_rows(shared_dir: Path, frequency: str) -> list[list[str]]:
    """Return the rows of `m4_series_{frequency}.csv`, with six significant digits."""
    candidates = distinct_series(shared_dir, frequency)
    rng = np.random.default_rng([SEED, len(frequency), SERIES_PER_FREQUENCY])
    rows = []
    for position in rng.choice(len(candidates), SERIES_PER_FREQUENCY, replace=False):
        name, series = candidates[position]
        window = crop(series, rng)
        rows.append([f"series-{name}", json.dumps([float(f"{value:.6g}") for value in window])])
    return rows


def forecast_rows(shared_dir: Path, frequency: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of `{frequency}-train.csv` and `{frequency}-test.csv`: ids, and values with six significant digits."""
    frame = forecast_frame(shared_dir)
    frame = frame[frame["frequency"] == frequency]
    names = {name for name in frame["id"] if is_held_out(name)}
    if frequency in ("Hourly", "Weekly"):
        names &= {name for name, _ in distinct_series(shared_dir, frequency)}
    kept = frame[
        [name in names and len(past) <= MAX_FORECAST_POINTS for name, past in zip(frame["id"], frame["train"], strict=True)]
    ]
    rng = np.random.default_rng([SEED, len(frequency), FORECASTS_PER_FREQUENCY])
    chosen = kept.iloc[np.sort(rng.choice(len(kept), FORECASTS_PER_FREQUENCY, replace=False))]
    parts = []
    for column in ("train", "test"):
        values = [[f"{value:.6g}" for value in row] for row in chosen[column]]
        parts.append([[name, *row] for name, row in zip(chosen["id"], values, strict=True)])
    return parts[0], parts[1]


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Write a table with Unix line ends, so that the bytes do not depend on the system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_sample(folder: Path, description: dict[str, object]) -> None:
    """Write SAMPLE.json beside the tables: what they are, with the SHA-256 of each."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.csv"))}
    text = json.dumps({**description, "seed": SEED, "sha256": files}, indent=1, ensure_ascii=False)
    (folder / "SAMPLE.json").write_text(text + "\n", encoding="utf-8")


def build(shared_dir: Path, assets: Path) -> None:
    """Write the excerpts below `assets`."""
    rows, origins = har_rows(shared_dir)
    write_csv(assets / "har" / "har_cot_test_cot.csv", ["x_axis", "y_axis", "z_axis", "label", "rationale"], rows)
    write_sample(
        assets / "har",
        {
            "source": "UCI HAR 1.0, total acceleration of the test subjects, times 9.80665 m/s² per g",
            "note": "no gold rationale exists; window: number in the file sampled from; subject: inferred, see DATA_LICENSES.md",
            "rows": origins,
        },
    )
    for frequency in ("Hourly", "Weekly"):
        write_csv(assets / "m4" / f"m4_series_{frequency}.csv", ["id", "series"], m4_rows(shared_dir, frequency))
    for frequency in FORECAST_FREQUENCIES:
        for part, rows in zip(("train", "test"), forecast_rows(shared_dir, frequency), strict=True):
            header = [f"V{column}" for column in range(1, max(map(len, rows)) + 1)]
            write_csv(assets / "forecast" / f"{frequency}-{part}.csv", header, rows)
    write_sample(
        assets / "forecast",
        {"source": "M4 competition (Hourly, Weekly) and M3 competition (others), training and test parts", "note": "whole series"},
    )
    write_sample(assets / "m4", {"source": "M4 competition, training part, one window of each series", "note": "no captions exist"})


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write har/, m4/ and forecast/ into")
    arguments = parser.parse_args()
    build(arguments.shared, arguments.out)
    for path in sorted(arguments.out.glob("*/*")):
        if path.parent.name in ("har", "m4", "forecast"):
            print(f"{path.stat().st_size:8d} {path.relative_to(arguments.out)}")


if __name__ == "__main__":
    main()
