"""Connections: their number is limited, and clients that send or read too slowly lose theirs."""

import asyncio
import http
from collections.abc import Mapping

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from slm.serving.errors import error_response
from slm.settings import ServerLimits

SECONDS_OF_SILENCE = 1.0  # after which a connection without a request gives way to another


class ClientConnection(H11Protocol):
    """A connection of uvicorn's that is closed when a request's headers are late, or when the
    client does not read the answer. (Between two requests, uvicorn itself closes it; the time of
    bodies is limited in body_limit.py.)

    Where there are too many, a new one takes the place of the one that has been silent for longest;
    if all have something to do, it is answered 503.
    """

    def __init__(self, *args, limits: ServerLimits, **kwargs):
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._last_received = 0.0  # when the client last sent something, by the loop's clock
        self._header_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client has connected: its first request should come."""
        super().connection_made(transport)
        self._last_received = self.loop.time()
        if self._is_over_limit() and not self._close_longest_idle():
            self._answer_and_close(
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                "All connections of the server are in use: try again in a moment.",
                {"Retry-After": "1"},
            )
            return
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Part of a request has arrived."""
        self._last_received = self.loop.time()
        super().data_received(data)
        if self._answering:
            self._cancel_header_timer()
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
        self._cancel_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._cancel_header_timer()
        self._cancel_read_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is answered in OpenAI's form too."""
        self._answer_and_close(http.HTTPStatus.BAD_REQUEST, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: some clients offer HTTP/2 with each request, and HTTP/1.1 is what they get."""

    def _answer_and_close(
        self, status: http.HTTPStatus, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        answer = error_response(status, message, headers=headers)
        events = [
            h11.Response(
                status_code=status,
                headers=[*answer.raw_headers, (b"connection", b"close")],
                reason=status.phrase.encode(),
            ),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _is_over_limit(self) -> bool:
        open_ones = [c for c in self.connections if not c.transport.is_closing()]
        return len(open_ones) > self._limits.connections

    def _close_longest_idle(self) -> bool:
        """Close the connection that has waited longest for its client to ask; False if none has."""
        heard_before = self.loop.time() - SECONDS_OF_SILENCE
        silent = [
            connection
            for connection in self.connections
            if connection._last_received < heard_before
            and not connection._answering
            and not connection.transport.is_closing()
        ]
        if not silent:
            return False
        longest = min(silent, key=lambda connection: connection._last_received)
        longest.transport.close()
        return True

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_header_timer(self) -> None:
        seconds = self._limits.header_seconds
        self._header_timer = self.loop.call_later(seconds, self.transport.close)

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
