"""From logits to tokens: the policy's distribution, and draws from it by inverse CDF.

A draw uses one uniform number, so a token depends on nothing but its own distribution and its own number, whatever shares
the batch. Sums over the vocabulary are kept in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maxent_ts.types import Policy, Tokens

__all__ = ["FirstTokens", "draw", "draw_first", "log_probabilities", "most_likely", "scores", "top"]

NUCLEUS_CANDIDATES = 1024
"""A nucleus nearly always lies within so many tokens; sorting them costs a tenth of sorting a vocabulary of 128 000."""
BLOCK = 512
"""Tokens whose weights are summed before the block that holds a draw is looked into: so most of a vocabulary is summed, and only
one block of it accumulated."""


def scores(logits: torch.Tensor, policy: Policy, histories: Sequence[Sequence[int]] | None = None) -> torch.Tensor:
    """Apply a policy's rules to logits, in the order of transformers' processors.

    That is: repetition penalty, repeated n-grams, temperature, top-k, top-p, min-p. Of equally likely tokens at the edge of a
    set, those with the lower ids are kept.

    Args:
        logits: Tensor of shape [rows, vocabulary], any float type.
        policy: The rules of sampling.
        histories: For each row the token ids before it, the prompt's first, where the policy looks at them.

    Returns:
        float32 tensor of shape [rows, vocabulary] (float64 stays): unnormalised log-probabilities, -inf for tokens that the
        policy forbids. Rows with NaN, +inf or nothing but -inf hold no distribution.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if policy.has_history:
        assert histories is not None
        logits = _without_repetition(logits, policy, histories)
    if policy.temperature != 1.0:
        logits = logits / policy.temperature
    if policy.top_k is not None and policy.top_k < logits.shape[-1]:
        edge = logits.topk(policy.top_k, dim=-1).values[:, -1:]
        logits = _keep(logits, edge, torch.full_like(edge, policy.top_k, dtype=torch.long))
    if policy.top_p is not None and policy.top_p < 1.0:
        logits = _keep(logits, *_nucleus(logits, policy.top_p))
    if policy.min_p is not None:
        logits = logits.masked_fill(logits < logits.max(dim=-1, keepdim=True).values + math.log(policy.min_p), -torch.inf)
    return logits


def log_probabilities(logits: torch.Tensor, policy: Policy, histories: Sequence[Sequence[int]] | None = None) -> torch.Tensor:
    """Return log p of every token under a policy. The arguments are those of `scores`.

    Returns:
        float64 tensor of shape [rows, vocabulary], nats; -inf for tokens that the policy forbids, NaN in rows that hold no
        distribution.
    """
    return torch.log_softmax(scores(logits, policy, histories).double(), dim=-1)


