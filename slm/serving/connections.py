"""Connections: nobody holds one for long without asking, or without reading."""

import asyncio
import http

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from slm.serving.errors import error_response
from slm.settings import ServerLimits


class ClientConnection(H11Protocol):
    """A connection of uvicorn's that is closed where a request's headers do not come in time, or
    where the client does not read the answer. (Between two requests, uvicorn itself closes it; the
    time of bodies is limited in body_limit.py.)"""

    def __init__(self, *args, limits: ServerLimits, **kwargs):
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._header_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client has connected: its first request should come."""
        super().connection_made(transport)
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Some of a request has come."""
        super().data_received(data)
        if self._answering:
            self._header_timer = _stop(self._header_timer)
        elif self._header_timer is None:
            self._start_header_timer()

    def pause_writing(self) -> None:
        """The buffers are full of what the client has not read."""
        super().pause_writing()
        seconds = self._limits.read_seconds
        self._read_timer = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read on."""
        super().resume_writing()
        self._read_timer = _stop(self._read_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._header_timer = _stop(self._header_timer)
        self._read_timer = _stop(self._read_timer)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is answered in OpenAI's form too."""
        answer = error_response(http.HTTPStatus.BAD_REQUEST, msg)
        events = [
            h11.Response(
                status_code=answer.status_code,
                headers=[*answer.raw_headers, (b"connection", b"close")],
                reason=http.HTTPStatus.BAD_REQUEST.phrase.encode(),
            ),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event))
        self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_header_timer(self) -> None:
        seconds = self._limits.header_seconds
        self._header_timer = self.loop.call_later(seconds, self.transport.close)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
