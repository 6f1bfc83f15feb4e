"""Protocols of the web server whose patience ends: heads, frames and farewells that never come."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_TIME = 10.0
"""Seconds in which the head of a request must be whole: of a new connection, and of the next
request once an answer is sent."""
LOOKS = 4
"""Looks at a connection in that time."""


class PatientHttp(H11Protocol):
    """HTTP, but a connection whose next request has no whole head is aborted after a while.

    While a request runs, ``request_guard`` bounds how long a client may be silent.
    """

    head_time = HEAD_TIME
    _idle_since = 0.0
    _is_closing = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._look()

    def on_response_complete(self) -> None:
        """Start the clock again: also what is left of a body after an early answer must come."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        """Abort where the time is over, and look again later."""
        if self.transport.get_protocol() is not self:
            return  # a WebSocket now
        running = self.cycle is not None and not self.cycle.response_complete
        late = not running and self.loop.time() - self._idle_since > self.head_time
        # closing waits for the client to take its last bytes, which some never do
        if late or self._is_closing:
            self.transport.abort()
            return
        self._is_closing = self.transport.is_closing()
        if self in self.connections:
            self.loop.call_later(self.head_time / LOOKS, self._look)


class PatientWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket, but one whose farewell never comes is aborted after a while.

    A frame that is never finished ends with the ping that cannot be answered within it
    (``ws_ping_timeout`` of the server).
    """

    head_time = HEAD_TIME
    _looks_left = LOOKS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to look."""
        super().connection_made(transport)
        self._look()

    def _look(self) -> None:
        """Abort a connection that is closing for too long, and look again later."""
        self._looks_left = self._looks_left - 1 if self.transport.is_closing() else LOOKS
        if self._looks_left < 0:
            self.transport.abort()
        elif self in self.connections:
            self.loop.call_later(self.head_time / LOOKS, self._look)
