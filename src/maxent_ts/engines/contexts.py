"""A prompt opened by the Hugging Face engine, and a job under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from maxent_ts.engines.base import Job, NextTokensJob, ScoreJob, uniforms
from maxent_ts.engines.cache import Segment
from maxent_ts.engines.sampler import draw_first, log_probabilities, most_likely
from maxent_ts.errors import EngineError
from maxent_ts.models.media import Media
from maxent_ts.types import Policy, Rollout, Tokens, TopTokens

__all__ = ["HFContext", "Task", "distribution", "next_tokens", "not_finite", "problem_of"]


@dataclass(eq=False)
class HFContext:
    """A prompt as the model takes it, under a policy."""

    policy: Policy
    inputs: torch.Tensor
    """Token ids [length], or input embeddings [length, hidden size]."""
    key: bytes
    """SHA-256 of inputs and media: contexts with the same prompt share its keys and values."""
    media: Media | None = None
    """What cross-attention sees besides."""
    root: Segment = field(default_factory=Segment)
    is_charged: bool = False
    """Whether a job of this context has been charged for the prompt."""
    is_charged_exact: bool = False
    """The same for the prompt's pass through the exact model, where the other is a quantised one."""
    is_open: bool = True

    @property
    def num_prompt_tokens(self) -> int:
        """Positions of the prompt."""
        return len(self.inputs)

    @cached_property
    def prompt_ids(self) -> list[int]:
        """The prompt's token ids; none for a prompt of embeddings."""
        return self.inputs.tolist() if self.inputs.ndim == 1 else []


@dataclass(eq=False, slots=True)
class Task:
    """A job and how far it is."""

    ticket: int
    job: Job
    rollouts: list[Rollout | None] = field(default_factory=list)
    log_unseen: float = 0.0
    num_open: int = 0
    num_forwarded: int = 0


def problem_of(job: Job, num_ids: int) -> str | None:
    """Say what is wrong with a job for a model of so many token ids; None if nothing is."""
    limit = job.context.policy.max_new_tokens
    if len(job.prefix) >= limit:
        return f"A prefix must be shorter than max_new_tokens={limit}, but has {len(job.prefix)} tokens: nothing can follow."
    if any(not 0 <= token < num_ids for token in job.prefix):
        return f"The prefix {job.prefix} holds tokens outside the vocabulary of {num_ids}."
    if isinstance(job, ScoreJob) and not (0 < len(job.tokens) <= limit and all(0 <= token < num_ids for token in job.tokens)):
        return f"Tokens to score must be 1 to max_new_tokens={limit} of the vocabulary of {num_ids}, but are {job.tokens}."
    if isinstance(job, NextTokensJob) and job.num < 1:
        return f"A job must ask for at least one next token, but asks for {job.num}."
    return None


def distribution(logits: torch.Tensor, task: Task) -> np.ndarray:
    """Log p of every token after a job's prefix: float64 [vocabulary], all NaN if the logits are not finite."""
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    context = task.job.context
    histories = [[*context.prompt_ids, *task.job.prefix]] if context.policy.has_history else None
    return log_probabilities(logits[None], context.policy, histories)[0].cpu().numpy()


def next_tokens(job: NextTokensJob, logprobs: np.ndarray, eos_token_ids: frozenset[int]) -> TopTokens:
    """Answer a job from the distribution after its prefix: float64 [vocabulary]."""
    if job.stream is None:
        ids = most_likely(logprobs, job.num)
    else:
        num = min(job.num, int(np.count_nonzero(logprobs > -np.inf)))
        ids = np.array(draw_first(logprobs, uniforms(job.stream, num), distinct=True).tokens, dtype=np.int64)
    is_end = tuple(int(token) in eos_token_ids for token in ids)
    return TopTokens(tuple(ids.tolist()), tuple(logprobs[ids].tolist()), is_end)


def not_finite(tokens: Tokens) -> EngineError:
    """Return the error of a job whose logits after `tokens` hold NaN or infinity."""
    return EngineError(
        f"The model returned logits that are not finite after {len(tokens)} tokens of the continuation. Its weights may be "
        "damaged, or its numbers overflow: try dtype='float32', or 'bfloat16' in place of 'float16'."
    )
