"""A user's function as a reward, and the checks that every reward's values pass."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.errors import MaxentError, MissingColumnError, RewardError, SettingError
from maxent_ts.rewards.base import Evidence, Reward, other_prompts, prefix_function

__all__ = ["TrainerState", "call", "check_values", "from_function", "shown"]


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What TRL passes as `trainer_state`, before the first step: nothing is trained here."""

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    num_train_epochs: int = 0


def _log_nothing(*_: Any) -> None:
    """Stand for TRL's `log_extra` and `log_metric`: there is no table of a training run to add to."""


TRL_COLUMNS: Mapping[str, Any] = {"trainer_state": TrainerState(), "log_extra": _log_nothing, "log_metric": _log_nothing}
"""What TRL passes beside the columns of the data (trl 1.16, `GRPOTrainer._calculate_rewards`)."""


def call(name: str, function: Callable[..., Any], inputs: dict[str, Any], count: int) -> list[float | None]:
    """Call what computes a reward and check what it returns.

    Raises:
        RewardError: if it raises, or returns anything but a list of `count` finite numbers and None.
    """
    try:
        values = function(**inputs)
    except MaxentError:
        raise
    except Exception as error:
        first = inputs.get("completions") or ["none"]
        raise RewardError(
            f"The reward '{name}' raised {type(error).__name__}: {error}. It was called with {count} completions; "
            f"the first was {shown(first[0])}."
        ) from error
    return check_values(name, values, count)


def check_values(name: str, values: Any, count: int) -> list[float | None]:
    """Return a reward's values as finite floats, or None where it does not apply.

    Raises:
        RewardError: if there is another number of values, or one is not a finite number; names reward and example.
    """
    if isinstance(values, np.ndarray) or type(values).__module__.partition(".")[0] == "torch":
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        raise RewardError(
            f"The reward '{name}' must return a list with one number per completion ({count} here), but returned "
            f"{shown(values)}. Return a list, in the order of the completions."
        )
    if len(values) != count:
        raise RewardError(
            f"The reward '{name}' must return one value per completion: {count} were given, {len(values)} came back. "
            "Return a list of that length, with None where the reward does not apply."
        )
    checked: list[float | None] = []
    for index, value in enumerate(values):
        if value is None:
            checked.append(None)
            continue
        if isinstance(value, (str, bytes)) or not hasattr(type(value), "__float__"):
            raise RewardError(
                f"The reward '{name}' must return numbers, but returned {shown(value)} for example {index}. "
                "Convert it with float(), or return None where the reward does not apply."
            )
        number = float(value)
        if not math.isfinite(number):
            raise RewardError(
                f"The reward '{name}' returned {number} for example {index}, but a search needs finite numbers. "
                "Clip it, or return None where the reward does not apply."
            )
        checked.append(number)
    return checked


def shown(value: Any) -> str:
    """Return a value and its type for a message, cut to 60 characters."""
    text = repr(value)
    return f"{text[:60]}{'…' if len(text) > 60 else ''} of type {type(value).__name__}"


class _FunctionReward:
    """A user's function with a name, checked values, and no known bounds."""

    range = (-math.inf, math.inf)

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self._function = _synchronous(function)
        prefix = prefix_function(function)
        self.other_prompts = other_prompts(function)
        self.prefix = None if prefix is None else _FunctionReward(prefix, f"{name}.prefix")
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._takes = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        self._needs = {
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Call the function with the columns it takes and check what it returns.

        Raises:
            MissingColumnError: if it needs a column that is not there.
            RewardError: if it raises, or returns anything but a list of finite numbers.
        """
        answers = [_as_messages(text) if _is_chat(prompt) else text for prompt, text in zip(prompts, completions, strict=True)]
        given = {"prompts": prompts, "completions": answers, "completion_ids": completion_ids, **TRL_COLUMNS, **columns}
        missing = sorted(self._needs - set(given))
        if missing:
            raise MissingColumnError(
                f"The reward '{self.name}' needs {', '.join(repr(each) for each in missing)}, which is not among its inputs: "
                f"{', '.join(sorted(set(given) - set(TRL_COLUMNS)))}. Rename the parameter, or give it a default."
            )
        chosen = given if self._takes_all else {key: value for key, value in given.items() if key in self._takes}
        return call(self.name, self._function, chosen, len(completions))

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the values: nothing more is known about the function."""
        values = self(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [{"value": value, "parts": {self.name: {"value": value}}} for value in values]


def from_function(function: Callable[..., Any], name: str | None = None) -> Reward:
    """Make a reward of a function with TRL's signature.

    Without `**kwargs` the function gets only the columns its parameters name. As in TRL, the completion of a prompt of chat
    messages comes as `[{"role": "assistant", "content": text}]`, the function may be `async`, and None stands for a completion
    that it does not apply to. `trainer_state` is that of step 0; what is given to `log_extra` and `log_metric` is not kept.

    Args:
        function: `(prompts, completions, completion_ids, **columns) -> list[float | None]`, any subset of the parameters.
        name: The name in tables; the function's own without it.

    Raises:
        SettingError: if it is not callable or takes positional-only parameters.
    """
    if not callable(function):
        raise SettingError(
            f"A reward must be callable, but {shown(function)} is not. Give a function that returns a list of numbers."
        )
    if "torch" in sys.modules and isinstance(function, sys.modules["torch"].nn.Module):
        raise SettingError(
            f"A reward model such as {type(function).__name__} needs its tokenizer. Make a reward of both with "
            "maxent_ts.integrations.trl.reward_model(model, tokenizer)."
        )
    label = name or getattr(function, "__name__", type(function).__name__)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"The reward '{label}' has no readable signature, so its columns are not known. Wrap it in a function of your own."
        ) from error
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in parameters):
        raise SettingError(f"The reward '{label}' takes positional-only parameters, but is called by keyword. Remove the '/'.")
    return _FunctionReward(function, label)


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and all(isinstance(one, Mapping) for one in prompt)


def _as_messages(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _synchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function that waits for what an `async` one, or an object with an async `__call__`, promises."""
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))):  # noqa: B004
        return function
    return lambda **columns: _finished(function(**columns))


def _finished(promise: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end; in a thread of its own, since a notebook has a running loop in this one."""
    outcome: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(promise))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
