"""What is measured on one record, beside its reward."""

from __future__ import annotations

import itertools
import math

from maxent_ts.records import Record

__all__ = ["distinct_bigrams", "distinct_share", "length", "perplexity"]


def length(record: Record) -> float | None:
    """Tokens of the returned completion, its end token included."""
    return float(len(record.tokens)) if record.tokens else None


def perplexity(record: Record) -> float | None:
    """exp(−log p(x) / length) of the returned completion under the reference policy."""
    if record.logprob is None or not record.tokens or not math.isfinite(record.logprob):
        return None
    return math.exp(min(-record.logprob / len(record.tokens), 700.0))


def distinct_share(record: Record) -> float | None:
    """Distinct completions per rollout, in (0, 1]; None where fewer than two rollouts were drawn."""
    rollouts = record.usage.get("rollouts", 0)
    return min(record.num_completions / rollouts, 1.0) if rollouts > 1 else None


def distinct_bigrams(record: Record) -> float | None:
    """Distinct-2 (Li et al. 2016, A Diversity-Promoting Objective Function): different word pairs per word pair, in (0, 1].

    Over the completions that the record stores; None where it stores fewer than two, or none of two words.
    """
    words = [one.text.split() for one in record.completions]
    pairs = [pair for text in words for pair in itertools.pairwise(text)]
    return len(set(pairs)) / len(pairs) if len(words) > 1 and pairs else None
