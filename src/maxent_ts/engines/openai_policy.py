"""From the log-probabilities that a server reports to those of the policy that it samples from.

Servers differ. vLLM and llama.cpp report the model's own distribution, whatever temperature and truncation are asked for;
SGLang divides by the temperature first. The probe finds out which (`openai_probe`), and what is not p is made p here from
the tokens that come with it, or refused: nothing is recorded as log p that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from maxent_ts.engines.openai_replies import Key, Piece
from maxent_ts.errors import EngineError, SettingError
from maxent_ts.types import Policy

__all__ = ["MISSING_MASS", "Reports", "num_top_needed", "piece_under", "table_under"]

MISSING_MASS = 1e-3
"""A table of next tokens whose probabilities sum to 1 up to this is taken for whole: servers compute in half precision."""


@dataclass(frozen=True, slots=True)
class Reports:
    """What the log-probabilities of a server are of."""

    temperature: Literal["raw", "scaled"] | None
    """`raw`: of the model at temperature 1, whatever was asked for. `scaled`: at the temperature asked for. None: unknown."""
    truncation: Literal["raw", "renormalised"] | None
    """`renormalised`: top_k and top_p have been applied. None: unknown."""
    num_top: int
    """Next tokens that come with their log-probabilities, at most; 0 for none."""
    is_whole: bool
    """Whether `num_top` covers the vocabulary."""
    temperature_goes_first: bool
    """Whether temperature is known to be applied before top_p, as transformers does."""


def num_top_needed(policy: Policy, reports: Reports) -> int:
    """Return how many next tokens must come with every generated one, so that log p under the policy is known.

    Raises:
        SettingError: if no number would do.
    """
    truncates = policy.top_k is not None or (policy.top_p or 1) < 1
    is_scaled = policy.temperature == 1 or reports.temperature == "scaled"
    if policy.temperature != 1 and (policy.top_p or 1) < 1 and not reports.temperature_goes_first:
        raise SettingError(
            "This server is not known to apply temperature before top_p, and the other order is another policy. Set one of them."
        )
    if is_scaled and (not truncates or reports.truncation == "renormalised"):
        return 0
    if policy.top_k is not None and policy.top_k <= reports.num_top:
        return policy.top_k
    if reports.is_whole or (truncates and policy.top_k is None and is_scaled and reports.num_top):
        return reports.num_top
    asked = ", ".join(
        f"{name}={value}"
        for name, value in (("temperature", policy.temperature), ("top_k", policy.top_k), ("top_p", policy.top_p))
        if value is not None and value != 1
    )
    raise SettingError(
        f"This server reports log-probabilities of another distribution than the one it samples from with {asked}, and at most "
        f"{reports.num_top} next tokens to work them out from. Leave these out, so that p is the model itself, or use a top_k of "
        f"at most {reports.num_top}."
    )


def table_under(table: Mapping[Key, float], policy: Policy, reports: Reports) -> dict[Key, float]:
    """Return log p under the policy of the tokens of a table that have any.

    Args:
        table: The reported log-probabilities of the most likely next tokens.
        policy: What the server samples from.
        reports: What it reports.

    Raises:
        EngineError: if the table is too short for this place.
    """
    if num_top_needed(policy, reports) == 0:
        return dict(table)
    is_scaled = policy.temperature == 1 or reports.temperature == "scaled"
    scale = 1.0 if is_scaled else policy.temperature
    ordered = sorted(((value / scale, key) for key, value in table.items()), key=lambda one: -one[0])
    is_normalised = is_scaled
    if policy.top_k is not None:
        ordered, is_normalised = ordered[: policy.top_k], False
    if not is_normalised:
        total = _log_sum([value for value, _ in ordered])
        ordered = [(value - total, key) for value, key in ordered]
    top_p = policy.top_p or 1.0
    kept, mass = [], 0.0
    for value, key in ordered:
        if mass >= top_p:
            break
        kept.append((value, key))
        mass += math.exp(value)
    if mass < top_p - MISSING_MASS:
        raise EngineError(
            f"The {len(ordered)} next tokens that the server returns have {mass:.3f} of the probability, less than top_p={top_p}: "
            "log p under this policy cannot be worked out. Use a top_k, or leave top_p out."
        )
    total = _log_sum([value for value, _ in kept])
    return {key: value - total for value, key in kept}


def piece_under(piece: Piece, policy: Policy, reports: Reports) -> float:
    """Return log p under the policy of a token that was drawn.

    Raises:
        EngineError: if the policy gives it no probability, or the tokens beside it are too few to tell.
    """
    if num_top_needed(policy, reports) == 0:
        return piece.logprob
    key = piece.token if piece.token is not None else (piece.text or b"").decode(errors="replace")
    table = table_under(piece.top, policy, reports)
    if key not in table:
        raise EngineError(f"The server drew the token {key!r}, to which top_k and top_p leave no probability.")
    return table[key]


def _log_sum(values: list[float]) -> float:
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))
