"""What holds for all tests."""

from __future__ import annotations

import signal
import threading

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C does here what it does at a keyboard, also where the tests were started in the background of a script.

    A shell starts such processes with SIGINT ignored, and they and what they start would never see one.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
