"""A reward for text that the signal makes likelier: how much the model's log p falls when the series are replaced by zeros.

    Δ = log p(text | prompt) − log p(text | the same prompt, its series all zeros),   value = 1 / (1 + exp(−Δ / SCALE))

Δ, in nats, is the pointwise mutual information of text and signal given all else in the prompt, the printed means and standard
deviations included, with the zeroed prompt in the place of the average over signals. A text that the model would write about any
series gets 1/2. No gold text and no training take part.

The idea is the context-aware decoding of Shi et al. 2023 (arXiv 2305.14739) and the PMI of Holtzman et al. 2021 (arXiv
2104.08315), with the signal as the context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from maxent_ts.errors import RewardError
from maxent_ts.rewards.base import Evidence
from maxent_ts.types import Prompt, TimeSeriesPrompt

__all__ = ["SCALE", "Contrast", "zeroed"]

SCALE = 2.0
"""Nats of Δ for a logit of 1: about the standard deviation of Δ over samples of the embedded model on HAR."""

_FINITE = 1e6
"""What a log-probability of −∞ (a token left out by top_k or top_p) counts as, in nats, with its sign."""

COLUMN = "zeroed_logprobs"


def zeroed(prompt: Prompt) -> TimeSeriesPrompt:
    """Return a time-series prompt with zeros for the normalised series: their texts stay, their signal goes.

    Raises:
        RewardError: if the prompt has no series.
    """
    if not isinstance(prompt, TimeSeriesPrompt):
        raise RewardError(
            f"The reward 'contrast' compares with a prompt whose series are zeros, but this prompt is {type(prompt).__name__} "
            "without series. Use it on tasks with time-series prompts."
        )
    return replace(prompt, series=tuple(replace(one, values=(0.0,) * len(one.values)) for one in prompt.series))


class Contrast:
    """How much likelier the series make the text, squashed into [0, 1]; see the module's docstring.

    Columns it reads: `logprobs`, which every search provides, and `zeroed_logprobs`, which the driver has the engine compute.
    """

    name = "contrast"
    range = (0.0, 1.0)
    other_prompts: Mapping[str, Callable[[Prompt], Prompt]] = {COLUMN: zeroed}

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion.

        Raises:
            RewardError: if one of the two columns is missing.
        """
        explained = self.explain(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [one["value"] for one in explained]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the value with both log-probabilities and their difference, nats."""
        del prompts, completion_ids
        missing = [name for name in ("logprobs", COLUMN) if name not in columns]
        if missing:
            raise RewardError(
                f"The reward 'contrast' compares the columns 'logprobs' and '{COLUMN}' (log p of each of {len(completions)} "
                f"completions under the prompt and without its signal, nats), but {' and '.join(missing)} did not come. "
                "Use it in a search, which computes them; records of searches without it do not hold them."
            )
        return [_explained(float(own), float(other)) for own, other in zip(columns["logprobs"], columns[COLUMN], strict=True)]


def _explained(own: float, other: float) -> Evidence:
    own, other = max(own, -_FINITE), max(other, -_FINITE)
    difference = own - other
    # The logistic function, written so that no exponential overflows.
    tail = math.exp(-abs(difference) / SCALE)
    value = (1.0 if difference >= 0 else tail) / (1.0 + tail)
    part = {"value": value, "logprob": own, "zeroed_logprob": other, "difference": difference}
    return {"value": value, "parts": {"contrast": part}}
