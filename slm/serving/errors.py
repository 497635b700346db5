"""Errors as OpenAI's clients expect them: JSON with one sentence, whatever went wrong."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm.serving.protocol import ChatCompletionRequest, CompletionRequest, ErrorDetail

logger = logging.getLogger("slm.serving")
LONGEST_QUOTE = 100  # characters of what a client has sent that a message repeats


class RequestError(Exception):
    """A request that is refused: the status, one sentence that says why, and the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.headers = headers


def error_detail(status: int, message: str, param: str | None = None) -> ErrorDetail:
    """What is wrong, in OpenAI's form."""
    if status >= 500:
        kind = "server_error"
    elif status == 429:
        kind = "rate_limit_error"
    else:
        kind = "invalid_request_error"
    # Half a character (a lone surrogate), which JSON may hold, cannot be sent as UTF-8.
    sendable = message.encode("utf-8", "backslashreplace").decode()
    field = None if param is None else param.encode("utf-8", "backslashreplace").decode()
    return ErrorDetail(message=sendable, type=kind, param=field)


def error_response(
    status: int,
    message: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer to a request that failed."""
    detail = error_detail(status, message, param)
    return JSONResponse({"error": detail.model_dump()}, status, headers)


def unexpected_error(error: Exception) -> ErrorDetail:
    """What a client is told of a fault of the server: an id, by which the log has the rest."""
    error_id = uuid.uuid4().hex
    logger.error("Unexpected error %s", error_id, exc_info=error)
    return error_detail(500, f"An unexpected error happened; the server's log has it: {error_id}.")


def add_error_handlers(app: FastAPI) -> None:
    """Have the app answer in OpenAI's form what it refuses; see UnexpectedErrors for the rest."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        return error_response(error.status, error.message, error.param, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(400, *_validation_message(request, error.errors()))

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's, for a body in another encoding
            return error_response(400, "The request cannot be read: send JSON in UTF-8.")
        path = request.url.path[:LONGEST_QUOTE]
        message = f"{request.method} {path}: {error.detail}."
        return error_response(error.status_code, message, headers=error.headers)


class UnexpectedErrors:
    """Answers 500, in OpenAI's form, where the app inside fails.

    Starlette's own handler for that would raise the error again, and the server would log it a
    second time, without the id.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Raises the error only where a part of the answer has been sent."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            detail = unexpected_error(error)
            answer = JSONResponse({"error": detail.model_dump()}, 500)
            await answer(scope, receive, send)


def _validation_message(request: Request, errors: Sequence[dict]) -> tuple[str, str | None]:
    """One sentence on the first field that is wrong, and its name. The input itself is left out: it
    may be long, private, or no JSON."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return "The request is not valid JSON.", None
    if len(first["loc"]) < 2:  # not a field, but the whole body
        if not request.headers.get("content-type", "").startswith("application/json"):
            return "Send JSON, with the header Content-Type: application/json.", None
        return "The request must be a JSON object.", None
    name = str(first["loc"][1])[:LONGEST_QUOTE]
    if first["type"] == "extra_forbidden":
        return _unknown_field(first["loc"][1:], _fields(request)), name
    of_this_field = [error for error in errors if error["loc"][1] == first["loc"][1]]
    path = name
    if len(of_this_field) == 1:
        path = _path(first["loc"][1:])
    if first["type"] == "missing":
        return f"{path} is missing.", name
    if first["type"] in ("unsupported", "must_be"):
        return f"{path} {first['msg']}.", name
    return f"{path} must be {_alternatives(of_this_field)}.", name


def _alternatives(errors: Sequence[dict]) -> str:
    """What a field might have been, where its type allows several things."""
    texts = []
    for error in errors:
        text = error["msg"].removeprefix("Input should be ")
        text = text.removeprefix("String should have ").removeprefix("List should have ")
        if text not in texts:
            texts.append(text)
    return " or ".join(texts)


def _path(location: Sequence[str | int]) -> str:
    """Where a field is: "messages.0.content"."""
    return ".".join(str(part) for part in location)


def _fields(request: Request) -> set[str]:
    """The fields that a request to this address may have."""
    is_chat = request.url.path.rstrip("/").endswith("/chat/completions")
    return set((ChatCompletionRequest if is_chat else CompletionRequest).model_fields)


def _unknown_field(location: Sequence[str | int], known: set[str]) -> str:
    path = _path(location)[:LONGEST_QUOTE]
    close = get_close_matches(path, known, 1)
    if close and len(location) == 1:  # not for a field within another
        return f"There is no field {path!r}: did you mean {close[0]!r}?"
    return f"There is no field {path!r}: leave it out."
