"""The parts of the sample data that may be trained on.

Reads the parquet files named in `shared/data/README.md`: UCI HAR windows (Anguita et al., ESANN 2013), the hourly and weekly
series of M4 (Makridakis et al., 2020) and the monthly series of M3 (Makridakis and Hibon, 2000). Nothing that the embedded
test items are made of is returned: HAR by subject (UCI's own split), M4 by series.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = [
    "GRAVITY",
    "SEED",
    "HarItem",
    "SeriesItem",
    "crop",
    "har_frame",
    "har_training",
    "is_held_out",
    "m4_frame",
    "m4_training",
]

GRAVITY = 9.80665
"""m/s² in one g: UCI HAR is in g, OpenTSLM's HAR-CoT in m/s²."""

SEED = 20261123
MIN_LENGTH, MAX_LENGTH = 64, 512
"""The range of lengths in OpenTSLM's M4 captions, in points."""

HELD_OUT_SHARE = 0.35
VALIDATION_SHARE = 0.10
NUM_VALIDATION_SUBJECTS = 3

HarItem = tuple[np.ndarray, np.ndarray, np.ndarray, str]
SeriesItem = tuple[str, np.ndarray]


def har_frame(shared_dir: Path, split: str) -> pd.DataFrame:
    """Read the UCI HAR windows of one of UCI's splits ("train" or "test"), with the axes as float64 arrays in m/s²."""
    frame = pd.read_parquet(Path(shared_dir) / "uci_har_subset.parquet")
    frame = frame[frame["split"] == split].reset_index(drop=True)
    for axis in ("x_axis", "y_axis", "z_axis"):
        frame[axis] = [np.asarray(values, dtype=np.float64) * GRAVITY for values in frame[axis]]
    return frame


def har_training(shared_dir: Path, *, validation: bool = False) -> list[HarItem]:
    """Return windows of UCI's training subjects as (x, y, z, label), m/s², 128 samples at 50 Hz.

    Args:
        shared_dir: The folder with the parquet files.
        validation: False: 18 of the 21 training subjects. True: the other three. Both together are UCI's training split.
    """
    frame = har_frame(shared_dir, "train")
    subjects = np.array(sorted(frame["subject_inferred"].unique()))
    chosen = np.random.default_rng(SEED).choice(subjects, NUM_VALIDATION_SUBJECTS, replace=False)
    frame = frame[frame["subject_inferred"].isin(chosen) == validation]
    return list(zip(frame["x_axis"], frame["y_axis"], frame["z_axis"], frame["label"], strict=True))


def m4_frame(shared_dir: Path) -> pd.DataFrame:
    """Read the hourly and weekly M4 series: `id`, `frequency`, and `series` (the training part) as float64 arrays."""
    frame = pd.read_parquet(Path(shared_dir) / "m4_hourly_weekly.parquet")
    frame["series"] = [np.asarray(values, dtype=np.float64) for values in frame["train"]]
    return frame[["id", "frequency", "series"]]


def _uniform(name: str) -> float:
    """Return a number in [0, 1) that depends on the name and the seed alone, whatever else is in the file."""
    return int.from_bytes(hashlib.sha256(f"{SEED}/{name}".encode()).digest()[:8], "big") / 2**64


def is_held_out(series_id: str) -> bool:
    """Return whether an M4 series is set apart for test items, and so never trained on."""
    return _uniform(series_id) < HELD_OUT_SHARE


def crop(series: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a window of 64 to 512 points, length and place drawn uniformly. Needs at least 64 points."""
    length = int(rng.integers(MIN_LENGTH, min(MAX_LENGTH, len(series)) + 1))
    start = int(rng.integers(0, len(series) - length + 1))
    return series[start : start + length]


def m4_training(shared_dir: Path, *, validation: bool = False, num_crops: int = 1, seed: int = SEED) -> list[SeriesItem]:
    """Return series to write captions for, as (id, values in the series' own unit), each of 64 to 512 points.

    M4 hourly and weekly without the held-out series, and M3 monthly series of at least 64 points.

    Args:
        shared_dir: The folder with the parquet files.
        validation: False: what to train on. True: the series set apart for validation, of the same sources.
        num_crops: How many windows to cut from each series. The second and later ones have ids ending in "#1", "#2", …
        seed: Decides the windows, not which series are held out.
    """
    m4 = m4_frame(shared_dir)
    candidates = [(name, values) for name, values in zip(m4["id"], m4["series"], strict=True) if not is_held_out(name)]
    m3 = pd.read_parquet(Path(shared_dir) / "m3_all.parquet")
    m3 = m3[m3["frequency"] == "Monthly"]
    for name, head, tail in zip(m3["id"], m3["train"], m3["test"], strict=True):
        candidates.append((name, np.concatenate([head, tail]).astype(np.float64)))
    items = []
    for name, values in candidates:
        if len(values) < MIN_LENGTH or (_uniform(f"validation/{name}") < VALIDATION_SHARE) != validation:
            continue
        for index in range(num_crops):
            rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"), index])
            items.append((name if index == 0 else f"{name}#{index}", crop(values, rng)))
    return items
