"""A clock that stands still until a test moves it, and a run in a thread beside the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from odin_rm.judging.pacing import Clock
from tests.waiting import PATIENCE


class ManualClock(Clock):
    """See the module. It may be moved from another thread than that of the run.

    Attributes:
        pauses: the lengths of all pauses that were begun.
    """

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._now = 0.0
        self._free = False
        self._changed = threading.Condition()
        self._pausing: list[tuple[float, Callable[[], Any]]] = []
        self._limits: list[tuple[float, Callable[[], Any]]] = []

    def now(self) -> float:
        return self._now

    def date(self) -> float:
        return 1_000_000_000.0 + self._now

    async def pause(self, seconds: float, stopped: asyncio.Event) -> None:
        loop, passed = asyncio.get_running_loop(), asyncio.Event()
        entry = self._now + seconds, lambda: loop.call_soon_threadsafe(passed.set)
        with self._changed:
            self.pauses.append(seconds)
            if self._free:
                self._now = max(self._now, entry[0])
                return
            self._pausing.append(entry)
            self._changed.notify_all()
        ends = [asyncio.ensure_future(event.wait()) for event in (passed, stopped)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            with self._changed:
                self._pausing = [one for one in self._pausing if one is not entry]

    @asynccontextmanager
    async def _limited(self, seconds: float) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as timeout:
            entry = self._now + seconds, lambda: loop.call_soon_threadsafe(timeout.reschedule, 0.0)
            with self._changed:
                self._limits.append(entry)
            try:
                yield
            finally:
                with self._changed:
                    self._limits = [one for one in self._limits if one is not entry]

    def limit(self, seconds: float) -> Any:
        return self._limited(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass: pauses and limits that end by then end now."""
        with self._changed:
            self._now += seconds
            for waiting in (self._pausing, self._limits):
                for entry in [one for one in waiting if one[0] <= self._now]:
                    waiting.remove(entry)  # here and now: who asks next must not see it any more
                    entry[1]()

    def until_pausing(self, count: int) -> None:
        """Wait until so many pauses are under way."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._pausing) == count, PATIENCE), self._pausing

    def let_go(self) -> None:
        """No pause takes any time from here on."""
        with self._changed:
            self._free = True
            self._now = max([self._now, *(end for end, _ in self._pausing)])
            for _, wake in self._pausing:
                wake()


@contextmanager
def beside(function: Callable[..., Any], *args: Any, at_end: Callable[[], Any]) -> Iterator[Future]:
    """The function in a thread; ``at_end`` lets it come to its end where the block fails."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, *args)
        try:
            yield future
        finally:
            at_end()
