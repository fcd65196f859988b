"""The table engine's answers: pieces of rollouts, their reasons, and next tokens drawn without replacement."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from maxent_ts.engines.base import Finished, Job, NextTokensJob, RolloutJob
from maxent_ts.engines.table import TableEngine
from maxent_ts.types import Policy, Rollout, Tokens

EOS = 3
POLICY = Policy(max_new_tokens=6)


def answers(engine: TableEngine, jobs: list[Job]) -> list[Finished]:
    tickets = [engine.submit(job) for job in jobs]
    finished = {one.ticket: one for one in engine.step()}
    return [finished[ticket] for ticket in tickets]


def test_a_rollout_in_pieces_is_the_rollout_in_one():
    """Catches random numbers or a length limit counted from the piece's own beginning, and a piece that runs too far."""
    engine = TableEngine.random(num_tokens=4, seed=1)
    context = engine.open((0, 2), POLICY)
    reasons = set()
    for number in range(40):
        (whole,) = answers(engine, [RolloutJob(context, (), ((number,),))])[0].answer.rollouts
        for num_tokens in (1, 2, 4, 6, 9):
            prefix: Tokens = ()
            pieces: list[Rollout] = []
            while not pieces or pieces[-1].finish_reason == "unfinished":
                (piece,) = answers(engine, [RolloutJob(context, prefix, ((number,),), num_tokens=num_tokens)])[0].answer.rollouts
                pieces.append(piece)
                prefix += piece.tokens
            assert prefix == whole.tokens
            assert tuple(logprob for piece in pieces for logprob in piece.logprobs) == whole.logprobs
            assert pieces[-1].finish_reason == whole.finish_reason
            assert all(len(piece.tokens) == num_tokens for piece in pieces[:-1])
        reasons.add(whole.finish_reason)
    assert reasons == {"eos", "length"}


@pytest.mark.parametrize(("prefix", "num_tokens", "expected"), [((), 2, "unfinished"), ((0,) * 5, 1, "length"), ((), 6, "length")])
def test_a_cut_rollout_is_unfinished_only_if_it_could_go_on(prefix, num_tokens, expected):
    """Catches a limit reached that is called unfinished: no search would take it for a leaf."""
    engine = TableEngine(lambda tokens: np.array([0.5, 0.5, 0.0, 0.0]), "abcd", eos_token_id=EOS)
    context = engine.open((0,), POLICY)
    (rollout,) = answers(engine, [RolloutJob(context, prefix, ((1,),), num_tokens=num_tokens)])[0].answer.rollouts
    assert (len(rollout.tokens), rollout.finish_reason) == (num_tokens, expected)
    ending = TableEngine(lambda tokens: np.array([0.0, 0.0, 0.0, 1.0]), "abcd", eos_token_id=EOS)
    (rollout,) = answers(ending, [RolloutJob(ending.open((0,), POLICY), (), ((1,),), num_tokens=1)])[0].answer.rollouts
    assert (rollout.tokens, rollout.finish_reason) == ((EOS,), "eos")


def test_drawn_next_tokens_follow_the_row_without_replacement():
    """χ² of the ordered triples over 4000 streams: catches draws with replacement and an order by probability."""
    p = [0.5, 0.25, 0.05, 0.2]
    engine = TableEngine(lambda tokens: np.array(p), "abcd", eos_token_id=EOS)
    context = engine.open((0,), POLICY)
    done = answers(engine, [NextTokensJob(context, (1,), 3, (7, i)) for i in range(4000)])
    counts = Counter(one.answer.tokens for one in done)
    law = {(i, j, k): p[i] * p[j] / (1 - p[i]) * p[k] / (1 - p[i] - p[j]) for i, j, k in permutations(range(4), 3)}
    assert chisquare([counts[triple] for triple in law], [4000 * one for one in law.values()]).pvalue > 1e-5
    for one in done[:20]:
        assert one.answer.logprobs == pytest.approx(np.log([p[token] for token in one.answer.tokens]))
        assert one.answer.is_end == tuple(token == EOS for token in one.answer.tokens)
    assert done[0].answer == answers(engine, [NextTokensJob(context, (1,), 3, (7, 0))])[0].answer


def test_next_tokens_never_have_probability_zero():
    """Catches a list filled up with impossible tokens where more are asked for than there are."""
    engine = TableEngine(lambda tokens: np.array([0.3, 0.0, 0.7, 0.0]), "abcd", eos_token_id=EOS)
    context = engine.open((0,), POLICY)
    top, drawn = (one.answer for one in answers(engine, [NextTokensJob(context, (), 9), NextTokensJob(context, (), 9, (1,))]))
    assert top.tokens == (2, 0)
    assert sorted(drawn.tokens) == [0, 2]
