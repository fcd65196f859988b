"""Requests to a server, tried again where that can help.

Requests run on an event loop in a thread of their own, so that they go on while searches think and rewards are computed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import email.utils
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from maxent_ts.engines.openai_gate import Gate
from maxent_ts.errors import EngineError, SettingError
from maxent_ts.types import Tokens

__all__ = ["Client", "RefusedError"]

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
OVERLOADED_STATUSES = frozenset({429, 503})
FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0
"""Seconds between tries: doubled each time, then a random share of it (full jitter)."""


class RefusedError(EngineError):
    """The server understood a request and refuses it: sending it again would not help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Speaks JSON to one server.

    Args:
        base_url: Where the API is, such as `http://localhost:8000/v1`.
        api_key: Sent as a bearer token; it appears in no message.
        max_concurrent_requests: At most so many at once.
        max_retries: How often a request is sent again.
        timeout: Seconds for one answer, the last byte included.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, max_concurrent_requests: int, max_retries: int, timeout: float
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingError(f"base_url must look like http://localhost:8000/v1, but is {base_url!r}.")
        if parts.username or parts.password or parts.query:
            raise SettingError("base_url must hold no user, password or query. Put the key into an environment variable.")
        if max_concurrent_requests < 1 or max_retries < 0 or not timeout > 0:
            raise SettingError("max_concurrent_requests must be at least 1, max_retries at least 0, and timeout above 0 seconds.")
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._max_retries, self._timeout = max_retries, timeout
        self.gate = Gate(max_concurrent_requests)
        self._not_before = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="maxent-ts-requests", daemon=True)
        self._thread.start()
        self._http: httpx.AsyncClient = self.start(self._connect(max_concurrent_requests)).result()
        self.num_requests = 0
        """Sent so far, repeated ones included."""

    @property
    def root(self) -> str:
        """Where the server's own endpoints are: the base URL without `/v1`."""
        return self.base_url.removesuffix("/v1")

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Run a coroutine beside the others."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the thread of the requests, which is the only one to touch the gate."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def shut_down(self) -> None:
        """Cancel what is under way, close the connections and end the thread. May be called twice, and from any thread."""
        if self._loop.is_closed():
            return
        # The callback runs in this thread where the coroutine is done first, and `stop` alone would not wake a loop that waits.
        ended = asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop)
        ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        if threading.current_thread() is not self._thread:  # the garbage collector may run in it
            self._thread.join(timeout=10)

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        *,
        group: int = 0,
        prefix: Tokens = (),
        at_root: bool = False,
        max_retries: int | None = None,
    ) -> dict[str, Any]:
        """Send a request until it is answered; a POST if it has a body.

        The same body gives the same answer where the server honours seeds, so a request may be sent again. A function makes
        its body when its turn has come: large bodies of requests that wait need no memory. When that is, `Gate` decides by the
        group and the prefix.

        Raises:
            RefusedError: if the server answers with a status that another try would not change.
            EngineError: if no try was answered.
        """
        url = (self.root if at_root else self.base_url) + path
        problem = ""
        num_tries = 1 + (self._max_retries if max_retries is None else max_retries)
        for attempt in range(num_tries):
            if attempt:
                await asyncio.sleep(random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**attempt)))
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            async with self.gate.turn(group, prefix):
                self.num_requests += 1
                content = body() if callable(body) else body
                try:
                    async with asyncio.timeout(self._timeout):
                        response = await self._http.request("GET" if content is None else "POST", url, json=content)
                except TimeoutError:
                    problem = f"no whole answer within {self._timeout:g} seconds"
                    continue
                except httpx.TransportError as error:
                    problem = f"the connection failed ({type(error).__name__}: {self._shown(str(error))})"
                    continue
                if response.status_code == 200:
                    found = _json(response)
                    if found is not None:
                        self.gate.widen()
                        return found
                    problem = "an answer that is not a JSON object"
                    continue
                problem = f"status {response.status_code}: {self._shown(response.text)}"
                if response.status_code not in RETRIED_STATUSES:
                    raise RefusedError(self._refusal(url, response.status_code, problem), response.status_code)
                if response.status_code in OVERLOADED_STATUSES:
                    self.gate.narrow()
                    self._not_before = max(self._not_before, time.monotonic() + _retry_after(response))
        raise EngineError(
            f"The server at {url} gave no good answer; tries: {num_tries}; the last: {problem}. Is it running, and is base_url "
            "right? Fewer requests at once (--batch-size) or a longer timeout may help."
        )

    async def _connect(self, num: int) -> httpx.AsyncClient:
        headers = {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}
        limits = httpx.Limits(max_connections=num, max_keepalive_connections=num)
        return httpx.AsyncClient(headers=headers, limits=limits, timeout=httpx.Timeout(self._timeout, pool=None))

    async def _disconnect(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    def _refusal(self, url: str, status: int, problem: str) -> str:
        if status in (401, 403):
            given = "The key that was sent is not accepted" if self._api_key else "No key was sent"
            return f"The server at {url} refused access ({status}). {given}: set the environment variable that holds the key."
        return f"The server at {url} refused the request with {problem}"

    def _shown(self, text: str) -> str:
        """A server's own words, short and without the key."""
        text = " ".join(text.split())
        return text[:300] if self._api_key is None else text.replace(self._api_key, "***")[:300]


def _json(response: httpx.Response) -> dict[str, Any] | None:
    try:
        found = response.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks for, at most LONGEST_DELAY; 0 where it asks for none."""
    text = response.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_DELAY) if seconds == seconds else 0.0


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Serve requests until the loop is stopped."""
    try:
        loop.run_forever()
    finally:
        loop.close()
