"""What can go wrong, one class for each thing a user can do about it.

Every message is one paragraph: what was expected, what came, what to do. The command line prints it without a traceback
and exits with code 2; inside an evaluation it becomes the `error` of one record and the other items go on.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "EngineError",
    "MaxentError",
    "MissingColumnError",
    "MissingExtraError",
    "ModelError",
    "OutOfMemoryError",
    "PromptError",
    "RewardError",
    "RunDirectoryError",
    "SettingError",
    "UnknownNameError",
]


class MaxentError(Exception):
    """Base of every error this package raises on purpose."""


class SettingError(MaxentError):
    """A parameter has a value outside its domain, or two parameters contradict each other."""


class UnknownNameError(SettingError):
    """No method, task, reward or engine has this name."""


class MissingExtraError(MaxentError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs the package '{package}', which is not installed. Run: pip install 'maxent-ts[{extra}]'")


class PromptError(MaxentError):
    """A prompt is empty, longer than the context, or of a kind that the engine cannot take."""


class DataError(MaxentError):
    """A data file is missing, lacks a column, or holds values that are not finite numbers."""


class ModelError(MaxentError):
    """A model cannot be found or its files cannot be read."""


class EngineError(MaxentError):
    """An engine could not finish a job, for example because the model returned logits that are not finite."""


class OutOfMemoryError(EngineError):
    """The device has too little free memory for the model, the batch and the cache."""


class RewardError(MaxentError):
    """A reward raised, returned the wrong number of values, or returned something that is not a finite number."""


class MissingColumnError(RewardError):
    """A reward reads a column that is not among the inputs of the example."""


class RunDirectoryError(MaxentError):
    """A run directory cannot be written, or holds the records of another configuration."""
