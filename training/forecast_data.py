"""The series that the forecast model may be trained on, and windows of them as text.

Reads `m4_hourly_weekly.parquet` and `m3_all.parquet` (see `shared/data/README.md`). Of a series that `data.is_held_out` sets apart
nothing is read, and of no series the official test part: neither the items of the task `forecast` nor what came after any training
series is seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from data import is_held_out
from maxent_ts.tasks.digits import Digits
from maxent_ts.tasks.forecast import forecast_prompt
from maxent_ts.tasks.frequencies import FREQUENCIES

__all__ = ["forecast_frame", "forecast_training", "window_text"]

FILES = ("m4_hourly_weekly.parquet", "m3_all.parquet")
MIN_CONTEXT_SHARE = 0.5
"""Shortest context in training, as a share of the longest."""


def forecast_frame(shared_dir: Path) -> pd.DataFrame:
    """Read all series: `id`, `frequency`, `train` and `test` as float64 arrays."""
    frame = pd.concat([pd.read_parquet(Path(shared_dir) / name) for name in FILES], ignore_index=True)
    for column in ("train", "test"):
        frame[column] = [np.asarray(values, dtype=np.float64) for values in frame[column]]
    return frame[["id", "frequency", "train", "test"]]


def forecast_training(shared_dir: Path) -> dict[str, list[np.ndarray]]:
    """Return, for each frequency, the official training parts of the series that are not held out."""
    frame = forecast_frame(shared_dir)
    kept = frame[[not is_held_out(name) for name in frame["id"]]]
    return {str(frequency): list(group["train"]) for frequency, group in kept.groupby("frequency", sort=True)}


def window_text(series: np.ndarray, frequency: str, num_context: int, rng: np.random.Generator) -> tuple[str, str] | None:
    """Cut a window at random and write it: the prompt of its context, and the values of its horizon.

    Half of the windows are turned upside down. None if the series is too short.
    """
    length = num_context + FREQUENCIES[frequency].horizon
    if len(series) < length:
        return None
    start = int(rng.integers(0, len(series) - length + 1))
    window = series[start : start + length] * (1.0 if rng.random() < 0.5 else -1.0)
    digits = Digits.of(window[:num_context])
    return forecast_prompt(window[:num_context], frequency), digits.encode(window[num_context:])
