"""What simple classifiers reach on the same windows: the yardsticks for the embedded model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data import HarItem
from maxent_ts.rewards.classifier import features

__all__ = ["feature_accuracy", "prompt_number_accuracy"]

SAMPLING_RATE = 50.0


def prompt_numbers(axes: np.ndarray) -> np.ndarray:
    """Return the six numbers that the prompt states: mean and standard deviation of each axis."""
    return np.concatenate([axes.mean(axis=1), axes.std(axis=1, ddof=1)])


def prompt_number_accuracy(train: Sequence[HarItem], test: Sequence[HarItem]) -> float:
    """Accuracy of logistic regression on the six numbers in the prompt."""
    return _accuracy(prompt_numbers, train, test)


def feature_accuracy(train: Sequence[HarItem], test: Sequence[HarItem]) -> float:
    """Accuracy of logistic regression on the features of the reward `classifier`."""
    return _accuracy(lambda axes: features(axes, SAMPLING_RATE), train, test)


def _accuracy(describe, train: Sequence[HarItem], test: Sequence[HarItem]) -> float:
    inputs = [np.stack([describe(np.stack(item[:3])) for item in items]) for items in (train, test)]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(inputs[0], [item[3] for item in train])
    return float(classifier.score(inputs[1], [item[3] for item in test]))
