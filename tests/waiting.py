"""Waiting for what another process or thread does: the one place where tests look at the machine's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

PATIENCE = 300.0
"""Seconds after which a test that waits in vain fails; a busy machine must not."""


def wait_until(condition: Callable[[], Any], *, alive: Iterable[Any] = ()) -> None:
    """Look until the condition holds.

    Args:
        condition: is looked at many times.
        alive: processes that must not end meanwhile.

    Raises:
        AssertionError: they have ended, or it does not hold after a long time.
    """
    processes = list(alive)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert all(process.poll() is None for process in processes), "a process has ended before it should"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
