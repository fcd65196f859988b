"""A reward from an auxiliary classifier: the probability it gives, on the series, to the label that the text states.

    value = q(label stated behind "Answer:" | series), 0 without a valid answer

q is logistic regression on features of the series, fitted on training labels. So this reward is auxiliary-supervised: a search
guided by it goes where the classifier alone would go, and what it gains over the language model is no gain of the language
model. Evidence and run.json carry that word and the SHA-256 of the fitted file; report the classifier alone beside it.

`Classifier` without a path takes the one that ships with the package, for windows of three-axis acceleration; for other data fit
one with `fit`, save it, and name `file.py:reward` with `reward = Classifier("fitted.json")`.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import welch
from scipy.special import softmax
from scipy.stats import kurtosis, skew

from maxent_ts.errors import DataError, RewardError
from maxent_ts.rewards.base import Evidence, missing_column
from maxent_ts.rewards.text import rationale_and_label

__all__ = ["Classifier", "FittedClassifier", "features", "fit"]

KIND = "auxiliary-supervised"

_SEGMENT = 64
_NUM_BANDS = 5
_BANDS = slice(1, 20)


def features(series: Sequence[Sequence[float]], sampling_rate: float) -> np.ndarray:
    """Return statistics and Welch band powers of each series and of their magnitude, and the correlations between series.

    Args:
        series: Of equal length, at least 64 points each: shape [series, length].
        sampling_rate: Points per second.

    Returns:
        float64 array of shape [14 · (series + 1) + pairs of series].

    Raises:
        DataError: if the series differ in length, are shorter, or hold numbers that are not finite.
    """
    try:
        axes = np.asarray(series, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("A classifier's series must be numbers, as many in each series.") from error
    if axes.ndim != 2 or axes.shape[1] < _SEGMENT or not np.isfinite(axes).all():
        raise DataError(f"A classifier needs series of at least {_SEGMENT} finite numbers each, but got shape {axes.shape}.")
    values: list[float] = []
    for row in (*axes, np.linalg.norm(axes, axis=0)):
        spread = row.std()
        shape = [float(skew(row)), float(kurtosis(row))] if spread > 1e-9 else [0.0, 0.0]
        crossings = float(np.mean(np.diff(np.sign(row - row.mean())) != 0))
        _, power = welch(row, sampling_rate, nperseg=_SEGMENT)
        bands = [np.log(band.mean() + 1e-9) for band in np.array_split(power[_BANDS], _NUM_BANDS)]
        values += [row.mean(), spread, *np.percentile(row, [0, 25, 50, 75, 100]).tolist(), *shape, crossings, *bands]
    if len(axes) > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations = np.nan_to_num(np.atleast_2d(np.corrcoef(axes)))
        values += correlations[np.triu_indices(len(axes), 1)].tolist()
    return np.array(values)


@dataclass(frozen=True)
class FittedClassifier:
    """Logistic regression on standardised `features`."""

    labels: tuple[str, ...]
    sampling_rate: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    """One row for each label."""
    intercepts: tuple[float, ...]
    trained_on: str
    """What it was fitted on, for people."""

    def probabilities(self, series: Sequence[Sequence[float]]) -> dict[str, float]:
        """Return q(label | series).

        Raises:
            DataError: if the series are not as many and as long as those it was fitted on.
        """
        found = features(series, self.sampling_rate)
        if len(found) != len(self.mean):
            raise DataError(
                f"This classifier was fitted on other series: it has {len(self.mean)} features, but {len(series)} series have "
                f"{len(found)}. Use it on data like those it was fitted on: {self.trained_on}"
            )
        standardised = (found - np.array(self.mean)) / np.array(self.scale)
        return dict(zip(self.labels, softmax(np.array(self.coefficients) @ standardised + self.intercepts).tolist(), strict=True))

    @cached_property
    def sha256(self) -> str:
        """Hash of the content of the file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the content of the file."""
        fields = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> FittedClassifier:
        """Read a file.

        Raises:
            DataError: if there is no such file, or it is not one of these.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            coefficients = tuple(tuple(row) for row in fields.pop("coefficients"))
            values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in fields.items()}
            return cls(coefficients=coefficients, **values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"There is no fitted classifier in '{path}' ({type(error).__name__}: {error}). Fit one with "
                "maxent_ts.rewards.classifier.fit and write its to_json() there."
            ) from error


