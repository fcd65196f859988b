"""Searches on the language models, whose completions cannot be enumerated, against the exact law of the reward under π.

Measured: TV of the method's weighted law of r to that of π, |E_q[r] - E_π[r]|, |log Ẑ - log Z|, and the best reward found as a
share of the highest that any completion of positive probability has. There is one model per table; means are over searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from maxent_ts.types import Outcome

from . import language
from .automaton import Automaton, count_tokens, count_words
from .machine import Machine
from .measure import Row, Subject, costs, distances, search
from .methods import SAMPLERS
from .posterior import Posterior, posterior

__all__ = ["TABLES", "law_of_reward", "measure_table", "problem"]


@dataclass(frozen=True)
class Problem:
    """A model, a reward, and the law of the reward under π."""

    machine: Machine
    automaton: Automaton
    length: int
    tilt: float
    posterior: Posterior


TABLES: dict[str, tuple[int, ...]] = {
    "HMM, 64 tokens, tilt 1, god or lord": (10, 30, 100, 300),
    "HMM without end, 256 tokens, tilt 1, god or lord": (10, 30, 100),
    "HMM without end, 512 tokens, tilt 0.5, god or lord": (10, 30),
    "PCFG, 64 tokens, tilt 2, of the": (10, 30, 100, 300),
    "6-gram, 128 tokens, tilt 2, three words": (10, 30, 100, 300),
    "6-gram, 128 tokens, tilt 0.5, letter e": (10, 30, 100),
}


@cache
def problem(table: str) -> Problem:
    """The problem of a table; trains the model."""
    name, length_text, tilt_text, counted = table.split(", ")
    length, tilt = int(length_text.split()[0]), float(tilt_text.split()[1])
    if name == "6-gram":
        machine = language.character_ngram()
    elif name == "PCFG":
        machine = language.pcfg()
    else:
        machine = language.hmm(with_end="without" not in name)
    automaton = _automaton(machine, counted)
    return Problem(machine, automaton, length, tilt, posterior(machine, automaton, length, tilt))


def _automaton(machine: Machine, counted: str) -> Automaton:
    number = {text.strip() or text: i for i, text in enumerate(machine.vocabulary)}
    num_tokens = len(machine.vocabulary)
    if counted == "god or lord":
        return count_tokens(counted, num_tokens, [number["god"], number["lord"]], 20)
    if counted == "letter e":
        return count_tokens(counted, num_tokens, [number["e"]], 40)
    if counted == "of the":
        return count_words(counted, num_tokens, [(number["of"], number["the"])], 10)
    spelled = [tuple(number[letter] for letter in word) for word in (" god ", " light", " earth")]
    return count_words(counted, num_tokens, spelled, 12)


def law_of_reward(outcome: Outcome, truth: Posterior, unit: float) -> np.ndarray:
    """The law of r that an outcome's weights give: float64 [counts]."""
    found = np.zeros(len(truth.rewards))
    rewards = np.array([one.reward for one in outcome.completions], dtype=np.float64)
    np.add.at(found, np.rint(rewards / unit).astype(np.int64), outcome.weights)
    return found


def measure_table(table: str, seed: int, methods: Sequence[str], sizes: Sequence[int]) -> list[Row]:
    """Search once per method and budget."""
    one = problem(table)
    truth = one.posterior
    rows = [Row(table, "p, the model itself", 0, seed, _compared(truth.prior, truth))]
    for method in methods:
        for size in sizes:
            subject = Subject(one.machine.engine(), one.automaton.reward(), one.length, one.tilt, seed)
            result = search(subject, method, size)
            if result.error is not None or result.outcome is None:
                rows.append(Row(table, method, size, seed, error=str(result.error)))
                continue
            values = costs(result, truth.log_z)
            values["best_share"] = max(completion.reward or 0.0 for completion in result.outcome.completions) / truth.highest
            if method in SAMPLERS:
                values |= _compared(law_of_reward(result.outcome, truth, one.automaton.unit), truth)
            rows.append(Row(table, method, size, seed, values))
    return rows


def _compared(found: np.ndarray, truth: Posterior) -> dict[str, float]:
    return distances(found, truth.weights) | {"reward_error": abs(float(found @ truth.rewards) - truth.mean)}
