"""What every request passes before anything of it is read: the key, the size of the body, the clock."""

from __future__ import annotations

import hashlib
import hmac
from time import perf_counter

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxent_ts.server.errors import ApiError
from maxent_ts.server.metrics import Metrics
from maxent_ts.server.settings import ServerSettings

__all__ = ["Gate"]

OPEN_PATHS = frozenset({"/health"})
"""For those who watch the server, who need no key."""


class Gate:
    """ASGI middleware: refuses without the key (401) and beyond the size (413), and counts what is answered."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._key = None if settings.api_key is None else _digest(settings.api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, num_bytes = perf_counter(), 499, 0
        scope.setdefault("state", {})

        async def counted_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._settings.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                refusal = self._refusal(scope)
                if refusal is None:
                    await self._app(scope, counted_receive, watched_send)
                else:
                    answer = JSONResponse(refusal.body_for(self._settings), refusal.status, refusal.headers)
                    await answer(scope, receive, watched_send)
            finally:
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.answered(path, scope["state"].get("method", ""), status, perf_counter() - started)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip().encode("latin-1")), self._key):
                message = "This server asks for a key, and none or another one came. Send it as 'Authorization: Bearer KEY'."
                return ApiError(401, message, "authentication_error", code="invalid_api_key")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body_bytes:
            return ApiError(413, self._too_large(), "invalid_request_error")
        return None

    def _too_large(self) -> str:
        return f"The body is larger than the {self._settings.max_body_bytes} bytes that this server takes. Send less."


def _digest(key: bytes) -> bytes:
    """Equal lengths, so that comparing tells nothing about the key's."""
    return hashlib.sha256(key).digest()
