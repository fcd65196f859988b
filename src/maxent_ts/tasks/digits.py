"""Numbers as text, digit by digit, for language models that forecast: LLMTime (Gruver et al. 2023, arXiv 2310.07820, section 3).

A series is shifted and scaled by its own context, and written as whole numbers with a separator between. As in LLMTime the
decimal point is left out, and offset and scale come from what was seen before the forecast. Otherwise than there every number has
the same number of digits, padded with zeros: a step of time is then a fixed number of tokens for a tokenizer that takes digits
one by one, and a small model can look a season back by position. The price is a bounded range: the context fills the middle half
of it, and what lies further out than half of the context's range, above or below, is written as the bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maxent_ts.errors import DataError
from maxent_ts.rewards.numbers import parse_numbers

__all__ = ["HEADROOM", "NUM_DIGITS", "SEPARATOR", "Digits"]

NUM_DIGITS = 3
SEPARATOR = ","
HEADROOM = 0.5
"""Free on either side of the context, in ranges of the context."""


@dataclass(frozen=True, slots=True)
class Digits:
    """The writing of one series: value = offset + scale · number."""

    offset: float
    """What "000" stands for, in the series' unit."""
    scale: float
    """One unit of the last digit, in the series' unit; above 0."""
    num_digits: int = NUM_DIGITS

    @classmethod
    def of(cls, context: Sequence[float] | np.ndarray, *, num_digits: int = NUM_DIGITS) -> Digits:
        """Return the writing that a context asks for: its smallest and largest value at a quarter and three quarters of the range.

        A constant context is written as the middle, one unit of the last digit being a thousandth of its level.

        Args:
            context: What is known, in the series' own unit, shape [length], at least one finite number.
            num_digits: Digits of every number.

        Raises:
            DataError: if the context is not a flat, non-empty sequence of finite numbers.
        """
        values = np.asarray(context, dtype=np.float64)
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise DataError(f"Expected a flat series of finite numbers to write as digits, but got the shape {values.shape}.")
        low, high = float(values.min()), float(values.max())
        largest = 10**num_digits - 1
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            scale = max(abs(low), 1.0) / 1000
            return cls(low - scale * (largest // 2), scale, num_digits)
        scale = (high - low) * (1 + 2 * HEADROOM) / largest
        return cls(low - HEADROOM * (high - low), scale, num_digits)

    def encode(self, values: Sequence[float] | np.ndarray) -> str:
        """Write values, each as the nearest number there is: "251,253,…"."""
        numbers = np.rint((np.asarray(values, dtype=np.float64) - self.offset) / self.scale)
        clipped = np.clip(numbers, 0, 10**self.num_digits - 1).astype(int)
        return SEPARATOR.join(f"{number:0{self.num_digits}d}" for number in clipped)

    def decode(self, text: str) -> np.ndarray:
        """Read the values that a text states, float64 [values]: of its longest run of numbers.

        A number at the very end with fewer digits than it should have was cut by a length limit, and is left out.
        """
        whole = re.sub(rf"(?<!\d)\d{{1,{self.num_digits - 1}}}$", "", text.rstrip()) if self.num_digits > 1 else text
        return parse_numbers(whole, decimals=0, offset=self.offset, scale=self.scale)
