"""SIGTERM as Ctrl-C: what a scheduler or ``kill`` sends ends a command as cleanly as a person at the keyboard does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
