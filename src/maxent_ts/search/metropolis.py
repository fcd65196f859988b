"""Suffix Metropolis-Hastings: cut the current completion somewhere, let the model write another end, accept or stay.

Legend: x the current completion of n tokens, x' the proposal of n' tokens, c a cut, m(n) the number of cuts that a completion of
n tokens has, r the reward, λ the tilt.

With c drawn uniformly among the cuts of x and the suffix drawn from p, the proposal's density is p(x'[c:] | x[:c]) / m(n), and the
way back through the same cut has p(x[c:] | x[:c]) / m(n'). Against π ∝ p·exp(λ r) all of p cancels:

    acceptance = min(1, exp(λ (r(x') - r(x))) · m(n) / m(n'))

Each cut by itself obeys detailed balance (it is a cut of x' too: x' has at least one token behind it), so their mixture does.
Without m(n) / m(n') the chain's law would be π·m where completions end at unequal lengths.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, Rollouts, Search
from maxent_ts.search.completions import reward_of, score
from maxent_ts.types import Completion, Outcome, Rollout, Target, Tokens

__all__ = ["acceptance", "metropolis", "num_cuts"]


def metropolis(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_chains: int = 1,
    burn_in: float = 0.25,
    block_size: int = 1,
    num_return_sequences: int = 1,
) -> Search:
    """Walk over completions by Metropolis-Hastings steps whose law tends to π, and return draws from the states visited.

    The transition is that of power sampling (Karan and Du 2025, arXiv 2510.14901, algorithm 1), which is the reward log p with
    tilt alpha - 1. The paper lets completions grow block by block and runs the chain at each stage; here a chain starts
    from one whole draw from p. `info["acceptance_rate"]` is the share of proposals accepted.

    Args:
        rng: Draws cuts and acceptances, and what is returned.
        target: Gives λ.
        num_rollouts: Rollouts in all, the first of each chain included; None goes on until the budget is spent.
        num_chains: Independent chains, one step of each per round.
        burn_in: Share of each chain's states left out of the weights, from its beginning; in [0, 1).
        block_size: Cuts lie at multiples of it, in tokens.
        num_return_sequences: Number of draws returned, with replacement.
    """
    _check(num_chains, burn_in, block_size)
    num_left = math.inf if num_rollouts is None else num_rollouts
    seen = _Seen()
    branch = yield Rollouts(num=int(min(num_left, num_chains)))
    # Each chain is the list of its states from the start: indices into what was seen.
    chains = [[seen.add((), (), rollout)] for rollout in branch.rollouts]
    yield from seen.score()
    num_left -= len(chains)
    num_proposed = num_accepted = 0
    while num_left > 0:
        stepping = chains[: int(min(num_left, len(chains)))]
        heads = []
        for chain in stepping:
            tokens, logprobs = seen.completions[chain[-1]].tokens, seen.logprobs[chain[-1]]
            cut = block_size * int(rng.integers(num_cuts(len(tokens), block_size)))
            heads.append((tokens[:cut], logprobs[:cut]))
        branches = yield Parallel(tuple(Rollouts(tokens) for tokens, _ in heads))
        proposals = [
            (chain, seen.add(*head, rollout))
            for chain, head, branch in zip(stepping, heads, branches, strict=True)
            for rollout in branch.rollouts
        ]
        yield from seen.score()
        for chain, proposed in proposals:
            probability = acceptance(seen.completions[chain[-1]], seen.completions[proposed], target.tilt, block_size)
            is_accepted = rng.random() < probability
            chain.append(proposed if is_accepted else chain[-1])
            num_accepted += is_accepted
        num_proposed += len(proposals)
        num_left -= len(proposals)
        if len(proposals) < len(stepping):
            break  # The budget is spent.
    visits = np.zeros(len(seen.completions))
    for chain in chains:
        np.add.at(visits, chain[int(burn_in * len(chain)) :], 1.0)
    weights = visits / visits.sum()
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights)
    info = {"acceptance_rate": num_accepted / num_proposed} if num_proposed else {}
    return Outcome(tuple(seen.completions), tuple(weights.tolist()), tuple(int(one) for one in chosen), info)


def num_cuts(length: int, block_size: int) -> int:
    """Return m(n): the multiples of `block_size` from 0 below `length`."""
    return -(-length // block_size)


def acceptance(current: Completion, proposed: Completion, tilt: float, block_size: int) -> float:
    """Return the probability of going from one completion to another that was drawn behind one of its cuts.

    Args:
        current: With its reward.
        proposed: With its reward.
        tilt: λ.
        block_size: As for `metropolis`.
    """
    log_ratio = tilt * (reward_of(proposed) - reward_of(current))
    log_ratio += math.log(num_cuts(len(current.tokens), block_size) / num_cuts(len(proposed.tokens), block_size))
    return math.exp(min(0.0, log_ratio))


class _Seen:
    """Completions drawn so far, each once."""

    def __init__(self) -> None:
        self.completions: list[Completion] = []
        self.logprobs: list[tuple[float, ...]] = []
        """Of each completion's tokens, nats."""
        self._index: dict[Tokens, int] = {}
        self._num_scored = 0

    def add(self, tokens: Tokens, logprobs: tuple[float, ...], rollout: Rollout) -> int:
        """Return the index of a head with a rollout behind it; `score` must follow."""
        whole = tokens + rollout.tokens
        index = self._index.setdefault(whole, len(self.completions))
        if index == len(self.completions):
            self.logprobs.append(logprobs + rollout.logprobs)
            self.completions.append(Completion(whole, sum(self.logprobs[-1]), rollout.finish_reason))
        return index

    def score(self) -> Generator[Any, Any, None]:
        """Fetch the rewards that are missing."""
        if self._num_scored < len(self.completions):
            self.completions[self._num_scored :] = yield from score(self.completions[self._num_scored :])
            self._num_scored = len(self.completions)


def _check(num_chains: int, burn_in: float, block_size: int) -> None:
    if num_chains < 1:
        raise SettingError(f"num_chains must be at least 1, but is {num_chains}.")
    if not 0 <= burn_in < 1:
        raise SettingError(f"burn_in must lie in [0, 1), but is {burn_in}.")
    if block_size < 1:
        raise SettingError(f"block_size must be at least 1, but is {block_size}.")
