"""A lock that ends with the process that holds it, whatever ends the process."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from odin_rm.core.errors import OutputError
from odin_rm.core.system import cannot_write, shown_path


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
        raise cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


_HELD: set[str] = set()
"""The files of the locks that this process holds."""


class WriterLock:
    """The right to write an output, of one process at a time; the file says who has it and is gone afterwards.

    Args:
        path: the file of the lock.
        output: the output, for messages.
        note: a line that stays in the file when a kill ends the process.
    """

    def __init__(self, path: Path, output: str | os.PathLike[str], note: str = "") -> None:
        self.path, self.output, self.note = path, output, note
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take it.

        Raises:
            OutputError: another process has it; the line names that process.
        """
        while self._descriptor is None:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
                os.close(descriptor)
                raise self._refusal(holder) from None
            except OSError:  # a file system without locks: nothing better is to be had there
                self._descriptor = descriptor
                return
            # Whoever had it may have removed the file between the two calls: the lock of a name counts, not of a file.
            try:
                same = os.path.samestat(os.fstat(descriptor), os.stat(self.path))
            except OSError:
                same = False
            if not same:
                os.close(descriptor)
                continue
            self._descriptor = descriptor
        _HELD.add(str(self.path))
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{holder}\n{self.note}".encode(), 0)

    def _refusal(self, holder: str) -> OutputError:
        who = holder.split("\n")[0]
        who = who if who.isprintable() and who else "another process"
        fix = "Wait for it, stop it, or choose another output."
        return OutputError(f"{who} is writing there", where=shown_path(self.output), fix=fix)

    def give(self) -> None:
        """Give it back, and take the file away."""
        if self._descriptor is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.leave()

    def leave(self) -> None:
        """Give it back and leave the file with its note, as a kill does: the same command may finish the output."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _HELD.discard(str(self.path))

    def refuse_others(self) -> None:
        """Look only.

        Raises:
            OutputError: another process has it.
        """
        if str(self.path) in _HELD:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()) from None
        except OSError:
            return
        finally:
            os.close(descriptor)

    def left_note(self) -> str:
        """The note of a process that a kill has ended; empty where there is none, or where one that lives has it."""
        try:
            self.refuse_others()
            with self.path.open("rb") as file:
                return file.read(1000).decode("utf-8", "replace").partition("\n")[2]
        except (OSError, OutputError):
            return ""

    def __enter__(self) -> WriterLock:
        self.take()
        return self

    def __exit__(self, *exc: object) -> None:
        self.give()
