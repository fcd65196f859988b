"""Forecast a series in digits: numbers as text (Gruver et al. 2023, arXiv 2310.07820) with the horizons of the M competitions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maxent_ts.errors import DataError
from maxent_ts.forecast_metrics import crps, mase, psd_distance, seasonal_naive_error, variance_ratio
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.digits import NUM_DIGITS, SEPARATOR, Digits
from maxent_ts.tasks.excerpts import excerpt_folder
from maxent_ts.tasks.frequencies import FREQUENCIES
from maxent_ts.tasks.m4_files import SplitSeries, read_split_series
from maxent_ts.tasks.subset import stratified_subset

__all__ = ["Forecast", "forecast_prompt"]

MIN_CONTEXT = 8
"""Fewest past values that a forecast is asked for."""


def forecast_prompt(context: Sequence[float] | np.ndarray, frequency: str) -> str:
    """Return the text that a forecast continues: M4's letter for the frequency, the context as digits, a line break.

    Args:
        context: The past, in the series' own unit, shape [length].
        frequency: A name in `FREQUENCIES`.
    """
    return f"{FREQUENCIES[frequency].letter}{Digits.of(context).encode(context)}\n"


class Forecast:
    """Continue a series over the official horizon of its frequency, as text.

    Reads M4's files (see `maxent_ts.tasks.m4_files`). The prompt shows the end of the training part; a completion is the values
    that come next, in the same digits. What a completion states beyond the horizon is not looked at; one that states fewer values
    is no forecast. The target holds the official test part and the error by which M4 scales; it is JSON text, and metrics alone see
    it. The stratum is the frequency.

    Inputs besides `series` (the context, in its own unit): `horizon`, `period`, and `decimals`, `offset`, `scale`, by which
    numbers in a completion are read: value = offset + scale · number.
    """

    name = "forecast"
    labels: tuple[str, ...] = ()
    rewards: Mapping[str, float] = {"spectral": 1.0}
    embedded_model = "forecast_model"
    max_new_tokens = max(one.horizon for one in FREQUENCIES.values()) * (NUM_DIGITS + len(SEPARATOR))
    """A tokenizer that takes characters one by one needs as many; the end of the text stands in for the last separator."""

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load test series. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "forecast/{frequency}/{id}".

        Raises:
            DataError: if there is no file, or a series cannot be used: its test part has not the official length, an id comes
                twice, or it is shorter than eight values.
        """
        folder = excerpt_folder(data_dir, "forecast", "M4's training and test files")
        series = read_split_series(folder, tuple(FREQUENCIES))
        twice = [name for name, count in Counter((one.frequency, one.id) for one in series).items() if count > 1]
        if twice:
            raise DataError(
                f"Expected every series once in {folder}, but {twice[0][1]} ({twice[0][0]}) comes twice. Ids name the items."
            )
        chosen = stratified_subset([one.frequency for one in series], limit, seed)
        return [self._example(folder, series[index]) for index in chosen]

    def answer(self, text: str) -> str | None:  # noqa: ARG002
        """Return None: a forecast states no label."""
        return None

    def forecast(self, example: Example, text: str) -> np.ndarray | None:
        """Return the forecast that a completion states, float64 [horizon], in the series' unit; None if it is too short."""
        digits = Digits(example.inputs["offset"], example.inputs["scale"])
        values = digits.decode(text)[: example.inputs["horizon"]]
        return values if len(values) == example.inputs["horizon"] else None

    def measures(self, example: Example, text: str, texts: Sequence[str], weights: Sequence[float]) -> dict[str, float | None]:
        """Score the returned forecast, and all completions as a distribution, against what came.

        Returns:
            `complete` (1 if the completion reaches the horizon), `mase` of it, `psd_distance` from the truth and `variance_ratio`
            to it, and `scaled_crps` of all complete forecasts with the method's weights, over the error that M4 scales by. None
            where there is no complete forecast or nothing to scale by.
        """
        target = json.loads(example.target or "{}")
        actual, error = np.array(target["values"]), target["seasonal_naive_error"]
        found: dict[str, float | None] = dict.fromkeys(("mase", "scaled_crps", "psd_distance", "variance_ratio"))
        stated = self.forecast(example, text)
        if stated is not None:
            found["psd_distance"], found["variance_ratio"] = psd_distance(stated, actual), variance_ratio(stated, actual)
        if error is not None:
            found["mase"] = None if stated is None else mase(stated, actual, error)
            drawn = [(self.forecast(example, one), weight) for one, weight in zip(texts, weights, strict=True)]
            members = [(one, weight) for one, weight in drawn if one is not None and weight > 0]
            if members:
                found["scaled_crps"] = crps([one for one, _ in members], actual, [weight for _, weight in members]) / error
        return {"complete": float(stated is not None), **found}

    def _example(self, folder: Path, one: SplitSeries) -> Example:
        facts = FREQUENCIES[one.frequency]
        if len(one.future) != facts.horizon or len(one.past) < MIN_CONTEXT:
            raise DataError(
                f"Expected {facts.horizon} values to forecast and at least {MIN_CONTEXT} before them for '{one.id}' in {folder}, "
                f"since its frequency is {one.frequency}, but there are {len(one.future)} and {len(one.past)}. Drop the series."
            )
        context = list(one.past[-facts.max_context :])
        digits = Digits.of(context)
        inputs = {
            "series": [context],
            "series_names": ["series"],
            "labels": self.labels,
            "task": self.name,
            "horizon": facts.horizon,
            "period": facts.period,
            "decimals": 0,
            "offset": digits.offset,
            "scale": digits.scale,
        }
        target = {"values": list(one.future), "seasonal_naive_error": seasonal_naive_error(one.past, facts.period)}
        return Example(
            id=f"{self.name}/{one.frequency}/{one.id}",
            prompt=forecast_prompt(context, one.frequency),
            inputs=inputs,
            target=json.dumps(target),
            stratum=one.frequency,
        )
