"""What searches ask of the Hugging Face engine beyond whole rollouts: pieces, cut reasons, and drawn next tokens."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from maxent_ts.engines.base import NextTokensJob, RolloutJob, ScoreJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy, Rollout, Tokens
from tests.conftest import TokenReward
from tests.unit.hf_helpers import (
    EOS,
    VOCABULARY,
    answers,
    largest_difference,
    plain_logprobs,
    plain_rows,
    tiny_model,
    tiny_tokenizer,
)

POLICY = Policy(max_new_tokens=12)
PROMPTS = ([5], [7, 8, 9, 10, 11], [3, 4] * 10)


def stream(number: int, example: int = 0) -> tuple[int, ...]:
    return (1, example, number)


def in_pieces(engine: HFEngine, context, stream: tuple[int, ...], num_tokens: int) -> tuple[Rollout, list[Rollout], int]:
    """One rollout asked for in pieces of `num_tokens`: put together, the pieces, and the positions forwarded."""
    pieces: list[Rollout] = []
    prefix: Tokens = ()
    forwarded = 0
    while not pieces or pieces[-1].finish_reason == "unfinished":
        (done,) = answers(engine, [RolloutJob(context, prefix, (stream,), num_tokens=num_tokens)])
        (piece,) = done.answer.rollouts
        pieces.append(piece)
        prefix += piece.tokens
        forwarded += done.forwarded_tokens
    logprobs = tuple(logprob for piece in pieces for logprob in piece.logprobs)
    return Rollout(prefix, logprobs, pieces[-1].finish_reason), pieces, forwarded


@pytest.mark.parametrize("num_tokens", [1, 3, 5])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_rollout_in_pieces_is_the_rollout_in_one(kind, num_tokens):
    """Catches positions, random numbers or a length limit counted from the piece's own beginning."""
    model = tiny_model(kind)
    pieced, whole = HFEngine(model, max_batch_size=4), HFEngine(model, max_batch_size=4)
    lengths = set()
    for example, prompt in enumerate(PROMPTS[1:]):
        context, other = pieced.open(prompt, POLICY), whole.open(prompt, POLICY)
        for number in range(4):
            found, pieces, _ = in_pieces(pieced, context, stream(number, example), num_tokens)
            (expected,) = answers(whole, [RolloutJob(other, (), (stream(number, example),))])[0].answer.rollouts
            assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
            assert largest_difference(model, context.inputs, (), found, POLICY) < 1e-5
            assert all(len(piece.tokens) == num_tokens for piece in pieces[:-1])
            lengths.add(len(found.tokens))
    assert len(lengths) > 2


def test_pieces_forward_no_position_twice():
    """Catches a prefix that is computed again with every piece: the cost would grow with the square of the length."""
    engine, whole = (HFEngine(tiny_model(eos_token_id=None), max_batch_size=4) for _ in range(2))
    (expected,) = answers(whole, [RolloutJob(whole.open([5, 6, 7], POLICY), (), (stream(0),))])
    for num_tokens in (1, 4, 5):
        context = engine.open([5, 6, 7], POLICY)
        before = engine.stats
        found, pieces, forwarded = in_pieces(engine, context, stream(0), num_tokens)
        assert found.tokens == expected.answer.rollouts[0].tokens
        assert len(pieces) == math.ceil(12 / num_tokens)
        assert forwarded == expected.forwarded_tokens == 3 + 11
        assert engine.stats.decode_tokens - before.decode_tokens == 11
        engine.close(context)


