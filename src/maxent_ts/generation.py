"""One prompt, one call: the Python entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from maxent_ts.config import EMBEDDED_MODEL, check_settings
from maxent_ts.engines.base import Engine
from maxent_ts.loading import embedded_model_path, load_named, shared_settings
from maxent_ts.registry import ENGINES, METHODS
from maxent_ts.rewards.base import Reward, RewardFunction
from maxent_ts.rewards.combine import from_function, load_reward
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.tree import Tree
from maxent_ts.types import Budget, Completion, Outcome, Policy, Prompt, Usage

__all__ = ["Generation", "as_reward", "generate"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What a search found for one prompt."""

    outcome: Outcome
    usage: Usage

    @property
    def text(self) -> str:
        """The answer: the text of the first returned completion."""
        return self.outcome.best.text

    @property
    def texts(self) -> list[str]:
        """The texts of the returned completions, `num_return_sequences` of them where there are as many."""
        return [self.outcome.completions[index].text for index in self.outcome.chosen]

    @property
    def completions(self) -> tuple[Completion, ...]:
        """Every completion that was evaluated, each once."""
        return self.outcome.completions

    @property
    def weights(self) -> tuple[float, ...]:
        """The method's estimate of π on `completions`; sums to 1."""
        return self.outcome.weights

    @property
    def info(self) -> Mapping[str, float]:
        """Diagnostics, such as `log_z_lower`, `log_z` and `log_z_upper` (nats)."""
        return self.outcome.info

    @property
    def tree(self) -> Tree | None:
        """The tree, for methods that grow one."""
        return self.outcome.tree

    def _repr_html_(self) -> str:
        """The answer and the tree, for notebooks."""
        from maxent_ts.report.notebook import generation_html

        return generation_html(self)


def generate(
    model: Engine | str | Path | Any,
    prompt: Prompt,
    *,
    reward: str | RewardFunction | Reward,
    inputs: Mapping[str, Any] | None = None,
    method: str = "maxent",
    tilt: float = 1.0,
    num_rollouts: int = 10,
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    stop_strings: Sequence[str] = (),
    num_return_sequences: int = 1,
    max_generated_tokens: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    answer_fn: Callable[[str], str | None] | None = None,
    **settings: Any,
) -> Generation:
    """Search for completions of one prompt under π(x) ∝ p(x)·exp(tilt · reward(x)).

    Args:
        model: An engine; or "embedded" for the model that ships with the package, a model directory, a hub id, or a
            transformers model with its `tokenizer`, which then becomes an engine for this one call. Make the engine once
            when you search many prompts.
        prompt: Text, chat messages, token ids, input embeddings, or a `TimeSeriesPrompt`.
        reward: A function with TRL's signature, a name such as "claims", or "file.py:function".
        inputs: Columns that the reward sees, one value each: `{"series": …}`.
        method: A name of `maxent-ts list methods`.
        tilt: λ, in 1 / unit of the reward.
        num_rollouts: Completions that may be started.
        max_new_tokens: Length of a completion at most, in tokens.
        temperature: Of the model's own sampling; part of p.
        top_k: Part of p; None keeps the whole vocabulary.
        top_p: Part of p; None keeps the whole vocabulary.
        min_p: Part of p; None keeps the whole vocabulary.
        repetition_penalty: Part of p, as in transformers: prompt and continuation are looked at.
        no_repeat_ngram_size: Part of p, as in transformers; 0 for no such rule.
        stop_strings: Texts that end a completion.
        num_return_sequences: Completions returned in `texts`.
        max_generated_tokens: Budget in generated tokens.
        max_seconds: Budget in wall time.
        seed: Same seed, same result, where the engine can promise it.
        tokenizer: Of a transformers model given as `model`.
        answer_fn: Reads the final answer of a completion, for methods that vote.
        settings: Keyword arguments of the method, such as `exploration` for "maxent".

    Raises:
        MaxentError: if a name, a setting, the prompt, the model or the reward is wrong; the message says which and what to do.
    """
    factory = load_named(METHODS, method, "method")
    shared = shared_settings(factory, num_rollouts=num_rollouts, num_return_sequences=num_return_sequences)
    checked = check_settings(method, factory, {**shared, **settings})
    engine = cast(Engine, model) if hasattr(model, "submit") else _as_engine(model, tokenizer)
    job = SearchJob(
        id="prompt",
        prompt=prompt,
        policy=Policy(
            max_new_tokens, temperature, top_k, top_p, tuple(stop_strings), min_p, repetition_penalty, no_repeat_ngram_size
        ),
        method=partial(factory, **checked),
        tilt=tilt,
        budget=Budget(max_generated_tokens, num_rollouts, max_seconds),
        seed=(seed, 0),
        inputs=dict(inputs or {}),
    )
    (result,) = run_searches([job], engine, as_reward(reward), answer_fn=answer_fn)
    if result.error is not None:
        raise result.error
    assert result.outcome is not None
    return Generation(result.outcome, result.usage)


def _as_engine(model: str | Path | Any, tokenizer: Any) -> Engine:
    """A model in memory is used in the number type and on the device it has."""
    build = load_named(ENGINES, "hf", "engine")
    if isinstance(model, (str, Path)):
        return build(embedded_model_path() if model == EMBEDDED_MODEL else model, tokenizer)
    return build(model, tokenizer, dtype="auto")


def as_reward(reward: str | RewardFunction | Reward) -> Reward:
    """Return the reward that a name, a function with TRL's signature, or a reward stands for."""
    if isinstance(reward, str):
        return load_reward(reward)
    return cast(Reward, reward) if hasattr(reward, "explain") else from_function(reward)