def draw(scores: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token for each row by inverse CDF.

    Args:
        scores: Tensor of shape [rows, vocabulary], log-probabilities up to a constant for each row.
        numbers: float64 tensor of shape [rows], in [0, 1).

    Returns:
        Token ids [rows], and their log-probabilities, float64 [rows], NaN where the row holds no distribution. No token of
        probability 0 is ever drawn.
    """
    largest, weights, cumulative = _weights(scores)
    total = cumulative[:, -1:].contiguous()
    target = numbers[:, None] * total
    # A number just below 1 can round up to the total: then the token is the last one that added to it.
    blocks = torch.minimum(torch.searchsorted(cumulative, target, right=True), torch.searchsorted(cumulative, total))
    blocks = blocks.clamp_(max=cumulative.shape[1] - 1)
    places = torch.arange(len(scores), device=scores.device)
    block = blocks[:, 0]
    before = torch.where(block > 0, cumulative[places, block - 1], 0.0)[:, None]
    inside = weights[places, block].double().cumsum(dim=-1) + before
    tokens = torch.minimum(
        torch.searchsorted(inside, target, right=True), torch.searchsorted(inside, inside[:, -1:].contiguous())
    ).clamp_(max=BLOCK - 1)
    tokens = (tokens + BLOCK * blocks).clamp_(max=scores.shape[-1] - 1)
    chosen = _log_probability(scores, tokens, largest, total)
    tokens = tokens.squeeze(1)
    # A parallel prefix sum, as on a GPU, can rise by rounding where a probability is 0. In sequence it cannot.
    for row in torch.nonzero(chosen.isneginf()).flatten().tolist():
        probabilities = weights[row].flatten().double().cpu().numpy()
        tokens[row] = _inverse_cdf(np.cumsum(probabilities), float(numbers[row]))
        chosen[row] = _log_probability(scores[row : row + 1], tokens[row].view(1, 1), largest[row], total[row])
    return tokens, chosen


def top(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the most likely token of each row and its log-probability, as `draw` does."""
    largest, _, cumulative = _weights(scores)
    tokens = scores.argmax(dim=-1, keepdim=True)
    return tokens.squeeze(1), _log_probability(scores, tokens, largest, cumulative[:, -1:])


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


def _weights(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weigh the tokens of each row.

    Returns:
        The largest scores [rows, 1]; exp(score - largest) in blocks, [rows, blocks, BLOCK]; and the blocks' cumulative sums,
        float64 [rows, blocks].
    """
    num_rows, size = scores.shape
    largest = scores.max(dim=-1, keepdim=True).values
    weights = scores.new_zeros((num_rows, -(-size // BLOCK) * BLOCK))
    torch.exp(scores - largest, out=weights[:, :size])
    weights = weights.view(num_rows, -1, BLOCK)
    return largest, weights, weights.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)


def _log_probability(scores: torch.Tensor, tokens: torch.Tensor, largest: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of tokens [rows, 1]: float64 [rows], NaN where the total is not finite."""
    chosen = scores.gather(1, tokens).double() - largest.double() - total.log()
    return torch.where(total.isfinite(), chosen, torch.nan).squeeze(1)


def _keep(logits: torch.Tensor, edge: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Forbid all but the `size` [rows, 1] most likely tokens of each row, the last of which has the logit `edge` [rows, 1]."""
    above = logits > edge
    ties = logits == edge
    num_ties = size - above.sum(dim=-1, keepdim=True)
    kept = above | (ties & (ties.cumsum(dim=-1) <= num_ties))
    return logits.masked_fill(~kept & ~logits.isnan(), -torch.inf)


def _nucleus(logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the fewest most likely tokens that reach mass `top_p`: their smallest logit and number, [rows, 1] each."""
    size = min(NUCLEUS_CANDIDATES, logits.shape[-1])
    largest, _, cumulative = _weights(logits)
    normalizer = largest.double() + cumulative[:, -1:].log()
    ranked = logits.topk(size, dim=-1).values
    mass = (ranked.double() - normalizer).exp()
    if size < logits.shape[-1] and bool((mass.sum(dim=-1) < top_p).any()):
        ranked = logits.sort(dim=-1, descending=True).values
        mass = (ranked.double() - normalizer).exp()
    before = mass.cumsum(dim=-1) - mass
    number = ((before < top_p) & (ranked > -torch.inf)).sum(dim=-1, keepdim=True).clamp_(min=1)
    return ranked.gather(1, number - 1), number


def _without_repetition(logits: torch.Tensor, policy: Policy, histories: Sequence[Sequence[int]]) -> torch.Tensor:
    """Apply a policy's rules about what came before: Keskar et al. 2019 (arXiv 1909.05858, section 4.1), and no n-gram twice."""
    logits = logits.clone()
    for row, history in enumerate(histories):
        if policy.repetition_penalty != 1.0 and len(history):
            seen = torch.tensor(sorted(set(history)), device=logits.device)
            own = logits[row, seen]
            logits[row, seen] = torch.where(own < 0, own * policy.repetition_penalty, own / policy.repetition_penalty)
        for token in _repeating(history, policy.no_repeat_ngram_size):
            logits[row, token] = -torch.inf
    return logits


def _repeating(history: Sequence[int], size: int) -> set[int]:
    """Tokens that would complete an n-gram of this size that a history already holds; none for size 0."""
    if size < 1 or len(history) < size:
        return set()
    history = list(history)
    last = history[len(history) - size + 1 :]
    return {history[end] for end in range(size - 1, len(history)) if history[end - size + 1 : end] == last}
