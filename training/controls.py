"""What simple classifiers reach on the same windows: the yardsticks for the embedded model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.signal import welch
from scipy.stats import kurtosis, skew
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data import HarItem

__all__ = ["features", "feature_accuracy", "prompt_number_accuracy"]

SAMPLING_RATE = 50.0


def features(axes: np.ndarray) -> np.ndarray:
    """Return statistics and Welch band powers of each axis and of the magnitude, and the correlations between axes.

    Args:
        axes: acceleration in m/s², shape [3, length].
    """
    values: list[float] = []
    for row in (*axes, np.linalg.norm(axes, axis=0)):
        quartiles = np.percentile(row, [0, 25, 50, 75, 100])
        spread = row.std()
        shape = [float(skew(row)), float(kurtosis(row))] if spread > 1e-9 else [0.0, 0.0]
        crossings = float(np.mean(np.diff(np.sign(row - row.mean())) != 0))
        _, power = welch(row, SAMPLING_RATE, nperseg=64)
        bands = [np.log(band.mean() + 1e-9) for band in np.array_split(power[1:20], 5)]
        values += [row.mean(), spread, *quartiles, *shape, crossings, *bands]
    return np.array([*values, *np.nan_to_num(np.corrcoef(axes))[np.triu_indices(3, 1)]])


def prompt_numbers(axes: np.ndarray) -> np.ndarray:
    """Return the six numbers that the prompt states: mean and standard deviation of each axis."""
    return np.concatenate([axes.mean(axis=1), axes.std(axis=1, ddof=1)])


def prompt_number_accuracy(train: Sequence[HarItem], test: Sequence[HarItem]) -> float:
    """Accuracy of logistic regression on the six numbers in the prompt."""
    return _accuracy(prompt_numbers, train, test)


def feature_accuracy(train: Sequence[HarItem], test: Sequence[HarItem]) -> float:
    """Accuracy of logistic regression on `features`."""
    return _accuracy(features, train, test)


def _accuracy(describe, train: Sequence[HarItem], test: Sequence[HarItem]) -> float:
    inputs = [np.stack([describe(np.stack(item[:3])) for item in items]) for items in (train, test)]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(inputs[0], [item[3] for item in train])
    return float(classifier.score(inputs[1], [item[3] for item in test]))
