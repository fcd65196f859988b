"""The engine for servers, against llama.cpp's own server over the very model that HFEngine runs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from maxent_ts.engines.base import NextTokensJob, RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.errors import EngineError, ModelError, PromptError, SettingError
from maxent_ts.registry import METHODS, METHODS_THAT_VOTE, METHODS_WITHOUT_LOGPROBS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.tree import Tree
from maxent_ts.types import Budget, Embeddings, Policy, TimeSeriesPrompt
from tests.conftest import TokenReward
from tests.servers.processes import llama_server
from tests.unit.hf_helpers import (
    EOS,
    TEMPLATE,
    VOCABULARY,
    answers,
    largest_difference,
    plain_rows,
    streams,
    tiny_model,
    tiny_tokenizer,
)

pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp, which is not installed")

PROMPT = [5, 6, 7]
POLICY = Policy(max_new_tokens=12)
HALF_PRECISION = 5e-3
"""nats. llama.cpp keeps keys and values in half precision; with HFEngine's float32 the largest difference seen is 2e-3."""


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    from tests.servers.gguf_file import write_gguf

    path = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, chat_template=TEMPLATE)
    with llama_server(path) as found:
        yield found


@pytest.fixture
def make(url):
    made = []

    def build(**settings) -> OpenAIEngine:
        made.append(OpenAIEngine(url, **{"timeout": 30.0, **settings}))
        return made[-1]

    yield build
    for engine in made:
        engine.shut_down()


def test_the_probe_finds_out_what_llama_cpp_does(make):
    """Catches a dialect that is taken for another: log p would be of another distribution."""
    engine = make()
    server = engine.server
    assert (server.kind, server.level, server.endpoint) == ("llamacpp", "token", "/completions")
    assert (server.reports.temperature, server.reports.truncation, server.bias) == ("raw", "raw", "raw")
    assert server.reports.is_whole
    assert server.honours_seed
    assert server.context_length == 128
    assert not engine.capabilities.deterministic
    assert "127.0.0.1" not in str(engine.identity)


@pytest.mark.parametrize("prefix", [(), (8, 9, 10)])
def test_log_probabilities_are_the_models_own(make, model, prefix):
    """Catches a position, a token or a temperature that differs from teacher forcing by transformers, and a missing end."""
    engine = make()
    context = engine.open(PROMPT, POLICY)
    (done,) = answers(engine, [RolloutJob(context, prefix, streams(40))])
    reasons = Counter(one.finish_reason for one in done.answer.rollouts)
    assert set(reasons) == {"eos", "length"}
    for rollout in done.answer.rollouts:
        assert largest_difference(model, torch.tensor(PROMPT), prefix, rollout, POLICY) < HALF_PRECISION
        assert (rollout.tokens[-1] == EOS) == (rollout.finish_reason == "eos")
    first = {one.tokens[0]: one.logprobs[0] for one in done.answer.rollouts}
    assert done.answer.log_unseen == pytest.approx(math.log1p(-sum(map(math.exp, first.values()))), abs=1e-6)


def test_rollouts_follow_the_same_law_as_those_of_the_hf_engine(make, model):
    """χ² of the first two tokens and of the lengths, 1000 rollouts each: catches a server's own default sampling settings."""
    engine, reference = make(), HFEngine(model)
    found = [
        answers(one, [RolloutJob(one.open(PROMPT, POLICY), (), streams(1000))])[0].answer.rollouts for one in (engine, reference)
    ]
    assert len(found[0]) == len(found[1]) == 1000
    for feature in (lambda one: one.tokens[:2], lambda one: len(one.tokens), lambda one: one.tokens[-1]):
        counts = [Counter(map(feature, one)) for one in found]
        keys = [key for key in set(counts[0]) | set(counts[1]) if counts[0][key] + counts[1][key] >= 10]
        table = [[one[key] for key in keys] + [1000 - sum(one[key] for key in keys)] for one in counts]
        assert chi2_contingency([[row[i] for i in range(len(row)) if table[0][i] + table[1][i]] for row in table]).pvalue > 1e-4
    row = np.exp(plain_rows(model, torch.tensor(PROMPT), [], POLICY)[-1])
    first = Counter(one.tokens[0] for one in found[0])
    assert chisquare([first[token] for token in range(len(row))], 1000 * row / row.sum()).pvalue > 1e-4


