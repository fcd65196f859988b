"""What the M4 and M3 competitions fix for each frequency: how far to forecast, and what a season is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FREQUENCIES", "Frequency"]


@dataclass(frozen=True, slots=True)
class Frequency:
    """A sampling frequency."""

    letter: str
    """What M4's ids begin with; first character of the prompt."""
    horizon: int
    """Values to forecast."""
    period: int
    """Steps of a season in M4's own evaluation; 1 where it uses none."""
    max_context: int
    """Values of the past that the prompt shows: so many seasons that the digits fit a small model's positions."""


FREQUENCIES: Mapping[str, Frequency] = {
    "Hourly": Frequency("H", 48, 24, 168),
    "Daily": Frequency("D", 14, 1, 98),
    "Weekly": Frequency("W", 13, 1, 104),
    "Monthly": Frequency("M", 18, 12, 72),
    "Quarterly": Frequency("Q", 8, 4, 40),
    "Yearly": Frequency("Y", 6, 1, 24),
    "Other": Frequency("O", 8, 1, 48),
}
"""M4 (Makridakis et al. 2020, International Journal of Forecasting 36, table 1 and section 2), and "Other" of M3 (Makridakis and
Hibon 2000). M3 shares horizon and season of the frequencies that both have."""
