"""A sweep: the variants that lists of values span, for one run that holds them all.

An axis that does not change what a method returns does not multiply it: `greedy` is run once, whatever the rollouts, λ and
seeds; `best_of_n` is not run again for another λ.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from maxent_ts.errors import SettingError
from maxent_ts.registry import METHODS_OF_ONE_COMPLETION, METHODS_WITHOUT_SEED, METHODS_WITHOUT_TILT

__all__ = ["expand_variants", "split_values"]


def expand_variants(
    methods: Sequence[str], axes: Mapping[str, Sequence[Any]], settings: Mapping[str, Mapping[str, Sequence[Any]]]
) -> list[dict[str, Any]]:
    """Return every variant of every method, as `MethodConfig` takes it.

    Args:
        methods: Names, in the order of the tables.
        axes: Values of fields that a variant may have of its own: `num_rollouts`, `max_new_tokens`, `tilt`, `seed`. A single
            value is for the run's configuration and not given here.
        settings: For each method, values of its own settings. Its own `tilt` goes before the axis.

    Raises:
        SettingError: if a value is listed twice, or a method's setting has the name of an axis.
    """
    variants = []
    for method in methods:
        own = dict(settings.get(method, {}))
        fields = {name: values for name, values in axes.items() if len(values) > 1 and _has_axis(method, name)}
        if "tilt" in own:
            fields["tilt"] = own.pop("tilt")
        both = sorted(set(fields) & set(own))
        if both:
            option = both[0].replace("_", "-")
            raise SettingError(
                f"The sweep has values of {both[0]} for '{method}' twice: by --{option} and by --set. Give one of them."
            )
        # The seed turns fastest: variants that differ in it alone stand together.
        values = {**{name: found for name, found in fields.items() if name != "seed"}, **own}
        values |= {name: found for name, found in fields.items() if name == "seed"}
        for name, found in values.items():
            twice = [value for index, value in enumerate(found) if value in found[:index]]
            if twice:
                raise SettingError(f"The sweep lists {name} = {twice[0]} twice. List each value once.")
        shown = tuple(name for name, found in values.items() if len(found) > 1)
        for combination in itertools.product(*values.values()):
            chosen = dict(zip(values, combination, strict=True))
            of_method = {name: value for name, value in chosen.items() if name in own}
            of_run = {name: value for name, value in chosen.items() if name in fields}
            variants.append({"name": method, "settings": of_method, **of_run, "shown": shown})
    return variants


def split_values(text: str, kind: type[int] | type[float], what: str) -> list[Any]:
    """Turn "5,10,20" into numbers.

    Raises:
        SettingError: if a part is no number of that kind; `what` is the option's name.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        example = "5,10,20" if kind is int else "0.5,1,2"
        raise SettingError(f"{what} takes numbers with commas between them, such as {example}, but got '{text}'.") from error


def _has_axis(method: str, name: str) -> bool:
    without = {
        "num_rollouts": METHODS_OF_ONE_COMPLETION,
        "tilt": METHODS_WITHOUT_TILT,
        "seed": METHODS_WITHOUT_SEED,
    }
    return method not in without.get(name, ())
