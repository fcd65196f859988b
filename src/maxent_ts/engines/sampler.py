"""From logits to tokens: the policy's distribution, and draws from it by inverse CDF.

Everything is computed in float64 from float32 logits. A draw uses one uniform number, so a token depends on nothing but
its own distribution and its own number, whatever shares the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from maxent_ts.types import Policy, Tokens

__all__ = ["FirstTokens", "draw", "draw_first", "log_probabilities", "most_likely"]

NUCLEUS_CANDIDATES = 1024
"""A nucleus nearly always lies within so many tokens; sorting them costs a tenth of sorting a vocabulary of 128 000."""


def log_probabilities(logits: torch.Tensor, policy: Policy) -> torch.Tensor:
    """Return log p of every token under a policy: temperature, then top-k, then top-p, then normalised.

    Of equally likely tokens at the edge of a set, those with the lower ids are kept.

    Args:
        logits: Tensor of shape [rows, vocabulary], any float type. Rows with NaN, +inf, or nothing but -inf come out as NaN.
        policy: The rules of sampling.

    Returns:
        float64 tensor of shape [rows, vocabulary], nats; -inf for tokens that the policy forbids.
    """
    logits = logits.float().double()
    if policy.temperature != 1.0:
        logits = logits / policy.temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    if policy.top_k is not None and policy.top_k < logits.shape[-1]:
        edge = logprobs.topk(policy.top_k, dim=-1).values[:, -1:]
        logprobs = _keep(logprobs, edge, torch.full_like(edge, policy.top_k, dtype=torch.long))
    if policy.top_p is not None and policy.top_p < 1.0:
        edge, size = _nucleus(logprobs, policy.top_p)
        logprobs = _keep(logprobs, edge, size)
    return logprobs


def draw(logprobs: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token for each row by inverse CDF.

    Args:
        logprobs: float64 tensor of shape [rows, vocabulary].
        numbers: float64 tensor of shape [rows], in [0, 1).

    Returns:
        Token ids [rows], and their log-probabilities [rows], NaN where the row holds no distribution. No token of
        probability 0 is ever drawn.
    """
    cumulative = logprobs.exp().cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    tokens = torch.searchsorted(cumulative, numbers[:, None] * total, right=True)
    # A number just below 1 can round up to the total: then the token is the last one that added to it.
    tokens = torch.minimum(tokens, torch.searchsorted(cumulative, total)).clamp_(max=logprobs.shape[-1] - 1)
    chosen = torch.where(total.isfinite(), logprobs.gather(1, tokens), torch.nan).squeeze(1)
    tokens = tokens.squeeze(1)
    # A parallel prefix sum, as on a GPU, can rise by rounding where a probability is 0. In sequence it cannot.
    for row in torch.nonzero(chosen.isneginf()).flatten().tolist():
        probabilities = logprobs[row].exp().cpu().numpy()
        tokens[row] = _inverse_cdf(np.cumsum(probabilities), float(numbers[row]))
        chosen[row] = logprobs[row, tokens[row]]
    return tokens, chosen


def most_likely(logprobs: np.ndarray, num: int) -> np.ndarray:
    """Return the ids of the `num` most likely tokens, most likely first, fewer if fewer have positive probability.

    Args:
        logprobs: float64 array of shape [vocabulary].
        num: How many.
    """
    num = min(num, len(logprobs))
    edge = np.partition(logprobs, len(logprobs) - num)[len(logprobs) - num]
    candidates = np.flatnonzero((logprobs >= edge) & (logprobs > -np.inf))
    return candidates[np.argsort(-logprobs[candidates], kind="stable")][:num]


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """The first tokens of the rollouts of one job."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    """nats under p, not renormalised for tokens left out."""
    log_unseen: float
    """log of the mass of all tokens neither excluded nor drawn; -inf if there are none."""


def draw_first(
    logprobs: np.ndarray, numbers: np.ndarray, *, exclude: Tokens = (), distinct: bool = False, do_sample: bool = True
) -> FirstTokens:
    """Draw the first tokens of several rollouts from one distribution, one after the other.

    With `distinct` each token drawn leaves the distribution for the rollouts behind it: sampling without replacement in
    the order of drawing, which has the law of Gumbel top-k (Kool et al. 2019, arXiv 1903.06059).

    Args:
        logprobs: float64 array of shape [vocabulary].
        numbers: One number in [0, 1) for each rollout.
        exclude: Tokens that may not be drawn.
        distinct: No token twice.
        do_sample: False: the most likely token that is left.

    Returns:
        As many tokens as numbers, fewer when no token of positive probability is left.
    """
    left = np.exp(logprobs)
    left[list(exclude)] = 0.0
    unseen = left.copy()
    tokens: list[int] = []
    cumulative = np.cumsum(left)
    for number in numbers:
        if cumulative[-1] <= 0.0:
            break
        token = _inverse_cdf(cumulative, float(number)) if do_sample else int(np.argmax(left))
        tokens.append(token)
        unseen[token] = 0.0
        if distinct:
            left[token] = 0.0
            cumulative = np.cumsum(left)
    mass = float(unseen.sum())
    return FirstTokens(
        tuple(tokens), tuple(float(logprobs[token]) for token in tokens), math.log(mass) if mass > 0.0 else -math.inf
    )


def _inverse_cdf(cumulative: np.ndarray, number: float) -> int:
    token = int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))
    return min(token, int(np.searchsorted(cumulative, cumulative[-1])))


def _keep(logprobs: torch.Tensor, edge: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Keep the `size` [rows, 1] most likely tokens of each row, the last of which has log-probability `edge` [rows, 1]."""
    above = logprobs > edge
    ties = logprobs == edge
    num_ties = size - above.sum(dim=-1, keepdim=True)
    kept = above | (ties & (ties.cumsum(dim=-1) <= num_ties))
    return torch.log_softmax(logprobs.masked_fill(~kept, -torch.inf), dim=-1)


def _nucleus(logprobs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the fewest most likely tokens that reach mass `top_p`: their smallest log-probability and number, [rows, 1] each."""
    size = min(NUCLEUS_CANDIDATES, logprobs.shape[-1])
    ranked = logprobs.topk(size, dim=-1).values
    cumulative = ranked.exp().cumsum(dim=-1)
    if size < logprobs.shape[-1] and bool((cumulative[:, -1] < top_p).any()):
        ranked = logprobs.sort(dim=-1, descending=True).values
        cumulative = ranked.exp().cumsum(dim=-1)
    before = cumulative - ranked.exp()
    number = ((before < top_p) & (ranked > -torch.inf)).sum(dim=-1, keepdim=True).clamp_(min=1)
    return ranked.gather(1, number - 1), number
