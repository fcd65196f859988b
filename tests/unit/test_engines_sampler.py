"""From logits to tokens: the law of the draws, and the edges of the inverse CDF."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from maxent_ts.engines.sampler import BLOCK, draw, draw_first, log_probabilities, most_likely, scores, top
from maxent_ts.types import Policy

RNG = np.random.default_rng(7)
LOGITS = torch.from_numpy(RNG.normal(size=(3, 40)) * 2).float()


def slow_distribution(logits: np.ndarray, policy: Policy) -> np.ndarray:
    """The policy's p for one row: sort, cut, normalise."""
    scaled = (logits / np.float32(policy.temperature)).astype(np.float64)
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda token: (-p[token], token))
    if policy.top_k is not None:
        for token in order[policy.top_k :]:
            p[token] = 0
        p /= p.sum()
    if policy.top_p is not None:
        mass = 0.0
        for token in order:
            mass, p[token] = (mass + p[token], p[token]) if mass < policy.top_p else (mass, 0.0)
        p /= p.sum()
    if policy.min_p is not None:
        p[p < policy.min_p * p.max()] = 0
        p /= p.sum()
    return p


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(temperature=0.5),
        Policy(top_k=5),
        Policy(top_k=1),
        Policy(top_k=1000),
        Policy(top_p=0.6),
        Policy(top_p=1.0),
        Policy(temperature=2.0, top_k=17, top_p=0.8),
        Policy(min_p=0.1),
        Policy(temperature=0.7, top_k=20, top_p=0.95, min_p=0.3),
    ],
)
def test_the_distribution_is_that_of_sorting_and_cutting(policy):
    """Catches a temperature applied after top-p, sets off by one, and a distribution that is not normalised again."""
    ours = log_probabilities(LOGITS, policy).exp().numpy()
    for row, logits in zip(ours, LOGITS.numpy(), strict=True):
        np.testing.assert_allclose(row, slow_distribution(logits, policy), atol=1e-12)


def test_a_nucleus_wider_than_the_candidates_is_found_by_a_full_sort():
    """Catches a nucleus cut off at the number of candidates that are sorted first."""
    flat = torch.zeros(2, 5000)
    flat[1, 7] = 20.0
    kept = (log_probabilities(flat, Policy(top_p=0.9001)) > -math.inf).sum(-1)
    assert kept.tolist() == [4501, 1]


def test_of_equally_likely_tokens_the_lower_ids_are_kept():
    """Catches ties that are all kept, so that top-k keeps more than k, or kept in an order that differs between runs."""
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, -1.0]])
    for policy in (Policy(top_k=2), Policy(top_p=0.4)):
        assert torch.nonzero(log_probabilities(logits, policy)[0].isfinite()).flatten().tolist() == [1, 2]


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_are_not_finite_come_out_as_nan(bad):
    """Catches NaN logits that turn into a token as if nothing had happened."""
    distribution = log_probabilities(torch.tensor([bad, [0.0, 1.0]]), Policy())
    _, chosen = draw(distribution, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert math.isnan(chosen[0])
    assert math.isfinite(chosen[1])


def test_a_forbidden_token_may_have_minus_infinity():
    """Catches models with masked vocabulary entries being refused."""
    distribution = log_probabilities(torch.tensor([[-math.inf, 0.0, -math.inf]]), Policy())
    tokens, chosen = draw(distribution, torch.tensor([0.0], dtype=torch.float64))
    assert (tokens.item(), chosen.item()) == (1, 0.0)


@settings(max_examples=200, deadline=None)
@given(
    weights=arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 1e-300, 1e-17, 1e-9, 0.1, 1.0, 3.0])),
    number=st.sampled_from([0.0, 5e-324, 0.3, 0.5, 1 - 2**-52, 1 - 2**-53]),
)
def test_no_token_of_probability_zero_is_ever_drawn(weights, number):
    """Catches u = 0 falling on a leading zero, and u just below 1 running past the last positive token."""
    if weights.sum() == 0:
        weights[-1] = 1.0
    with np.errstate(divide="ignore"):
        logprobs = np.log(weights / weights.sum())
    tokens, chosen = draw(torch.from_numpy(logprobs)[None], torch.tensor([number], dtype=torch.float64))
    assert math.isfinite(chosen.item())
    assert weights[tokens.item()] > 0
    first = draw_first(logprobs, np.array([number]))
    assert weights[first.tokens[0]] > 0


