"""The engine for servers behind a proxy that breaks answers: every search ends, and ends right or with a clear error."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from maxent_ts.engines import openai_client
from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.engines.openai_client import Client
from maxent_ts.engines.openai_gate import Gate
from maxent_ts.errors import EngineError, SettingError
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy
from tests.conftest import TokenReward
from tests.servers.fault_proxy import fault_proxy
from tests.servers.processes import free_port, llama_server
from tests.unit.hf_helpers import answers, tiny_model

pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp, which is not installed")

SECONDS_AT_MOST = 120
"""Far above what any of these takes: what hangs ends here."""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    from tests.servers.gguf_file import write_gguf

    with llama_server(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_model()), num_slots=2) as found:
        yield found


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_DELAY", 0.01)


def run(engine, *, names=("best_of_n", "maxent", "smc"), num=2):
    """Searches through an engine; none may take long, whatever the server does."""
    reward = TokenReward(lambda tokens: float(sum(token % 3 == 1 for token in tokens)))
    jobs = [
        SearchJob(f"{name} {i}", "ab", Policy(6), load(METHODS, name, "method"), 1.0, Budget(generated_tokens=60), (3, i))
        for name in names
        for i in range(num)
    ]
    end = time.monotonic() + SECONDS_AT_MOST
    found = {}
    for result in run_searches(jobs, engine, reward):
        found[result.job.id] = result
        assert time.monotonic() < end
    assert len(found) == len(jobs)
    return found


def completions(found):
    return {name: [(one.tokens, one.finish_reason) for one in result.outcome.completions] for name, result in found.items()}


@pytest.mark.parametrize("fault", ["drop", "429", "500", "503", "cut", "broken"])
def test_faults_that_pass_do_not_show_in_the_result(upstream, fault):
    """A third of the answers are faults: catches a lost request, one that is drawn anew, and a count that goes wrong."""
    engine = OpenAIEngine(upstream, timeout=20)
    expected = run(engine, names=("best_of_n",))
    engine.shut_down()
    with fault_proxy(upstream, rates={fault: 0.33}, seed=5) as proxy:
        engine = OpenAIEngine(proxy.url, max_retries=15, timeout=20)
        found = run(engine)
        engine.shut_down()
    assert proxy.seen[fault] > 10
    assert all(result.error is None for result in found.values())
    same = {name: found[name] for name in expected}
    assert {name: sorted(one) for name, one in completions(same).items()} == {
        name: sorted(one) for name, one in completions(expected).items()
    }
    assert all(found[name].usage.generated_tokens == expected[name].usage.generated_tokens for name in expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "returned nan as a log-probability"),
        ("missing", "left out the log-probability"),
        ("positive", "returned 0.5 as a log-probability"),
        ("short", "returned the log-probabilities of"),
        ("500", "gave no good answer; tries: 3; the last: status 500"),
        ("drop", "gave no good answer; tries: 3; the last: the connection failed"),
        ("broken", "the last: an answer that is not a JSON object"),
        ("drip", "no whole answer within 0.5 seconds"),
    ],
)
def test_faults_that_stay_end_every_search_with_a_clear_error(upstream, fault, message):
    """Catches a search that hangs, one that takes a wrong number for log p, and one whose error says nothing."""
    with fault_proxy(upstream) as proxy:
        engine = OpenAIEngine(proxy.url, max_retries=2, timeout=20)
        proxy.rates = {fault: 1.0}
        engine._client._timeout = 0.5 if fault == "drip" else 20.0
        found = run(engine, num=1)
        engine.shut_down()
    for result in found.values():
        assert message in str(result.error)
        assert result.outcome is None


def test_a_client_ends_although_its_requests_end_first(monkeypatch):
    """Catches a loop that is told to stop while it waits, which nothing wakes: every engine would end ten seconds late."""
    client = Client("http://localhost:1", api_key=None, max_concurrent_requests=1, max_retries=0, timeout=1.0)
    start = asyncio.run_coroutine_threadsafe

    def start_and_wait(coroutine, loop):
        future = start(coroutine, loop)
        future.result()
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", start_and_wait)
    client.shut_down()
    assert not client._thread.is_alive()


def test_one_bad_answer_fails_one_search(upstream):
    """Catches a fault of one search that takes the others along."""
    with fault_proxy(upstream) as proxy:
        engine = OpenAIEngine(proxy.url, timeout=20)
        proxy.rates = {"nan": 0.04}
        found = run(engine, names=("best_of_n",), num=12)
        engine.shut_down()
    failed = [result for result in found.values() if result.error is not None]
    assert 0 < len(failed) < 12
    assert all("log-probability" in str(result.error) for result in failed)
    assert all(math.isfinite(one.logprob) for result in found.values() if result.outcome for one in result.outcome.completions)


def test_a_storm_of_refusals_makes_the_engine_send_less_at_once(upstream):
    """Catches an engine that goes on pushing, and one that never recovers."""
    with fault_proxy(upstream) as proxy:
        engine = OpenAIEngine(proxy.url, max_concurrent_requests=16, max_retries=50, timeout=20)
        gate = engine._client.gate = Gate(16)  # without llama.cpp's own bound
        proxy.rates = {"429": 0.5}
        context = engine.open([5, 6, 7], Policy(max_new_tokens=20))
        (done,) = answers(engine, [RolloutJob(context, (3,), tuple((1, 0, i) for i in range(60)))])
        narrow = gate.limit
        proxy.rates = {}
        answers(engine, [RolloutJob(context, (3,), tuple((1, 1, i) for i in range(200)))])
        wide = gate.limit
        engine.shut_down()
    assert len(done.answer.rollouts) == 60
    assert narrow < 8
    assert wide > narrow
    assert proxy.most_at_once <= 16


def test_the_key_is_sent_and_never_shown(upstream, monkeypatch):
    """Catches a key in an error, in an engine's identity or in the text that a server sends back."""
    monkeypatch.setenv("MY_KEY", "secret-key-123")
    with fault_proxy(upstream) as proxy:
        engine = OpenAIEngine(proxy.url, api_key_variable="MY_KEY", max_retries=0, timeout=20)
        proxy.rates = {"500": 1.0}
        found = run(engine, names=("best_of_n",), num=1)
        engine.shut_down()
    assert all("authorization: bearer secret-key-123" in head.lower() for head in proxy.headers)
    shown = [repr(engine.identity), repr(engine.server), *(str(result.error) for result in found.values())]
    assert "secret" not in "".join(shown)
    assert engine._client._shown("Incorrect key: secret-key-123") == "Incorrect key: ***"


