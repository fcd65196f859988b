"""ETS, energy-guided test-time scaling: block by block, each chosen by the energy that completions from it show.

Legend: s the text so far, M candidate blocks, K completions of each, Ê(b) the mean of exp(λ r) over those of block b: a
Monte Carlo estimate of the energy E_p[exp(λ r) | s b]. (The paper writes exp(r / λ); our λ is its inverse.)
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, Rollouts, Search
from maxent_ts.search.completions import reward_of, score
from maxent_ts.types import Completion, Outcome, Target, Tokens

__all__ = ["ets"]

NUM_BLOCKS = 4
"""Blocks of a completion of full length, where their length is not given."""


def ets(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    block_tokens: int | None = None,
    num_candidates: int = 4,
    num_completions: int = 2,
    num_return_sequences: int = 1,
) -> Search:
    """Approximate the walk s → s b with probability ∝ p(b|s)·E_p[exp(λ r) | s b], which would draw from π exactly.

    At s, M blocks are drawn from p, each is completed K times by p, and one is kept ∝ Ê; then the same from there, until a kept
    block ends. Then the next draw begins at the empty text. A block's first completion is its own continuation: the draw is
    cut into block and rest, which costs nothing, so that a level costs M·K completions less (K - 1)·M blocks. All
    completions are scored; the paper keeps none of those it estimates with.

    The weights are the chances of a draw given what was built: follow a kept block's own candidates where there are
    some, and where a block was not kept or not looked into, take one of its completions ∝ exp(λ r); the mean over the draws
    begun. As M grows they tend to π for any K; for M and K fixed they do not, however many draws there are.

    Reference: Li et al. 2026, "ETS: Energy-guided test-time scaling for training-free RL alignment", arXiv 2601.21484,
    algorithm 1 for autoregressive models, without its proposals from a smaller model.

    Args:
        rng: Keeps blocks, and draws the returned completions.
        target: Gives λ and `max_new_tokens`.
        num_rollouts: Completions in all; None goes on until the budget is spent.
        block_tokens: Tokens of a block; None is a quarter of `max_new_tokens`.
        num_candidates: M.
        num_completions: K.
        num_return_sequences: Number of draws returned, with replacement.
    """
    for name, value in (("block_tokens", block_tokens), ("num_candidates", num_candidates), ("num_completions", num_completions)):
        if value is not None and value < 1:
            raise SettingError(f"{name} must be at least 1, but is {value}.")
    length = block_tokens if block_tokens is not None else math.ceil(target.max_new_tokens / NUM_BLOCKS)
    built = _Built(target, math.inf if num_rollouts is None else num_rollouts)
    draws: list[list[_Block]] = []
    while blocks := (yield from built.look(_Block((), 0.0), length, num_candidates, num_completions)):
        draws.append(blocks)
        while blocks:
            kept = blocks[_choose(rng, [one.log_energy for one in blocks])]
            kept.following = blocks = (
                [] if kept.is_finished else (yield from built.look(kept, length, num_candidates, num_completions))
            )
    weights = np.zeros(len(built.completions))
    for blocks in draws:
        _share(weights, blocks, 1.0 / len(draws))
    chosen = rng.choice(len(weights), size=num_return_sequences, p=weights / weights.sum())
    info = {"num_draws": float(len(draws))}
    return Outcome(tuple(built.completions), tuple((weights / weights.sum()).tolist()), tuple(int(one) for one in chosen), info)


@dataclass(slots=True)
class _Block:
    """A candidate: the text up to and with it, its completions, and the candidates after it if it was kept."""

    tokens: Tokens
    logprob: float
    is_finished: bool = False
    places: list[int] = field(default_factory=list)
    """Of its completions among all; they may repeat."""
    log_factors: list[float] = field(default_factory=list)
    """λ r of each."""
    following: list[_Block] = field(default_factory=list)

    @property
    def log_energy(self) -> float:
        """Return log Ê."""
        return float(np.logaddexp.reduce(self.log_factors) - math.log(len(self.log_factors)))


class _Built:
    """Every completion drawn so far, scored once."""

    def __init__(self, target: Target, num_left: float) -> None:
        self.target = target
        self.num_left = num_left
        self.completions: list[Completion] = []
        self._places: dict[Tokens, int] = {}

    def look(self, at: _Block, length: int, num_candidates: int, num_completions: int) -> Generator[Any, Any, list[_Block]]:
        """Draw the blocks after `at` and complete them; fewer when the budget ends, and none when it is spent."""
        num = int(min(num_candidates, self.num_left))
        if num == 0:
            return []
        branch = yield Rollouts(at.tokens, num)
        self.num_left -= len(branch.rollouts)
        blocks, drawn = [], []
        for rollout in branch.rollouts:
            is_finished = len(rollout.tokens) <= length
            tokens, logprob = at.tokens + rollout.tokens[:length], at.logprob + sum(rollout.logprobs[:length])
            blocks.append(_Block(tokens, logprob, is_finished))
            whole = at.tokens + rollout.tokens, at.logprob + sum(rollout.logprobs)
            drawn.append((blocks[-1], Completion(*whole, rollout.finish_reason)))
        unfinished = [one for one in blocks if not one.is_finished]
        nums = [int(min(num_completions - 1, max(0, self.num_left - i * (num_completions - 1)))) for i in range(len(unfinished))]
        wanted = [(block, num) for block, num in zip(unfinished, nums, strict=True) if num > 0]
        if wanted:
            branches = yield Parallel(tuple(Rollouts(block.tokens, num) for block, num in wanted))
            for (block, _), more in zip(wanted, branches, strict=True):
                self.num_left -= len(more.rollouts)
                for one in more.rollouts:
                    tokens, logprob = block.tokens + one.tokens, block.logprob + sum(one.logprobs)
                    drawn.append((block, Completion(tokens, logprob, one.finish_reason)))
        yield from self._score(drawn)
        return blocks

    def _score(self, drawn: list[tuple[_Block, Completion]]) -> Generator[Any, Any, None]:
        """Score what is unknown, and enter all under their blocks."""
        fresh = {one.tokens: one for _, one in drawn if one.tokens not in self._places}
        if fresh:
            for one in (yield from score(tuple(fresh.values()))):
                self._places[one.tokens] = len(self.completions)
                self.completions.append(one)
        for block, one in drawn:
            place = self._places[one.tokens]
            block.places.append(place)
            block.log_factors.append(self.target.tilt * reward_of(self.completions[place]))


def _choose(rng: np.random.Generator, logits: list[float]) -> int:
    """Draw an index with probability ∝ exp(logit), by Gumbel-max."""
    return int(np.argmax(np.array(logits) + rng.gumbel(size=len(logits))))


def _share(weights: np.ndarray, blocks: list[_Block], mass: float) -> None:
    """Spread a mass over the completions below candidate blocks."""
    for block, share in zip(blocks, _softmax([one.log_energy for one in blocks]), strict=True):
        if block.following:
            _share(weights, block.following, mass * share)
        else:
            np.add.at(weights, block.places, mass * share * _softmax(block.log_factors))


def _softmax(logits: list[float]) -> np.ndarray:
    shares = np.exp(np.array(logits) - np.logaddexp.reduce(logits))
    return shares / shares.sum()
