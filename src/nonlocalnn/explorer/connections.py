"""Limits on connections to the explorer's server: how many, and how long a client may keep it waiting."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nonlocalnn._errors import needs

with needs("uvicorn", "explorer", "the explorer"):
    from uvicorn.protocols.http.h11_impl import H11Protocol

# Connections that the event loop accepts in one turn. They hold file handles for two more turns before they
# are counted.
BACKLOG = 32
# File handles for those connections, for uploads, and for the program itself.
_SPARE_HANDLES = 3 * BACKLOG + 64
_FEWEST, _MOST = 32, 512
_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b'Content-Length: 45\r\n\r\n{"error": "the request did not come in time"}'
)


def most_connections() -> int:
    """Return how many connections the file handles of this process allow, 512 at most.

    Raises:
        OSError: They allow too few.

    Example:
        >>> 32 <= most_connections() <= 512
        True
    """
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if handles == resource.RLIM_INFINITY:
        return _MOST
    if handles < _SPARE_HANDLES + _FEWEST:
        raise OSError(
            f"the explorer needs {_SPARE_HANDLES + _FEWEST} file handles; this process may have {handles}: "
            "raise the limit, as with ulimit -n 1024"
        )
    return min(_MOST, handles - _SPARE_HANDLES)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on connections.

    Args:
        connections: How many may be open. One more closes the connection whose client has kept the server
            waiting longest.
        request_seconds: From the start of a connection, or the end of a response, to the end of the next
            request's headers.
        answer_seconds: For a client to read a response.
        closing_seconds: For responses under way when the server stops.
    """

    connections: int = field(default_factory=most_connections)
    request_seconds: float = 10.0
    answer_seconds: float = 120.0
    closing_seconds: float = 2.0


# A protocol and not a middleware, which sees a request only after its headers. `limit_concurrency` of uvicorn
# counts only whole requests.
class Connection(H11Protocol):
    """A connection that is closed when its client keeps the server waiting.

    uvicorn does not limit how long it waits for headers, for the end of a body that nobody reads, or for a
    client to read a response. Uploads have limits of their own, in :mod:`nonlocalnn.explorer.uploads`.
    """

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaits_request = True
        self._waits_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for a request; if there are too many connections, close one."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.limits.connections:
            ours = [each for each in self.connections if isinstance(each, Connection)]
            waiting = [each for each in ours if each._waits_since is not None]
            # It may be this one. Refusing newcomers instead would let half-open connections keep everybody
            # else out.
            self._drop(min(waiting, key=lambda each: each._waits_since or 0.0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_watching()

    def handle_events(self) -> None:
        """Process incoming data; a complete request stops the clock for it."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._awaits_request = False
            self._watch()

    def on_response_complete(self) -> None:
        """Start the clock for the next request, which may have arrived already."""
        self._awaits_request = True
        self._watch()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the clock for the client to read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Continue to write."""
        super().resume_writing()
        self._watch()

    def shutdown(self) -> None:
        """Give the response under way a moment to be sent."""
        super().shutdown()
        self.loop.call_later(self.limits.closing_seconds, self._drop, self)

    def _watch(self) -> None:
        """Start the clock for what the client must do next, if anything."""
        self._stop_watching()
        if self.flow.write_paused:
            seconds = self.limits.answer_seconds
        elif self._awaits_request:
            seconds = self.limits.request_seconds
        else:
            return
        self._waits_since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self._time_out)

    def _stop_watching(self) -> None:
        self._waits_since = None
        if self._timer is not None:
            self._timer.cancel()

    def _time_out(self) -> None:
        if not self.flow.write_paused and not self.transport.is_closing():
            self.transport.write(_TOO_LATE)
            self.transport.close()
        # Data that is still unsent has no reader.
        if self.flow.write_paused or self.transport.get_write_buffer_size():
            self._drop(self)

    def _drop(self, other: Connection) -> None:
        # Removed at once, so that it is neither counted nor chosen again.
        self.connections.discard(other)
        other._stop_watching()
        other.transport.abort()
