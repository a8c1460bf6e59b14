"""The study's HTTP server: uvicorn's, with a time by which a request must be whole and a limit to open connections.

uvicorn waits for ever for a request that has begun and does not go on. Some hundreds of these take all descriptors of a
process, and nobody else is let in.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ASK = 15.0
"""From the connection, or the reply before, to the last byte of a request."""
SECONDS_TO_REPLY = 60.0
MOST_CONNECTIONS = 512


class CarefulProtocol(H11Protocol):
    """One connection; see the module."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to count the seconds, and close the connection that has waited longest where there are too many."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._look = self.loop.call_later(SECONDS_TO_ASK, self._look_again)
        if len(self.connections) > most_connections():
            waiting = [one for one in self.connections if isinstance(one, CarefulProtocol) and one.waits]
            min(waiting or [self], key=lambda one: one.since).transport.abort()

    @property
    def waits(self) -> bool:
        """Whether the next step is the other side's: a request is not there, or not yet whole."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _look_again(self) -> None:
        limit = SECONDS_TO_ASK if self.waits else SECONDS_TO_REPLY
        left = self.since + limit - self.loop.time()
        if left <= 0:
            self.transport.abort()
        else:
            self._look = self.loop.call_later(left, self._look_again)

    def on_response_complete(self) -> None:
        """Begin to count anew."""
        self.since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._look.cancel()
        super().connection_lost(exc)


def most_connections() -> int:
    """How many may be open: half of the descriptors that the process may have, the others are for the study's file."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MOST_CONNECTIONS, soft // 2))


def server_settings(app: Any, **changes: Any) -> uvicorn.Config:
    """uvicorn's settings for the study's application.

    Args:
        app: the application.
        changes: further settings of uvicorn.
    """
    return uvicorn.Config(app, http=CarefulProtocol, ws="none", log_level="warning", access_log=False, **changes)
