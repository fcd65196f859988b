"""What the engine makes of the answers of vLLM and SGLang, as their sources write them, against the table they are drawn from."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from maxent_ts.engines.base import NextTokensJob, RolloutJob
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.engines.openai_replies import read_reply
from maxent_ts.errors import EngineError, SettingError
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy
from tests.conftest import TokenReward
from tests.servers.dialects import END, VOCABULARY, Table, dialect_server
from tests.unit.hf_helpers import answers

VLLM = {}
SGLANG = {"scaled": True, "renormalised": True}
WITHOUT_IDS = {"scaled": True, "renormalised": True, "by_id": False}
"""Next tokens come by their texts, so that only drawn tokens have ids."""


@pytest.fixture(params=[VLLM, SGLANG, WITHOUT_IDS], ids=["vllm", "sglang", "without ids"])
def served(request):
    with dialect_server(**request.param) as (url, table, asked):
        engine = OpenAIEngine(url, timeout=20, max_concurrent_requests=4)
        yield engine, table, asked, request.param
        engine.shut_down()


def law(table: Table, tokens, policy: Policy) -> np.ndarray:
    """The policy's distribution after some tokens, float64 [vocabulary]."""
    row = table.row(tokens) ** (1 / policy.temperature)
    if policy.top_k is not None:
        row = np.where(row >= np.sort(row)[-policy.top_k], row, 0.0)
    return row / row.sum()


def test_the_probe_tells_the_dialects_apart(served):
    """Catches one dialect read as the other: log p would be of another distribution."""
    engine, _, _, dialect = served
    server = engine.server
    assert server.level == "token"
    if dialect is VLLM:
        assert (server.kind, server.reports.temperature, server.reports.truncation, server.bias) == ("vllm", "raw", "raw", "raw")
    else:
        assert (server.kind, server.reports.truncation, server.bias) == ("sglang", "renormalised", "renormalised")
        assert server.reports.temperature == "scaled"
    assert server.reports.num_top == 5
    assert not server.reports.is_whole
    assert not server.counts_cached_tokens


@pytest.mark.parametrize("policy", [Policy(5), Policy(5, temperature=0.5), Policy(5, temperature=2.0, top_k=3)])
def test_log_p_is_the_policys_or_refused(served, policy):
    """Against the table: catches a raw number kept under a temperature, and a processed one converted twice."""
    engine, table, _, dialect = served
    if dialect is VLLM and policy.temperature != 1 and policy.top_k is None:
        with pytest.raises(SettingError, match="another distribution"):
            engine.open("ab", policy)
        return
    (done,) = answers(engine, [RolloutJob(engine.open("ab", policy), (), tuple((1, 0, i) for i in range(60)))])
    assert len(done.answer.rollouts) == 60
    for rollout in done.answer.rollouts:
        for i, (token, logprob) in enumerate(zip(rollout.tokens, rollout.logprobs, strict=True)):
            assert logprob == pytest.approx(math.log(law(table, [0, 1, *rollout.tokens[:i]], policy)[token]), abs=1e-6)
        assert (rollout.tokens[-1] == END) == (rollout.finish_reason == "eos")


def test_excluded_first_tokens_leave_the_law_of_the_rest(served):
    """χ² over 300 draws, with more tokens excluded than are returned with their probabilities: tail draws must be corrected."""
    engine, table, _, _ = served
    policy = Policy(3)
    context = engine.open("ab", policy)
    row = law(table, [0, 1, 2], policy)
    exclude = (int(np.argmax(row)),)
    (learn,) = answers(engine, [RolloutJob(context, (2,), ((0, 0, 0),), exclude)])
    assert learn.answer.rollouts
    jobs = [RolloutJob(context, (2,), ((5, i, 0),), exclude, num_tokens=1) for i in range(300)]
    done = answers(engine, jobs)
    drawn = [one.answer.rollouts[0] for one in done]
    for one in drawn:
        assert one.logprobs[0] == pytest.approx(math.log(row[one.tokens[0]]), abs=1e-6)
    left = np.where(np.arange(len(row)) == exclude[0], 0.0, row)
    keep = np.flatnonzero(left * 300 > 1)
    counts = Counter(one.tokens[0] for one in drawn)
    observed = [*(counts[token] for token in keep), 300 - sum(counts[token] for token in keep)]
    expected = np.array([*(left[token] for token in keep), left.sum() - left[keep].sum()])
    expected[-1] = max(expected[-1], 1e-9)
    assert chisquare(observed, 300 * expected / expected.sum()).pvalue > 1e-4


