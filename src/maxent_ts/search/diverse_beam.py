"""Diverse beam search: groups of beams, each kept away from what the groups before it chose.

Legend (Vijayakumar et al. 2016, arXiv 1610.02424): B `num_beams`, G `num_beam_groups`, λ_d `diversity_penalty` (the paper's λ,
which is another thing than the tilt), Δ the Hamming term: how often earlier groups chose the same token at the same position.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Search
from maxent_ts.search.beam import EMPTY, affordable_beams, extend, is_open, length_normalised
from maxent_ts.search.completions import score, tilted_weights
from maxent_ts.types import Completion, Outcome, Target

__all__ = ["diverse_beam"]


def diverse_beam(
    rng: np.random.Generator,
    target: Target,
    *,
    num_beams: int = 10,
    num_beam_groups: int = 5,
    diversity_penalty: float = 0.5,
    length_penalty: float = 1.0,
    num_return_sequences: int = 1,
) -> Search:
    """Search with G beams one behind the other, of log p minus λ_d for every token that earlier groups have at its position.

    At every position the groups choose in turn (section 3, algorithm 1): the first as plain beam search of its width, the
    g-th by log p - λ_d Σ_{h<g} Δ(y, Y_h), which is summed over positions and divided as log p is by length**length_penalty.
    In the end all groups' completions are ranked by log p / length**length_penalty without the penalty. With one group,
    or no penalty and groups of equal width, a group is `beam`.

    Args:
        rng: Unused; nothing is drawn.
        target: Gives `max_new_tokens`, and λ for the weights.
        num_beams: B, over all groups; less where the budget could not bring so many to their end. The first groups are
            wider by one where G does not divide B.
        num_beam_groups: G; at most B are made.
        diversity_penalty: λ_d, nats.
        length_penalty: Exponent of the length; 0 compares plain log p.
        num_return_sequences: Number of completions returned, best first.
    """
    if num_beam_groups < 1:
        raise SettingError(f"num_beam_groups must be at least 1, but is {num_beam_groups}.")
    if not diversity_penalty >= 0:
        raise SettingError(f"diversity_penalty must be at least 0, but is {diversity_penalty}.")
    width = affordable_beams(num_beams, target)
    num_groups = min(num_beam_groups, width)
    sizes = [width // num_groups + (group < width % num_groups) for group in range(num_groups)]

    def rank(candidate: tuple[Completion, int]) -> float:
        hypothesis, overlap = candidate
        penalised = Completion(hypothesis.tokens, hypothesis.logprob - diversity_penalty * overlap, hypothesis.finish_reason)
        return length_normalised(penalised, length_penalty)

    # A member is a hypothesis and its overlap with earlier groups, Σ Δ over positions.
    groups: list[list[tuple[Completion, int]]] = [[(EMPTY, 0)] for _ in sizes]
    while open_ones := [one for group in groups for one, _ in group if is_open(one)]:
        # No group needs more tokens: those that the others chose are at most `width` less its own size.
        families = yield from extend(open_ones, width, target)
        children = dict(zip((one.tokens for one in open_ones), families, strict=True))
        length = len(open_ones[0].tokens) + 1
        chosen: Counter[int] = Counter()
        for index, size in enumerate(sizes):
            candidates = [member for member in groups[index] if not is_open(member[0])]
            for one, overlap in groups[index]:
                if is_open(one):
                    candidates += [(child, overlap + chosen[child.tokens[-1]]) for child in children[one.tokens]]
            groups[index] = sorted(candidates, key=rank, reverse=True)[:size]
            chosen.update(one.tokens[-1] for one, _ in groups[index] if len(one.tokens) == length)
    distinct = {one.tokens: one for group in groups for one, _ in group}
    ranked = sorted(distinct.values(), key=lambda one: length_normalised(one, length_penalty), reverse=True)
    completions = yield from score(ranked)
    weights = tilted_weights(completions, [one.logprob for one in completions], target)
    return Outcome(completions, weights, tuple(range(min(num_return_sequences, len(completions)))))
