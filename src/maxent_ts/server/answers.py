"""From a request's searches to its answer: whole, or as a stream; for as long as the client is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from maxent_ts.errors import MaxentError
from maxent_ts.search.run import SearchResult
from maxent_ts.server.errors import ApiError, api_error
from maxent_ts.server.replies import final_chunks, progress_chunk, reply
from maxent_ts.server.requests import Plan, plan_searches
from maxent_ts.server.rewards import RewardTable
from maxent_ts.server.schemas import ChatRequest, CompletionRequest
from maxent_ts.server.service import News, Service
from maxent_ts.server.settings import ServerSettings

__all__ = ["answer_request"]

SECONDS_BETWEEN_SIGNS_OF_LIFE = 15.0
"""A stream that has nothing to say sends a comment, lest something on the way takes it for dead."""

CLIENT_LEFT = 499
"""Nginx's number for a client that left before the answer; nobody sees it but /metrics."""

T = TypeVar("T")


class _Gone(Exception):  # noqa: N818 - no error, but the end of a client's interest
    """The client has left."""


class _Inbox:
    """A request's news, carried from the service's thread to the event loop."""

    def __init__(self, plan: Plan) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self.results: dict[str, SearchResult] = {}
        self._plan = plan

    def tell(self, news: News) -> None:
        """Take news, in the service's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody listens
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)

    async def next(self) -> News:
        """Return the next news; results are also kept.

        Raises:
            ApiError: if a search ended with an error.
        """
        news = await self._news.get()
        if news.result is not None:
            if news.result.error is not None:
                raise api_error(news.result.error) from news.result.error
            self.results[news.job_id] = news.result
        return news

    @property
    def is_complete(self) -> bool:
        """Whether all searches have ended."""
        return len(self.results) == len(self._plan.jobs)

    def ordered(self) -> list[SearchResult]:
        """All results, in the order of the searches."""
        return [self.results[job.id] for job in self._plan.jobs]


class _EventStream(StreamingResponse):
    """Server-sent events that give back what they hold, however they end."""

    def __init__(self, content: AsyncIterator[str], on_close: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


async def answer_request(
    body: CompletionRequest | ChatRequest, request: Request, service: Service, settings: ServerSettings, rewards: RewardTable
) -> Response:
    """Run a request's searches and return its answer; a stream begins with the first search, so that what is wrong has a status.

    Raises:
        ApiError: if the request is wrong, there is no room for it, a search fails, or the time is over.
    """
    try:
        plan = plan_searches(body, settings, rewards)
    except MaxentError as error:
        raise api_error(error) from error
    request.state.method = plan.method
    inbox = _Inbox(plan)

    def give_up() -> None:
        unfinished = [job.id for job in plan.jobs if job.id not in inbox.results]
        if unfinished:
            service.cancel(unfinished)

    try:
        service.submit(plan.jobs, plan.reward, inbox.tell, is_followed=bool(body.stream))
    except MaxentError as error:
        raise api_error(error) from error
    deadline = asyncio.get_running_loop().time() + settings.request_timeout
    is_streaming = False
    try:
        first = await _unless_gone(request, inbox.next(), deadline, settings)
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            is_streaming = True
            return _EventStream(_events(plan, inbox, first, deadline, settings, include_usage=include_usage), give_up)
        await _unless_gone(request, _completed(inbox), deadline, settings)
        return JSONResponse(reply(plan, inbox.ordered()))
    except _Gone:
        return Response(status_code=CLIENT_LEFT)
    finally:
        if not is_streaming:
            give_up()


async def _completed(inbox: _Inbox) -> None:
    while not inbox.is_complete:
        await inbox.next()


async def _events(
    plan: Plan, inbox: _Inbox, first: News, deadline: float, settings: ServerSettings, *, include_usage: bool
) -> AsyncIterator[str]:
    """Yield the chunks of a stream. What goes wrong after its begin is told as an event, since the status is sent."""
    news, loop = first, asyncio.get_running_loop()
    try:
        while True:
            if news.best is not None:
                yield _event(progress_chunk(plan, news.job_id, news.best))
            if inbox.is_complete:
                break
            pending = asyncio.ensure_future(inbox.next())
            try:
                while not pending.done():
                    left = deadline - loop.time()
                    if left <= 0:
                        raise _timeout(settings)
                    await asyncio.wait([pending], timeout=min(left, SECONDS_BETWEEN_SIGNS_OF_LIFE))
                    if not pending.done() and left > SECONDS_BETWEEN_SIGNS_OF_LIFE:
                        yield ": the search goes on\n\n"
                news = pending.result()
            finally:
                pending.cancel()
    except ApiError as error:
        yield _event(error.body_for(settings))
        return
    for chunk in final_chunks(plan, inbox.ordered(), include_usage=include_usage):
        yield _event(chunk)
    yield "data: [DONE]\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[T], deadline: float, settings: ServerSettings) -> T:
    """Wait for something as long as the client does.

    Raises:
        _Gone: if the client leaves.
        ApiError: if the deadline passes.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(request))
    try:
        left = deadline - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait([working, leaving], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if leaving in done:
            raise _Gone
        raise _timeout(settings)
    finally:
        working.cancel()
        leaving.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _timeout(settings: ServerSettings) -> ApiError:
    message = (
        f"The request was not answered in {settings.request_timeout:g} seconds, waiting included, and was given up. "
        "Ask for fewer tokens, or give max_seconds to get what there is by then."
    )
    return ApiError(504, message, "timeout", code="timeout")
