"""SIGTERM as Ctrl-C: what a scheduler or ``kill`` sends ends a command as cleanly as a person at the keyboard does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interruptible() -> Iterator[None]:
    """A block in which SIGTERM raises ``KeyboardInterrupt``, so that temporary files are taken away.

    Does nothing outside the main thread, which alone may set handlers, and in one of several processes of a launcher,
    where another may wait in a collective that no Python code can leave.
    """
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    if several or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def sigterm_cancels() -> Iterator[None]:
    """Within a task of a running loop: a block in which SIGTERM cancels the task, as asyncio does at Ctrl-C.

    An exception out of a signal handler would hit whichever task is at it, and leave a traceback. What SIGINT does is
    not asked: in the background of a shell's script it is ignored, and SIGTERM must end the command there as well.
    Like :func:`interruptible`, whose place it takes for the block, it does nothing where that has set no handler.
    """
    import asyncio  # not before it is needed: every command imports this module

    task = asyncio.current_task()
    main = threading.current_thread() is threading.main_thread()
    if task is None or not main or not callable(signal.getsignal(signal.SIGTERM)):
        yield
        return
    loop = asyncio.get_running_loop()

    def cancel(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel)  # which also wakes a loop that waits for the network

    previous = signal.signal(signal.SIGTERM, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopFlag:
    """Within its block Ctrl-C and SIGTERM only set ``name``, for a loop that looks at it after each step.

    A second Ctrl-C is not caught any more.

    Attributes:
        name: the signal that came, or ``None``.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if number in self._previous:
            signal.signal(number, self._previous[number])