@pytest.mark.parametrize("distinct", [False, True])
def test_what_is_excluded_is_not_drawn_and_the_rest_keeps_its_law(make, model, distinct):
    """χ² over 400 jobs of the first token given that two are excluded, and of the pair where they must differ."""
    engine = make()
    context = engine.open(PROMPT, Policy(max_new_tokens=6))
    row = np.exp(plain_rows(model, torch.tensor(PROMPT), [9], context.policy)[-1])
    exclude = tuple(int(token) for token in np.argsort(-row)[:2])
    jobs = [RolloutJob(context, (9,), ((2, 0, 2 * i), (2, 0, 2 * i + 1)), exclude, distinct, num_tokens=1) for i in range(400)]
    left = np.where(np.isin(np.arange(len(row)), exclude), 0.0, row)
    left /= left.sum()
    firsts, seconds = [], []
    for done in answers(engine, jobs):
        one, two = (rollout.tokens[0] for rollout in done.answer.rollouts)
        firsts.append(one)
        seconds.append(two)
        seen = {one, two}
        assert not seen & set(exclude)
        assert len(seen) == 2 or not distinct
        assert done.answer.log_unseen == pytest.approx(math.log(1 - row[list(exclude)].sum() - row[list(seen)].sum()), abs=0.02)
    second = np.array([sum(left[i] * left[j] / (1 - left[i]) for i in range(len(row)) if i != j) for j in range(len(row))])
    for drawn, law in ((firsts, left), (seconds, second if distinct else left)):
        counts = Counter(drawn)
        keep = [token for token in range(len(row)) if law[token] > 0]
        assert chisquare([counts[token] for token in keep], 400 * law[keep] / law[keep].sum()).pvalue > 1e-4


def test_tokens_that_were_never_returned_are_drawn_by_the_server(make, model):
    """Catches a draw that stops at the most likely tokens, as it would on a real vocabulary: only three are asked for here."""
    import maxent_ts.engines.openai_jobs as jobs_module

    engine = make()
    engine._runner._server = engine.server.with_num_top(3)
    context = engine.open(PROMPT, Policy(max_new_tokens=2))
    row = np.exp(plain_rows(model, torch.tensor(PROMPT), [], POLICY)[-1])
    (done,) = answers(engine, [RolloutJob(context, (), streams(60), (13,), True)])
    tokens = [one.tokens[0] for one in done.answer.rollouts]
    assert sorted(tokens) == sorted(set(range(len(row))) - {13})
    assert done.answer.log_unseen == -math.inf
    np.testing.assert_allclose([one.logprobs[0] for one in done.answer.rollouts], np.log(row[tokens]), atol=HALF_PRECISION)
    assert jobs_module.LOOK > 3


def test_next_tokens_are_the_most_likely_and_tell_the_end(make, model):
    """Catches another order, another number, and an end-of-sequence token that is not known for one."""
    engine = make()
    context = engine.open(PROMPT, POLICY)
    row = plain_rows(model, torch.tensor(PROMPT), [8], POLICY)[-1]
    (done,) = answers(engine, [NextTokensJob(context, (8,), 5)])
    assert list(done.answer.tokens) == np.argsort(-row)[:5].tolist()
    np.testing.assert_allclose(done.answer.logprobs, np.sort(row)[::-1][:5], atol=HALF_PRECISION)
    (every,) = answers(engine, [NextTokensJob(context, (8,), 100)])
    assert [token for token, end in zip(every.answer.tokens, every.answer.is_end, strict=True) if end] == [EOS]
    assert len(every.answer.tokens) == len(row)
    drawn = [one.answer.tokens for one in answers(engine, [NextTokensJob(context, (8,), 3, (7, i, 1)) for i in range(300)])]
    assert all(len(set(tokens)) == 3 for tokens in drawn)
    counts = Counter(tokens[0] for tokens in drawn)
    assert chisquare([counts[token] for token in range(len(row))], 300 * np.exp(row) / np.exp(row).sum()).pvalue > 1e-4


@pytest.mark.parametrize("policy", [Policy(8, temperature=0.5), Policy(8, top_k=4), Policy(8, 1.5, 6, 0.8), Policy(8, top_p=0.7)])
def test_log_p_is_that_of_the_sampling_policy(make, model, policy):
    """llama.cpp reports the model at temperature 1: catches that number recorded as log p of another policy."""
    engine, reference = make(), HFEngine(model)
    (done,) = answers(engine, [RolloutJob(engine.open(PROMPT, policy), (), streams(300))])
    (other,) = answers(reference, [RolloutJob(reference.open(PROMPT, policy), (), streams(300))])
    expected = {one.tokens[:1]: one.logprobs[0] for one in other.answer.rollouts}
    for rollout in done.answer.rollouts:
        assert rollout.logprobs[0] == pytest.approx(expected.get(rollout.tokens[:1], rollout.logprobs[0]), abs=2 * HALF_PRECISION)
        assert all(math.isfinite(one) and one <= 0 for one in rollout.logprobs)
    firsts = [Counter(one.tokens[0] for one in each.answer.rollouts) for each in (done, other)]
    keys = sorted(set(firsts[0]) | set(firsts[1]))
    assert chi2_contingency([[one[key] for key in keys] for one in firsts]).pvalue > 1e-4


