"""Beam search: the most likely completion, approximately. It never looks at the reward while it searches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import NextTokens, Parallel, Search
from maxent_ts.search.completions import score, tilted_weights
from maxent_ts.types import Completion, Outcome, Target, Tokens

__all__ = ["beam"]


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    tokens: Tokens
    logprob: float
    is_finished: bool = False


def beam(rng: np.random.Generator, target: Target, *, num_beams: int = 10, length_penalty: float = 1.0) -> Search:
    """Keep the `num_beams` most likely prefixes at every length and return the best finished one.

    Hypotheses are ranked by log p / length**length_penalty, finished ones among the unfinished, as transformers does with
    `early_stopping=True` counted over all beams: the search ends when every beam has ended. The reward is computed for the
    hypotheses that remain, for the record; it does not choose.

    Args:
        rng: Unused; nothing is drawn.
        target: Gives `max_new_tokens`, and λ for the weights.
        num_beams: Width. It costs one generated token per unfinished beam and step.
        length_penalty: Exponent of the length; 0 compares plain log p.
    """
    if num_beams < 1:
        raise SettingError(f"num_beams must be at least 1, but is {num_beams}.")

    def rank(hypothesis: _Hypothesis) -> float:
        return hypothesis.logprob / max(1, len(hypothesis.tokens)) ** length_penalty

    beams = [_Hypothesis((), 0.0)]
    for _ in range(target.max_new_tokens):
        unfinished = [one for one in beams if not one.is_finished]
        answers = yield Parallel(tuple(NextTokens(one.tokens, num_beams) for one in unfinished))
        if not all(answer.tokens for answer in answers):
            break  # The budget is spent: a beam that cannot be extended fairly ends the search for all.
        candidates = [one for one in beams if one.is_finished]
        for one, answer in zip(unfinished, answers, strict=True):
            for token, logprob, is_end in zip(answer.tokens, answer.logprobs, answer.is_end, strict=True):
                candidates.append(_Hypothesis((*one.tokens, token), one.logprob + logprob, is_end))
        beams = sorted(candidates, key=rank, reverse=True)[:num_beams]
        if all(one.is_finished for one in beams):
            break
    completions = tuple(Completion(one.tokens, one.logprob, "eos" if one.is_finished else "length") for one in beams if one.tokens)
    completions = yield from score(completions)
    return Outcome(completions, tilted_weights(completions, [one.logprob for one in completions], target), (0,))
