"""What unfinished completions of a table promise, by enumeration: the best prefix reward there is, and worse ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.types import Policy, Tokens
from tests.conftest import TokenReward

__all__ = ["PrefixTokenReward", "soft_values", "with_prefix_values"]


class PrefixTokenReward(TokenReward):
    """A reward with a value for every prefix; `noise` adds to each a normal number of that scale, a function of the prefix."""

    def __init__(self, reward: TokenReward, values: dict[Tokens, float], noise: float = 0.0, seed: int = 0) -> None:
        super().__init__(reward.function, reward.range)
        self.values = values
        self.noise = noise
        self.seed = seed

    def prefix_value(self, tokens: Tokens) -> float:
        if self.noise == 0.0:
            return self.values[tokens]
        return self.values[tokens] + self.noise * float(np.random.default_rng((self.seed, len(tokens), *tokens)).normal())

    def prefix(self, *, completion_ids: list[list[int]], logprobs: list[float], **columns: Any) -> list[float]:
        assert np.isfinite(logprobs).all()
        return [self.prefix_value(tuple(ids)) for ids in completion_ids]


def soft_values(engine: TableEngine, reward: TokenReward, tilt: float, length: int, prompt: Tokens = (0,)) -> dict[Tokens, float]:
    """V(s) = log E_p[exp(tilt · r) | s] / tilt of every unfinished prefix s of positive probability; E_p[r | s] at tilt 0."""
    context = engine.open(prompt, Policy(length))
    values: dict[Tokens, float] = {}

    def value(tokens: Tokens) -> float:
        if len(tokens) == length or (tokens and tokens[-1] == engine._eos_token_id):
            return reward.function(tokens)
        row = engine._row(context, tokens)
        children = np.array([value((*tokens, token)) for token in np.flatnonzero(row)])
        row = row[row > 0]
        values[tokens] = float(np.log(row @ np.exp(tilt * children)) / tilt if tilt else row @ children)
        return values[tokens]

    value(())
    return values


def with_prefix_values(
    engine: TableEngine, reward: TokenReward, tilt: float, length: int, *, noise: float = 0.0, seed: int = 0
) -> PrefixTokenReward:
    """The reward with its soft values as prefix rewards, plus noise."""
    return PrefixTokenReward(reward, soft_values(engine, reward, tilt, length), noise, seed)
