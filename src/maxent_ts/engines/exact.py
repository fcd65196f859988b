"""The exact model beside a quantised one: how far the two are apart, and log-probabilities of the one for what the other wrote.

A finished continuation goes once more through the model as it is, all its tokens in one forward behind the keys and values that the
exact model has of the prompt. Then every log-probability that a search sees is the exact model's, and so is the mass that it has
not seen; the quantised model only decides which tokens are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from maxent_ts.engines.base import NextTokensJob, RolloutJob, ScoreJob
from maxent_ts.engines.cache import KeyValueStore, PromptEntry
from maxent_ts.engines.contexts import HFContext, Task, next_tokens, not_finite
from maxent_ts.engines.replacements import Replacements
from maxent_ts.engines.sampler import log_probabilities
from maxent_ts.engines.slots import all_log_probabilities, prefill
from maxent_ts.errors import EngineError
from maxent_ts.models.media import MediaRows, attending
from maxent_ts.types import Branch, Tokens, TopTokens

__all__ = ["ExactModel", "quantization_kl"]

KEY = b"exact "
"""Before a prompt's key in the store: what the exact model has of it."""
POSITIONS = 256
"""Most positions whose distributions are held at once, unless a single row has more: enough rows for a matrix product to be quick,
and 256 rows of a vocabulary of 128 000 in float64 take a quarter of a GiB."""

MEASURED_POSITIONS = 256
"""Of a prompt, on which a quantised model is compared with the exact one."""


def quantization_kl(model: Any, replacements: Replacements, context: HFContext) -> float:
    """Return KL(exact ‖ quantised) of the next token in nats, averaged over a prompt's first positions: two passes over them.

    Args:
        model: A causal language model.
        replacements: Its quantised parts, which are in place.
        context: The prompt.
    """
    inputs = context.inputs[:MEASURED_POSITIONS]
    media = None if context.media is None else context.media.until(MEASURED_POSITIONS)
    ours = all_log_probabilities(model, inputs, media)
    with replacements.suspended():
        exact = all_log_probabilities(model, inputs, media)
    return float((exact.exp() * (exact - ours)).nan_to_num(0.0).sum(dim=-1).mean())


class ExactModel:
    """Answers jobs with log-probabilities of the exact model, within a quantised one's decoding.

    Args:
        model: A causal language model.
        replacements: Its quantised parts, which are in place.
        store: Where its prompts are kept beside those of the quantised model.
        eos_token_ids: The tokens that end a completion.
    """

    def __init__(self, model: Any, replacements: Replacements, store: KeyValueStore, eos_token_ids: frozenset[int]) -> None:
        self._model, self._replacements, self._store, self._eos_token_ids = model, replacements, store, eos_token_ids

    def answer(self, task: Task, branch: Branch | None) -> Branch | TopTokens | tuple[float, ...] | EngineError:
        """Answer a job, and charge it for what went through the exact model.

        Args:
            task: The job.
            branch: What the quantised model wrote for it, at least one rollout; None for jobs that write nothing.
        """
        job = task.job
        if isinstance(job, ScoreJob):
            continuations = [job.tokens]
        elif isinstance(job, NextTokensJob):
            continuations = [(*job.prefix, 0)]  # whatever stands last is not fed
        else:
            assert branch is not None
            continuations = [job.prefix + rollout.tokens for rollout in branch.rollouts]
        with self._replacements.suspended():
            rows = _rows(self._model, job.context, self._prompt(task), continuations, len(job.prefix))
        task.num_forwarded += sum(len(tokens) - 1 for tokens in continuations)
        broken = [tokens for tokens, own in zip(continuations, rows, strict=True) if np.isnan(own).any()]
        if broken:
            return not_finite(broken[0])
        if isinstance(job, ScoreJob):
            return tuple(rows[0][np.arange(len(job.tokens)), list(job.tokens)].tolist())
        if isinstance(job, NextTokensJob):
            return next_tokens(job, rows[0][0], self._eos_token_ids)
        assert branch is not None
        return _with_logprobs(job, branch, rows)

    def _prompt(self, task: Task) -> PromptEntry:
        context: HFContext = task.job.context
        entry = self._store.prompt(KEY + context.key)
        if entry is None or not context.is_charged_exact:
            task.num_forwarded += context.num_prompt_tokens
            context.is_charged_exact = True
        if entry is None:
            entry = prefill(self._model, context.inputs, context.media)
            self._store.add_prompt(KEY + context.key, entry)
        return entry


