"""A server on loopback in a thread of this process, and an application that is called without a network."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn

from maxent_ts.server.app import create_app
from maxent_ts.server.rewards import RewardTable
from maxent_ts.server.settings import ServerSettings


@contextmanager
def serving(app):
    """Run an application under uvicorn on a free port; yields its URL."""
    # Configuring logging closes all handlers there are, and absl's would close the stream that pytest captures with.
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def application(engine, rewards=(), **settings):
    """The application over an engine."""
    return create_app(engine, ServerSettings(**{"model_name": "tiny", **settings}), RewardTable(rewards or ("logprob", "format")))


@asynccontextmanager
async def client_of(app, **settings):
    """A client that calls an application without a network, from its startup to its shutdown."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60, **settings) as client:
            yield client


def asked(app, *bodies, path="/v1/completions", **settings):
    """Post bodies at the same time; returns the replies in order."""

    async def ask():
        async with client_of(app, **settings) as client:
            return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

    return asyncio.run(ask())


def completed(app, *bodies, **options):
    """Post bodies at the same time, all of which must be answered; returns what the replies hold."""
    replies = asked(app, *bodies, **options)
    assert [one.status_code for one in replies] == [200] * len(bodies), [one.text for one in replies]
    return [one.json() for one in replies]
