"""An engine: letters that depend on the letter before, counted in a text."""

import hashlib
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from maxent_ts.engines.base import Capabilities, Finished, NextTokensJob, uniforms
from maxent_ts.errors import PromptError, SettingError
from maxent_ts.types import Branch, Policy, Rollout, TopTokens

END = "\n"


@dataclass(frozen=True)
class Context:
    """An encoded prompt."""

    prompt: tuple[int, ...]
    policy: Policy

    @property
    def num_prompt_tokens(self):
        """Its length."""
        return len(self.prompt)


class LetterEngine:
    """p(next letter | last letter) ∝ the count of the pair in `text`, plus one. A line's end ends a completion."""

    capabilities = Capabilities(deterministic=True, time_series=False)

    def __init__(self, text):
        """Count."""
        self._letters = sorted({*text, END})
        self._end = self._letters.index(END)
        ids = [self._letters.index(letter) for letter in text]
        counts = np.ones((len(self._letters), len(self._letters)))
        np.add.at(counts, (ids[:-1], ids[1:]), 1)
        self._rows = counts / counts.sum(axis=1, keepdims=True)
        self._queue = deque()
        self._num_tickets = 0
        self.identity = {"engine": "letters", "content_hash": hashlib.sha256(text.encode()).hexdigest()}

    def open(self, prompt, policy):
        """Encode a prompt: text of known letters, or their ids."""
        unknown = [letter for letter in prompt if isinstance(letter, str) and letter not in self._letters]
        if len(prompt) == 0 or unknown:
            raise PromptError(f"A prompt is at least one of the letters {''.join(self._letters)!r}, but got {prompt!r}.")
        if policy.top_k or policy.top_p or policy.stop_strings:
            raise SettingError("The letter engine knows neither top_k nor top_p nor stop_strings. Leave them out.")
        return Context(tuple(self._letters.index(one) if isinstance(one, str) else int(one) for one in prompt), policy)

    def close(self, context):
        """Forget a context's unfinished jobs."""
        self._queue = deque((ticket, job) for ticket, job in self._queue if job.context is not context)

    def submit(self, job):
        """Queue a job."""
        self._num_tickets += 1
        self._queue.append((self._num_tickets, job))
        return self._num_tickets

    def step(self):
        """Finish what is queued. An engine with a batch would feed every row one token here."""
        jobs, self._queue = self._queue, deque()
        return [self._finish(ticket, job) for ticket, job in jobs]

    def decode(self, tokens):
        """Return the letters; the end has none."""
        return "".join(self._letters[token] for token in tokens if token != self._end)

    def _finish(self, ticket, job):
        if isinstance(job, NextTokensJob):
            return Finished(ticket, self._next_tokens(job), 1)
        allowed = self._row(job.context, job.prefix).copy()  # what the first token of a rollout may be
        allowed[list(job.exclude)] = 0
        unseen, rollouts = allowed.copy(), []
        for stream in job.streams:
            if not allowed.any():
                break
            rollouts.append(self._roll_out(job, stream, allowed))
            first = rollouts[-1].tokens[0]
            unseen[first] = 0
            if job.distinct:
                allowed[first] = 0
        mass = float(unseen.sum())
        answer = Branch(tuple(rollouts), math.log(mass) if mass > 0 else -math.inf)
        return Finished(ticket, answer, sum(len(one.tokens) for one in rollouts))

    def _next_tokens(self, job):
        """The likeliest next letters, or with a stream some that are drawn without replacement."""
        row = self._row(job.context, job.prefix)
        order = np.argsort(-row, kind="stable")[: job.num].tolist()
        if job.stream is not None:
            left, order = row.copy(), []
            for number in uniforms(job.stream, min(job.num, len(row))):
                order.append(draw(left, number))
                left[order[-1]] = 0
        return TopTokens(tuple(order), tuple(np.log(row[order]).tolist()), tuple(token == self._end for token in order))

    def _roll_out(self, job, stream, allowed):
        """One completion. The number at index t of its stream decides the token at position t, whatever else is running."""
        numbers, tokens, logprobs = uniforms(stream, job.limit), [], []
        while len(job.prefix) + len(tokens) < job.limit and self._end not in tokens:
            row = self._row(job.context, (*job.prefix, *tokens))
            weights = row if tokens else allowed
            number = numbers[len(job.prefix) + len(tokens)]
            tokens.append(draw(weights, number) if job.do_sample else int(np.argmax(weights)))
            logprobs.append(float(np.log(row[tokens[-1]])))  # the model's own, never renormalised for excluded tokens
        cut = "length" if job.limit == job.context.policy.max_new_tokens else "unfinished"
        return Rollout(tuple(tokens), tuple(logprobs), "eos" if self._end in tokens else cut)

    def _row(self, context, prefix):
        row = self._rows[(*context.prompt, *prefix)[-1]] ** (1 / context.policy.temperature)
        return row / row.sum()


def draw(weights, number):
    """Return the index that a uniform number in [0, 1) stands for, never one of weight 0."""
    edges = np.cumsum(weights)
    return min(int(np.searchsorted(edges, number * edges[-1], side="right")), int(np.flatnonzero(weights)[-1]))


def make_engine(model, *, dtype, device):
    """Return the engine for `--engine engine.py:make_engine --model TEXT_FILE`; number type and device do not apply."""
    with open(model, encoding="utf-8") as file:
        return LetterEngine(file.read())