def test_a_policy_whose_log_p_cannot_be_known_is_refused_at_once(make):
    """Catches a search that spends its budget and then has no p."""
    engine = make()
    engine._server = engine.server.with_num_top(3)
    with pytest.raises(SettingError, match=r"another distribution than the one it samples from with temperature=0.5"):
        engine.open(PROMPT, Policy(8, temperature=0.5))
    engine.open(PROMPT, Policy(8, top_k=3))
    for policy in (Policy(8, min_p=0.1), Policy(8, repetition_penalty=1.2), Policy(8, no_repeat_ngram_size=2)):
        with pytest.raises(SettingError, match="not supported with a server"):
            engine.open(PROMPT, policy)


def test_pieces_stop_strings_and_greedy_are_as_with_the_hf_engine(make, model):
    """Catches a cut at another token, another reason, and a temperature that stays when the most likely token is asked for."""
    tokenizer = tiny_tokenizer()
    engine, reference = make(), HFEngine(model, tokenizer)
    for policy in (POLICY, Policy(12, stop_strings=("l",))):
        one, two = engine.open(PROMPT, policy), reference.open(PROMPT, policy)
        found, expected = (
            answers(each, [RolloutJob(context, (3,), streams(1), do_sample=False)])[0].answer.rollouts[0]
            for each, context in ((engine, one), (reference, two))
        )
        assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
        assert engine.decode(found.tokens) == reference.decode(expected.tokens)
    (piece,) = answers(engine, [RolloutJob(engine.open(PROMPT, POLICY), (), streams(8), num_tokens=2)])[0].answer.rollouts[:1]
    assert len(piece.tokens) <= 2
    assert piece.finish_reason in ("unfinished", "eos")


def test_text_and_messages_become_the_tokens_of_the_models_own_tokenizer(make, model):
    """Catches a missing beginning-of-sequence token, and a chat template that is left out."""
    engine, reference = make(), HFEngine(model, tiny_tokenizer())
    messages = [{"role": "user", "content": "ab"}]
    assert engine.open("ab c", POLICY).prompt == reference.open("ab c", POLICY).inputs.tolist()
    # llama.cpp puts the beginning-of-sequence token before what a template makes, as it does in its own chat.
    assert engine.open(messages, POLICY).prompt == [0, *reference.open(messages, POLICY).inputs.tolist()]
    with pytest.raises(PromptError, match="empty"):
        engine.open("", POLICY)
    with pytest.raises(PromptError, match="context is 128"):
        engine.open([5] * 120, POLICY)
    with pytest.raises(EngineError, match="Start vLLM with --enable-prompt-embeds"):
        engine.open(Embeddings(np.ones((3, 32), dtype=np.float32)), POLICY)
    with pytest.raises(PromptError, match="nothing here makes them"):
        engine.open(TimeSeriesPrompt("a", (), "b"), POLICY)


def searches(engine, names, *, num_tokens=90, length=6):
    reward = TokenReward(lambda tokens: float(sum(token % 3 == 1 for token in tokens)))
    jobs = [
        SearchJob(name, "ab", Policy(length), load(METHODS, name, "method"), 1.0, Budget(generated_tokens=num_tokens), (3, 0))
        for name in names
    ]
    return {one.job.id: one for one in run_searches(jobs, engine, reward, answer_fn=lambda text: text[:1] or None)}


NEEDS_MORE = {"exact", "exact_sample"}


def test_every_method_runs_on_token_ids_as_with_the_hf_engine(make, model):
    """Catches a request that the engine cannot answer, and log p of a completion that is not the model's."""
    found = searches(make(), [name for name in METHODS if name not in NEEDS_MORE])
    for name, result in found.items():
        assert result.error is None, name
        assert 0 < result.usage.generated_tokens <= 90
        assert result.usage.prompt_tokens == 3
        for one in result.outcome.completions:
            rows = plain_rows(model, torch.tensor([0, 2, 3]), one.tokens, Policy(6))[:-1]
            expected = sum(float(row[token]) for row, token in zip(rows, one.tokens, strict=True))
            assert one.logprob == pytest.approx(expected, abs=6 * HALF_PRECISION), name
            assert one.finish_reason == ("eos" if one.tokens[-1] == EOS else "length")


def test_cost_is_counted_as_with_the_hf_engine(make, model):
    """The same rollouts cost the same generated tokens; a server looks at a prompt's last token once more for each request."""
    engine, reference = make(), HFEngine(model, tiny_tokenizer())
    (one,), (two,) = (searches(each, ["best_of_n"], num_tokens=6 * 20).values() for each in (engine, reference))
    assert one.usage.rollouts == two.usage.rollouts == 20
    for result in (one, two):
        lengths = sum(len(completion.tokens) for completion in result.outcome.completions)
        assert result.usage.generated_tokens >= lengths
    generated = one.usage.generated_tokens
    assert generated <= one.usage.forwarded_tokens + one.usage.rollouts
    assert one.usage.forwarded_tokens <= 3 * 4 + generated + 2  # at worst, each of the server's four slots reads the prompt


