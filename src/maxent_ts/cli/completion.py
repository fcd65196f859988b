"""What the shell offers when Tab is pressed: names from the registry, so that nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from maxent_ts import registry
from maxent_ts.presets import PRESETS

__all__ = [
    "complete_engine",
    "complete_method",
    "complete_preset",
    "complete_reward",
    "complete_setting",
    "complete_task",
    "complete_tracker",
]


def _beginning_with(*tables: Mapping[str, object]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return sorted(name for table in tables for name in table if name.startswith(incomplete))

    return complete


complete_method = _beginning_with(registry.METHODS)
complete_reward = _beginning_with(registry.REWARDS)
complete_engine = _beginning_with(registry.ENGINES)
complete_task = _beginning_with(registry.TASKS, {"demo": None})
complete_tracker = _beginning_with(registry.TRACKERS)
complete_preset = _beginning_with(PRESETS)


def complete_setting(incomplete: str) -> list[str]:
    """Offer `method.key=` for every setting of every method."""
    from maxent_ts.cli.listing import listing

    offers = (f"{method['name']}.{key}=" for method in listing("methods") for key in ["tilt", *method["settings"]])
    return sorted(offer for offer in offers if offer.startswith(incomplete))
