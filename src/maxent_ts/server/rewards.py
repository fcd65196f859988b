"""The rewards that requests may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maxent_ts.errors import SettingError, UnknownNameError
from maxent_ts.registry import REWARDS, unknown_name
from maxent_ts.rewards.base import Reward
from maxent_ts.rewards.combine import WeightedSum, from_function, load_reward

__all__ = ["RewardTable"]


def _nothing(completions: Sequence[str]) -> list[float]:
    return [0.0] * len(completions)


class RewardTable:
    """The rewards that requests may name. All are made here, so that no request makes the server read or run anything.

    Args:
        specs: Names of the registry, or the operator's own `file.py:function`; all of the registry if there are none.

    Raises:
        MaxentError: as `load_reward`.
        SettingError: if two have one name.
    """

    def __init__(self, specs: Sequence[str] = ()) -> None:
        self._rewards: dict[str, Reward] = {}
        for spec in specs or sorted(REWARDS):
            reward = load_reward(spec)
            if reward.name in self._rewards:
                raise SettingError(f"Two rewards are named '{reward.name}'. Requests could not tell them apart: rename one.")
            self._rewards[reward.name] = WeightedSum([reward], [1.0])
        self._none = from_function(_nothing, "none")

    @property
    def names(self) -> list[str]:
        """What requests may name."""
        return list(self._rewards)

    def find(self, wanted: str | Mapping[str, float] | None) -> Reward:
        """Return a reward by name, or a weighted sum; without a name one that is 0 everywhere.

        Raises:
            UnknownNameError: if there is no such name.
            SettingError: if names with weights are none.
        """
        if wanted is None:
            return self._none
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name not in self._rewards:
                raise UnknownNameError(unknown_name("reward", name, self._rewards))
        if isinstance(wanted, str):
            return self._rewards[wanted]
        return WeightedSum([self._rewards[name] for name in wanted], list(wanted.values()))