def test_a_prefix_sum_that_rises_by_rounding_cannot_draw_a_zero(monkeypatch):
    """Catches GPUs: their parallel prefix sums may step up where a probability is 0."""
    logprobs = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64).log()

    def rising(weights: torch.Tensor, dim: int) -> torch.Tensor:
        total = torch.cumsum(weights, dim)
        if weights.shape[dim] == BLOCK:
            total[..., 1] += 0.2
        return total

    monkeypatch.setattr(torch.Tensor, "cumsum", rising)
    tokens, chosen = draw(logprobs, torch.tensor([0.55], dtype=torch.float64))
    assert tokens.item() == 2
    assert chosen.item() == pytest.approx(math.log(0.5))


@pytest.mark.parametrize("size", [511, 512, 513, 3000])
@pytest.mark.parametrize("policy", [Policy(), Policy(temperature=0.8, top_k=40, min_p=0.01), Policy(top_p=0.9)])
def test_draws_from_a_vocabulary_of_many_blocks_are_those_of_one_cumulative_sum(size, policy):
    """Catches blocks that are off by one, and log-probabilities that are not those of the distribution."""
    generator = torch.Generator().manual_seed(size)
    logits, numbers = torch.randn(64, size, generator=generator) * 3, torch.rand(64, generator=generator, dtype=torch.float64)
    logprobs = log_probabilities(logits, policy)
    tokens, chosen = draw(scores(logits, policy), numbers)
    cumulative = logprobs.exp().cumsum(dim=-1)
    assert tokens.tolist() == torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)[:, 0].tolist()
    torch.testing.assert_close(chosen, logprobs.gather(1, tokens[:, None])[:, 0], rtol=0, atol=2e-6)
    best, logprob = top(scores(logits, policy))
    assert best.tolist() == logits.argmax(dim=-1).tolist()
    torch.testing.assert_close(logprob, logprobs.max(dim=-1).values, rtol=0, atol=2e-6)


HISTORIES = ([3, 5, 3, 7, 3], [], [1, 2, 1, 2, 1])


@pytest.mark.parametrize("policy", [Policy(repetition_penalty=1.7), Policy(no_repeat_ngram_size=2), Policy(no_repeat_ngram_size=1)])
def test_repetition_rules_are_those_of_transformers(policy):
    """Catches a penalty that makes negative logits likelier, and n-grams that are matched at the wrong end."""
    ours = scores(LOGITS, policy, HISTORIES)
    for row, history in enumerate(HISTORIES):
        if not history:
            assert torch.equal(ours[row], LOGITS[row])
            continue
        ids = torch.tensor([history])
        theirs = RepetitionPenaltyLogitsProcessor(policy.repetition_penalty)(ids, LOGITS[row : row + 1].clone())
        if policy.no_repeat_ngram_size:
            theirs = NoRepeatNGramLogitsProcessor(policy.no_repeat_ngram_size)(ids, theirs)
        assert torch.equal(ours[row], theirs[0])


def test_the_number_decides_the_token_by_inverse_cdf():
    """Catches a draw that uses another rule, which would change every recorded run."""
    logprobs = torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64).log()
    tokens, chosen = draw(logprobs, torch.tensor([0.1, 0.3, 0.6, 0.99], dtype=torch.float64))
    assert tokens.tolist() == [0, 1, 2, 2]
    torch.testing.assert_close(chosen, torch.tensor([0.2, 0.3, 0.5, 0.5], dtype=torch.float64).log())