def test_segments_of_text_make_a_tree_that_sums_to_one(make, model):
    """maxent on texts alone, with log-probabilities: catches segments that are taken for others, and a p that is not theirs."""
    engine = make(level="segment", segment_tokens=2)
    assert engine.capabilities.logprobs
    found = searches(engine, ["maxent", "maxent_sample", "best_of_n", "best_of_n_unique", "smc"], num_tokens=240)
    for name, result in found.items():
        assert result.error is None, name
        assert result.usage.generated_tokens <= 240
        for one in result.outcome.completions:
            assert len(one.tokens) <= 3
            whole = [VOCABULARY.index(character) for character in one.text] + [EOS] * (one.finish_reason == "eos")
            if engine._writing.num_tokens(one.tokens) == len(whole):  # no special token inside, whose text is empty
                rows = plain_rows(model, torch.tensor([0, 2, 3]), whole, Policy(6))[:-1]
                expected = sum(float(row[token]) for row, token in zip(rows, whole, strict=True))
                assert one.logprob == pytest.approx(expected, abs=6 * HALF_PRECISION)
    tree: Tree = found["maxent"].outcome.tree
    for node in range(len(tree)):
        children = math.fsum(math.exp(tree.logprob[child]) for child in tree.children[node].values())
        if tree.children[node]:
            assert children + math.exp(tree.log_unseen[node]) == pytest.approx(1, abs=0.01)


def test_what_a_server_cannot_exclude_is_thrown_away_and_paid_for(make):
    """Catches a repeated draw that is kept as new, one that is free, and a budget that it breaks."""
    engine = make(level="segment", segment_tokens=1)
    context = engine.open("ab", Policy(max_new_tokens=3))
    (first,) = answers(engine, [RolloutJob(context, (), streams(30))])
    seen = tuple({one.tokens[0] for one in first.answer.rollouts})
    (done,) = answers(engine, [RolloutJob(context, (), tuple((9, 9, i) for i in range(40)), seen, True)])
    assert len(done.answer.rollouts) + len(done.answer.thrown_away) == 40
    assert done.answer.thrown_away
    drawn = [one.tokens[0] for one in done.answer.rollouts]
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(seen)
    assert all(1 <= length <= 3 for length in done.answer.thrown_away)


def test_without_log_probabilities_the_methods_that_need_none_work_and_the_others_say_so(make):
    """Catches NaN taken for log p, and a completion that counts as one token."""
    engine = make(level="completion")
    assert not engine.capabilities.logprobs
    found = searches(engine, METHODS)
    for name, result in found.items():
        if name in METHODS_WITHOUT_LOGPROBS:
            assert result.error is None, name
            assert result.usage.generated_tokens > len(result.outcome.completions) or name in ("greedy", "sample")
            assert all(math.isnan(one.logprob) for one in result.outcome.completions)
        else:
            assert "best_of_n" in str(result.error), name
            assert result.usage.generated_tokens == 0
    assert METHODS_THAT_VOTE <= METHODS_WITHOUT_LOGPROBS


def test_a_chat_endpoint_alone_gives_segments(make):
    """Catches a continuation that starts a message of its own."""
    engine = make(endpoint="chat/completions", segment_tokens=2)
    assert (engine.server.level, engine.server.continues_messages) == ("segment", True)
    found = searches(engine, ["maxent", "best_of_n", "beam"], num_tokens=60)
    assert found["maxent"].error is None
    assert found["best_of_n"].error is None
    assert "next tokens with their probabilities" in str(found["beam"].error)


def test_a_search_that_ends_takes_its_requests_along(make):
    """Catches requests of a closed context that go on, or that hold up the next one."""
    engine = make(max_concurrent_requests=2)
    context = engine.open(PROMPT, Policy(max_new_tokens=100))
    for i in range(20):
        engine.submit(RolloutJob(context, (3,), ((4, 4, i),)))
    engine.close(context)
    other = engine.open(PROMPT, Policy(max_new_tokens=3))
    (done,) = answers(engine, [RolloutJob(other, (), streams(2))])
    assert len(done.answer.rollouts) == 2
    assert engine._client.num_requests < 70
    with pytest.raises(EngineError, match="closed"):
        engine.submit(RolloutJob(context, (), streams(1)))


def test_a_model_that_is_not_served_is_named(make):
    """Catches a typo that would be answered by whichever model is there."""
    with pytest.raises(ModelError, match="does not serve 'nothing'"):
        make(model="nothing")
