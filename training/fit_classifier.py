"""Fit the classifier of the reward `classifier` on UCI HAR's training subjects, and print what it reaches on the others.

python training/fit_classifier.py --shared ../shared/data [--output src/maxent_ts/assets/classifier/har.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss

from controls import SAMPLING_RATE
from data import har_frame
from maxent_ts.rewards.classifier import FittedClassifier, fit

AXES = ("x_axis", "y_axis", "z_axis")


def items(shared_dir: Path, split: str) -> tuple[list[list[list[float]]], list[str]]:
    """Return series (m/s², four decimals as in OpenTSLM's files) and labels of one of UCI's splits."""
    frame = har_frame(shared_dir, split)
    series = [[np.round(row[axis], 4).tolist() for axis in AXES] for _, row in frame.iterrows()]
    return series, frame["label"].tolist()


def main() -> None:
    """Fit, write and test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--output", type=Path, default=Path("src/maxent_ts/assets/classifier/har.json"))
    args = parser.parse_args()
    series, labels = items(args.shared, "train")
    subjects = har_frame(args.shared, "train")["subject_inferred"].nunique()
    trained_on = f"UCI HAR, training split: {len(labels)} windows of 128 points at 50 Hz, m/s², of {subjects} subjects."
    fitted = fit(series, labels, sampling_rate=SAMPLING_RATE, trained_on=trained_on)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(fitted.to_json(), encoding="utf-8")
    written = FittedClassifier.load(args.output)
    series, labels = items(args.shared, "test")
    probabilities = [written.probabilities(one) for one in series]
    accuracy = np.mean([max(one, key=one.__getitem__) == label for one, label in zip(probabilities, labels, strict=True)])
    loss = log_loss(labels, [list(one.values()) for one in probabilities], labels=list(written.labels))
    print(f"{args.output}: sha256 {written.sha256}; on {len(labels)} test windows accuracy {accuracy:.4f}, log-loss {loss:.4f}")


if __name__ == "__main__":
    main()
