"""What a client may not do, and what becomes of the others when it does."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import httpx
import pytest

from maxent_ts.engines.base import Finished
from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import EngineError, OutOfMemoryError
from tests.server.conftest import application, asked, client_of, completed, serving

BODY = {"prompt": "ab", "max_tokens": 3, "seed": 0}


class Held(TableEngine):
    """A table that answers nothing until it is released."""

    def __init__(self):
        self.released = threading.Event()
        self.closed = 0
        super().__init__(TableEngine.random(num_tokens=4, seed=1)._probabilities, "abcd", eos_token_id=3)

    def step(self):
        if self.released.wait(0.002):
            return super().step()
        return []

    def close(self, context):
        self.closed += 1
        super().close(context)


def value(text, name):
    """What a metric says."""
    return float(next(line for line in text.splitlines() if line.startswith(name)).rpartition(" ")[2])


async def until(client, name, number):
    """Wait until a metric has a value."""
    for _ in range(2000):
        if value((await client.get("/metrics")).text, name) == number:
            return
        await asyncio.sleep(0.005)
    raise AssertionError((await client.get("/metrics")).text)


def test_beyond_the_bound_comes_429_and_within_it_nothing_is_lost():
    """Catches an unbounded queue, and requests that vanish from a full one."""
    engine = Held()

    async def flood():
        async with client_of(application(engine, max_concurrent=2, max_queue=3)) as client:
            inside = [asyncio.create_task(client.post("/v1/completions", json=BODY)) for _ in range(5)]
            await until(client, "maxent_searches_waiting", 3)
            outside = await asyncio.gather(*(client.post("/v1/completions", json=BODY) for _ in range(4)))
            many = await client.post("/v1/completions", json={**BODY, "n": 6})
            engine.released.set()
            return await asyncio.gather(*inside), [*outside, many], await client.post("/v1/completions", json=BODY)

    inside, outside, after = asyncio.run(flood())
    assert [one.status_code for one in inside] == [200] * 5
    assert [one.status_code for one in outside] == [429] * 5
    assert outside[0].json()["error"]["code"] == "queue_full"
    assert int(outside[0].headers["retry-after"]) >= 1
    assert after.status_code == 200, "the queue must be empty again"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("max_concurrent", [1, 2])
def test_a_client_that_leaves_takes_its_search_along(is_stream, max_concurrent):
    """Catches a server that goes on searching for nobody, under way or in the queue."""
    engine = Held()
    app = application(engine, max_concurrent=max_concurrent)
    with serving(app) as url:

        async def leave():
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                staying = asyncio.create_task(client.post("/v1/completions", json=BODY))
                await until(client, "maxent_searches_live", 1)
                with pytest.raises(httpx.ReadTimeout):
                    await client.post("/v1/completions", json={**BODY, "stream": is_stream}, timeout=0.3)
                await until(client, "maxent_searches_cancelled_total", 1)
                await until(client, "maxent_searches_live", 1)
                engine.released.set()
                return (await staying).status_code

        assert asyncio.run(leave()) == 200
    assert engine.closed == max_concurrent


def test_a_request_that_takes_too_long_is_given_up():
    """Catches a request that holds its place for ever, as a reply and as a stream."""
    engine = Held()

    async def wait():
        async with client_of(application(engine, request_timeout=0.1)) as client:
            whole = await client.post("/v1/completions", json=BODY)
            stream = await client.post("/v1/completions", json={**BODY, "stream": True})
            await until(client, "maxent_searches_cancelled_total", 2)
            return whole, stream

    whole, stream = asyncio.run(wait())
    assert whole.status_code == 504
    assert "max_seconds" in whole.json()["error"]["message"]
    assert stream.status_code == 200
    assert '"code": "timeout"' in stream.text
    assert "[DONE]" not in stream.text
    assert engine.closed == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic s3cret"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
    ],
)
def test_the_key_is_asked_for_everywhere_but_at_health(headers, status):
    """Catches a route that forgot the key."""

    async def ask():
        async with client_of(application(Held(), api_key="s3cret"), headers=headers) as client:
            for path in ("/metrics", "/v1/models", "/openapi.json"):
                assert (await client.get(path)).status_code == status
            assert (await client.get("/health")).status_code == 200
            return await client.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})

    reply = asyncio.run(ask())
    assert reply.status_code == (400 if status == 200 else 401)
    assert "s3cret" not in reply.text


def test_a_large_body_is_not_read(table_engine):
    """Catches memory that grows with what is sent, with and without its length in front."""

    async def chunks():
        for _ in range(100):
            yield b" " * 100

    async def ask():
        async with client_of(application(table_engine, max_body_bytes=1000)) as client:
            kind = {"content-type": "application/json"}
            return [
                await client.post("/v1/completions", content=b" " * 1001, headers=kind),
                await client.post("/v1/completions", content=chunks(), headers=kind),
                await client.post("/v1/completions", json=BODY),
            ]

    replies = asyncio.run(ask())
    assert [one.status_code for one in replies] == [413, 413, 200]
    assert replies[0].json() == replies[1].json()
    assert "1000 bytes" in replies[0].json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "\ud800"}, "valid Unicode"),
        ({"prompt": [9]}, "token ids"),
        ({"prompt": [["a"]]}, "prompt: "),
        ({"n": "2"}, "n: "),
        ({"n": 2, "temperature": 0}, "one completion"),
        ({"temperature": -1}, "temperature: "),
        ({"reward": {}}, "at least one"),
        ({"reward": "loggprob"}, "Did you mean 'logprob'"),
        ({"reward": "logprob", "method": "maxnt"}, "Did you mean 'maxent'"),
        ({"reward": "logprob", "method": "majority_vote"}, "votes"),
        ({"reward": "logprob", "method": "exact"}, "for tables"),
        ({"reward": "logprob", "method": "vgb"}, "settings.num_candidates"),
        ({"reward": "logprob", "method": "mcts", "settings": {"num_candidates": 1000}}, "settings.num_candidates"),
        ({"method": "beam", "num_rollouts": 1000}, "num_rollouts"),
        ({"method": "maxent"}, "Name one"),
        ({"reward": "logprob", "num_rollouts": 10**7, "max_generated_tokens": 30}, "allows"),
        ({"n": 128, "max_tokens": 1000}, "allows"),
        ({"reward": "logprob", "settings": {"num_parallel": 10**9}}, "num_parallel"),
        ({"reward": "logprob", "settings": {"num_paralel": 2}}, "Did you mean 'num_parallel'"),
        ({"reward": "logprob", "settings": {"tree": "x"}}, "tree"),
        ({"reward": "logprob", "settings": {"num_parallel": [1]}}, "settings: "),
        ({"reward": "logprob", "inputs": {"completions": ["x"]}}, "made by the server"),
        ({"reward": "logprob", "max_generated_tokens": 1}, "does not cover one completion"),
        ({"echo": True}, "'echo' is not served"),
        ({"logprobs": 3}, "maxent.logprob"),
        ({"tools": [{}]}, "no tools"),
        ({"foo": 1}, "no parameter 'foo'"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(table_engine, change, words):
    """One paragraph, in the form of OpenAI's API, and never a failure of the server."""

    async def ask():
        async with client_of(application(table_engine)) as client:
            content = json.dumps({**BODY, **change}).encode()
            return await client.post("/v1/completions", content=content, headers={"content-type": "application/json"})

    reply = asyncio.run(ask())
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_parameters_without_effect_may_be_sent(table_engine):
    """Clients send OpenAI's defaults."""
    body = {
        **BODY,
        "echo": False,
        "logprobs": None,
        "best_of": None,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
    }
    completed(application(table_engine), {**body, "suffix": None, "user": "somebody", "top_p": 1, "stop": None, "n": None})


