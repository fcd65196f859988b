"""From what goes wrong to an answer in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from maxent_ts.errors import MaxentError, MissingColumnError, OutOfMemoryError, PromptError, RewardError, SettingError
from maxent_ts.server.settings import ServerSettings

__all__ = ["ApiError", "QueueFullError", "StoppedError", "api_error", "internal_error", "validation_error"]

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1


class QueueFullError(MaxentError):
    """As many searches wait as may."""


class StoppedError(MaxentError):
    """The server is shutting down."""


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: Of HTTP.
        message: What was expected, what came, what to do.
        kind: OpenAI's `type`.
        param: The parameter that is wrong, where there is one.
        code: OpenAI's `code`.
    """

    def __init__(self, status: int, message: str, kind: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP wants to be said besides."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_AFTER_SECONDS)} if self.status in (429, 503) else {}

    def body_for(self, settings: ServerSettings) -> dict[str, Any]:
        """As OpenAI's API writes it. Where the model lies is no client's business."""
        message = str(self).replace(f"'{settings.model_path}'", f"'{settings.model_name}'")
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}


def api_error(error: Exception) -> ApiError:
    """Return the answer for an error. What is no error of this package's own is logged, and its text stays here."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MissingColumnError):
        return ApiError(400, f"{error} What a request gives a reward to read are its 'inputs'.", "invalid_request_error")
    if isinstance(error, (PromptError, RewardError, SettingError)):
        return ApiError(400, str(error), "invalid_request_error")
    if isinstance(error, TemplateError):
        message = f"The model's chat template refuses these messages: {error}"
        return ApiError(400, message, "invalid_request_error", param="messages")
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), "rate_limit_error", code="queue_full")
    if isinstance(error, StoppedError):
        return ApiError(503, str(error), "server_error", code="stopped")
    if isinstance(error, OutOfMemoryError):
        return ApiError(507, str(error), "server_error", code="out_of_memory")
    logger.error("A search failed.", exc_info=error)
    if isinstance(error, MaxentError):
        return ApiError(500, str(error), "server_error", code="engine_failed")
    return internal_error()


def internal_error() -> ApiError:
    """Return the answer for what must not happen."""
    return ApiError(500, "The server failed to answer this request. Its log says why.", "server_error", code="internal_error")


def validation_error(errors: Sequence[Any]) -> ApiError:
    """Return the answer for a body that does not have the form of a request.

    Args:
        errors: As pydantic lists them, with `body` in front of every place.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first['ctx']['error']}.", "invalid_request_error")
    place = [str(part) for part in first["loc"][1:]]
    param = place[0] if place else None
    same = [one["msg"].removeprefix("Value error, ") for one in errors if one["loc"][1:2] == first["loc"][1:2]]
    reasons = list(dict.fromkeys(same))
    if first["type"] == "extra_forbidden":
        message = f"There is no parameter '{'.'.join(place)}' here. Leave it out."
    else:
        message = f"{param or 'The body'}: {'; or '.join(reasons)}."
    return ApiError(400, message.replace("..", "."), "invalid_request_error", param=param)
