"""Which registered methods claim to draw from π, and which look for the best completion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from maxent_ts.registry import METHODS, load
from maxent_ts.search.base import SearchFactory

__all__ = ["ABLATIONS", "OPTIMISERS", "SAMPLERS", "chosen_methods", "factory"]

SAMPLERS = (
    "best_of_n_softmax",
    "best_of_n_unique",
    "stochastic_beam",
    "metropolis",
    "smc",
    "particle_gibbs",
    "ets",
    "vgb",
    "dts",
    "exact_sample",
    "maxent_sample",
)
"""Their outcomes' weights, or their trees, are estimates of π."""

OPTIMISERS = ("greedy", "best_of_n", "beam", "diverse_beam", "mcts", "dts_star", "maxent")
"""Their weights say little of π: they are left out of the tables of distances. `sample` aims at p, the votes at answers,
and `exact` is the enumeration itself."""


ABLATIONS = ("ablation_sum_backup", "ablation_mean_backup")
"""Samplers that are wrong on purpose: shown on enumerable models, and no rivals."""

BEAM_METHODS = ("beam", "diverse_beam", "stochastic_beam")
"""Their width is a setting: a budget of N rollouts' worth of tokens pays for N beams."""


def factory(method: str, size: int | None) -> SearchFactory:
    """A registered method with the settings that a budget of `size` rollouts' worth of tokens asks for; else its defaults."""
    found = load(METHODS, method, "method")
    return partial(found, num_beams=size) if method in BEAM_METHODS and size is not None else found


def chosen_methods(wanted: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Those of `known` that are registered and that the user asked for, in the order of the tables; all without a wish."""
    return tuple(name for name in known if name in METHODS and (not wanted or name in wanted))
