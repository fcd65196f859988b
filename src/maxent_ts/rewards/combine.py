"""Rewards from names, from the user's own functions, and as weighted sums."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from maxent_ts import registry
from maxent_ts.errors import RewardError, SettingError, UnknownNameError
from maxent_ts.rewards.base import Evidence, Reward, other_prompts, prefix_function, provenance
from maxent_ts.rewards.function import call, from_function, shown
from maxent_ts.types import Prompt

__all__ = ["WeightedSum", "from_function", "load_reward", "parse_rewards"]


class WeightedSum:
    """Σ weight · reward. A reward that returns None for a completion is left out there; None where all do, as in TRL.

    Args:
        rewards: The rewards; their names must differ.
        weights: One finite number each.
        clip: Bounds for the sum. Without them the sum keeps the bounds that follow from its parts.
    """

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float], clip: tuple[float, float] | None = None) -> None:
        if not rewards:
            raise SettingError("A sum of rewards needs at least one reward.")
        if len(weights) != len(rewards):
            names = ", ".join(reward.name for reward in rewards)
            raise SettingError(
                f"Expected one weight for each reward ({len(rewards)}: {names}), but {len(weights)} came. "
                "Give as many weights as rewards."
            )
        names = [reward.name for reward in rewards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SettingError(f"The reward '{twice[0]}' is named twice. Name it once and add up its weights.")
        for name, weight in zip(names, weights, strict=True):
            if not math.isfinite(weight):
                raise SettingError(f"The weight of the reward '{name}' must be a finite number, but is {weight}.")
        if clip is not None and not clip[0] < clip[1]:
            raise SettingError(f"clip must be two numbers, the first below the second, but is {clip}.")
        self._rewards = tuple(rewards)
        self._weights = tuple(float(weight) for weight in weights)
        self._clip = clip

    @property
    def name(self) -> str:
        """The parts' names with their weights, such as `0.5·claims + 0.5·format`."""
        if len(self._rewards) == 1 and self._weights[0] == 1.0:
            return self._rewards[0].name
        return " + ".join(f"{weight:g}·{reward.name}" for reward, weight in zip(self._rewards, self._weights, strict=True))

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of the sum. A part may be left out, so 0 always lies between a part's bounds."""
        low = high = 0.0
        alone = len(self._rewards) == 1
        for reward, weight in zip(self._rewards, self._weights, strict=True):
            if weight == 0.0:
                continue
            first, second = sorted(weight * bound for bound in reward.range)
            low += first if alone else min(first, 0.0)
            high += second if alone else max(second, 0.0)
        if self._clip is not None:
            low, high = max(low, self._clip[0]), min(high, self._clip[1])
            low, high = (low, high) if low <= high else self._clip
        return low, high

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return the weighted sums.

        Raises:
            RewardError: if a part fails or returns anything but a list of finite numbers and None.
        """
        inputs = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **columns}
        return self._weighted([(reward.name, reward) for reward in self._rewards], inputs)

    @property
    def prefix(self) -> Callable[..., list[float | None]] | None:
        """The same sum for unfinished completions; None unless every part can score them."""
        parts = [(reward.name, prefix_function(reward)) for reward in self._rewards]
        functions = [(name, function) for name, function in parts if function is not None]
        if len(functions) < len(parts):
            return None
        return lambda **inputs: self._weighted(functions, inputs)

    @property
    def other_prompts(self) -> Mapping[str, Callable[[Prompt], Prompt]]:
        """Those of all parts: rewards that share the name of a column share the prompt."""
        return {name: make for reward in self._rewards for name, make in other_prompts(reward).items()}

    @property
    def provenance(self) -> Mapping[str, Mapping[str, str]]:
        """Those of all parts."""
        return {name: facts for reward in self._rewards for name, facts in provenance(reward).items()}

    def _weighted(self, functions: Sequence[tuple[str, Callable[..., Any]]], inputs: dict[str, Any]) -> list[float | None]:
        parts = [call(name, function, inputs, len(inputs["completions"])) for name, function in functions]
        return [self._sum(values) for values in zip(*parts, strict=True)]

    def _sum(self, values: Sequence[float | None]) -> float | None:
        terms = [weight * value for weight, value in zip(self._weights, values, strict=True) if value is not None]
        if not terms:
            return None
        total = math.fsum(terms)
        return total if self._clip is None else min(max(total, self._clip[0]), self._clip[1])

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return each sum, and under `parts` the evidence of every reward with its weight."""
        parts = [
            reward.explain(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
            for reward in self._rewards
        ]
        explained = []
        for evidences in zip(*parts, strict=True):
            named = {
                reward.name: {**evidence, "weight": weight}
                for reward, evidence, weight in zip(self._rewards, evidences, self._weights, strict=True)
            }
            explained.append({"value": self._sum([evidence["value"] for evidence in evidences]), "parts": named})
        return explained


_FILE_SPEC = re.compile(r"(?P<path>.*\.py):(?P<function>[^:]+)")


def load_reward(spec: str) -> Reward:
    """Return the reward that `spec` names.

    Args:
        spec: A registered name ("claims"), "path/to/file.py:function", or "module:function". What the last two name is a
            function, a reward object, or a class of rewards that needs no arguments.

    Raises:
        UnknownNameError: if there is no reward, file, module or function of that name; with the nearest known one.
        RewardError: if the file or module cannot be run.
        SettingError: if what it names is not callable.
    """
    if ":" not in spec:
        if spec.endswith(".py"):
            raise UnknownNameError(f"Expected file.py:function, but '{spec}' names only a file. Add ':' and the function's name.")
        return registry.load(registry.REWARDS, spec, "reward")()
    match = _FILE_SPEC.fullmatch(spec)
    place, attribute = (match["path"], match["function"]) if match else spec.rsplit(":", 1)
    module = _module_from_file(Path(place)) if match else _module_from_name(place)
    found = getattr(module, attribute, None)
    if found is None:
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        near = difflib.get_close_matches(attribute, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else f" It has: {', '.join(sorted(known)) or 'no functions'}."
        raise UnknownNameError(f"There is no '{attribute}' in {place}.{hint}")
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise RewardError(
                f"The reward class '{attribute}' in {place} cannot be made without arguments: {type(error).__name__}: {error}. "
                "Name an object of it instead."
            ) from error
    if not callable(found):
        raise SettingError(f"A reward must be callable, but '{attribute}' in {place} is {shown(found)}. Name a function.")
    if all(hasattr(found, part) for part in ("name", "range", "explain")):
        return cast(Reward, found)
    return from_function(found, attribute)


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [each.name for each in path.parent.glob("*.py")], n=1)
        hint = f" Did you mean '{path.parent / near[0]}'?" if near else ""
        raise UnknownNameError(
            f"There is no file '{path}' with a reward in it.{hint} Paths are relative to the current folder, {Path.cwd()}."
        )
    name = "maxent_ts_user_" + re.sub(r"\W", "_", str(path.resolve()))
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RewardError(f"The file '{path}' of a reward raised {type(error).__name__} when it was run: {error}") from error
    return module


def _module_from_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (name == error.name or name.startswith(error.name + ".")):
            raise RewardError(f"The module '{name}' of a reward needs '{error.name}', which is not installed.") from error
        raise UnknownNameError(
            f"There is no module '{name}' with a reward in it. Expected a name ({', '.join(sorted(registry.REWARDS))}), "
            "file.py:function, or module:function."
        ) from error
    except Exception as error:
        raise RewardError(f"The module '{name}' of a reward raised {type(error).__name__} when it was imported: {error}") from error


def parse_rewards(specs: Sequence[str], weights: Sequence[float] | None = None) -> Reward:
    """Return one reward: the weighted sum of those that `specs` name.

    Args:
        specs: See `load_reward`; at least one.
        weights: One finite number each; 1 each without them.

    Raises:
        SettingError: if none is named, weights do not match, or a name is wrong.
        RewardError: if a user's file cannot be run.
    """
    if not specs:
        raise SettingError(
            f"Name at least one reward: {', '.join(sorted(registry.REWARDS))}, file.py:function, or module:function."
        )
    return WeightedSum([load_reward(spec) for spec in specs], [1.0] * len(specs) if weights is None else list(weights))
