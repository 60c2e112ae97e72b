"""Errors of requests, in OpenAI's form."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ...memory import is_out_of_memory
from ..limits import EngineClosedError, OverloadedError, QueueFullError


logger = logging.getLogger(__name__)
MAX_MESSAGE = 500
REASONS = {
    400: "The request cannot be read.",
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
}


class ApiError(Exception):
    """An error that a client is told.

    Args:
        status: HTTP status.
        message: What is wrong and what to do.
        kind: OpenAI's type of error; by the status by default.
        code: OpenAI's code.
        param: The field of the request that it is about.
        retry_after: Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The error as the body of a response."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def response(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def as_api_error(error: BaseException, was_read: bool = True) -> ApiError:
    """What a client is told of an error.

    Args:
        error: What went wrong.
        was_read: Whether the request had been read and found usable; before, an error is the client's.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), "rate_limit_error", "queue_full", retry_after=error.retry_after)
    if isinstance(error, OverloadedError):
        return ApiError(503, str(error), code="overloaded", retry_after=error.retry_after)
    if isinstance(error, EngineClosedError):
        return ApiError(503, str(error), code="shutting_down", retry_after=10)
    if is_out_of_memory(error):
        return ApiError(503, "There is not enough memory for the request now.", code="overloaded", retry_after=5)
    if not was_read and isinstance(error, (ValueError, TypeError, OSError)):
        return ApiError(400, one_line(error), code="invalid_value")
    logger.error("A request failed: %s", type(error).__name__, exc_info=error)
    return ApiError(500, "The server failed to answer this request.")


def one_line(error: BaseException) -> str:
    """The message of an error in one short line."""
    message = " ".join(str(error).split()) or type(error).__name__
    message = message.encode("utf-8", "replace").decode("utf-8")
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."


async def handle_api_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of `ApiError`."""
    return as_api_error(error).response()


async def handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of fields that are missing, unknown or of the wrong type."""
    return validation_error(error.errors() if isinstance(error, RequestValidationError) else []).response()


def validation_error(problems: Sequence[Any]) -> ApiError:
    """What a client is told of Pydantic's errors: the first one."""
    if not problems:
        return ApiError(400, REASONS[400])
    place = [str(part) for part in problems[0]["loc"] if part not in ("body", "query")]
    param = ".".join(place)[:100] or None
    if problems[0]["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    if problems[0]["type"] == "extra_forbidden":
        return ApiError(400, f"There is no parameter {param!r}.", code="unknown_parameter", param=param)
    message = f"{param}: {problems[0]['msg']}." if param else f"{problems[0]['msg']}."
    return ApiError(400, one_line(ValueError(message)), code="invalid_value", param=param)


async def handle_status(request: Request, error: Exception) -> JSONResponse:
    """Handler of errors that the framework raises by their status."""
    status = getattr(error, "status_code", 500)
    response = ApiError(status, REASONS.get(status, "The request cannot be answered.")).response()
    response.headers.update(getattr(error, "headers", None) or {})
    return response