def test_a_row_draws_the_same_whatever_the_other_rows():
    """Catches draws that depend on the size or the contents of the batch."""
    logits, numbers = torch.randn(50, 300), torch.rand(50, dtype=torch.float64)
    tokens, chosen = draw(scores(logits, Policy(top_p=0.9)), numbers)
    for row in (0, 17, 49):
        alone = draw(scores(logits[row : row + 1], Policy(top_p=0.9)), numbers[row : row + 1])
        assert (alone[0].item(), alone[1].item()) == (tokens[row].item(), chosen[row].item())


def test_first_tokens_without_replacement_follow_the_sequential_law():
    """Catches a wrong renormalisation after a token has left: chi-squared over all ordered pairs."""
    p = np.array([0.4, 0.3, 0.2, 0.1])
    rng = np.random.default_rng(3)
    num = 20_000
    drawn = Counter(draw_first(np.log(p), rng.random(2), distinct=True).tokens for _ in range(num))
    pairs = list(permutations(range(4), 2))
    expected = [num * p[a] * p[b] / (1 - p[a]) for a, b in pairs]
    assert chisquare([drawn[pair] for pair in pairs], expected).pvalue > 1e-3


def test_first_tokens_with_exclusion_follow_what_is_left():
    """Catches excluded tokens that still shift the others, and repeats that are forbidden without `distinct`."""
    p = np.array([0.4, 0.3, 0.2, 0.1])
    rng = np.random.default_rng(4)
    num = 5_000
    drawn = Counter(token for _ in range(num) for token in draw_first(np.log(p), rng.random(3), exclude=(0,)).tokens)
    assert drawn[0] == 0
    assert chisquare([drawn[token] for token in (1, 2, 3)], 3 * num * p[1:] / p[1:].sum()).pvalue > 1e-3


def test_log_probabilities_of_first_tokens_are_not_renormalised():
    """Catches log p that is relative to what was left, which would break the sum over children of a tree."""
    p = np.array([0.4, 0.3, 0.2, 0.1])
    first = draw_first(np.log(p), np.array([0.9, 0.9, 0.9]), exclude=(0,), distinct=True)
    np.testing.assert_allclose(first.logprobs, np.log(p[list(first.tokens)]))
    assert first.tokens == (3, 2, 1)


def test_the_unseen_mass_is_summed_and_never_one_minus_the_rest():
    """Catches 1 - sum, which leaves rounding noise where nothing is left, and loses what is smaller than 1e-16."""
    p = np.array([0.1] * 10)
    assert draw_first(np.log(p), np.full(10, 0.5), distinct=True).log_unseen == -math.inf
    rare = np.log(np.array([1.0, 1e-30, 1e-40]))
    assert draw_first(rare, np.array([0.5])).log_unseen == pytest.approx(math.log(1e-30))
    assert draw_first(rare, np.array([]), exclude=(0, 1)).log_unseen == pytest.approx(math.log(1e-40))


def test_drawing_stops_when_no_mass_is_left():
    """Catches an endless draw, or a token of probability 0, where fewer tokens are left than are asked for."""
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.array([0.5, 0.0, 0.5]))
    first = draw_first(logprobs, np.full(5, 0.999), distinct=True)
    assert sorted(first.tokens) == [0, 2]
    assert draw_first(logprobs, np.array([0.5]), exclude=(0, 2)) == type(first)((), (), -math.inf)


def test_without_sampling_the_most_likely_token_that_is_left_is_taken():
    """Catches a greedy job that ignores exclusion."""
    logprobs = np.log(np.array([0.1, 0.5, 0.15, 0.25]))
    assert draw_first(logprobs, np.zeros(2), exclude=(1,), distinct=True, do_sample=False).tokens == (3, 2)


def test_the_most_likely_tokens_come_in_order_and_only_if_possible():
    """Catches an order by id, and tokens of probability 0 handed to a beam."""
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.array([0.0, 0.2, 0.5, 0.2, 0.1]))
    assert most_likely(logprobs, 2).tolist() == [2, 1]
    assert most_likely(logprobs, 99).tolist() == [2, 1, 3, 4]
