"""Rewards that come from the model itself."""

from __future__ import annotations

import math
from typing import Any

from maxent_ts.errors import RewardError
from maxent_ts.rewards.base import Evidence

__all__ = ["Logprob"]


class Logprob:
    """The completion's own log-probability, in nats: π ∝ p·exp(λ log p) = p^(1 + λ), so that λ plays α - 1.

    This is the power distribution of Karan and Du, "Reasoning with Sampling" (arXiv 2510.14901). Reads the column `logprobs`,
    which every search provides.
    """

    name = "logprob"
    range = (-math.inf, 0.0)

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return log p of each completion.

        Raises:
            RewardError: if there is no column `logprobs`.
        """
        del prompts, completion_ids
        if "logprobs" not in columns:
            raise RewardError(
                f"The reward 'logprob' returns the column 'logprobs' (one log-probability in nats for each of {len(completions)} "
                "completions), but was called without it. Pass logprobs=[…], as every search does."
            )
        return [min(float(value), 0.0) for value in columns["logprobs"]]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the value alone: it has no parts beyond the tokens."""
        values = self(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [{"value": value, "parts": {self.name: {"value": value}}} for value in values]