def test_a_chat_without_a_template_is_refused(table_engine):
    """There is no way to guess one."""
    (reply,) = asked(application(table_engine), {"messages": [{"role": "user", "content": "a"}]}, path="/v1/chat/completions")
    assert reply.status_code == 400


class Breaking(TableEngine):
    """A table whose prompt `b` breaks a job, and whose prompt `c` breaks the engine itself."""

    def __init__(self, error):
        self.error = error
        super().__init__(TableEngine.random(num_tokens=4, seed=1)._probabilities, "abcd", eos_token_id=3)

    def step(self):
        prompts = {job.context.prompt: ticket for ticket, job in self._queue}
        if (2,) in prompts:
            raise RuntimeError("the secret state of the engine")
        done = super().step()
        return [Finished(one.ticket, self.error, 0) if one.ticket == prompts.get((1,)) else one for one in done]


@pytest.mark.parametrize(("error", "status"), [(EngineError("broken"), 500), (OutOfMemoryError("full"), 507)])
def test_an_engine_that_fails_one_search_fails_that_request(error, status, caplog):
    """The others are answered, and so is what comes later."""
    replies = asked(application(Breaking(error)), *[{**BODY, "prompt": prompt} for prompt in ("a", "b", "d", "a")])
    assert [one.status_code for one in replies] == [200, status, 200, 200]
    assert replies[1].json()["error"]["message"] == str(error)


def test_an_engine_that_breaks_is_no_end_of_the_server(caplog):
    """What is under way fails with it, and is told so; the next request is answered, and the cause is in the log alone."""
    engine = Breaking(EngineError("broken"))

    async def ask():
        async with client_of(application(engine)) as client:
            broken = await client.post("/v1/completions", json={**BODY, "prompt": "c"})
            return broken, await client.post("/v1/completions", json=BODY), await client.get("/health")

    broken, after, health = asyncio.run(ask())
    assert broken.status_code == 500
    assert "secret" not in broken.text
    assert "the secret state of the engine" in caplog.text
    assert after.status_code == health.status_code == 200


def test_a_server_that_stops_tells_those_who_wait():
    """Catches clients that hang because their search ended with the server."""
    engine = Held()

    async def stop():
        async with client_of(application(engine, max_concurrent=1)) as client:
            asking = [asyncio.create_task(client.post("/v1/completions", json=BODY)) for _ in range(3)]
            await until(client, "maxent_searches_waiting", 2)
        return await asyncio.gather(*asking)

    begun = time.monotonic()
    replies = asyncio.run(stop())
    assert [one.status_code for one in replies] == [503] * 3
    assert time.monotonic() - begun < 30
    assert engine.closed == 1