def test_a_search_on_a_tree_keeps_the_tables_probabilities(served):
    """maxent over vLLM's and SGLang's answers: catches any step of the way that changes log p."""
    engine, table, _, _ = served
    job = SearchJob("one", "ab", Policy(4), load(METHODS, "maxent", "method"), 1.0, Budget(generated_tokens=120), (3, 0))
    (result,) = run_searches([job], engine, TokenReward(lambda tokens: float(tokens.count(2))))
    assert result.error is None
    tree = result.outcome.tree
    assert len(result.outcome.completions) > 5
    for node in range(len(tree)):
        row = law(table, [0, 1, *tree.prefix(node)], Policy(4))
        for token, child in tree.children[node].items():
            assert tree.logprob[child] == pytest.approx(math.log(row[token]), abs=1e-6)
        if tree.children[node]:
            assert math.exp(tree.log_unseen[node]) == pytest.approx(1 - row[list(tree.children[node])].sum(), abs=1e-6)
    texts = {one.tokens: one.text for one in result.outcome.completions}
    assert texts == {tokens: "".join(VOCABULARY[token] for token in tokens if token != END) for tokens in texts}


def test_more_next_tokens_than_the_server_returns_are_refused_with_the_methods_that_work(served):
    """Catches five next tokens that pass for nine."""
    engine, table, _, dialect = served
    context = engine.open("ab", Policy(4))
    (few,) = answers(engine, [NextTokensJob(context, (), 3)])
    if dialect is WITHOUT_IDS:
        assert isinstance(few.answer, EngineError)
        return
    row = law(table, [0, 1], Policy(4))
    assert list(few.answer.tokens) == np.argsort(-row)[:3].tolist()
    assert list(few.answer.is_end) == [token == END for token in few.answer.tokens]
    (many,) = answers(engine, [NextTokensJob(context, (1,), 9)])
    assert "asks for 9 next tokens, but this server returns" in str(many.answer)
    assert "best_of_n" in str(many.answer)


def test_what_is_asked_keeps_the_servers_defaults_out_and_shared_prefixes_together(served):
    """Catches a request without explicit sampling settings, and jobs of two prompts that take turns."""
    engine, _, asked, _ = served
    engine._client.gate.limit = engine._client.gate._most = 1
    contexts = [engine.open(text, Policy(4)) for text in ("ab", "cd")]
    for one in contexts:
        answers(engine, [RolloutJob(one, (), tuple((0, 0, i) for i in range(2)))])
    asked.clear()
    jobs = [RolloutJob(one, (number,), ((1, number, 0),)) for number in (3, 1, 2) for one in contexts for _ in range(4)]
    answers(engine, jobs)
    sent = [tuple(one["prompt"]) for one in asked if one["path"] == "/v1/completions"]
    assert len(sent) == 24
    assert sum(one[:2] != two[:2] for one, two in itertools.pairwise(sent)) <= 3  # taking turns would give 23
    for one in asked:
        assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"} <= one.keys() or "tokens" in one


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": [{"text": "a"}], "usage": {"completion_tokens": "many"}},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [None]}}]},
        {"choices": [{"text": "a", "token_ids": [1, 2], "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -2.0}]}}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-9999.0]}}]},
    ],
)
def test_an_answer_that_is_none_is_an_error(body):
    """Catches a KeyError in place of a message, and numbers that contradict each other."""
    with pytest.raises(EngineError):
        read_reply(body)
