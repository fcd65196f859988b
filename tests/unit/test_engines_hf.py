"""The Hugging Face engine against the slow obvious way: full forwards, one at a time, without a cache."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from maxent_ts.engines.attention import ROW_MULTIPLE
from maxent_ts.engines.base import NextTokensJob, RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.replacements import Replacements
from maxent_ts.engines.selfcheck import is_row_independent
from maxent_ts.models.softprompt import EncoderConfig, SoftPromptModel
from maxent_ts.types import Branch, Embeddings, Policy, SeriesSegment, TimeSeriesPrompt, TopTokens
from tests.unit.hf_helpers import (
    EOS,
    VOCABULARY,
    answers,
    largest_difference,
    plain_logprobs,
    plain_rollout,
    streams,
    tiny_model,
    tiny_tokenizer,
)

POLICY = Policy(max_new_tokens=12)
PROMPTS = ([5], [7, 8, 9, 10, 11], list(range(2, 30)), [3, 4] * 10)


KINDS = ["llama", "llama-16", "qwen3", "gpt2", "gemma2", "gemma3", "mistral", "llama-eager", "gemma3-eager"]


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_prompts_side_by_side_equal_full_forwards_one_by_one(kind):
    """Catches masks that are ignored, positions that count padding (GPT-2's are learned), and rows that see each other.

    The windows of Gemma and Mistral are shorter than two of the prompts.
    """
    model = tiny_model(kind.removesuffix("-eager"))
    if kind.endswith("-eager"):  # then each slot holds its own copy of the prompt, as on a GPU
        model.set_attn_implementation("eager")
    engine = HFEngine(model, max_batch_size=6)
    contexts = [engine.open(prompt, POLICY) for prompt in PROMPTS]
    done = answers(engine, [RolloutJob(context, (), streams(4, example=i)) for i, context in enumerate(contexts)])
    for i, (context, finished) in enumerate(zip(contexts, done, strict=True)):
        assert isinstance(finished.answer, Branch)
        for stream, rollout in zip(streams(4, example=i), finished.answer.rollouts, strict=True):
            expected = plain_rollout(model, context.inputs, (), stream, POLICY)
            assert rollout.tokens == expected.tokens
            assert rollout.finish_reason == expected.finish_reason
            np.testing.assert_allclose(rollout.logprobs, expected.logprobs, atol=1e-5)


def test_embeddings_equal_the_token_ids_they_come_from():
    """Catches embeddings that pass through another path: positions, or keys mixed up between prompts."""
    model = tiny_model()
    engine = HFEngine(model, max_batch_size=5)
    lookup = model.get_input_embeddings()
    values = [lookup(torch.tensor(prompt)).detach() for prompt in PROMPTS]
    contexts = [engine.open(Embeddings(value), POLICY) for value in values]
    contexts.append(engine.open(Embeddings(values[2].numpy()), POLICY))
    assert [context.num_prompt_tokens for context in contexts] == [1, 5, 28, 20, 28]
    done = answers(engine, [RolloutJob(context, (), streams(3)) for context in contexts])
    ids = answers(engine, [RolloutJob(engine.open(prompt, POLICY), (), streams(3)) for prompt in PROMPTS])
    for context, finished, same in zip(contexts, done, [*ids, ids[2]], strict=True):
        assert [r.tokens for r in finished.answer.rollouts] == [r.tokens for r in same.answer.rollouts]
        for rollout in finished.answer.rollouts:
            assert largest_difference(model, context.inputs, (), rollout, POLICY) < 1e-5


def test_time_series_prompts_equal_full_forwards_from_the_embeddings(tmp_path):
    """Catches a soft-prompt directory loaded as a model of text, and series that are embedded but not attended to."""
    torch.manual_seed(0)
    sizes = EncoderConfig(hidden_size=32, embed_dim=16, num_layers=1, num_heads=2, feedforward_dim=16, max_patches=16)
    source = SoftPromptModel(tiny_model(), tiny_tokenizer(), sizes).eval()
    source.save(tmp_path)
    for engine in (HFEngine(source, max_batch_size=4), HFEngine(tmp_path, max_batch_size=4)):
        assert engine.capabilities.time_series
        rollouts = {}
        for values in ((0.5,) * 8, (3.0, -3.0) * 4):
            context = engine.open(TimeSeriesPrompt("ab", (SeriesSegment("cd", values),), "e"), POLICY)
            assert context.num_prompt_tokens == 3 + 3 + 2 + 2
            rollouts[values] = answers(engine, [RolloutJob(context, (), streams(4))])[0].answer.rollouts
            worst = max(largest_difference(source.language_model, context.inputs, (), one, POLICY) for one in rollouts[values])
            assert worst < 1e-5
        first, second = rollouts.values()
        assert first[0].logprobs[0] != second[0].logprobs[0]
    assert engine.open("ab", POLICY).num_prompt_tokens == 3


@pytest.mark.parametrize("kind", ["llama", "llama-16", "gpt2"])
def test_prompts_that_need_no_filling_up_equal_full_forwards(kind):
    """Catches keys in another layout where a prompt's length is already a good number."""
    model = tiny_model(kind, eos_token_id=None)
    engine = HFEngine(model, max_batch_size=4)
    for length in (31, 32, 33, 63, 64, 65, 96):
        context = engine.open([(7 * i) % 29 + 2 for i in range(length)], POLICY)
        done = answers(engine, [RolloutJob(context, (), streams(3))])[0]
        assert max(largest_difference(model, context.inputs, (), one, POLICY) for one in done.answer.rollouts) < 1e-5


@pytest.mark.parametrize(
    ("kind", "attention", "kv_cache_gib"),
    [("llama", "sdpa", 1.0), ("llama", "sdpa", 0.0), ("llama-16", "sdpa", 6e-5), ("llama", "eager", 1.0), ("llama", "eager", 6e-5)],
)
def test_branching_from_prefixes_equals_full_forwards_also_after_eviction(kind, attention, kv_cache_gib):
    """Catches segments stitched together wrongly, copies that share memory with a sibling, and evicted keys still in use."""
    model = tiny_model(kind, eos_token_id=None)
    model.set_attn_implementation(attention)
    policy = Policy(max_new_tokens=20)
    engine = HFEngine(model, max_batch_size=5, kv_cache_gib=kv_cache_gib)
    rng = np.random.default_rng(0)
    contexts = [engine.open(prompt, policy) for prompt in PROMPTS]
    known = [[()] for _ in contexts]
    worst = 0.0
    for round_ in range(4):
        jobs, prefixes = [], []
        for i, context in enumerate(contexts):
            parent = known[i][rng.integers(len(known[i]))]
            prefix = parent[: rng.integers(0, len(parent) + 1)][:-1]
            prefixes.append(prefix)
            jobs.append(RolloutJob(context, prefix, streams(3, start=3 * round_, example=i), distinct=True))
        for i, (prefix, finished) in enumerate(zip(prefixes, answers(engine, jobs), strict=True)):
            for rollout in finished.answer.rollouts:
                known[i].append(prefix + rollout.tokens)
                worst = max(worst, largest_difference(model, contexts[i].inputs, prefix, rollout, policy))
    assert worst < 1e-5
    assert engine.stats.held_bytes <= kv_cache_gib * 2**30
    assert (engine.stats.evicted_bytes > 0) == (kv_cache_gib < 1)


def test_a_known_prefix_costs_one_forwarded_token_and_an_unknown_one_all_of_them():
    """Catches prefixes that are computed again although their keys and values are kept."""
    engine = HFEngine(tiny_model(eos_token_id=None), max_batch_size=8)
    context = engine.open([5, 6, 7], POLICY)
    first = answers(engine, [RolloutJob(context, (), streams(1))])[0]
    assert first.forwarded_tokens == 3 + 11  # the prompt, and all tokens but the last
    tokens = first.answer.rollouts[0].tokens
    again = answers(engine, [RolloutJob(context, tokens[:6], streams(2, start=1))])[0]
    assert again.forwarded_tokens == 1 + 2 * 5
    before = engine.stats
    strange = (*tokens[:2], (tokens[2] + 1) % 20 + 2, 9, 9, 9)
    look = answers(engine, [NextTokensJob(context, strange, 3)])[0]
    assert look.forwarded_tokens == 4
    assert engine.stats.hit_tokens - before.hit_tokens == 2
    assert answers(engine, [NextTokensJob(context, (), 3)])[0].forwarded_tokens == 0


def test_a_prompt_is_put_through_the_model_once_and_charged_to_each_context():
    """Catches a prefill per rollout, and costs that depend on which search came first."""
    engine = HFEngine(tiny_model(eos_token_id=None), max_batch_size=8)
    contexts = [engine.open([5, 6, 7], POLICY), engine.open([5, 6, 7], Policy(max_new_tokens=12, temperature=0.5))]
    costs = [answers(engine, [RolloutJob(context, (), streams(6))])[0].forwarded_tokens for context in contexts]
    assert costs == [3 + 6 * 11] * 2
    assert (engine.stats.prefills, engine.stats.prefill_tokens) == (1, 3)


def test_a_finished_row_leaves_at_once_and_its_slot_is_filled_again():
    """Catches rows that wait for the longest of their batch: decoding calls then exceed what the lengths need."""
    model = tiny_model()
    engine = HFEngine(model, max_batch_size=4)
    context = engine.open([5, 6], Policy(max_new_tokens=40))
    done = answers(engine, [RolloutJob(context, (), streams(40))])[0]
    lengths = [len(rollout.tokens) for rollout in done.answer.rollouts]
    assert min(lengths) < 10 < max(lengths)
    forwards = sum(length - 1 for length in lengths)
    assert engine.stats.decode_tokens == forwards
    assert engine.stats.model_calls - engine.stats.prefills <= forwards / 4 + max(lengths)


def test_siblings_do_not_see_each_other():
    """Catches one cache object shared by siblings: the second would attend to the first's tokens."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=8)
    context = engine.open([5, 6, 7], POLICY)
    done = answers(engine, [RolloutJob(context, (9, 10), streams(8), distinct=True)])[0]
    assert len({rollout.tokens[0] for rollout in done.answer.rollouts}) == 8
    assert max(largest_difference(model, context.inputs, (9, 10), rollout, POLICY) for rollout in done.answer.rollouts) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "llama-16", "gpt2", "llama-eager"])
def test_a_stream_gives_the_same_bits_alone_and_among_forty_others(kind):
    """Catches a promise of determinism that the arithmetic does not keep, for any size of batch, padding and eviction."""
    model = tiny_model(kind.removesuffix("-eager"), num_positions=256)
    if kind.endswith("-eager"):
        model.set_attn_implementation("eager")
    policy = Policy(max_new_tokens=12)

    def run(max_batch_size: int, num_others: int, kv_cache_gib: float) -> list[Branch]:
        engine = HFEngine(model, max_batch_size=max_batch_size, kv_cache_gib=kv_cache_gib)
        assert engine.capabilities.deterministic
        others = [engine.open(list(range(2, 4 + i % 25)) * (1 + i % 5), policy) for i in range(num_others)]
        noise = [RolloutJob(context, (), streams(3, example=100 + i)) for i, context in enumerate(others)]
        context = engine.open(PROMPTS[1], policy)
        first = answers(engine, [*noise[:20], RolloutJob(context, (), streams(4)), *noise[20:]])[min(20, len(noise))].answer
        prefix = max((rollout.tokens for rollout in first.rollouts), key=len)[:5]
        return [first, answers(engine, [RolloutJob(context, prefix, streams(3, start=9)), *noise])[0].answer]

    alone = run(1, 0, 1.0)
    assert run(33, 40, 1.0) == alone
    assert run(6, 40, 1e-5) == alone


@pytest.mark.parametrize("shares_prompts", [True, False])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_rows_are_independent_to_the_bit_for_any_number_of_threads(num_threads, shares_prompts):
    """Catches torch's fused CPU kernel, by which a row's bits depend on the thread that it falls to."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        model = tiny_model(num_positions=512)
        assert is_row_independent(model, 48, ROW_MULTIPLE, shares_prompts=shares_prompts)
        replacements = Replacements(model)
        with replacements.applied():
            assert is_row_independent(model, 47, replacements.row_multiple, shares_prompts=shares_prompts)
    finally:
        torch.set_num_threads(before)


def test_a_job_is_answered_alike_whatever_the_order_of_jobs():
    """Catches draws that depend on slot order."""
    engine = HFEngine(tiny_model(), max_batch_size=3)
    context = engine.open(PROMPTS[2], POLICY)
    jobs = [RolloutJob(context, (4,) * i, streams(5, start=10 * i), exclude=(6, 7)) for i in range(4)]
    forth = [finished.answer for finished in answers(engine, jobs)]
    back = [finished.answer for finished in answers(engine, jobs[::-1])]
    assert forth == back[::-1]


def test_first_tokens_follow_the_model_without_excluded_and_drawn_tokens():
    """Catches a wrong law at the branch point, in the engine and not only in the sampler: chi-squared."""
    model = tiny_model()
    engine = HFEngine(model, max_batch_size=8)
    policy = Policy(max_new_tokens=3)
    context = engine.open([5, 6], policy)
    p = np.exp(plain_logprobs(model, context.inputs, [8], policy))
    exclude = tuple(np.argsort(-p)[:2].tolist())
    jobs = [RolloutJob(context, (8,), streams(2, start=2 * i), exclude=exclude, distinct=True) for i in range(600)]
    drawn = [tuple(rollout.tokens[0] for rollout in finished.answer.rollouts) for finished in answers(engine, jobs)]
    left = p.copy()
    left[list(exclude)] = 0
    firsts = Counter(pair[0] for pair in drawn)
    likely = np.flatnonzero(600 * left / left.sum() > 5)
    observed = [firsts[int(token)] for token in likely]
    expected = 600 * left[likely] / left.sum()
    observed.append(600 - sum(observed))
    assert chisquare(observed, [*expected, 600 - expected.sum()]).pvalue > 1e-3
    assert all(pair[0] != pair[1] for pair in drawn)
    assert not any(token in exclude for pair in drawn for token in pair)
    seen = drawn[0]
    unseen = p.copy()
    unseen[[*exclude, *seen]] = 0
    answer = answers(engine, [dataclasses.replace(jobs[0])])[0].answer
    assert answer.log_unseen == pytest.approx(math.log(unseen.sum()), abs=1e-5)
    assert answer.rollouts[0].logprobs[0] == pytest.approx(math.log(p[seen[0]]), abs=1e-5)


def test_excluding_everything_gives_no_rollouts_and_no_unseen_mass():
    """Catches a rollout of probability 0, and log_unseen left at rounding noise."""
    engine = HFEngine(tiny_model(), max_batch_size=4)
    context = engine.open([5], POLICY)
    everything = tuple(range(len(VOCABULARY)))
    done = answers(
        engine, [RolloutJob(context, (), streams(3), exclude=everything), RolloutJob(context, (4,), streams(3), exclude=everything)]
    )
    assert [finished.answer for finished in done] == [Branch((), -math.inf)] * 2
    distinct = answers(engine, [RolloutJob(context, (), streams(99), distinct=True)])[0].answer
    assert len(distinct.rollouts) == len(VOCABULARY)
    assert distinct.log_unseen == -math.inf


def test_greedy_rollouts_take_the_most_likely_token_at_every_step():
    """Catches do_sample=False that still draws, or that spoils the draws of the rows beside it."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=4)
    context = engine.open([5, 6], POLICY)
    greedy, sampled = answers(engine, [RolloutJob(context, (), streams(1), do_sample=False), RolloutJob(context, (), streams(2))])
    tokens: list[int] = []
    while len(tokens) < 12:
        tokens.append(int(plain_logprobs(model, context.inputs, tokens, POLICY).argmax()))
    assert greedy.answer.rollouts[0].tokens == tuple(tokens)
    for stream, rollout in zip(streams(2), sampled.answer.rollouts, strict=True):
        assert rollout.tokens == plain_rollout(model, context.inputs, (), stream, POLICY).tokens


def test_policies_side_by_side_keep_their_own_temperature_and_sets():
    """Catches one row's temperature or top-k applied to the whole batch."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=8)
    policies = [POLICY, Policy(max_new_tokens=12, temperature=0.3), Policy(max_new_tokens=9, top_k=1)]
    contexts = [engine.open([5, 6], policy) for policy in policies]
    plain, cold, single = (f.answer for f in answers(engine, [RolloutJob(context, (), streams(2)) for context in contexts]))
    for policy, answer in ((policies[0], plain), (policies[1], cold)):
        for stream, rollout in zip(streams(2), answer.rollouts, strict=True):
            expected = plain_rollout(model, contexts[0].inputs, (), stream, policy)
            assert rollout.tokens == expected.tokens
            np.testing.assert_allclose(rollout.logprobs, expected.logprobs, atol=1e-5)
    assert single.rollouts[0] == single.rollouts[1]
    assert single.rollouts[0].logprobs == (0.0,) * 9


def test_next_tokens_are_the_most_likely_with_their_log_probabilities():
    """Catches an order by id, a renormalisation over the top, and a missing end flag."""
    model = tiny_model()
    engine = HFEngine(model, max_batch_size=4)
    context = engine.open([5, 6], POLICY)
    for prefix in ((), (7,), (7, 8, 9)):
        top = answers(engine, [NextTokensJob(context, prefix, 50)])[0].answer
        row = plain_logprobs(model, context.inputs, prefix, POLICY)
        assert isinstance(top, TopTokens)
        assert top.tokens == tuple(np.argsort(-row).tolist())
        np.testing.assert_allclose(top.logprobs, np.sort(row)[::-1], atol=1e-5)
        assert [token for token, is_end in zip(top.tokens, top.is_end, strict=True) if is_end] == [EOS]


def test_every_end_of_sequence_id_ends_a_rollout_and_counts():
    """Catches models with several end ids, of which only the first is obeyed, and an EOS left out of the tokens."""
    engine = HFEngine(tiny_model(eos_token_id=[EOS, 4, 5]), max_batch_size=8)
    context = engine.open([6, 7], Policy(max_new_tokens=60))
    rollouts = answers(engine, [RolloutJob(context, (), streams(40))])[0].answer.rollouts
    ended = [rollout for rollout in rollouts if rollout.finish_reason == "eos"]
    assert {rollout.tokens[-1] for rollout in ended} == {EOS, 4, 5}
    assert not any(token in (EOS, 4, 5) for rollout in rollouts for token in rollout.tokens[:-1])
    assert all(len(rollout.tokens) == len(rollout.logprobs) for rollout in rollouts)
    assert all(len(rollout.tokens) == 60 for rollout in rollouts if rollout.finish_reason == "length")


def test_a_stop_string_ends_the_rollout_with_the_token_that_completes_it():
    """Catches strings that span tokens, that span prefix and rollout, and a rollout that runs one token too far."""
    tokenizer = tiny_tokenizer()
    engine = HFEngine(tiny_model(eos_token_id=None), tokenizer, max_batch_size=8)
    plain = engine.open("ab", POLICY)
    free = answers(engine, [RolloutJob(plain, (), streams(6))])[0].answer.rollouts
    text = engine.decode(free[0].tokens)
    stop = text[3:5]
    context = engine.open("ab", dataclasses.replace(POLICY, stop_strings=("never there", stop)))
    stopped = answers(engine, [RolloutJob(context, (), streams(6))])[0].answer.rollouts
    for rollout, whole in zip(stopped, free, strict=True):
        completing = (n for n in range(1, len(whole.tokens) + 1) if stop in engine.decode(whole.tokens[:n]))
        length = next(completing, None)
        assert rollout.tokens == whole.tokens[:length]
        assert rollout.finish_reason == ("length" if length is None else "stop")
    whole = stopped[0].tokens
    branched = answers(engine, [RolloutJob(context, whole[:-1], streams(1))])[0].answer.rollouts[0]
    assert (branched.tokens, branched.finish_reason) == (whole[-1:], "stop")


def test_a_rollout_from_a_prefix_stops_at_max_new_tokens_of_the_whole_continuation():
    """Catches a limit counted from the branch point: leaves would differ in length from those of the root."""
    engine = HFEngine(tiny_model(eos_token_id=None), max_batch_size=4)
    context = engine.open([5], POLICY)
    for length in (1, 5, 11):
        rollout = answers(engine, [RolloutJob(context, (6,) * length, streams(1))])[0].answer.rollouts[0]
        assert (len(rollout.tokens), rollout.finish_reason) == (12 - length, "length")


def test_text_messages_and_ids_are_encoded_as_the_tokenizer_does_it():
    """Catches a missing BOS, a BOS twice, and a chat template without its generation prompt."""
    engine = HFEngine(tiny_model(), tiny_tokenizer(), max_batch_size=4)
    assert engine.open("ab", POLICY).inputs.tolist() == [0, 2, 3]
    assert engine.open([{"role": "user", "content": "ab"}], POLICY).inputs.tolist() == [2, 3, 30, 2, 29]
    assert engine.open((2, 3), POLICY).inputs.tolist() == [2, 3]
    assert engine.open(np.array([2, 3]), POLICY).inputs.tolist() == [2, 3]
    assert engine.decode((2, 3, EOS)) == "ab"


def test_closing_a_context_drops_its_jobs_and_keys_and_leaves_the_others_alone():
    """Catches rows of a closed context that go on decoding, and memory that is never given back."""
    model = tiny_model(eos_token_id=None)
    engine = HFEngine(model, max_batch_size=4)
    kept, closed = engine.open([5, 6], POLICY), engine.open([7], POLICY)
    tickets = [engine.submit(RolloutJob(context, (), streams(3))) for context in (closed, kept, closed, kept)]
    for _ in range(4):
        assert engine.step() == []
    engine.close(closed)
    finished = [one for _ in range(60) for one in engine.step()]
    assert [one.ticket for one in finished] == [tickets[1], tickets[3]]
    for one in finished:
        assert [r.tokens for r in one.answer.rollouts] == [
            plain_rollout(model, kept.inputs, (), s, POLICY).tokens for s in streams(3)
        ]
    held = engine.stats.held_bytes
    engine.close(kept)
    assert engine.stats.held_bytes < held
    assert engine.step() == []
