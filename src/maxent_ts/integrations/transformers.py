"""Search behind transformers' own `generate`.

    from maxent_ts.integrations.transformers import search
    ids = model.generate(**tokenizer(prompts, return_tensors="pt", padding=True), max_new_tokens=50,
                         custom_generate=search(reward=reward, tokenizer=tokenizer, tilt=2.0))

The live model is used as it is: no weights are copied or loaded. `num_return_sequences` above 1 needs `do_sample=True`, since
transformers refuses it otherwise before the search is asked. `stop_strings` go to `search`: transformers does not pass its
tokenizer on.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from maxent_ts.config import check_settings
from maxent_ts.engines.base import Engine
from maxent_ts.engines.hf import HFEngine
from maxent_ts.errors import SettingError
from maxent_ts.generation import as_reward
from maxent_ts.integrations.generate_call import check_call, padding_token
from maxent_ts.loading import load_named, shared_settings
from maxent_ts.registry import METHODS
from maxent_ts.rewards.base import Evidence, Reward, RewardFunction, prefix_function
from maxent_ts.search.run import SearchJob, SearchResult, run_searches
from maxent_ts.types import Budget, Policy

__all__ = ["Search", "search"]


class Search:
    """What `search` returns: pass it as `custom_generate`."""

    results: Sequence[SearchResult] = ()
    """Of the last call, one for each prompt: every completion with weight and reward, the tree, and what it cost."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Answer `generate`: search once for each prompt, all side by side.

        Args:
            model: The model whose `generate` was called.
            input_ids: int64 [prompts · num_return_sequences, length]; transformers has repeated each prompt already.
            logits_processor: What transformers made of its settings; looked at, not applied.
            stopping_criteria: The same.
            generation_config: Gives `max_new_tokens`, `num_return_sequences` and the padding token.
            model_kwargs: `attention_mask`, 0 where a prompt is padded, and what else transformers hands over, such as an empty
                cache. (A parameter of that name would take the mask away from transformers.)

        Returns:
            int64 [prompts · num_return_sequences, length + longest completion], padded on the right; or, with
            `return_dict_in_generate`, an output that holds it as `sequences`. Where a search found fewer completions than
            asked for, they repeat from the first.

        Raises:
            SettingError: if `generate` was given something that would change p or the stopping, and that a search cannot do.
            MaxentError: whatever ended a search.
        """
        check_call(model, generation_config, logits_processor, stopping_criteria, model_kwargs)
        num = generation_config.num_return_sequences
        mask = model_kwargs.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
        prompts = [row[kept.bool()].tolist() for row, kept in zip(input_ids[::num], mask[::num], strict=True)]
        was_training = model.training
        try:
            self.results = _searched(model, prompts, generation_config, input_ids.shape[1], **self._settings)
        finally:
            model.train(was_training)
        rows = [
            torch.tensor(outcome.completions[outcome.chosen[index % len(outcome.chosen)]].tokens, device=input_ids.device)
            for outcome in (result.outcome for result in self.results)
            if outcome is not None
            for index in range(num)
        ]
        padding = padding_token(generation_config, self._settings["tokenizer"])
        answers = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
        sequences: Any = torch.cat([input_ids, answers.to(input_ids.dtype)], dim=1)
        return GenerateDecoderOnlyOutput(sequences=sequences) if generation_config.return_dict_in_generate else sequences


def search(
    *,
    reward: str | RewardFunction | Reward,
    tokenizer: Any = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    method: str = "maxent",
    tilt: float = 1.0,
    num_rollouts: int = 10,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    stop_strings: Sequence[str] = (),
    max_generated_tokens: int | None = None,
    max_seconds: float | None = None,
    max_batch_size: int = 32,
    seed: int = 0,
    **settings: Any,
) -> Search:
    """Make a search that `model.generate(…, custom_generate=…)` runs in place of its own decoding.

    The reference policy p is the model under the sampling settings given here. What the model's generation config says about
    sampling, transformers' own top-k of 50 among it, is not used; a setting that `generate` itself is given is an error.

    Args:
        reward: A function with TRL's signature, a name such as "logprob", or "file.py:function". It sees prompts as texts.
        tokenizer: Of the model; needed by rewards of texts and by `stop_strings`. Without it rewards see token ids alone.
        columns: What else the reward sees: lists with one value for each prompt.
        method: A name of `maxent-ts list methods`.
        tilt: λ, in 1 / unit of the reward.
        num_rollouts: Completions that may be started for each prompt.
        temperature: Part of p.
        top_k: Part of p; None keeps the whole vocabulary.
        top_p: Part of p; None keeps the whole vocabulary.
        min_p: Part of p; None keeps the whole vocabulary.
        repetition_penalty: Part of p: prompt and continuation are looked at.
        no_repeat_ngram_size: Part of p; 0 for no such rule.
        stop_strings: Texts that end a completion.
        max_generated_tokens: Budget for each prompt in generated tokens.
        max_seconds: Budget for each prompt in wall time.
        max_batch_size: Most rollouts that decode at once.
        seed: Same seed, same result, where the engine can promise it.
        settings: Keyword arguments of the method, such as `exploration` for "maxent".

    Raises:
        MaxentError: if a name or a setting is wrong.
    """
    factory = load_named(METHODS, method, "method")
    check_settings(method, factory, settings)
    return Search(
        {
            "reward": as_reward(reward),
            "tokenizer": tokenizer,
            "columns": columns or {},
            "method": (method, factory, settings),
            "tilt": tilt,
            "sampling": {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "stop_strings": tuple(stop_strings),
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "no_repeat_ngram_size": no_repeat_ngram_size,
            },
            "budget": Budget(max_generated_tokens, num_rollouts, max_seconds),
            "max_batch_size": max_batch_size,
            "seed": seed,
        }
    )


def _searched(
    model: Any,
    prompts: Sequence[list[int]],
    generation_config: Any,
    length: int,
    *,
    reward: Reward,
    tokenizer: Any,
    columns: Mapping[str, Sequence[Any]],
    method: tuple[str, Any, Mapping[str, Any]],
    tilt: float,
    sampling: Mapping[str, Any],
    budget: Budget,
    max_batch_size: int,
    seed: int,
) -> list[SearchResult]:
    """One result for each prompt, in order. The engine is made anew: between two calls the weights may have been trained."""
    for name, values in columns.items():
        if len(values) != len(prompts):
            raise SettingError(
                f"The column '{name}' has {len(values)} values for {len(prompts)} prompts. Give one for each prompt, however "
                "many sequences are returned for it."
            )
    name, factory, own = method
    num = generation_config.num_return_sequences
    if num > 1 and "num_return_sequences" not in inspect.signature(factory).parameters:
        raise SettingError(
            f"The method '{name}' returns one completion, but num_return_sequences is {num}. Use maxent or best_of_n."
        )
    shared = shared_settings(factory, num_rollouts=budget.rollouts or 1, num_return_sequences=num)
    policy = Policy(generation_config.max_length - length, **sampling)
    engine = cast(Engine, HFEngine(model, tokenizer, dtype="auto", max_batch_size=max_batch_size))
    jobs = [
        SearchJob(
            id=str(index),
            prompt=prompt,
            policy=policy,
            method=partial(factory, **check_settings(name, factory, {**shared, **own})),
            tilt=tilt,
            budget=budget,
            seed=(seed, index),
            inputs={column: values[index] for column, values in columns.items()},
        )
        for index, prompt in enumerate(prompts)
    ]
    found = {result.job.id: result for result in run_searches(jobs, engine, _WithTexts(reward, tokenizer), max_concurrent=16)}
    for result in found.values():
        if result.error is not None:
            raise result.error
    return [found[job.id] for job in jobs]


class _WithTexts:
    """A reward that sees the prompts' texts in place of their ids."""

    def __init__(self, reward: Reward, tokenizer: Any) -> None:
        self.name, self.range = reward.name, reward.range
        self._reward, self._tokenizer = reward, tokenizer
        prefix = prefix_function(reward)
        self.prefix = prefix and (lambda *, prompts, **columns: prefix(prompts=self._texts(prompts), **columns))

    def __call__(self, *, prompts: list[Any], **columns: Any) -> list[float | None]:
        return self._reward(prompts=self._texts(prompts), **columns)

    def explain(self, *, prompts: list[Any], **columns: Any) -> list[Evidence]:
        return self._reward.explain(prompts=self._texts(prompts), **columns)

    def _texts(self, prompts: list[Any]) -> list[Any]:
        return prompts if self._tokenizer is None else self._tokenizer.batch_decode(prompts, skip_special_tokens=True)
