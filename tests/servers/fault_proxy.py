"""Stands between the engine and a server, and breaks answers on purpose."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

SECONDS_BETWEEN_BYTES = 0.05


class FaultProxy:
    """An HTTP proxy that answers each request of `path` with a fault drawn by its rate, and else with the server's answer.

    Faults: `drop` closes the connection; `429`, `500`, `503` answer with that status; `cut` ends in the middle of the body;
    `broken` sends half of the JSON as if it were all; `drip` sends a byte now and then; `nan`, `missing` and `positive` spoil the
    log-probabilities; `short` leaves out the last one.
    """

    def __init__(self, upstream: str, rates: Mapping[str, float], *, path: str = "/v1/completions", seed: int = 0) -> None:
        self.rates = dict(rates)
        self.seen: Counter[str] = Counter()
        self.headers: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._path = path
        self._upstream = upstream.removesuffix("/v1")
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        async with httpx.AsyncClient(timeout=30) as self._http:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
            self._port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._end.wait()
            server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lengths = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    if not await self._answer(head, body, writer):
                        return
                finally:
                    self._at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Send one answer; False to close the connection after it."""
        method, path, _ = head.split(" ", 2)
        self.headers.append(head)
        fault = self._fault() if path == self._path else "none"
        self.seen[fault] += 1
        if fault == "drop":
            return False
        if fault.isdigit():
            extra = "Retry-After: 0.05\r\n" if fault in ("429", "503") else ""
            writer.write(f"HTTP/1.1 {fault} Fault\r\n{extra}Content-Length: 6\r\n\r\nfault\n".encode())
            await writer.drain()
            return True
        found = await self._http.request(method, self._upstream + path, content=body or None)
        content = _spoilt(found.content, fault)
        writer.write(f"HTTP/1.1 {found.status_code} Any\r\nContent-Type: application/json\r\n".encode())
        writer.write(f"Content-Length: {len(content)}\r\n\r\n".encode())
        if fault == "cut":
            writer.write(content[: len(content) // 2])
            await writer.drain()
            return False
        if fault == "drip":
            for byte in content:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(SECONDS_BETWEEN_BYTES)
            return True
        writer.write(content)
        await writer.drain()
        return True

    def _fault(self) -> str:
        number = self._random.random()
        for name, rate in self.rates.items():
            number -= rate
            if number < 0:
                return name
        return "none"


def _spoilt(content: bytes, fault: str) -> bytes:
    if fault == "broken":
        return content[: len(content) // 2]
    if fault not in ("nan", "missing", "positive", "short"):
        return content
    body = json.loads(content)
    entries = (body["choices"][0].get("logprobs") or {}).get("content") or []
    if entries and fault == "short":
        entries.pop()
    elif entries:
        entries[-1]["logprob"] = {"nan": float("nan"), "missing": None, "positive": 0.5}[fault]
        entries[-1]["top_logprobs"] = []
    return json.dumps(body).encode()


@contextmanager
def fault_proxy(upstream: str, **settings) -> Iterator[FaultProxy]:
    """Start one, and stop it at the end."""
    proxy = FaultProxy(upstream, settings.pop("rates", {}), **settings)
    try:
        yield proxy
    finally:
        proxy.stop()
