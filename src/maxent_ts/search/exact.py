"""Enumeration of π and log Z for tiny models: the yardstick of every other method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import NextTokens, Parallel, Search
from maxent_ts.search.completions import reward_of, score
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Completion, Outcome, Target, Tokens

__all__ = ["exact", "frozen_tree_law", "total_variation"]

EVERY_TOKEN = 1 << 30


def exact(rng: np.random.Generator, target: Target, *, num_return_sequences: int = 1) -> Search:
    """Enumerate every completion of positive probability, and draw from π itself.

    It asks for the next-token distribution after every prefix, so it costs vocabulary**max_new_tokens: for tables, not
    for language models. `info["log_z"]` is log Σ p(x)·exp(λ r(x)), nats.

    Args:
        rng: Draws what is returned.
        target: Gives λ and `max_new_tokens`.
        num_return_sequences: Number of draws returned, with replacement.
    """
    finished: list[Completion] = []
    prefixes: list[tuple[Tokens, float]] = [((), 0.0)]
    while prefixes:
        answers = yield Parallel(tuple(NextTokens(tokens, EVERY_TOKEN) for tokens, _ in prefixes))
        longer: list[tuple[Tokens, float]] = []
        for (tokens, logprob), answer in zip(prefixes, answers, strict=True):
            if not answer.tokens:
                raise SettingError("The budget ended before every completion was enumerated. Raise it, or use maxent_sample.")
            for token, step, is_end in zip(answer.tokens, answer.logprobs, answer.is_end, strict=True):
                child = (*tokens, token), logprob + step
                if is_end:
                    finished.append(Completion(*child, "eos"))
                elif len(child[0]) == target.max_new_tokens:
                    finished.append(Completion(*child, "length"))
                else:
                    longer.append(child)
        prefixes = longer
    completions = yield from score(finished)
    logits = np.array([one.logprob + target.tilt * reward_of(one) for one in completions])
    log_z = float(np.logaddexp.reduce(logits))
    weights = np.exp(logits - log_z)
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights / weights.sum())
    info = {"log_z_lower": log_z, "log_z": log_z, "log_z_upper": log_z, "unseen_mass": 0.0}
    return Outcome(completions, tuple(float(one) for one in weights), tuple(int(one) for one in chosen), info)


def frozen_tree_law(tree: Tree, outcome: Outcome) -> dict[Tokens, float]:
    """Return the law of a draw from a tree: child ∝ p·W, and off the tree the model itself.

    An evaluated x has probability p(x)·exp(λ r(x)) / W(root); one that leaves the tree at s has p(x)·U(s) / W(root).

    Args:
        tree: A tree of the same prompt.
        outcome: What `exact` returned: every completion with log p.
    """
    law = {}
    for completion in outcome.completions:
        node = ROOT
        for token in completion.tokens:
            if token not in tree.children[node]:
                break
            node = tree.children[node][token]
        law[completion.tokens] = float(np.exp(completion.logprob + tree.log_value[node] - tree.log_value[ROOT]))
    return law


def total_variation(first: Mapping[Tokens, float], second: Mapping[Tokens, float]) -> float:
    """Return ½ Σ |first - second| over completions; what a mapping does not name has probability 0."""
    return 0.5 * sum(abs(first.get(one, 0.0) - second.get(one, 0.0)) for one in first.keys() | second.keys())
