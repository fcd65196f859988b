"""A language model written down as next-token tables: exact, small, numpy only. For tests, docs and teaching."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maxent_ts.engines.base import Capabilities, Finished, Job, NextTokensJob, RolloutJob, ScoreJob, uniforms
from maxent_ts.errors import EngineError, MaxentError, PromptError, SettingError
from maxent_ts.types import Branch, FinishReason, Policy, Prompt, Rollout, Tokens, TopTokens

__all__ = ["TableContext", "TableEngine"]


@dataclass(frozen=True, slots=True)
class TableContext:
    """A prompt of the table engine: its token ids."""

    prompt: Tokens
    policy: Policy

    @property
    def num_prompt_tokens(self) -> int:
        """Number of prompt tokens."""
        return len(self.prompt)


class TableEngine:
    """p(next token | everything before) given by a function that returns a table row.

    Args:
        probabilities: From the tokens so far, prompt included, to the next token's probabilities: array of shape
            [vocabulary], non-negative, summing to 1.
        vocabulary: The text of each token. Its length is the vocabulary's size.
        eos_token_id: The token that ends a completion; None if only `max_new_tokens` does.
    """

    capabilities = Capabilities(deterministic=True, time_series=False, scores=True)

    def __init__(
        self, probabilities: Callable[[Tokens], np.ndarray], vocabulary: Sequence[str], *, eos_token_id: int | None = None
    ) -> None:
        self._probabilities = probabilities
        self._vocabulary = tuple(vocabulary)
        self._eos_token_id = eos_token_id
        self._queue: deque[tuple[int, Job]] = deque()
        self._num_tickets = 0
        self._forwarded: set[tuple[Tokens, Tokens]] = set()

    @classmethod
    def random(cls, *, num_tokens: int, concentration: float = 1.0, eos: bool = True, seed: int = 0) -> TableEngine:
        """Make a model whose every row is a Dirichlet draw, a function of the prefix and the seed.

        Args:
            num_tokens: Size of the vocabulary; with `eos` the last token ends a completion.
            concentration: Dirichlet parameter: small for peaked rows, large for flat ones.
            eos: Whether completions can end before `max_new_tokens`.
            seed: Names the model.
        """
        rows: dict[Tokens, np.ndarray] = {}

        def probabilities(tokens: Tokens) -> np.ndarray:
            if tokens not in rows:
                rng = np.random.default_rng((seed, len(tokens), *tokens))
                rows[tokens] = rng.dirichlet(np.full(num_tokens, concentration))
            return rows[tokens]

        vocabulary = [chr(ord("a") + i) if i < 26 else f"<{i}>" for i in range(num_tokens)]
        return cls(probabilities, vocabulary, eos_token_id=num_tokens - 1 if eos else None)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind of engine and vocabulary."""
        return {"engine": "table", "vocabulary": len(self._vocabulary), "eos_token_id": self._eos_token_id}

    def open(self, prompt: Prompt, policy: Policy) -> TableContext:
        """Encode a prompt of token ids, or of text whose every character is a token.

        Raises:
            PromptError: if the prompt is empty, has an unknown token, or is neither ids nor text.
        """
        if isinstance(prompt, str):
            unknown = sorted(set(prompt) - set(self._vocabulary))
            if unknown:
                raise PromptError(
                    f"The prompt holds {unknown[0]!r}, which is not a token of this table. Known: {self._vocabulary}."
                )
            tokens = tuple(self._vocabulary.index(character) for character in prompt)
        elif isinstance(prompt, Sequence) and all(isinstance(token, (int, np.integer)) for token in prompt):
            tokens = tuple(int(token) for token in prompt)  # type: ignore[arg-type]
            if any(not 0 <= token < len(self._vocabulary) for token in tokens):
                raise PromptError(f"The prompt's token ids must lie in [0, {len(self._vocabulary)}), but are {tokens}.")
        else:
            raise PromptError(f"The table engine takes text or token ids, but got {type(prompt).__name__}.")
        if not tokens:
            raise PromptError("The prompt is empty. Give at least one token.")
        if policy.stop_strings:
            raise SettingError("The table engine knows no stop strings. Give it an end-of-sequence token instead.")
        return TableContext(tokens, policy)

    def close(self, context: TableContext) -> None:
        """Drop the context's unfinished jobs."""
        self._queue = deque((ticket, job) for ticket, job in self._queue if job.context is not context)

    def submit(self, job: Job) -> int:
        """Queue a job; returns its ticket."""
        self._num_tickets += 1
        self._queue.append((self._num_tickets, job))
        return self._num_tickets

    def step(self) -> list[Finished]:
        """Finish everything queued."""
        finished = []
        while self._queue:
            ticket, job = self._queue.popleft()
            counted = len(self._forwarded)
            answer: Branch | TopTokens | tuple[float, ...] | MaxentError
            try:
                answer = self._answer(job)
            except EngineError as error:
                answer = error
            finished.append(Finished(ticket, answer, len(self._forwarded) - counted))
        return finished

    def decode(self, tokens: Sequence[int]) -> str:
        """Join the tokens' texts; the end-of-sequence token has none."""
        return "".join(self._vocabulary[token] for token in tokens if token != self._eos_token_id)

    def _row(self, context: TableContext, prefix: Tokens) -> np.ndarray:
        """p(· | prompt, prefix) under the policy, float64 [vocabulary]."""
        self._forwarded.add((context.prompt, prefix))
        row = np.asarray(self._probabilities(context.prompt + prefix), dtype=np.float64)
        if not np.all(np.isfinite(row)):
            raise EngineError(f"The table's row after {context.prompt + prefix} holds numbers that are not finite.")
        return _under_policy(row, context.policy, context.prompt + prefix)

    def _answer(self, job: Job) -> Branch | TopTokens | tuple[float, ...]:
        if isinstance(job, RolloutJob):
            return self._roll_out(job)
        return self._top_tokens(job) if isinstance(job, NextTokensJob) else self._score(job)

    def _score(self, job: ScoreJob) -> tuple[float, ...]:
        rows = [self._row(job.context, job.tokens[:place]) for place in range(len(job.tokens))]
        with np.errstate(divide="ignore"):
            return tuple(float(np.log(row[token])) for row, token in zip(rows, job.tokens, strict=True))

    def _roll_out(self, job: RolloutJob) -> Branch:
        first = self._row(job.context, job.prefix)
        left = first.copy()
        left[list(job.exclude)] = 0.0
        unseen = left.copy()
        rollouts = []
        for stream in job.streams:
            if not left.any():
                break
            rollout = self._one(job, stream, first, left)
            unseen[rollout.tokens[0]] = 0.0
            if job.distinct:
                left[rollout.tokens[0]] = 0.0
            rollouts.append(rollout)
        mass = float(unseen.sum())
        return Branch(tuple(rollouts), float(np.log(mass)) if mass > 0 else -np.inf)

    def _one(self, job: RolloutJob, stream: tuple[int, ...], first: np.ndarray, left: np.ndarray) -> Rollout:
        limit = job.context.policy.max_new_tokens
        numbers = uniforms(stream, limit)
        tokens: list[int] = []
        logprobs: list[float] = []
        finish_reason: FinishReason = "length" if job.limit == limit else "unfinished"
        while len(job.prefix) + len(tokens) < job.limit:
            row = self._row(job.context, job.prefix + tuple(tokens)) if tokens else first
            weights = row if tokens else left
            token = _draw(weights, numbers[len(job.prefix) + len(tokens)]) if job.do_sample else int(np.argmax(weights))
            tokens.append(token)
            logprobs.append(float(np.log(row[token])))
            if token == self._eos_token_id:
                finish_reason = "eos"
                break
        return Rollout(tuple(tokens), tuple(logprobs), finish_reason)

    def _top_tokens(self, job: NextTokensJob) -> TopTokens:
        row = self._row(job.context, job.prefix)
        num = min(job.num, int(np.count_nonzero(row)))
        if job.stream is None:
            order = [int(token) for token in np.argsort(-row, kind="stable")[:num]]
        else:
            order, left = [], row.copy()
            for number in uniforms(job.stream, num):
                order.append(_draw(left, number))
                left[order[-1]] = 0.0
        logprobs = tuple(float(np.log(row[token])) for token in order)
        return TopTokens(tuple(order), logprobs, tuple(token == self._eos_token_id for token in order))


