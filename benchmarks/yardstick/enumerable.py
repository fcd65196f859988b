"""Random tables small enough to enumerate, and four families of rewards on them.

Legend: L `length`, the longest completion; v tokens besides the end token; a reward's standard deviation under a uniform
choice of tokens is about 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.types import Tokens

__all__ = ["FAMILIES", "SETTINGS", "Setting", "TokenReward", "reward_of_family"]


@dataclass(frozen=True)
class Setting:
    """One size of model, with the budgets it is measured at."""

    name: str
    num_tokens: int
    """The vocabulary, end token included."""
    length: int
    tilt: float
    concentration: float
    eos: bool
    sizes: tuple[int, ...]
    """Budgets: N rollouts' worth of generated tokens, N·length."""

    def engine(self, seed: int) -> TableEngine:
        """The model with this seed."""
        return TableEngine.random(num_tokens=self.num_tokens, concentration=self.concentration, eos=self.eos, seed=seed)


SETTINGS = (
    Setting("4^6 leaves, tilt 1", 4, 6, 1.0, 0.5, False, (10, 30, 100, 300)),
    Setting("4^5 leaves, tilt 3", 4, 5, 3.0, 1.0, False, (10, 30, 100)),
    Setting("4^5 leaves, tilt 8", 4, 5, 8.0, 1.0, False, (10, 30, 100)),
    Setting("1365 leaves with EOS, tilt 3", 5, 5, 3.0, 1.0, True, (10, 30, 100)),
    Setting("21845 leaves with EOS, tilt 8", 5, 7, 8.0, 1.0, True, (128, 512, 2048)),
)


class TokenReward:
    """A function of token ids with TRL's signature.

    Args:
        name: In tables.
        function: From the completion's tokens to the reward.
        bounds: What the values keep.
        prefix: ψ(s) for unfinished completions; None leaves the reward without prefix rewards.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Tokens], float],
        bounds: tuple[float, float],
        prefix: Callable[[Tokens], float] | None = None,
    ) -> None:
        self.name = name
        self.range = bounds
        self.function = function
        if prefix is not None:
            self.prefix = lambda *, completion_ids, **columns: [prefix(tuple(ids)) for ids in completion_ids]  # noqa: ARG005

    def __call__(self, *, completion_ids: list[list[int]], **columns: Any) -> list[float]:  # noqa: ARG002 - TRL's signature
        """One value per completion."""
        return [self.function(tuple(ids)) for ids in completion_ids]

    def explain(self, *, completion_ids: list[list[int]], **columns: Any) -> list[dict[str, float]]:
        """The values again."""
        return [{"value": value} for value in self(completion_ids=completion_ids, **columns)]


def additive(setting: Setting, rng: np.random.Generator) -> TokenReward:
    """Σ over positions of a random number per (position, token): every prefix tells its part."""
    table = rng.normal(size=(setting.length, setting.num_tokens)) / math.sqrt(setting.length)
    rows = table.tolist()
    low, high = float(np.minimum(table.min(axis=1), 0).sum()), float(np.maximum(table.max(axis=1), 0).sum())
    return TokenReward("additive", lambda tokens: sum(row[token] for row, token in zip(rows, tokens, strict=False)), (low, high))


def early(setting: Setting, rng: np.random.Generator) -> TokenReward:
    """A random number per pair of first tokens: what follows does not matter."""
    table = rng.normal(size=(setting.num_tokens + 1, setting.num_tokens + 1))
    rows, nothing = table.tolist(), setting.num_tokens

    def function(tokens: Tokens) -> float:
        return rows[tokens[0]][tokens[1] if len(tokens) > 1 else nothing]

    return TokenReward("early", function, (float(table.min()), float(table.max())))


def rugged(setting: Setting, rng: np.random.Generator) -> TokenReward:
    """An independent normal number per completion: nothing can be learned from relatives."""
    values = rng.normal(size=(setting.num_tokens + 1) ** setting.length)
    bounds = float(values.min()), float(values.max())
    return TokenReward("rugged", lambda tokens: float(values[_index(tokens, setting)]), bounds)


def sparse(setting: Setting, rng: np.random.Generator) -> TokenReward:
    """3 for one completion in fifty, whichever, else 0."""
    values = np.where(rng.random((setting.num_tokens + 1) ** setting.length) < 0.02, 3.0, 0.0)
    return TokenReward("sparse", lambda tokens: float(values[_index(tokens, setting)]), (0.0, 3.0))


FAMILIES: dict[str, Callable[[Setting, np.random.Generator], TokenReward]] = {
    "additive": additive,
    "sparse": sparse,
    "early": early,
    "rugged": rugged,
}


def reward_of_family(family: str, setting: Setting, seed: int) -> TokenReward:
    """The reward of a family that belongs to a model's seed."""
    return FAMILIES[family](setting, np.random.default_rng(1000 + seed))


def _index(tokens: Tokens, setting: Setting) -> int:
    """A number of its own for every completion, in base vocabulary + 1."""
    index = 0
    for token in tokens:
        index = index * (setting.num_tokens + 1) + token + 1
    return index * (setting.num_tokens + 1) ** (setting.length - len(tokens))
