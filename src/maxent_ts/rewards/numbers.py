"""Numbers written in a text: the forecast that a language model states.

Two ways of writing are read. Plain decimals: "12.5, 13, -4e2" or the same with spaces, semicolons or line breaks between. And the
digits of LLMTime (Gruver et al. 2023, arXiv 2310.07820, section 3): "1 2 5 , 1 3 0" is 1.25, 1.30 at two decimals; every digit
is a token of its own, the decimal point is left out, and the values are scaled.
"""

from __future__ import annotations

import re

import numpy as np

__all__ = ["parse_numbers"]

_DECIMAL = r"[-+−]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,2})?"
_DECIMALS = re.compile(rf"(?<![\w.])(?:{_DECIMAL})(?:(?:\s*[,;]\s*|\s+)(?:{_DECIMAL}))*(?![\w%])")
_DIGITS = re.compile(r"(?<![\w.])-?(?: ?\d){1,30}(?:\s*,\s*-?(?: ?\d){1,30})*(?![\w%])", re.ASCII)
_ONE_DECIMAL = re.compile(_DECIMAL)


def parse_numbers(text: str, *, decimals: int | None = None, offset: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Return the longest run of numbers in a text, the first of equally long ones.

    A run is numbers with nothing but separators between them, so that "the next 3 values are 1.5, 2, 2.5" gives the last three.
    Percentages, numbers of more than 30 digits and exponents of more than two are not read, so that every number is finite. A
    number that a length limit cut in two cannot be told from a whole one.

    Args:
        text: What the model wrote.
        decimals: None for plain decimals; for digits the number of those that stand behind the left-out point.
        offset: Added after scaling: value = offset + scale · number.
        scale: See `offset`.

    Returns:
        float64 array of shape [numbers]; empty where there is none.
    """
    runs = _decimal_runs(text) if decimals is None else _digit_runs(text, decimals)
    longest = max(runs, key=len, default=[])
    return offset + scale * np.array(longest, dtype=np.float64)


def _decimal_runs(text: str) -> list[list[float]]:
    return [[float(one.replace("−", "-")) for one in _ONE_DECIMAL.findall(run.group())] for run in _DECIMALS.finditer(text)]


def _digit_runs(text: str, decimals: int) -> list[list[float]]:
    runs = [re.sub(r"\s", "", run.group()).split(",") for run in _DIGITS.finditer(text)]
    return [[int(one) / 10**decimals for one in run] for run in runs]