def _rows(model: Any, context: HFContext, entry: PromptEntry, continuations: Sequence[Tokens], start: int) -> list[np.ndarray]:
    """Return log p after each position of continuations from the `start`-th token on, whose last token is not fed.

    Args:
        model: A causal language model, as it is.
        context: The prompt, and the policy that makes p of the model.
        entry: The prompt's keys and values in this model.
        continuations: All longer than `start`.
        start: Tokens of each, its first ones, after which nothing is asked.

    Returns:
        For each continuation, float64 [length - start, vocabulary].
    """
    longest = max(len(tokens) for tokens in continuations)
    if len(continuations) > 1 and len(continuations) * longest > POSITIONS:
        middle = len(continuations) // 2
        halves = (continuations[:middle], continuations[middle:])
        return [rows for half in halves for rows in _rows(model, context, entry, half, start)]
    logits = entry.logits.expand(len(continuations), 1, -1)
    if longest > 1:
        logits = torch.cat([logits, _logits_behind(model, entry, continuations, longest - 1)], dim=1)
    answers = []
    for tokens, row in zip(continuations, logits, strict=True):
        histories = None
        if context.policy.has_history:
            histories = [[*context.prompt_ids, *tokens[:length]] for length in range(start, len(tokens))]
        answers.append(log_probabilities(row[start : len(tokens)], context.policy, histories).cpu().numpy())
    return answers


def _with_logprobs(job: RolloutJob, branch: Branch, rows: Sequence[np.ndarray]) -> Branch:
    """Put the exact model's log-probabilities into the answer to a job.

    Args:
        job: What was asked.
        branch: The quantised model's answer.
        rows: Of `_rows` for its rollouts, from the end of the job's prefix on.
    """
    rollouts = tuple(
        replace(rollout, logprobs=tuple(own[np.arange(len(rollout.tokens)), list(rollout.tokens)].tolist()))
        for rollout, own in zip(branch.rollouts, rows, strict=True)
    )
    unseen = np.exp(rows[0][0])
    unseen[[*job.exclude, *(rollout.tokens[0] for rollout in rollouts)]] = 0.0
    mass = float(unseen.sum())
    return replace(branch, rollouts=rollouts, log_unseen=math.log(mass) if mass > 0.0 else -math.inf)


def _logits_behind(model: Any, entry: PromptEntry, continuations: Sequence[Tokens], num_positions: int) -> torch.Tensor:
    """Feed the first tokens of continuations side by side: [continuations, positions, vocabulary].

    Shorter ones are filled up at their end, which no token before it can see.
    """
    device, num_rows = entry.logits.device, len(continuations)
    ids = torch.zeros((num_rows, num_positions), dtype=torch.long)
    for row, tokens in enumerate(continuations):
        fed = tokens[:num_positions]
        ids[row, : len(fed)] = torch.tensor(fed)
    cache = DynamicCache()
    for layer, pair in enumerate(zip(entry.key_values[::2], entry.key_values[1::2], strict=True)):
        key, value = (tensor[None, :, : entry.num_tokens].expand(num_rows, -1, -1, -1) for tensor in pair)
        cache.update(key, value, layer)
    media = []
    if entry.media is not None:
        media.append(
            MediaRows(entry.media, torch.arange(num_rows, device=device), num_rows, entry.media.time.expand(num_positions))
        )
    positions = torch.arange(entry.num_tokens, entry.num_tokens + num_positions, device=device)[None]
    with attending(media):
        return model(
            input_ids=ids.to(device), position_ids=positions.expand(num_rows, -1), past_key_values=cache, use_cache=True
        ).logits
