"""Names the user may type, and where each lives. Looked up on use, so that listing imports nothing heavy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from maxent_ts.errors import UnknownNameError

__all__ = [
    "ENGINES",
    "METHODS",
    "METHODS_OF_ONE_COMPLETION",
    "METHODS_WITHOUT_SEED",
    "METHODS_WITHOUT_TILT",
    "REWARDS",
    "TASKS",
    "load",
]

METHODS: Mapping[str, str] = {
    "greedy": "maxent_ts.search.sampling:greedy",
    "sample": "maxent_ts.search.sampling:sample",
    "best_of_n": "maxent_ts.search.sampling:best_of_n",
    "best_of_n_softmax": "maxent_ts.search.sampling:best_of_n_softmax",
    "majority_vote": "maxent_ts.search.sampling:majority_vote",
    "beam": "maxent_ts.search.beam:beam",
    "exact": "maxent_ts.search.exact:exact",
    "maxent": "maxent_ts.search.maxent:maxent",
    "maxent_sample": "maxent_ts.search.maxent:maxent_sample",
}

METHODS_OF_ONE_COMPLETION = frozenset({"greedy", "sample"})
"""They generate one completion, whatever the budget."""

METHODS_WITHOUT_TILT = frozenset({"greedy", "sample", "best_of_n", "majority_vote", "beam"})
"""What they return does not depend on λ."""

METHODS_WITHOUT_SEED = frozenset({"greedy", "beam", "exact"})
"""What they return does not depend on the seed."""

ENGINES: Mapping[str, str] = {
    "hf": "maxent_ts.engines.hf:HFEngine",
    "table": "maxent_ts.engines.table:TableEngine",
}

REWARDS: Mapping[str, str] = {
    "claims": "maxent_ts.rewards.claims:Claims",
    "format": "maxent_ts.rewards.text:Format",
    "logprob": "maxent_ts.rewards.model:Logprob",
}

TASKS: Mapping[str, str] = {
    "har_cot": "maxent_ts.tasks.opentslm:HarCot",
    "m4_caption": "maxent_ts.tasks.opentslm:M4Caption",
}


def load(table: Mapping[str, str], name: str, kind: str) -> Any:
    """Import and return what `name` stands for.

    Args:
        table: One of the tables of this module.
        name: What the user typed.
        kind: The word for it in the message, such as "method".

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownNameError(f"There is no {kind} named '{name}'.{hint} Known: {', '.join(sorted(table))}.")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)
