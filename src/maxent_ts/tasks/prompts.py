"""OpenTSLM's prompts, to the byte.

A released checkpoint has seen no other prompt (Langer et al., arXiv 2510.02410). The strings are those of
github.com/OpenTSLM/OpenTSLM at 2968f4b8, `time_series_datasets/` with `TSQADataset.py`, `m4/M4QADataset.py`,
`har_cot/HARCoTQADataset.py`, `sleep/SleepEDFCoTQADataset.py` and `ecg_qa/ECGQACoTQADataset.py`, copyright 2025 Stanford University,
ETH Zurich and the project authors, MIT licence. So are the ways to normalise a series, which differ from stage to stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from maxent_ts.errors import PromptError
from maxent_ts.tasks.float32 import mean_float32
from maxent_ts.types import SeriesSegment, TimeSeriesPrompt

__all__ = [
    "ECG_LEADS",
    "M4_QUESTION",
    "ecg_prompt",
    "ecg_segments",
    "har_prompt",
    "m4_prompt",
    "own_prompt",
    "sleep_prompt",
    "tsqa_prompt",
]

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
M4_QUESTION = "Please generate a detailed caption for this time-series, describing it as accurately as possible."
_M4_SERIES_TEXT = "This is the time series, it has mean {mean:.4f} and std {std:.4f}:"

_TSQA_SERIES_TEXT = "This is the time series, it has mean {mean:.4f} and std {std:.4f}."
TSQA_ADDED_STD = 1e-8

SLEEP_MIN_STD = 1e-6
_SLEEP_PRE_PROMPT = (
    "You are given a 30-second EEG time series segment. "
    "Your task is to classify the sleep stage based on analysis of the data.\n"
    "\n"
    "        Instructions:\n"
    "        - Analyze the data objectively without presuming a particular label.\n"
    "        - Reason carefully and methodically about what the signal patterns suggest regarding sleep stage.\n"
    "        - Write your reasoning as a single, coherent paragraph. Do not use bullet points, lists, or section headers.\n"
    "        - Only reveal the correct class at the very end.\n"
    "        - Never state that you are uncertain or unable to classify the data. "
    "You must always provide a rationale and a final answer."
)
_SLEEP_POST_PROMPT = (
    "Possible sleep stages are:\n"
    "        Wake, Non-REM stage 1, Non-REM stage 2, Non-REM stage 3, REM sleep, Movement\n"
    "\n"
    "        - Please now write your rationale. Make sure that your last word is the answer. "
    'You MUST end your response with "Answer:'
)
_SLEEP_SERIES_TEXT = "The following is the EEG time series, it has mean {mean:.4f} and std {std:.4f}:"

ECG_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ECG_MIN_STD = 1e-6
_ECG_PRE_PROMPT = (
    "You are an expert cardiologist analyzing an ECG (electrocardiogram). \n"
    "\n"
    "Clinical Context: {context}\n"
    "\n"
    "Your task is to examine the ECG signal and answer the following medical question:\n"
    "\n"
    "Question: {question}\n"
    "\n"
    "Instructions:\n"
    "- Begin by analyzing the time series without assuming a specific answer.\n"
    "- Think step-by-step about what the observed patterns suggest regarding the cardiac condition.\n"
    "- Write your rationale as a single, natural paragraph — do not use bullet points, numbered steps, or section headings.\n"
    "- Do **not** mention any final answer until the very end.\n"
    "- Consider the ECG morphology, intervals, and any abnormalities that relate to the question."
)
_ECG_ENDING = 'Make sure that your last word is the answer. You MUST end your response with "Answer: "'
_ECG_POST_PROMPT = (
    f"Based on your analysis of the ECG data, select your answer from the following options:\n{{answers}}\n\n- {_ECG_ENDING}"
)
_ECG_OPEN_POST_PROMPT = f"Based on your analysis of the ECG data, provide your answer.\n{_ECG_ENDING}"
_ECG_SERIES_TEXT = "This is ECG Lead {lead}, it has mean {mean:.4f} and std {std:.4f}:"

_OWN_SERIES_TEXT = "The following is the time series {name}, it has mean {mean:.4f} and std {std:.4f}:"
_OWN_LABELS = (
    "{question}\n\nPossible labels are:\n{labels}.\n\n"
    '- Make sure that your last word is the answer. You MUST end your response with "Answer: "'
)


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
        # Upstream's is a matrix of three axes, of which torch takes the standard deviation in another way than of one series.
        mean, std = mean_float32(series), np.float32(series.std(ddof=1, dtype=np.float64))
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
    return TimeSeriesPrompt(_M4_PRE_PROMPT, (SeriesSegment(text, tuple(normalised.tolist())),), M4_QUESTION)


def tsqa_prompt(question: str, kind: str, series: Series) -> TimeSeriesPrompt:
    """Build OpenTSLM's TSQA prompt.

    The series is normalised by its mean and sample standard deviation (ddof 1) plus 1e-8, in float32.

    Args:
        question: The data's own text, with the possible answers in it.
        kind: The data's `Task`.
        series: Values in the series' own unit, shape [length].

    Raises:
        PromptError: if the series is not a sequence of at least two finite numbers.
    """
    values = _float32(series, "the series")
    mean, std = _moments(values)
    normalised = (values - mean) / (std + np.float32(TSQA_ADDED_STD))
    text = _TSQA_SERIES_TEXT.format(mean=float(mean), std=float(std))
    segment = SeriesSegment(text, tuple(normalised.tolist()))
    return TimeSeriesPrompt(question.strip(), (segment,), f"Predict the {kind} Answer:".strip())


def sleep_prompt(series: Series) -> TimeSeriesPrompt:
    """Build OpenTSLM's Sleep-CoT prompt.

    The series is normalised by its mean and population standard deviation (ddof 0, at least 1e-6) as numpy rounds them in float32.

    Args:
        series: EEG, shape [length]; 30 s at 50 Hz in OpenTSLM's data.

    Raises:
        PromptError: if the series is not a sequence of at least two finite numbers.
    """
    values = _float32(series, "the EEG")
    mean, std = float(np.mean(values)), max(float(np.std(values)), SLEEP_MIN_STD)
    text = _SLEEP_SERIES_TEXT.format(mean=mean, std=std)
    segment = SeriesSegment(text, tuple(((values - mean) / std).tolist()))
    return TimeSeriesPrompt(_SLEEP_PRE_PROMPT, (segment,), _SLEEP_POST_PROMPT)


def ecg_segments(leads: np.ndarray) -> tuple[SeriesSegment, ...]:
    """Return the series of OpenTSLM's ECG-QA-CoT prompt.

    Each lead is normalised by its mean and population standard deviation (ddof 0) in float64; a flat one is only centred.

    Args:
        leads: Millivolts, shape [12, length], in the order of `ECG_LEADS`.

    Raises:
        PromptError: if a lead is not a sequence of at least two finite numbers.
    """
    segments = []
    for name, values in zip(ECG_LEADS, np.asarray(leads, dtype=np.float64), strict=True):
        _float32(values, f"lead {name}")
        mean, std = float(np.mean(values)), float(np.std(values))
        normalised = (values - mean) / std if std > ECG_MIN_STD else values - mean
        text = _ECG_SERIES_TEXT.format(lead=name, mean=mean, std=std)
        segments.append(SeriesSegment(text, tuple(normalised.tolist())))
    return tuple(segments)


def ecg_prompt(question: str, context: str, answers: Sequence[str], segments: tuple[SeriesSegment, ...]) -> TimeSeriesPrompt:
    """Build OpenTSLM's ECG-QA-CoT prompt.

    Args:
        question: The data's `question`.
        context: The data's `clinical_context`.
        answers: What the question's template may be answered with; none for a template that is not listed.
        segments: `ecg_segments` of the recording.
    """
    pre_prompt = _ECG_PRE_PROMPT.format(context=context, question=question)
    post_prompt = _ECG_POST_PROMPT.format(answers=", ".join(answers)) if answers else _ECG_OPEN_POST_PROMPT
    return TimeSeriesPrompt(pre_prompt.strip(), segments, post_prompt)


def own_prompt(channels: Mapping[str, Series], question: str, labels: Sequence[str]) -> TimeSeriesPrompt:
    """Build a prompt for a user's own series, in the form of OpenTSLM's.

    With labels it is laid out as the activity prompt, without them as the caption prompt; that of a single series without a
    question of its own is the caption prompt. Each series is normalised as a caption's.

    Args:
        channels: Series by name, in their own units.
        question: What is asked.
        labels: The possible answers; none for a free answer.

    Raises:
        PromptError: if a series is not a sequence of at least two finite numbers.
    """
    segments = []
    for name, values in channels.items():
        (segment,) = m4_prompt(values).series
        mean, std = _moments(_float32(values, f"the series {name}"))
        text = segment.text if len(channels) == 1 else _OWN_SERIES_TEXT.format(name=name, mean=float(mean), std=float(std))
        segments.append(SeriesSegment(text, segment.values))
    if not labels:
        return TimeSeriesPrompt(_M4_PRE_PROMPT, tuple(segments), question)
    pre_prompt = _OWN_LABELS.format(question=question, labels=", ".join(labels))
    return TimeSeriesPrompt(pre_prompt, tuple(segments), _HAR_POST_PROMPT)


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
    """Return mean and sample standard deviation of a lone series as torch rounds them on a CPU.

    The latter is taken in float64, but around the mean in float32: that of a constant series need not be 0.
    """
    mean = mean_float32(series)
    deviations = series.astype(np.float64) - float(mean)
    return mean, np.float32(np.sqrt((deviations**2).sum() / (len(series) - 1)))
