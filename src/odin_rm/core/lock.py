"""A lock that ends with the process that holds it, whatever ends the process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from odin_rm.core.errors import OutputError


@contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file, which is made where it is missing.

    Args:
        path: the file.
        wait: until another process gives the lock back.

    Returns:
        Whether this process holds the lock; always, when it waits.

    Raises:
        OutputError: the file cannot be made.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, where=str(path), fix="Choose another output folder.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
