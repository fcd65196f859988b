"""The configuration of an evaluation, and the settings of methods as users type them.

This is where untrusted text enters, so it is checked strictly: an unknown key or a value outside its domain is an error
that names the nearest known one, never something to be ignored.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from maxent_ts.errors import SettingError, UnknownNameError
from maxent_ts.presets import DEFAULT_COMPAT, DEFAULT_METHODS, DEFAULT_PRESET, DEMO_TASKS, EMBEDDED_MODEL, PRESETS
from maxent_ts.registry import METHODS_OF_ONE_COMPLETION, unknown_name
from maxent_ts.types import Policy

__all__ = ["MethodConfig", "RunConfig", "check_settings", "expand_tasks", "make_config", "parse_assignments"]

EXECUTION_FIELDS = frozenset(
    {
        "output_dir",
        "batch_size",
        "kv_cache_gib",
        "max_concurrent",
        "save_trees",
        "max_total_tokens",
        "max_seconds",
        "base_url",
        "api_key_variable",
        "ray",
        "ray_workers",
        "ray_num_cpus",
        "ray_num_gpus",
        "ray_timeout",
    }
)
"""Fields that say how a run is carried out, not what it computes: they may change when a run is continued."""

VARIANT_FIELDS = ("num_rollouts", "max_new_tokens", "tilt", "seed")
"""Fields of the run that a variant of a method may have its own value of."""


ARBITRARY_TYPES = ConfigDict(arbitrary_types_allowed=True)
"""Settings may be objects in Python, such as a tree to go on with."""


class MethodConfig(BaseModel):
    """A variant of a method: its settings, and λ, budget and seed where they differ from the run's.

    A run holds any number of variants of a method, told apart by their labels. In a plain evaluation there is one of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    tilt: float | None = Field(default=None, ge=0)
    num_rollouts: int | None = Field(default=None, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    generated_tokens: int | None = Field(default=None, ge=1)
    """Budget of one search. None is num_rollouts × max_new_tokens if one of them is given here, else the run's."""
    seed: int | None = Field(default=None, ge=0)
    shown: tuple[str, ...] = ()
    """What the label shows besides the name: the fields and settings that tell this variant from others of its method."""

    @property
    def label(self) -> str:
        """What this variant is called in records and tables, such as `maxent[num_rollouts=10, tilt=2]`."""
        return self.label_without(())

    def label_without(self, names: Sequence[str]) -> str:
        """Return the label with some of what it shows left out."""
        values = {**{name: getattr(self, name) for name in VARIANT_FIELDS}, **self.settings}
        shown = [f"{name}={_short(values[name])}" for name in self.shown if name not in names]
        return f"{self.name}[{', '.join(shown)}]" if shown else self.name


class RunConfig(BaseModel):
    """Everything that an evaluation depends on.

    `preset` fills in `num_rollouts` and `max_new_tokens` where they are left out, and those fill in `generated_tokens`:
    the budget of one search in generated tokens, the same for every method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[str, ...] = Field(min_length=1)
    methods: tuple[MethodConfig, ...] = Field(default=tuple(MethodConfig(name=name) for name in DEFAULT_METHODS), min_length=1)
    model: str = EMBEDDED_MODEL
    base_model: str | None = None
    """The language model of an OpenTSLM checkpoint; None for what the checkpoint's name tells."""
    compat: str = DEFAULT_COMPAT
    """Which of OpenTSLM's ways to read a prompt."""
    engine: str = "hf"
    base_url: str | None = None
    """Where the server of the engine `openai` is, such as http://localhost:8000/v1."""
    embedder: str | None = None
    """For the engine `openai`: the soft-prompt model whose encoder runs here while its language model runs on the server."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key. The key itself is part of no configuration."""
    dtype: str = "float32"
    device: str = "auto"
    quantization: str | None = None
    """Of the engine's own kind; see `engines.linears`."""
    exact_logprobs: bool = False
    """With a quantisation: log-probabilities are those of the exact model; see `engines.exact`."""
    rewards: tuple[str, ...] = ()
    """Names, or `file.py:function`; empty for each task's own."""
    reward_weights: tuple[float, ...] = ()
    """One for each of `rewards`; empty for 1 each."""
    tilt: float = Field(default=1.0, ge=0)
    preset: str = DEFAULT_PRESET
    num_rollouts: int = Field(default=0, ge=1, validate_default=True)
    max_new_tokens: int = Field(default=0, ge=1, validate_default=True)
    generated_tokens: int = Field(default=0, ge=1, validate_default=True)
    temperature: float = Field(default=1.0, gt=0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    stop_strings: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    shard: tuple[int, int] | None = None
    """(k, n): of each task every n-th item from the k-th on, counted from 1; None for all. `maxent-ts merge` joins them."""
    data_dir: Path | None = None
    question: str = ""
    """For the task `series`: what is asked about the user's own series."""
    labels: tuple[str, ...] = ()
    """For the task `series`: the possible answers; none for free text."""
    scorer: Literal["clean", "upstream"] = "clean"
    """Whose reading of answers makes `answer`, `correct` and all that rests on them: this package's, or that of the data's
    authors. Records have both."""
    output_dir: Path = Path("runs/run")
    batch_size: int | None = Field(default=None, ge=1)
    kv_cache_gib: float | None = Field(default=None, ge=0)
    """Memory for keys and values that may be needed again, besides those of the batch."""
    max_concurrent: int = Field(default=16, ge=1)
    """Searches under way at once: enough to fill a batch, few enough that a search finds its keys and values where it left them."""
    save_trees: int = Field(default=1, ge=0)
    """Search trees kept for each task: those of the first examples, of every method that grows one."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Generated tokens of the whole run directory, earlier starts included; a search starts only if its budget still fits."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Wall time of this start, from the first search on; what is not finished by then is dropped and not recorded."""
    ray: str | None = None
    """Run the searches on a Ray cluster: "auto" for the running one, or else one on this machine; or its address, host:port."""
    ray_workers: int | None = Field(default=None, ge=1)
    """Workers, each with an engine of its own; None for as many as the cluster's nodes hold."""
    ray_num_cpus: float = Field(default=1.0, ge=0)
    """Cores of a worker."""
    ray_num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of a worker; a fraction lets several workers share one."""
    ray_timeout: float = Field(default=300.0, gt=0)
    """Seconds that the run waits while no node can take a worker."""

    def policy(self, max_new_tokens: int) -> Policy:
        """Return the reference policy p that these settings make."""
        return Policy(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop_strings=self.stop_strings,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
        )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Resolve the preset and the budget, so that what is stored says what was done."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        preset = filled.get("preset", DEFAULT_PRESET)
        if preset not in PRESETS:
            raise UnknownNameError(unknown_name("preset", str(preset), PRESETS))
        for name in ("num_rollouts", "max_new_tokens"):
            if filled.get(name) is None:
                filled[name] = getattr(PRESETS[preset], name)
        if filled.get("generated_tokens") is None and _are_numbers(filled["num_rollouts"], filled["max_new_tokens"]):
            filled["generated_tokens"] = filled["num_rollouts"] * filled["max_new_tokens"]
        return filled

    @model_validator(mode="after")
    def _agree(self) -> RunConfig:
        """Check what needs more than one field."""
        for kind, names in (("task", self.tasks), ("method", [method.label for method in self.methods])):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise SettingError(f"The {kind} '{twice[0]}' is named twice. Name each {kind} once.")
        for budget, length in [(one.generated_tokens, one.max_new_tokens) for one in (self, *map(self.resolved, self.methods))]:
            assert budget is not None
            assert length is not None
            if budget < length:
                raise SettingError(
                    f"A budget of {budget} generated tokens has no room for one completion of max_new_tokens = {length}. "
                    "Raise the budget or lower max_new_tokens."
                )
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise SettingError(f"A shard is k/n with 1 ≤ k ≤ n, such as 3/8, but is {self.shard[0]}/{self.shard[1]}.")
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise SettingError(
                f"{len(self.reward_weights)} reward weights were given for {len(self.rewards)} rewards. "
                "Give one weight for each --reward, or none for a weight of 1 each."
            )
        if not all(math.isfinite(weight) for weight in self.reward_weights):
            raise SettingError(f"Reward weights must be finite numbers, but are {list(self.reward_weights)}.")
        return self

    def resolved(self, method: MethodConfig) -> MethodConfig:
        """Return a variant with the run's values filled in where it has none of its own."""
        values = {name: getattr(self if getattr(method, name) is None else method, name) for name in VARIANT_FIELDS}
        budget = method.generated_tokens
        if budget is None:
            own_budget = method.num_rollouts is not None or method.max_new_tokens is not None
            budget = values["num_rollouts"] * values["max_new_tokens"] if own_budget else self.generated_tokens
            if method.name in METHODS_OF_ONE_COMPLETION:
                budget = values["max_new_tokens"]
        return method.model_copy(update={**values, "generated_tokens": budget})

    def meaning(self) -> dict[str, Any]:
        """Return the fields that the results depend on, as plain JSON values."""
        found = {name: value for name, value in self.model_dump(mode="json").items() if name not in EXECUTION_FIELDS}
        if self.shard is None:
            del found["shard"]
        return found

    def digest(self) -> str:
        """Return eight hexadecimal digits that differ between configurations with different results."""
        return hashlib.sha256(json.dumps(self.meaning(), sort_keys=True).encode()).hexdigest()[:8]


def make_config(**values: Any) -> RunConfig:
    """Build a `RunConfig`, leaving out what is None.

    Raises:
        SettingError: one paragraph for the first thing that is wrong, with the nearest known name where a name is unknown.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        if name not in RunConfig.model_fields:
            raise UnknownNameError(unknown_name("setting", name, RunConfig.model_fields))
    try:
        return RunConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise SettingError(f"{where}: {first['msg']}; it is {first.get('input')!r}.") from error


def expand_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Replace `demo` by the tasks it stands for."""
    return tuple(task for name in names for task in (DEMO_TASKS if name == "demo" else (name,)))


def parse_assignments(assignments: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, str]]:
    """Sort `method.key=value` texts by method; a plain `key=value` is for every method when there is only one.

    Returns:
        For each of `methods`, its settings as texts.

    Raises:
        SettingError: if a text has another form, or names a method that does not take part.
    """
    settings: dict[str, dict[str, str]] = {name: {} for name in methods}
    for assignment in assignments:
        left, equals, value = assignment.partition("=")
        method, dot, key = left.strip().partition(".")
        if not dot and len(methods) == 1:
            method, key = methods[0], method
        if not equals or not key or not method:
            raise SettingError(f"--set takes method.key=value, such as maxent.tilt=4, but got '{assignment}'.")
        if method not in settings:
            raise UnknownNameError(
                unknown_name("method taking part", method, settings) + f" Add --method {method} if it should take part."
            )
        if key in settings[method]:
            raise SettingError(f"--set gives {method}.{key} twice. Give it once.")
        settings[method][key] = value.strip()
    return settings


def check_settings(name: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings against a method's own keyword parameters and turn texts into their types.

    Args:
        name: The method's name, for messages.
        factory: The method: `(rng, target, *, **settings) -> Search`.
        settings: Values, or the texts a user typed.

    Raises:
        UnknownNameError: for a keyword the method does not have.
        SettingError: for a value of the wrong type, or a required setting that is missing.
    """
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for key in settings:
        if key not in parameters:
            known = parameters if parameters else ()
            raise UnknownNameError(unknown_name(f"setting of '{name}'", key, known))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in settings:
            raise SettingError(f"The method '{name}' needs a value for '{key}'. Give it with --set {name}.{key}=VALUE.")
    return {key: _coerce(name, factory, parameters[key], value) for key, value in settings.items()}


def _coerce(name: str, factory: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("none", "null"):
        value = None
    annotation = {} if parameter.annotation is parameter.empty else {"value": parameter.annotation}
    # Only this parameter's annotation is resolved: others may name what is imported for type checkers alone.
    hints = typing.get_type_hints(SimpleNamespace(__annotations__=annotation), globalns=getattr(factory, "__globals__", {}))
    try:
        return TypeAdapter(hints.get("value", Any), config=ARBITRARY_TYPES).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise SettingError(f"The setting '{parameter.name}' of '{name}' cannot be {value!r}: {message}.") from error


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)