def fit(
    series: Sequence[Sequence[Sequence[float]]], labels: Sequence[str], *, sampling_rate: float, trained_on: str
) -> FittedClassifier:
    """Fit logistic regression (scikit-learn, L2 with C = 1) on features of training items.

    Args:
        series: One list of series for each item. Training items only: no test item, and where people or machines were recorded,
            none of a test subject.
        labels: The label of each.
        sampling_rate: Points per second.
        trained_on: What these items are, for people.

    Raises:
        DataError: if an item has no features, or there are fewer than two labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(set(labels)) < 2 or len(labels) != len(series):
        raise DataError(f"Expected one label for each of {len(series)} items, at least two different ones, but got {len(labels)}.")
    inputs = np.stack([features(one, sampling_rate) for one in series])
    scaler = StandardScaler().fit(inputs)
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(inputs), list(labels))
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two labels: one row of logits for the second
        coefficients, intercepts = (
            np.vstack([-coefficients / 2, coefficients / 2]),
            np.concatenate([-intercepts / 2, intercepts / 2]),
        )
    return FittedClassifier(
        labels=tuple(str(label) for label in model.classes_),
        sampling_rate=sampling_rate,
        mean=_rounded(scaler.mean_),
        scale=_rounded(scaler.scale_),
        coefficients=tuple(_rounded(row) for row in coefficients),
        intercepts=_rounded(intercepts),
        trained_on=trained_on,
    )


def _rounded(values: Any) -> tuple[float, ...]:
    """Six digits: what the fit is certain of on every machine, or nearly."""
    return tuple(float(f"{value:.6g}") for value in np.asarray(values, dtype=np.float64))


class Classifier:
    """Probability of the stated label under a classifier of the series, fitted on training labels: auxiliary-supervised.

    Columns it reads: `series` and `labels`.

    Args:
        path: A file written from `FittedClassifier.to_json`; the package's own, for human activity recognition, if None.

    Raises:
        DataError: if there is no such file.
    """

    name = "classifier"
    range = (0.0, 1.0)

    def __init__(self, path: str | Path | None = None) -> None:
        self._fitted = _shipped() if path is None else FittedClassifier.load(Path(path))

    @property
    def provenance(self) -> Mapping[str, Mapping[str, str]]:
        """What run.json, tables and reports say of this reward."""
        return {self.name: {"kind": KIND, "sha256": self._fitted.sha256, "trained_on": self._fitted.trained_on}}

    def predict(self, series: Sequence[Sequence[Sequence[float]]]) -> list[str]:
        """Return the classifier's own label for each list of series: the control to report beside a search for this reward."""
        found = [_probabilities(self._fitted, tuple(map(tuple, one))) for one in series]
        return [max(one, key=lambda label: one[label]) for one in found]

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion.

        Raises:
            RewardError: if there is no column `series` or `labels`, or the series are not like those of the fit.
        """
        explained = self.explain(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [one["value"] for one in explained]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the value with the label stated, the classifier's most probable one, and the classifier's hash."""
        del prompts, completion_ids
        missing = [name for name in ("series", "labels") if name not in columns]
        if missing:
            raise missing_column(
                f"The reward 'classifier' reads the columns 'series' and 'labels', but {' and '.join(missing)} did not come.",
                columns,
            )
        explained = []
        for index, (text, series, labels) in enumerate(zip(completions, columns["series"], columns["labels"], strict=True)):
            _, label = rationale_and_label(text, labels or ())
            try:
                probabilities = _probabilities(self._fitted, tuple(map(tuple, series)))
            except (DataError, TypeError) as error:
                raise RewardError(f"The reward 'classifier' cannot judge the series of example {index}: {error}") from error
            value = 0.0 if label is None else float(probabilities.get(label, 0.0))
            best = max(probabilities, key=lambda one: probabilities[one])
            part = {"value": value, "kind": KIND, "sha256": self._fitted.sha256, "stated": label, "most_probable": best}
            explained.append({"value": value, "parts": {"classifier": part}})
        return explained


@lru_cache(maxsize=1024)
def _probabilities(fitted: FittedClassifier, series: tuple[tuple[float, ...], ...]) -> dict[str, float]:
    """Kept, because all completions of a search are about the same series."""
    return fitted.probabilities(series)


@lru_cache(maxsize=1)
def _shipped() -> FittedClassifier:
    return FittedClassifier.load(Path(str(importlib.resources.files("maxent_ts"))) / "assets" / "classifier" / "har.json")
