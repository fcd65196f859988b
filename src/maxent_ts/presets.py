"""How much work a search may do, in three sizes, and the methods compared by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DEFAULT_COMPAT", "DEFAULT_METHODS", "DEFAULT_PRESET", "DEMO_LIMIT", "DEMO_TASKS", "EMBEDDED_MODEL", "PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A number of rollouts and the length of each."""

    num_rollouts: int
    max_new_tokens: int


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(num_rollouts=5, max_new_tokens=30),
    "balanced": Preset(num_rollouts=10, max_new_tokens=50),
    "thorough": Preset(num_rollouts=20, max_new_tokens=100),
}

DEFAULT_PRESET = "balanced"

DEFAULT_METHODS: tuple[str, ...] = (
    "greedy",
    "sample",
    "best_of_n",
    "best_of_n_softmax",
    "majority_vote",
    "beam",
    "maxent",
    "maxent_sample",
)

DEMO_TASKS: tuple[str, ...] = ("m4_caption", "har_cot")
"""What `maxent-ts eval demo` stands for."""

DEMO_LIMIT = 48
"""Items per task of `demo` unless --limit says otherwise: well under three minutes on two cores, half of the embedded sample."""

DEFAULT_COMPAT = "upstream"
"""Which of OpenTSLM's ways to read a prompt: what a released checkpoint was trained and evaluated with."""

EMBEDDED_MODEL = "embedded"
"""The name of the small time-series language model that ships with the package."""
