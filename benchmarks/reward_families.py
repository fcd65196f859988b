"""Searches for the best reward, family by family: a model too large to enumerate, a reward, a length and budgets.

Tables are random, 8 to 16 tokens with an end token, completions of at most 12 to 20 tokens. Rewards on them: `additive` over
positions; `sparse`, the number of three hidden patterns of three tokens found; `early`, decided by the first three tokens;
`rugged`, a number for every text; `noisy`, additive with fresh noise of the same spread at every call. The others are on the
character 6-gram model of the yardstick: `word`, how often five target words occur; `letter`, the density of one letter.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from yardstick.language import character_ngram, verses

from maxent_ts.config import RunConfig
from maxent_ts.engines.table import TableEngine
from maxent_ts.fingerprint import example_seed
from maxent_ts.loading import load_engine
from maxent_ts.planning import plan
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy, Tokens

__all__ = ["EMBEDDED_BUDGETS", "FAMILIES", "Instance", "LoggedReward", "Pool", "embedded", "instance"]

TABLE_BUDGETS = (500, 1500, 5000)
TEXT_BUDGETS = (1200, 2400, 4800)
EMBEDDED_BUDGETS = (125, 250, 500)
NUM_CHARACTERS = 64
SPREADS_PER_TILT = 3.0
"""λ is this over the standard deviation of the reward under p: of methods that read λ, it sets how greedy they are."""

FAMILIES = {
    **dict.fromkeys(("additive", "sparse", "early", "rugged", "noisy"), TABLE_BUDGETS),
    **dict.fromkeys(("word", "letter"), TEXT_BUDGETS),
}
"""Names with their budgets in generated tokens."""


class LoggedReward:
    """A reward on tokens, with noise if wanted. It keeps the true values in the order of the calls, for the benchmark alone."""

    name = "benchmark"
    range = (-math.inf, math.inf)

    def __init__(self, function: Callable[[Tokens], float], noise: float = 0.0, seed: int = 0) -> None:
        self.function, self.noise = function, noise
        self.rng = np.random.default_rng(seed)
        self.true_values: list[float] = []

    def __call__(self, *, completion_ids: list[list[int]], **columns: Any) -> list[float]:  # noqa: ARG002 - TRL's signature
        """What the search sees."""
        values = [self.function(tuple(ids)) for ids in completion_ids]
        self.true_values += values
        return [value + self.noise * float(self.rng.normal()) for value in values] if self.noise else values

    def explain(self, *, completion_ids: list[list[int]], **columns: Any) -> list[Mapping[str, Any]]:  # noqa: ARG002
        """Nothing to explain."""
        return [{} for _ in completion_ids]


@dataclass(frozen=True)
class Pool:
    """What a reward counts, so that what several completions hold can be put together."""

    found: Callable[[Tokens], Counter[int]]
    joined: Callable[[Counter[int], Counter[int]], Counter[int]]


@dataclass(frozen=True)
class Instance:
    """One search to be run by every method."""

    engine: Any
    reward: Callable[[], Any]
    """Makes the reward afresh: noise and log belong to one search."""
    length: int
    tilt: float
    seed: tuple[int, ...]
    prompt: Any = (0,)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool | None = None


def instance(family: str, seed: int) -> Instance:
    """Make an instance of a family; the seed names it."""
    rng = np.random.default_rng((seed, sorted(FAMILIES).index(family)))
    if family in ("word", "letter"):
        engine, length = character_ngram().engine(), NUM_CHARACTERS
        function, pool, noise = *_text_reward(family, rng), 0.0
    else:
        num_tokens, length = int(rng.integers(8, 17)), int(rng.integers(12, 21))
        engine = TableEngine.random(num_tokens=num_tokens, concentration=0.5, seed=int(rng.integers(1 << 30)))
        function, pool, noise = *_table_reward(family, num_tokens, length, rng), float(family == "noisy")
    drawn = LoggedReward(function)
    job = SearchJob("spread", (0,), Policy(length), load(METHODS, "best_of_n", "method"), 1.0, Budget(rollouts=100), (seed, 1))
    (result,) = run_searches([job], engine, drawn)
    if result.error is not None:
        raise result.error
    tilt = SPREADS_PER_TILT / (float(np.std(drawn.true_values)) or 1.0)
    return Instance(engine, lambda: LoggedReward(function, noise, seed), length, tilt, (seed, 2), pool=pool)


def embedded(task: str, num_items: int, seed: int) -> list[Instance]:
    """The first items of a task on the embedded time-series model, with the task's rewards."""
    config = RunConfig(tasks=(task,), limit=num_items, seed=seed)
    engine = load_engine(config)
    (one,) = plan(config)
    return [
        Instance(
            engine,
            lambda: one.reward,
            config.max_new_tokens,
            config.tilt,
            (seed, example_seed(example.id)),
            example.prompt,
            example.inputs,
        )
        for example in one.examples
    ]


def _table_reward(
    family: str, num_tokens: int, length: int, rng: np.random.Generator
) -> tuple[Callable[[Tokens], float], Pool | None]:
    if family in ("additive", "noisy"):
        table = rng.normal(size=(length, num_tokens)) / math.sqrt(length)
        return lambda tokens: float(sum(table[i, token] for i, token in enumerate(tokens))), None
    if family == "sparse":
        patterns = [tuple(int(one) for one in rng.integers(num_tokens - 1, size=3)) for _ in range(3)]
        # A pattern counts once.
        pool = Pool(
            lambda tokens: Counter(i for i, one in enumerate(patterns) if _occurs(one, tokens)), lambda ours, theirs: ours | theirs
        )
        return lambda tokens: float(pool.found(tokens).total()), pool
    seed = int(rng.integers(1 << 30))
    end = 3 if family == "early" else length
    return lambda tokens: float(np.random.default_rng((seed, *tokens[:end])).normal()), None


def _occurs(pattern: Sequence[int], tokens: Tokens) -> bool:
    return any(tokens[i : i + len(pattern)] == pattern for i in range(len(tokens)))


def _text_reward(family: str, rng: np.random.Generator) -> tuple[Callable[[Tokens], float], Pool | None]:
    vocabulary = character_ngram().vocabulary
    counts = Counter(word for verse in verses() for word in re.findall(r"[a-z]{4,}", verse))
    if family == "word":
        words = [str(word) for word in rng.choice([word for word, count in counts.items() if count >= 3], size=5, replace=False)]

        def found(tokens: Tokens) -> Counter[int]:
            text = _decode(vocabulary, tokens)
            return Counter({i: text.count(word) for i, word in enumerate(words)})

        return lambda tokens: float(found(tokens).total()), Pool(found, lambda ours, theirs: ours + theirs)
    letter = str(rng.choice(list("adehinorst")))
    # Short texts are no way out: 16 characters at least are counted.
    return lambda tokens: _decode(vocabulary, tokens).count(letter) / max(len(tokens), 16), None


def _decode(vocabulary: Sequence[str], tokens: Tokens) -> str:
    return "".join(vocabulary[token] for token in tokens if token != len(vocabulary) - 1)
