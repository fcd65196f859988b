"""Reward models as TRL uses them. Reward functions of TRL need no adapter: give them to `generate` or `--reward` as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from maxent_ts.errors import PromptError, SettingError
from maxent_ts.rewards.base import Evidence

__all__ = ["RewardModel", "reward_model"]


class RewardModel:
    """The first logit of a sequence classifier for prompt and completion; see `reward_model`."""

    range = (-math.inf, math.inf)

    def __init__(self, model: Any, tokenizer: Any, *, name: str, batch_size: int, chat_template_kwargs: Mapping[str, Any]) -> None:
        self.name = name
        self._model, self._tokenizer = model, tokenizer
        self._batch_size = batch_size
        self._chat_template_kwargs = chat_template_kwargs

    def __call__(self, *, prompts: list[Any], completions: list[str], **_: Any) -> list[float | None]:
        """Return one logit for each completion.

        Raises:
            PromptError: if a prompt is neither text nor chat messages.
        """
        texts = [self._text(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        values: list[float | None] = []
        for start in range(0, len(texts), self._batch_size):
            inputs = self._tokenizer(
                text=texts[start : start + self._batch_size],
                return_tensors="pt",
                padding=True,
                padding_side="right",
                add_special_tokens=False,
            )
            with torch.inference_mode():
                logits = self._model(**inputs.to(self._model.device)).logits
            values += logits[:, 0].float().tolist()
        return values

    def explain(self, *, prompts: list[Any], completions: list[str], **_: Any) -> list[Evidence]:
        """Return the values: a classifier gives no reasons."""
        values = self(prompts=prompts, completions=completions)
        return [{"value": value, "parts": {self.name: {"value": value}}} for value in values]

    def _text(self, prompt: Any, completion: str) -> str:
        if isinstance(prompt, str):
            return prompt + completion
        if isinstance(prompt, Sequence) and prompt and all(isinstance(one, Mapping) for one in prompt):
            messages = [*prompt, {"role": "assistant", "content": completion}]
            return self._tokenizer.apply_chat_template(messages, tokenize=False, **self._chat_template_kwargs)
        raise PromptError(
            f"The reward model '{self.name}' reads prompts that are text or chat messages, but got {type(prompt).__name__}. Give "
            "the prompt as text, or write a reward of your own that reads the completion alone."
        )


def reward_model(
    model: Any,
    tokenizer: Any,
    *,
    name: str | None = None,
    batch_size: int = 16,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> RewardModel:
    """Make a reward of a sequence classifier in memory, as TRL's `GRPOTrainer` does with a module among its `reward_funcs`.

    Prompt and completion are joined, through the chat template for messages, tokenised without special tokens and padded on the
    right; the reward is the first logit (trl 1.16, `GRPOTrainer._calculate_rewards`).

    Args:
        model: An `AutoModelForSequenceClassification` with one label; put in evaluation mode.
        tokenizer: Its tokenizer; the end-of-sequence token pads where there is no padding token, in the model's config too.
        name: The name in tables; the model's own without it.
        batch_size: Completions scored at once.
        chat_template_kwargs: Passed on to the chat template.

    Raises:
        SettingError: if the tokenizer has neither a padding nor an end-of-sequence token.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise SettingError("The reward model's tokenizer has no padding token. Set tokenizer.pad_token.")
        tokenizer.pad_token = tokenizer.eos_token
    # A classifier reads the logits at the last token that is not padding, so it must know which one that is.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    label = name or str(model.config._name_or_path).rstrip("/").rpartition("/")[2] or type(model).__name__
    return RewardModel(model.eval(), tokenizer, name=label, batch_size=batch_size, chat_template_kwargs=chat_template_kwargs or {})
