"""When the next call may go out: rate limits, the server's own wishes, and growing pauses."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import math
import random
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0


class Clock:
    """The time that calls go by. Seconds; a clock that stands still until it is moved makes tests exact."""

    def now(self) -> float:
        """Seconds since some moment, for differences."""
        return time.monotonic()

    def date(self) -> float:
        """Seconds since 1970, for what a server says of dates."""
        return time.time()

    async def pause(self, seconds: float, stopped: asyncio.Event) -> None:
        """Wait so long, or until ``stopped`` is set."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), seconds)

    def limit(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """A block that may take so long.

        Raises:
            TimeoutError: it took longer, at the block's end.
        """
        return asyncio.timeout(seconds)


CLOCK = Clock()


class Pacer:
    """Spaces calls out evenly, so that no minute holds more requests or tokens than allowed.

    Args:
        requests_per_minute, tokens_per_minute: the limits; ``None`` is none.
        clock: the time to go by.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock = CLOCK,
    ) -> None:
        self.clock = clock
        self.per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self.per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._free_at = self._held_until = -math.inf
        self._stopped = asyncio.Event()

    def reserve(self, tokens: int) -> float:
        """Take the next slot for a call of ``tokens`` tokens; seconds from now until it."""
        now = self.clock.now()
        start = max(now, self._free_at)
        self._free_at = start + max(self.per_request, tokens * self.per_token)
        return start - now

    def hold(self, seconds: float) -> None:
        """No call goes out for so long: one refused call speaks for all workers."""
        self._held_until = max(self._held_until, self.clock.now() + seconds)
        self._free_at = max(self._free_at, self._held_until)

    def stop(self) -> None:
        """No call goes out any more, and nobody waits any longer."""
        self._stopped.set()

    async def turn(self, tokens: int) -> bool:
        """Wait for the next slot, and for the end of any hold that comes meanwhile. False once stopped."""
        wait = self.reserve(tokens)
        while wait > 0 and await self.sleep(wait):
            wait = self._held_until - self.clock.now()
        return not self._stopped.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Wait so long, or until stopped; False once stopped."""
        await self.clock.pause(seconds, self._stopped)
        return not self._stopped.is_set()


def pause_before(attempt: int, headers: Mapping[str, str] | None = None, clock: Clock = CLOCK) -> float:
    """Seconds to wait before trying a failed call again.

    Args:
        attempt: tries so far, from 1.
        headers: of the server's refusal. ``retry-after-ms`` and ``Retry-After`` (seconds or a date) are obeyed; else
            the pause doubles with each try up to a minute, less up to a quarter at random so that workers spread out.
        clock: what a date in the headers is compared with.
    """
    asked = _asked_for(headers or {}, clock)
    if asked is not None:
        return max(0.0, asked)
    return min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.0)


def _asked_for(headers: Mapping[str, str], clock: Clock) -> float | None:
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return seconds
    try:
        return email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - clock.date()
    except (KeyError, ValueError, TypeError):
        return None
