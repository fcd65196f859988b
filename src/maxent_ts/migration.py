"""Run directories of format 1, read as format 2. Nothing is written: such a directory stays as it is.

Format 1 had one variant of each method, kept the texts of five completions of a record and the rewards of all, and had no
fingerprints of rewards and of users' files. So it can be reported, compared and exported, but neither continued nor
rescored. Of run.json nothing has to change: what format 2 added there has defaults that say it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["migrated_record"]


def migrated_record(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of format 1 as one of format 2.

    The chosen completion keeps its text and tokens. Texts, tokens and weights of the others were not all stored, so their
    lists stay empty; rewards, log-probabilities and answers of all are there.

    Args:
        values: A line of samples.jsonl.
        config: The configuration in run.json, which all records of that format share.
    """
    kept = {name: value for name, value in values.items() if name != "completions"}
    budget = {name: config.get(name) for name in ("num_rollouts", "max_new_tokens")}
    return {**kept, **budget, "max_generated_tokens": config.get("generated_tokens")}