def test_many_pieces_side_by_side_go_on_as_alone():
    """Catches pieces of one context that continue each other's keys and values, as particles side by side would show."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=5)
    context = engine.open(PROMPTS[1], POLICY)
    prefixes: list[Tokens] = [()] * 8
    logprobs: list[tuple[float, ...]] = [()] * 8
    for _ in range(4):
        jobs = [RolloutJob(context, prefix, (stream(i),), num_tokens=3) for i, prefix in enumerate(prefixes)]
        for i, done in enumerate(answers(engine, jobs)):
            (piece,) = done.answer.rollouts
            prefixes[i] += piece.tokens
            logprobs[i] += piece.logprobs
    assert len(set(prefixes)) == 8
    for tokens, logprob in zip(prefixes, logprobs, strict=True):
        assert largest_difference(model, context.inputs, (), Rollout(tokens, logprob, "length"), POLICY) < 1e-5


def test_a_cut_rollout_is_unfinished_only_if_it_could_go_on():
    """Catches an end at the cut that is called unfinished, and a limit reached that is."""
    engine = HFEngine(tiny_model(), tiny_tokenizer(), max_batch_size=8)
    context = engine.open("ab", POLICY)
    whole = answers(engine, [RolloutJob(context, (), tuple(stream(i) for i in range(40)))])[0].answer.rollouts
    assert {rollout.finish_reason for rollout in whole} == {"eos", "length"}
    for num_tokens in (1, 4, 12, 99):
        cut = answers(engine, [RolloutJob(context, (), tuple(stream(i) for i in range(40)), num_tokens=num_tokens)])[0].answer
        for rollout, full in zip(cut.rollouts, whole, strict=True):
            assert rollout.tokens == full.tokens[:num_tokens]
            ends_here = len(full.tokens) <= num_tokens
            assert rollout.finish_reason == (full.finish_reason if ends_here else "unfinished")
    (last,) = answers(engine, [RolloutJob(context, (6,) * 11, (stream(3),), num_tokens=1)])[0].answer.rollouts
    assert last.finish_reason == ("eos" if last.tokens == (EOS,) else "length")


def test_a_stop_string_at_the_cut_ends_the_rollout():
    """Catches the cut being looked at before the text is, and a string across the seam of two pieces that goes unseen."""
    engine = HFEngine(tiny_model(eos_token_id=None), tiny_tokenizer(), max_batch_size=4)
    (free,) = answers(engine, [RolloutJob(engine.open("ab", POLICY), (), (stream(0),))])[0].answer.rollouts
    stop = engine.decode(free.tokens)[3:5]
    length = next(n for n in range(12) if stop in engine.decode(free.tokens[:n]))
    context = engine.open("ab", Policy(max_new_tokens=12, stop_strings=(stop,)))
    for num_tokens in (1, length - 1, length, length + 1):
        found, _, _ = in_pieces(engine, context, stream(0), num_tokens)
        assert (found.tokens, found.finish_reason) == (free.tokens[:length], "stop")


def test_drawn_next_tokens_follow_the_model_without_replacement():
    """χ² of the ordered pairs over 800 streams, under top-k 4: catches draws with replacement and an order by probability."""
    model = tiny_model()
    engine = HFEngine(model, max_batch_size=8)
    context = engine.open([5, 6], Policy(max_new_tokens=3, top_k=4))
    row = plain_logprobs(model, context.inputs, [8], POLICY)
    kept = np.argsort(-row)[:4]
    p = np.exp(row[kept]) / np.exp(row[kept]).sum()
    done = answers(engine, [NextTokensJob(context, (8,), 2, stream(i)) for i in range(800)])
    counts = Counter(one.answer.tokens for one in done)
    law = {(int(kept[i]), int(kept[j])): p[i] * p[j] / (1 - p[i]) for i, j in permutations(range(4), 2)}
    assert counts.keys() <= law.keys()
    assert chisquare([counts[pair] for pair in law], [800 * one for one in law.values()]).pvalue > 1e-5
    expected = dict(zip(kept.tolist(), np.log(p), strict=True))
    for one in done[:50]:
        assert one.answer.logprobs == pytest.approx([expected[token] for token in one.answer.tokens], abs=1e-5)


def test_drawn_next_tokens_depend_on_their_stream_alone():
    """Catches draws that depend on what shares the batch, and every stream giving the same order."""
    model = tiny_model()
    alone, busy = HFEngine(model, max_batch_size=4), HFEngine(model, max_batch_size=4)
    context, other = alone.open([5, 6], POLICY), busy.open([5, 6], POLICY)
    noise = [RolloutJob(other, (7,) * i, (stream(50 + i),)) for i in range(6)]
    orders = set()
    for prefix in ((), (8, 9)):
        for number in range(5):
            job = NextTokensJob(context, prefix, 40, stream(number))
            (found,) = answers(alone, [job])
            again = answers(busy, [*noise, NextTokensJob(other, prefix, 40, stream(number))])[-1]
            assert found.answer == again.answer
            assert sorted(found.answer.tokens) == list(range(len(VOCABULARY)))
            row = plain_logprobs(model, context.inputs, prefix, POLICY)
            np.testing.assert_allclose(found.answer.logprobs, row[list(found.answer.tokens)], atol=1e-5)
            assert [token for token, end in zip(found.answer.tokens, found.answer.is_end, strict=True) if end] == [EOS]
            orders.add(found.answer.tokens)
    assert len(orders) == 10


@pytest.mark.parametrize("name", ["beam", "diverse_beam", "stochastic_beam", "metropolis", "best_of_n_unique"])
def test_completions_of_searches_by_pieces_have_the_models_log_probability(name):
    """Catches a beam or a chain that adds up log-probabilities of another prefix: against teacher forcing without a cache."""
    model = tiny_model()
    engine = HFEngine(model, tiny_tokenizer(), max_batch_size=8)
    budget = Budget(generated_tokens=12 * 10)
    method = load(METHODS, name, "method")
    jobs = [SearchJob(str(i), prompt, POLICY, method, 1.0, budget, (3, i)) for i, prompt in enumerate(PROMPTS)]
    inputs = [engine.open(prompt, POLICY).inputs for prompt in PROMPTS]
    for result in run_searches(jobs, engine, TokenReward(lambda tokens: float(tokens.count(9)))):
        assert result.error is None
        assert result.usage.generated_tokens <= 120
        assert len(result.outcome.completions) > 3
        for one in result.outcome.completions:
            rows = plain_rows(model, inputs[int(result.job.id)], one.tokens, POLICY)[:-1]
            expected = sum(float(row[token]) for row, token in zip(rows, one.tokens, strict=True))
            assert one.logprob == pytest.approx(expected, abs=1e-4)
            assert one.finish_reason == ("eos" if one.tokens[-1] == EOS else "length")


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_given_tokens_are_scored_as_by_teacher_forcing(kind):
    """Catches a token scored at the wrong position, and one that ends its row because a draw would have: an end, a stop string."""
    model = tiny_model(kind)
    engine = HFEngine(model, tiny_tokenizer(), max_batch_size=4)
    policy = Policy(max_new_tokens=12, temperature=0.7, stop_strings=("ab",))
    rng = np.random.default_rng(0)
    jobs, expected = [], []
    for prompt in PROMPTS:
        context = engine.open(prompt, policy)
        for length in (1, 2, 7, 12):
            tokens = tuple(int(token) for token in rng.integers(len(VOCABULARY), size=length))
            tokens = (2, 3, EOS, *tokens)[:length] if length == 7 else tokens
            jobs.append(ScoreJob(context, tokens))
            rows = plain_rows(model, context.inputs, tokens, policy)
            expected.append([row[token] for row, token in zip(rows, tokens, strict=False)])
        jobs.append(RolloutJob(context, (), (stream(0),)))
        expected.append(None)
    for done, logprobs in zip(answers(engine, jobs), expected, strict=True):
        if logprobs is None:
            assert done.answer.rollouts
        else:
            np.testing.assert_allclose(done.answer, logprobs, atol=1e-5)


def test_scores_do_not_change_what_is_drawn_beside_them():
    """Catches forced tokens that reach another row, and random numbers spent on them."""
    alone, mixed = (HFEngine(tiny_model(), max_batch_size=4) for _ in range(2))
    streams = tuple(stream(number) for number in range(6))
    (expected,) = answers(alone, [RolloutJob(alone.open(PROMPTS[1], POLICY), (), streams)])
    context, other = mixed.open(PROMPTS[1], POLICY), mixed.open(PROMPTS[0], POLICY)
    jobs = [ScoreJob(other, (4, 5, 6, 7)), RolloutJob(context, (), streams), ScoreJob(context, (8,) * 12)]
    assert answers(mixed, jobs)[1].answer == expected.answer


@pytest.mark.parametrize("tokens", [(), (2,) * 13, (999,)])
def test_tokens_that_cannot_be_scored_fail_their_job(tokens):
    engine = HFEngine(tiny_model(), max_batch_size=4)
    (done,) = answers(engine, [ScoreJob(engine.open(PROMPTS[0], POLICY), tokens)])
    assert "Tokens to score" in str(done.answer)


def test_scores_survive_a_batch_that_is_halved(monkeypatch):
    """Catches a row that goes back to the queue and forgets what it was to score, or scores it twice."""
    model = tiny_model()
    engine = HFEngine(model, max_batch_size=4)
    context = engine.open(PROMPTS[1], POLICY)
    tokens = (4, 5, 6, 7, 8, 9, 10, 11)
    steps = iter(range(100))
    advance = engine._jobs._batch.step

    def step():
        if next(steps) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return advance()

    monkeypatch.setattr(engine._jobs._batch, "step", step)
    done = answers(engine, [ScoreJob(context, tokens), ScoreJob(context, tokens[::-1])])
    for one, some in zip(done, (tokens, tokens[::-1]), strict=True):
        rows = plain_rows(model, context.inputs, some, POLICY)
        np.testing.assert_allclose(one.answer, [row[token] for row, token in zip(rows, some, strict=False)], atol=1e-5)
