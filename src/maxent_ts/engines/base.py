"""The seam between searches and models.

An engine holds a queue. `submit` puts a job in, `step` does some work (one batched decoding step, say) and hands out the
jobs that finished. So rollouts of many prompts share a batch, and a slot that falls free is filled at once. An engine
knows contexts and token ids; it knows nothing of rewards, trees or methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from maxent_ts.errors import MaxentError
from maxent_ts.types import Branch, Policy, Prompt, Tokens, TopTokens

__all__ = ["Capabilities", "Context", "Engine", "Finished", "Job", "NextTokensJob", "RolloutJob", "ScoreJob", "Stream", "uniforms"]

Stream = tuple[int, ...]
"""Names one source of random numbers: (seed, example, rollout)."""


def uniforms(stream: Stream, num: int) -> np.ndarray:
    """Return `num` uniform numbers in [0, 1), the same for the same stream whatever else runs beside it.

    The number at index t decides the token at position t of the continuation. Counter-based (Philox; Salmon et al. 2011).

    Returns:
        float64 array of shape [num].
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(stream))).random(num)


class Context(Protocol):
    """One prompt, encoded by an engine, under one policy."""

    @property
    def policy(self) -> Policy:
        """The rules of sampling this context was opened with."""
        ...

    @property
    def num_prompt_tokens(self) -> int:
        """Positions of the prompt: token ids, or rows of input embeddings."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutJob:
    """Continue `prefix` once per stream. See `maxent_ts.search.base.Rollouts`."""

    context: Any
    prefix: Tokens
    streams: tuple[Stream, ...]
    exclude: Tokens = ()
    distinct: bool = False
    do_sample: bool = True
    num_tokens: int | None = None

    @property
    def limit(self) -> int:
        """Length of the continuation, prefix included, at which a rollout is cut."""
        limit = self.context.policy.max_new_tokens
        return limit if self.num_tokens is None else min(limit, len(self.prefix) + self.num_tokens)


@dataclass(frozen=True, slots=True)
class NextTokensJob:
    """Return `num` tokens that may come after `prefix`: the most likely, or with a stream drawn without replacement."""

    context: Any
    prefix: Tokens
    num: int
    stream: Stream | None = None


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """Return log p(token | everything before), nats, of each of `tokens`, written as the continuation of the prompt.

    Answered with a tuple of floats, -inf for a token that the policy leaves out. Only where `capabilities.scores`.
    """

    context: Any
    tokens: Tokens

    @property
    def prefix(self) -> Tokens:
        """The whole continuation is scored: nothing comes before it."""
        return ()


Job = RolloutJob | NextTokensJob | ScoreJob


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that is done, or that failed while the others go on."""

    ticket: int
    answer: Branch | TopTokens | tuple[float, ...] | MaxentError
    forwarded_tokens: int
    """Positions that went through the model for this job alone."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can promise."""

    deterministic: bool
    """Same seed, same result, bit for bit, whatever the batch-mates."""
    time_series: bool
    """Takes a `TimeSeriesPrompt`."""
    logprobs: bool = True
    """Knows log p of what it writes. Otherwise all log-probabilities are NaN, and jobs that cannot be done without end in an
    error."""
    scores: bool = False
    """Answers a `ScoreJob`."""


class Engine(Protocol):
    """p(next token | prefix) for a batch; owns tokenizer, device and KV cache."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can promise."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be equal for two runs to be comparable: model, revision or content hash, dtype, device."""
        ...

    def open(self, prompt: Prompt, policy: Policy) -> Context:
        """Encode a prompt. Nothing is computed yet.

        Raises:
            PromptError: if the prompt is empty, too long for the context with `max_new_tokens`, or of an unknown kind.
        """
        ...

    def close(self, context: Any) -> None:
        """Forget a context, its cache and its unfinished jobs."""
        ...

    def submit(self, job: Job) -> int:
        """Queue a job; returns its ticket."""
        ...

    def step(self) -> list[Finished]:
        """Work on the queue. Returns the jobs that finished, possibly none."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn continuation tokens into text, without special tokens."""
        ...
