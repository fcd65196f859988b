"""Beam search and diverse beam search against the same algorithms written without requests, on whole rows of the table."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.beam import beam
from maxent_ts.search.diverse_beam import diverse_beam
from maxent_ts.search.stochastic_beam import stochastic_beam
from maxent_ts.types import Budget, Policy, Tokens
from tests.conftest import additive_reward, run_one
from tests.exact.laws import enumerate_all

EOS = 3


def slow_diverse_beam(engine, length: int, sizes: list[int], diversity_penalty: float, length_penalty: float) -> list[Tokens]:
    """Section 3 of arXiv 1610.02424 with every token of every row; completions best first."""
    context = engine.open((0,), Policy(length))
    groups = [[((), 0.0, 0.0)] for _ in sizes]
    for position in range(length):
        taken: list[int] = []
        for index, size in enumerate(sizes):
            candidates = []
            for tokens, logprob, penalty in groups[index]:
                if tokens and tokens[-1] == EOS:
                    candidates.append((tokens, logprob, penalty))
                    continue
                for token, p in enumerate(engine._row(context, tokens)):
                    overlap = diversity_penalty * taken.count(token)
                    candidates.append(((*tokens, token), logprob + np.log(p), penalty + overlap))
            candidates.sort(key=lambda one: (one[1] - one[2]) / len(one[0]) ** length_penalty, reverse=True)
            groups[index] = candidates[:size]
            taken += [tokens[-1] for tokens, _, _ in groups[index] if len(tokens) == position + 1]
    found = {tokens: logprob / len(tokens) ** length_penalty for group in groups for tokens, logprob, _ in group}
    return sorted(found, key=lambda tokens: found[tokens], reverse=True)


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(1, 5),
    num_beams=st.integers(1, 7),
    num_groups=st.integers(1, 4),
    diversity_penalty=st.floats(0, 3),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0]),
)
def test_diverse_beams_are_the_papers(seed, length, num_beams, num_groups, diversity_penalty, length_penalty):
    """Too few next tokens for a penalised group, a penalty not summed, or one on ended beams changes some completion."""
    engine = TableEngine.random(num_tokens=4, seed=seed)
    num_groups = min(num_groups, num_beams)
    sizes = [num_beams // num_groups + (group < num_beams % num_groups) for group in range(num_groups)]
    method = partial(
        diverse_beam,
        num_beams=num_beams,
        num_beam_groups=num_groups,
        diversity_penalty=diversity_penalty,
        length_penalty=length_penalty,
    )
    result = run_one(engine, additive_reward(4, length, 0), method, max_new_tokens=length, budget=Budget())
    expected = slow_diverse_beam(engine, length, sizes, diversity_penalty, length_penalty)
    assert [one.tokens for one in result.outcome.completions] == expected
    assert result.outcome.best.tokens == expected[0]
    assert result.usage.generated_tokens <= 1 + (length - 1) * num_beams


@given(seed=st.integers(0, 10**6), length=st.integers(1, 5), num_beams=st.integers(1, 7))
def test_beam_is_diverse_beam_with_one_group(seed, length, num_beams):
    """So it is the plain algorithm above as well."""
    engine, reward = TableEngine.random(num_tokens=4, seed=seed), additive_reward(4, length, 0)
    plain = run_one(engine, reward, partial(beam, num_beams=num_beams), max_new_tokens=length, budget=Budget())
    single = run_one(
        engine, reward, partial(diverse_beam, num_beams=num_beams, num_beam_groups=1), max_new_tokens=length, budget=Budget()
    )
    assert plain.outcome == single.outcome
    assert [one.tokens for one in plain.outcome.completions] == slow_diverse_beam(engine, length, [num_beams], 0.0, 1.0)


def test_a_beam_of_every_prefix_finds_the_mode():
    """Finished hypotheses that are dropped, or a length that is rewarded at length_penalty 0, miss it on some model."""
    for seed in range(20):
        engine, reward = TableEngine.random(num_tokens=3, seed=seed), additive_reward(3, 4, 0)
        truth = enumerate_all(engine, reward, tilt=0.0, max_new_tokens=4)
        outcome = run_one(engine, reward, partial(beam, num_beams=81, length_penalty=0.0), budget=Budget()).outcome
        assert outcome.best.logprob == pytest.approx(max(one.logprob for one in truth.completions), abs=1e-12)
        assert {one.tokens for one in outcome.completions} == {one.tokens for one in truth.completions}


def test_a_penalty_makes_the_groups_start_differently():
    """Four groups of one beam: without a penalty all are the greedy completion, with a large one all first tokens differ."""
    engine = TableEngine.random(num_tokens=6, eos=False, seed=4)
    run = partial(run_one, engine, additive_reward(6, 4, 0), budget=Budget())
    same = run(method=partial(diverse_beam, num_beams=4, num_beam_groups=4, diversity_penalty=0.0)).outcome
    apart = run(method=partial(diverse_beam, num_beams=4, num_beam_groups=4, diversity_penalty=100.0)).outcome
    assert len(same.completions) == 1
    for position in range(4):
        assert len({one.tokens[position] for one in apart.completions}) == 4


@pytest.mark.parametrize("method", [beam, diverse_beam, stochastic_beam])
@given(seed=st.integers(0, 10**6), length=st.integers(1, 5), num_beams=st.integers(1, 9), budget=st.integers(5, 60))
def test_every_hypothesis_is_finished_whatever_the_budget(method, seed, length, num_beams, budget):
    """A beam that the budget cuts off would return prefixes as if they were completions."""
    engine = TableEngine.random(num_tokens=4, seed=seed)
    result = run_one(
        engine,
        additive_reward(4, length, 0),
        partial(method, num_beams=num_beams),
        max_new_tokens=length,
        budget=Budget(generated_tokens=budget),
    )
    assert result.usage.generated_tokens <= budget
    for one in result.outcome.completions:
        assert one.finish_reason == ("eos" if one.tokens[-1] == EOS else "length")
        assert one.finish_reason == "eos" or len(one.tokens) == length
    if budget >= num_beams * length and method is not diverse_beam:
        assert len(result.outcome.completions) == min(num_beams, num_leaves(length))


def num_leaves(length: int) -> int:
    """Completions of four tokens of which one ends."""
    return 4 if length == 1 else 1 + 3 * num_leaves(length - 1)
