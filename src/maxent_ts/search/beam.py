"""Beam search: the most likely completion, approximately. It never looks at the reward while it searches.

What its relatives share with it is here too: one step of a beam, and the width that a budget can carry to the end.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import NextTokens, Parallel, Search
from maxent_ts.search.completions import score, tilted_weights
from maxent_ts.types import Completion, FinishReason, Outcome, Target

__all__ = ["EMPTY", "affordable_beams", "beam", "extend", "is_open", "length_normalised"]

EMPTY = Completion((), 0.0, "unfinished")
"""The hypothesis that every beam starts from."""


def beam(
    rng: np.random.Generator,
    target: Target,
    *,
    num_beams: int = 10,
    length_penalty: float = 1.0,
    num_return_sequences: int = 1,
) -> Search:
    """Keep the `num_beams` most likely prefixes at every length and return the best finished one.

    Hypotheses are ranked by log p / length**length_penalty, finished ones among the unfinished, as transformers does with
    `early_stopping=True` counted over all beams: the search ends when every beam has ended. The reward is computed for the
    hypotheses that remain, for the record; it does not choose.

    Args:
        rng: Unused; nothing is drawn.
        target: Gives `max_new_tokens`, and λ for the weights.
        num_beams: Width, less where the budget could not bring so many to their end. It costs one generated token per
            unfinished beam and step.
        length_penalty: Exponent of the length; 0 compares plain log p.
        num_return_sequences: Number of completions returned, best first.
    """
    width = affordable_beams(num_beams, target)
    beams = [EMPTY]
    while any(is_open(one) for one in beams):
        children = yield from extend(beams, width, target)
        beams = sorted(chain(*children), key=lambda one: length_normalised(one, length_penalty), reverse=True)[:width]
    completions = yield from score(beams)
    weights = tilted_weights(completions, [one.logprob for one in completions], target)
    return Outcome(completions, weights, tuple(range(min(num_return_sequences, len(completions)))))


def is_open(hypothesis: Completion) -> bool:
    """Whether a hypothesis goes on."""
    return hypothesis.finish_reason == "unfinished"


def length_normalised(hypothesis: Completion, length_penalty: float) -> float:
    """Return log p / length**length_penalty, nats: the score by which transformers ranks beams."""
    return hypothesis.logprob / max(1, len(hypothesis.tokens)) ** length_penalty


def affordable_beams(num_beams: int, target: Target) -> int:
    """Return how many of `num_beams` hypotheses the budget carries to their end, however long they become; at least one.

    The first step costs one generated token, each further one as many as there are hypotheses. A width chosen beforehand
    does not depend on what is found, so it leaves the law of a search that draws as it is.

    Raises:
        SettingError: if `num_beams` is below 1.
    """
    if num_beams < 1:
        raise SettingError(f"num_beams must be at least 1, but is {num_beams}.")
    if target.max_generated_tokens is None or target.max_new_tokens == 1:
        return num_beams
    return max(1, min(num_beams, (target.max_generated_tokens - 1) // (target.max_new_tokens - 1)))


def extend(
    hypotheses: Sequence[Completion], num: int, target: Target, *, do_sample: bool = False
) -> Generator[Any, Any, list[list[Completion]]]:
    """Continue every open hypothesis by one token, in `num` ways.

    Args:
        hypotheses: Finished and open ones; a prefix that occurs twice is looked at once.
        num: Next tokens of each.
        target: Gives `max_new_tokens`.
        do_sample: Draw the tokens from p without replacement, in order; else take the most likely ones.

    Returns:
        The children of each hypothesis in order; a finished one is its own only child.
    """
    prefixes = dict.fromkeys(one.tokens for one in hypotheses if is_open(one))
    answers = yield Parallel(tuple(NextTokens(prefix, num, do_sample) for prefix in prefixes))
    next_tokens = dict(zip(prefixes, answers, strict=True))
    children = []
    for parent in hypotheses:
        if not is_open(parent):
            children.append([parent])
            continue
        answer = next_tokens[parent.tokens]
        assert answer.tokens, "affordable_beams promises that the budget lasts"
        at_limit: FinishReason = "length" if len(parent.tokens) + 1 == target.max_new_tokens else "unfinished"
        children.append(
            [
                Completion((*parent.tokens, token), parent.logprob + logprob, "eos" if is_end else at_limit)
                for token, logprob, is_end in zip(answer.tokens, answer.logprobs, answer.is_end, strict=True)
            ]
        )
    return children