def test_a_base_url_with_a_password_is_refused():
    """It would end up in logs and records."""
    for url in ("http://user:secret@localhost:1/v1", "http://localhost:1/v1?key=secret", "localhost:8000"):
        with pytest.raises(SettingError, match="base_url") as caught:
            OpenAIEngine(url)
        assert "secret" not in str(caught.value) or url == "localhost:8000"


def test_a_server_that_is_not_there_is_an_error_and_not_a_wait():
    """Catches retries without an end."""
    with pytest.raises(EngineError, match="the connection failed"):
        OpenAIEngine(f"http://127.0.0.1:{free_port()}/v1", max_retries=2, timeout=5)


def test_each_prompt_has_one_slot_while_there_are_as_many_prompts(upstream):
    """Catches requests beyond the slots, which llama.cpp puts anywhere, and a prompt that two slots read while others wait."""
    with fault_proxy(upstream) as proxy:
        engine = OpenAIEngine(proxy.url, max_concurrent_requests=16, timeout=20)
        gate = engine._client.gate
        one = engine.open([5, 6, 7], Policy(max_new_tokens=20))
        assert (engine.server.num_slots, gate.limit, gate.one_of_each) == (2, 2, False)
        other = engine.open([8, 9], Policy(max_new_tokens=20))
        assert gate.one_of_each
        answers(engine, [RolloutJob(each, (3,), tuple((1, 0, i) for i in range(10))) for each in (one, other)])
        engine.close(other)
        engine.close(other)
        assert not gate.one_of_each
        answers(engine, [RolloutJob(one, (3,), tuple((1, 1, i) for i in range(10)))])
        engine.shut_down()
    assert proxy.most_at_once <= 2
