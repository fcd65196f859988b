"""The law of a counted reward under a model of finitely many hidden states; all that π says of the reward follows from it.

Dynamic programming over hidden state × automaton × count.

Legend: c the count, P(c) its law under p, r(c) = unit · c.

    Z = Σ_c P(c)·exp(λ r(c))        π(c) = P(c)·exp(λ r(c)) / Z        E_π[r] = Σ_c π(c)·r(c)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from .automaton import Automaton
from .machine import NEVER, Machine

__all__ = ["Posterior", "count_law", "highest_count", "posterior"]


@dataclass(frozen=True)
class Posterior:
    """What π says of the reward."""

    rewards: np.ndarray
    """float64 [counts]: the values that r can take."""
    prior: np.ndarray
    """float64 [counts]: their law under p."""
    weights: np.ndarray
    """float64 [counts]: their law under π."""
    log_z: float
    """nats"""
    highest: float
    """The highest reward that a completion of positive probability has."""

    @property
    def mean(self) -> float:
        """E_π[r]."""
        return float(self.weights @ self.rewards)


@dataclass(frozen=True)
class _Product:
    """Machine × automaton, the reachable states only; edges as arrays, like `Machine`'s."""

    source: np.ndarray
    target: np.ndarray
    gain: np.ndarray
    probability: np.ndarray
    ending: np.ndarray
    ending_gain: np.ndarray
    start: np.ndarray


def posterior(machine: Machine, automaton: Automaton, length: int, tilt: float) -> Posterior:
    """Compute the law of the reward under π, for completions of at most `length` tokens.

    Args:
        machine: p.
        automaton: r.
        length: `max_new_tokens`: a completion that reaches it is cut, and counts.
        tilt: λ.
    """
    prior = count_law(machine, automaton, length)
    rewards = automaton.unit * np.arange(len(prior))
    with np.errstate(divide="ignore"):
        logits = np.log(prior) + tilt * rewards
    log_z = float(np.logaddexp.reduce(logits))
    highest = automaton.unit * highest_count(machine, automaton, length)
    return Posterior(rewards, prior, np.exp(logits - log_z), log_z, highest)


def count_law(machine: Machine, automaton: Automaton, length: int) -> np.ndarray:
    """Return P(count) under p: float64 [most + 1], the last entry being `most` or more."""
    product = _product(machine, automaton)
    num_states, num_counts = len(product.start), automaton.most + 1
    steps = {}
    for gain in np.unique(product.gain):
        chosen = product.gain == gain
        entries = product.probability[chosen], (product.target[chosen], product.source[chosen])
        steps[int(gain)] = csr_array(entries, shape=(num_states, num_states))
    finished = np.zeros(num_counts)
    unfinished = np.zeros((num_states, num_counts))
    unfinished[:, 0] = product.start
    for _ in range(length):
        for gain in np.unique(product.ending_gain):
            finished += _shifted((product.ending * (product.ending_gain == gain)) @ unfinished, int(gain))
        unfinished = sum((_shifted(step @ unfinished, gain) for gain, step in steps.items()), np.zeros_like(unfinished))
    return finished + unfinished.sum(axis=0)


def highest_count(machine: Machine, automaton: Automaton, length: int) -> int:
    """Return the highest count of a completion of positive probability: Viterbi with counts for scores, so nothing underflows."""
    product = _product(machine, automaton)
    possible = product.probability > 0
    source, target, gain = product.source[possible], product.target[possible], product.gain[possible]
    order = np.argsort(target, kind="stable")
    source, target, gain = source[order], target[order], gain[order]
    reached, first = np.unique(target, return_index=True)
    impossible = -(length + 1) * (int(product.gain.max(initial=0)) + 1)
    score = np.where(product.start > 0, 0, impossible)
    best = impossible
    for _ in range(length):
        best = max(best, int(np.max(np.where(product.ending > 0, score + product.ending_gain, impossible))))
        following = np.full_like(score, impossible)
        if len(reached):
            following[reached] = np.maximum.reduceat(score[source] + gain, first)
        score = np.maximum(following, impossible)
    return min(max(best, int(score.max())), automaton.most)


def _shifted(mass: np.ndarray, gain: int) -> np.ndarray:
    """Move mass along the last axis, which counts; what leaves at the end stays in the last entry."""
    if gain == 0:
        return mass
    moved = np.zeros_like(mass)
    gain = min(gain, mass.shape[-1] - 1)
    moved[..., gain:] = mass[..., : mass.shape[-1] - gain]
    moved[..., -1] += mass[..., mass.shape[-1] - gain :].sum(axis=-1)
    return moved


def _product(machine: Machine, automaton: Automaton) -> _Product:
    num_modes = len(automaton.following)
    edges = np.argsort(machine.source, kind="stable")
    ranges = np.searchsorted(machine.source[edges], np.arange(machine.num_states + 1))
    hidden_starts = np.flatnonzero(machine.start)
    number = np.full(machine.num_states * num_modes, -1)
    frontier = hidden_starts * num_modes
    number[frontier] = np.arange(len(frontier))
    found = [frontier]
    sources, targets, gains, probabilities = [], [], [], []
    while len(frontier):
        hidden, mode = frontier // num_modes, frontier % num_modes
        counts = ranges[hidden + 1] - ranges[hidden]
        rows = np.repeat(np.arange(len(frontier)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        edge = edges[ranges[hidden][rows] + within]
        token = machine.token[edge]
        target = machine.target[edge] * num_modes + automaton.following[mode[rows], token]
        sources.append(number[frontier][rows])
        targets.append(target)
        gains.append(automaton.gain[mode[rows], token])
        probabilities.append(machine.probability[edge])
        total = int(number.max()) + 1
        frontier = np.unique(target[number[target] < 0])
        number[frontier] = total + np.arange(len(frontier))
        found.append(frontier)
    states = np.concatenate(found)
    start = np.zeros(len(states))
    start[: len(hidden_starts)] = machine.start[hidden_starts]
    gain_of_end = automaton.gain[states % num_modes, machine.end] if machine.end != NEVER else np.zeros(len(states), dtype=np.int64)
    return _Product(
        np.concatenate(sources),
        number[np.concatenate(targets)],
        np.concatenate(gains),
        np.concatenate(probabilities),
        machine.ending[states // num_modes],
        gain_of_end,
        start,
    )
