"""A limit on the size of a request's body, and on the time it takes to come."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm.serving.errors import error_response


class BodyTooLarge(Exception):
    """A body of more bytes than are taken."""


class BodyLimit:
    """Answers 413 to a request of more than `max_bytes`, and 408 to one whose body has not come
    after `max_seconds`, before anything else sees it."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float):
        self._app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it is too large or too slow."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        try:
            self._check_announced_size(scope)
            async with asyncio.timeout(self._max_seconds):
                body = await self._read(receive)
        except BodyTooLarge:
            message = f"A request may have at most {self._max_bytes:,} bytes."
            await error_response(413, message)(scope, receive, send)
            return
        except TimeoutError:
            message = f"The request's body did not come within {self._max_seconds:g} seconds."
            await error_response(408, message)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _check_announced_size(self, scope: Scope) -> None:
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise BodyTooLarge

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                raise BodyTooLarge
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A way to receive the body that has been read, and after it whatever else comes."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again
