"""The model's own log-probability as a reward."""

from __future__ import annotations

import math

import pytest

from maxent_ts.errors import RewardError
from maxent_ts.rewards.model import Logprob

CALL = {"prompts": [None] * 2, "completions": ["a", "b"], "completion_ids": [[1], [2]]}


def test_the_reward_is_the_log_probability_and_keeps_its_range():
    """Catches per-token normalisation, and a value above 0 by rounding, which would break the bracket of log Z."""
    assert Logprob()(**CALL, logprobs=[-3.5, -0.25]) == [-3.5, -0.25]
    assert Logprob()(**CALL, logprobs=[1e-9, -1.0]) == [0.0, -1.0]
    assert Logprob().range == (-math.inf, 0.0)


def test_the_evidence_repeats_the_value():
    """Catches an explanation of another completion."""
    assert [each["value"] for each in Logprob().explain(**CALL, logprobs=[-3.5, -0.25])] == [-3.5, -0.25]


def test_without_log_probabilities_there_is_no_reward():
    """Catches a silent 0."""
    with pytest.raises(RewardError, match="logprobs"):
        Logprob()(**CALL)
