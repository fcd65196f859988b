"""Names the user may type, and where each lives. Looked up on use, so that listing imports nothing heavy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from maxent_ts.errors import UnknownNameError

__all__ = [
    "ENGINES",
    "METHODS",
    "METHODS_OF_ONE_COMPLETION",
    "METHODS_THAT_VOTE",
    "METHODS_WITHOUT_LOGPROBS",
    "METHODS_WITHOUT_REWARD",
    "METHODS_WITHOUT_SEED",
    "METHODS_WITHOUT_TILT",
    "REWARDS",
    "TASKS",
    "TRACKERS",
    "load",
    "nearest_name",
    "unknown_name",
]

METHODS: Mapping[str, str] = {
    "greedy": "maxent_ts.search.sampling:greedy",
    "sample": "maxent_ts.search.sampling:sample",
    "best_of_n": "maxent_ts.search.best_of_n:best_of_n",
    "best_of_n_softmax": "maxent_ts.search.best_of_n:best_of_n_softmax",
    "best_of_n_unique": "maxent_ts.search.best_of_n:best_of_n_unique",
    "majority_vote": "maxent_ts.search.vote:majority_vote",
    "weighted_vote": "maxent_ts.search.vote:weighted_vote",
    "beam": "maxent_ts.search.beam:beam",
    "diverse_beam": "maxent_ts.search.diverse_beam:diverse_beam",
    "stochastic_beam": "maxent_ts.search.stochastic_beam:stochastic_beam",
    "metropolis": "maxent_ts.search.metropolis:metropolis",
    "exact_sample": "maxent_ts.search.exact_sample:exact_sample",
    "smc": "maxent_ts.search.smc:smc",
    "particle_gibbs": "maxent_ts.search.particle_gibbs:particle_gibbs",
    "ets": "maxent_ts.search.ets:ets",
    "vgb": "maxent_ts.search.vgb:vgb",
    "exact": "maxent_ts.search.exact:exact",
    "maxent": "maxent_ts.search.maxent:maxent",
    "maxent_sample": "maxent_ts.search.maxent:maxent_sample",
    "mcts": "maxent_ts.search.mcts:mcts",
    "dts": "maxent_ts.search.dts:dts",
    "dts_star": "maxent_ts.search.dts:dts_star",
    "ablation_sum_backup": "maxent_ts.search.ablations:ablation_sum_backup",
    "ablation_mean_backup": "maxent_ts.search.ablations:ablation_mean_backup",
}

METHODS_THAT_VOTE = frozenset({"majority_vote", "weighted_vote"})
"""Methods that ask for final answers, which a task without labels does not have."""

METHODS_OF_ONE_COMPLETION = frozenset({"greedy", "sample"})
"""They generate one completion, whatever the budget."""

METHODS_WITHOUT_TILT = frozenset({"greedy", "sample", "best_of_n", "majority_vote", "beam", "diverse_beam", "mcts"})
"""What they return does not depend on λ."""

METHODS_WITHOUT_SEED = frozenset({"greedy", "beam", "diverse_beam"})
"""What they return does not depend on the seed."""

METHODS_WITHOUT_REWARD = frozenset({"greedy", "sample", "beam", "diverse_beam"})
"""What they return does not depend on the reward."""

METHODS_WITHOUT_LOGPROBS = frozenset({"greedy", "sample", "best_of_n", "best_of_n_softmax", "majority_vote", "weighted_vote"})
"""They ask for whole completions and never look at log p, which some servers do not tell."""

ENGINES: Mapping[str, str] = {
    "hf": "maxent_ts.engines.hf:HFEngine",
    "openai": "maxent_ts.engines.openai:OpenAIEngine",
    "table": "maxent_ts.engines.table:TableEngine",
}

REWARDS: Mapping[str, str] = {
    "claims": "maxent_ts.rewards.claims:Claims",
    "classifier": "maxent_ts.rewards.classifier:Classifier",
    "consistency": "maxent_ts.rewards.consistency:Consistency",
    "contrast": "maxent_ts.rewards.contrast:Contrast",
    "format": "maxent_ts.rewards.text:Format",
    "logprob": "maxent_ts.rewards.model:Logprob",
    "spectral": "maxent_ts.rewards.spectral:Spectral",
}

TASKS: Mapping[str, str] = {
    "forecast": "maxent_ts.tasks.forecast:Forecast",
    "tsqa": "maxent_ts.tasks.tsqa:Tsqa",
    "m4_caption": "maxent_ts.tasks.opentslm:M4Caption",
    "har_cot": "maxent_ts.tasks.opentslm:HarCot",
    "sleep_cot": "maxent_ts.tasks.sleep:SleepCot",
    "ecg_qa_cot": "maxent_ts.tasks.ecg:EcgQaCot",
    "series": "maxent_ts.tasks.series:OwnSeries",
}


TRACKERS: Mapping[str, str] = {
    "trackio": "maxent_ts.integrations.trackers:trackio",
    "wandb": "maxent_ts.integrations.trackers:wandb",
    "mlflow": "maxent_ts.integrations.trackers:mlflow",
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
        raise UnknownNameError(unknown_name(kind, name, table))
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is not known: the nearest one, and all there are."""
    names = sorted(known)
    listed = f" Known: {', '.join(names)}." if names else " It has none."
    return f"There is no {kind} named '{name}'.{nearest_name(name, names)}{listed}"


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return the question whether the nearest known name was meant, with a space before it; nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