def _draw(weights: np.ndarray, uniform: float) -> int:
    """Inverse CDF; never a token of weight 0, whatever the rounding."""
    cumulative = np.cumsum(weights)
    token = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(token, int(np.flatnonzero(weights)[-1]))


def _under_policy(row: np.ndarray, policy: Policy, history: Tokens) -> np.ndarray:
    """Repetition, temperature, top-k, top-p, min-p, then normalise: the order of transformers' logits processors."""
    if policy.has_history:
        row = _without_repetition(row, policy, history)
    if policy.temperature != 1:
        scaled = np.full_like(row, -np.inf)
        np.log(row, out=scaled, where=row > 0)
        scaled = scaled / policy.temperature
        row = np.exp(scaled - scaled.max())
        row = row / row.sum()
    if policy.top_k is not None and policy.top_k < len(row):
        keep = np.argsort(-row, kind="stable")[: policy.top_k]
        row = np.where(np.isin(np.arange(len(row)), keep), row, 0.0)
        row = row / row.sum()
    if policy.top_p is not None and policy.top_p < 1:
        order = np.argsort(-row, kind="stable")
        before = np.cumsum(row[order]) - row[order]
        row = np.where(np.isin(np.arange(len(row)), order[before < policy.top_p]), row, 0.0)
        row = row / row.sum()
    if policy.min_p is not None:
        row = np.where(row < policy.min_p * row.max(), 0.0, row)
        row = row / row.sum()
    return row


def _without_repetition(row: np.ndarray, policy: Policy, history: Tokens) -> np.ndarray:
    """A table's logits are its log-probabilities, all of which are negative: the penalty multiplies them."""
    seen, size = np.isin(np.arange(len(row)), history), policy.no_repeat_ngram_size
    row = np.where(seen, row**policy.repetition_penalty, row)
    for token in range(len(row) if size else 0):
        ngram = (*history, token)[-size:]
        if len(ngram) == size and any(history[end - size : end] == ngram for end in range(size, len(history) + 1)):
            row[token] = 0.0
    if not row.any():
        raise EngineError(f"no_repeat_ngram_size={size} leaves no token that may come after {history}. Raise it.")
    return row / row.sum()
