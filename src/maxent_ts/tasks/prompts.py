"""OpenTSLM's prompts for human activity recognition and M4 captioning, to the byte.

A released checkpoint has seen no other prompt (Langer et al., arXiv 2510.02410). The strings are those of
github.com/OpenTSLM/OpenTSLM, `har_cot/HARCoTQADataset.py` and `m4/M4QADataset.py`, copyright 2025 Stanford University,
ETH Zurich and the project authors, MIT licence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxent_ts.errors import PromptError
from maxent_ts.tasks.float32 import mean_float32
from maxent_ts.types import SeriesSegment, TimeSeriesPrompt

__all__ = ["har_prompt", "m4_prompt"]

Series = Sequence[float] | np.ndarray

HAR_MIN_STD = 1e-6
"""OpenTSLM's floor for the standard deviation of an axis, in m/s²."""

# Upstream is an indented triple-quoted string of which only the ends are stripped: the inner lines keep their eight spaces,
# and the line above the last one consists of nothing else.
_HAR_PRE_PROMPT = (
    "You are given accelerometer data in all three dimensions. "
    "Your task is to classify the activity based on analysis of the data.\n"
    "\n"
    "        Instructions:\n"
    "        - Begin by analyzing the time series without assuming a specific label.\n"
    "        - Think step-by-step about what the observed patterns suggest regarding movement intensity and behavior.\n"
    "        - Write your rationale as a single, natural paragraph — "
    "do not use bullet points, numbered steps, or section headings.\n"
    "        - Do **not** mention any class label until the final sentence.\n"
    "\n"
    "        Possible activity labels are:\n"
    "        biking, lying, running, sitting, standing, walking, walking_down, walking_up.\n"
    "        \n"
    '        - Make sure that your last word is the answer. You MUST end your response with "Answer: "'
)
_HAR_POST_PROMPT = "Rationale:"
_HAR_SERIES_TEXT = "The following is the accelerometer data on the {axis}-axis, it has mean {mean:.4f} and std {std:.4f}:"

_M4_PRE_PROMPT = "You are an expert in time series analysis."
_M4_POST_PROMPT = "Please generate a detailed caption for this time-series, describing it as accurately as possible."
_M4_SERIES_TEXT = "This is the time series, it has mean {mean:.4f} and std {std:.4f}:"


def har_prompt(x: Series, y: Series, z: Series) -> TimeSeriesPrompt:
    """Build OpenTSLM's HAR-CoT prompt.

    Each axis is normalised by its own mean and sample standard deviation (ddof 1, at least 1e-6), in float32.

    Args:
        x: Acceleration with gravity along x, m/s², shape [length].
        y: The same along y.
        z: The same along z.

    Raises:
        PromptError: if an axis is not a sequence of at least two finite numbers.
    """
    segments = []
    for name, values in zip("xyz", (x, y, z), strict=True):
        series = _float32(values, f"the {name}-axis")
        mean, std = _moments(series)
        std = max(std, np.float32(HAR_MIN_STD))
        text = _HAR_SERIES_TEXT.format(axis=name, mean=float(mean), std=float(std))
        segments.append(SeriesSegment(text, tuple(((series - mean) / std).tolist())))
    return TimeSeriesPrompt(_HAR_PRE_PROMPT, tuple(segments), _HAR_POST_PROMPT)


def m4_prompt(series: Series) -> TimeSeriesPrompt:
    """Build OpenTSLM's M4 caption prompt.

    The series is normalised by its mean and sample standard deviation (ddof 1) in float32; a constant one is only centred.

    Args:
        series: Values in the series' own unit, shape [length].

    Raises:
        PromptError: if the series is not a sequence of at least two finite numbers.
    """
    values = _float32(series, "the series")
    mean, std = _moments(values)
    centred = values - mean
    normalised = centred / std if std > 0 else centred
    text = _M4_SERIES_TEXT.format(mean=float(mean), std=float(std))
    return TimeSeriesPrompt(_M4_PRE_PROMPT, (SeriesSegment(text, tuple(normalised.tolist())),), _M4_POST_PROMPT)


def _float32(values: Series, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        series = np.asarray(values, dtype=np.float64).astype(np.float32)
    if series.ndim != 1 or series.size < 2:
        raise PromptError(f"Expected {what} to be a flat sequence of at least two numbers, but its shape is {series.shape}.")
    if not np.isfinite(series).all():
        raise PromptError(
            f"Expected {what} to be finite in single precision, but position {int(np.argmin(np.isfinite(series)))} is not. "
            "Fill or cut the gap, or rescale the series."
        )
    return series


def _moments(series: np.ndarray) -> tuple[np.float32, np.float32]:
    """Return mean and sample standard deviation as torch rounds them: it sums the former in float32, the latter in float64."""
    return mean_float32(series), np.float32(series.std(ddof=1, dtype=np.float64))
