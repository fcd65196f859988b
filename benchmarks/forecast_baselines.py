"""Statistical forecasts to compare with: seasonal naive, and ETS and Theta of statsmodels, each with its own uncertainty.

Every function takes the whole past of a series and returns the point forecast, float64 [horizon], and members of an ensemble that
stands for its forecast distribution, float64 [members, horizon].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from maxent_ts.errors import MissingExtraError
from maxent_ts.forecast_metrics import seasonal_naive

try:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    from statsmodels.tsa.forecasting.theta import ThetaModel
except ModuleNotFoundError as error:
    raise MissingExtraError("statsmodels", "baselines") from error

__all__ = ["BASELINES"]

NUM_MEMBERS = 99
QUANTILES = norm.ppf((np.arange(NUM_MEMBERS) + 0.5) / NUM_MEMBERS)

Forecast = tuple[np.ndarray, np.ndarray]


def naive(past: np.ndarray, horizon: int, period: int) -> Forecast:
    """Repeat the last season; the spread of its errors grows with the root of the season's number.

    Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.5.
    """
    point = seasonal_naive(past, horizon, period)
    deviation = float(np.std(past[period:] - past[:-period])) * np.sqrt(np.arange(horizon) // period + 1)
    return point, point + QUANTILES[:, None] * deviation


def ets(past: np.ndarray, horizon: int, period: int) -> Forecast:
    """Smooth exponentially with additive errors, the form chosen by AICc: no, additive or damped trend, no or additive season."""
    level = float(np.abs(past).max()) or 1.0
    scaled = past / level
    seasons = ("add",) if period >= 12 and len(past) >= 3 * period else (None, "add") if 1 < period <= len(past) // 3 else (None,)
    best = None
    for trend, damped in ((None, False), ("add", False), ("add", True)):
        for season in seasons:
            model = ETSModel(
                scaled,
                error="add",
                trend=trend,
                damped_trend=damped,
                seasonal=season,
                seasonal_periods=period if season else None,
                initialization_method="estimated",  # the initial states are parameters, and count in AICc
            )
            fitted = model.fit(disp=False, maxiter=500)
            if best is None or not fitted.aicc >= best.aicc:
                best = fitted
    assert best is not None
    paths = best.simulate(horizon, anchor="end", repetitions=NUM_MEMBERS, rng=0)
    return np.asarray(best.forecast(horizon)) * level, np.asarray(paths).T * level


def theta(past: np.ndarray, horizon: int, period: int) -> Forecast:
    """Run the Theta method (Assimakopoulos and Nikolopoulos 2000) as statsmodels does, with a test whether there is a season."""
    level = float(np.abs(past).max()) or 1.0
    fitted = ThetaModel(past / level, period=max(period, 2), deseasonalize=period > 1, use_test=True).fit()
    point = np.asarray(fitted.forecast(horizon)) * level
    bounds = np.asarray(fitted.prediction_intervals(horizon, alpha=0.05)) * level
    deviation = (bounds[:, 1] - bounds[:, 0]) / (2 * norm.ppf(0.975))
    return point, point + QUANTILES[:, None] * deviation


def _quietly(function: Callable[[np.ndarray, int, int], Forecast]) -> Callable[[np.ndarray, int, int], Forecast]:
    """Failed convergence and the like are no news here: the forecast is scored as it is."""

    def run(past: np.ndarray, horizon: int, period: int) -> Forecast:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(past, horizon, period)

    return run


BASELINES = {"seasonal naive": naive, "ETS": _quietly(ets), "Theta": _quietly(theta)}
