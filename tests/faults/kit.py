"""Commands in a process of their own in which something goes wrong at the n-th event of the file system.

A child is forked from a process that has imported all that is slow, so a try takes a second. Events are those that
Python's audit hooks tell of: files opened for writing, names made, moved and removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree")
TIMES = re.compile(r"seconds|runtime|per_second|time|flos|memory")
Act = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code (negative for a signal), what it said, number of events, standard error alone."""

    code: int
    said: str
    events: int
    errors: str = ""


def warm() -> None:
    """Import what the commands need, once."""
    import odin_rm.model.export
    import odin_rm.reward.trainer
    import odin_rm.serve.study.run
    import odin_rm.workflows.audit.run
    import odin_rm.workflows.judge.run
    import odin_rm.workflows.reward.run
    import odin_rm.workflows.rl.own
    import odin_rm.workflows.score.run  # noqa: F401


def run_child(work: Callable[[], int], room: Path, at: int | None = None, act: Act | None = None) -> Ended:
    """Run ``work`` in a child that stands in ``room``; at event number ``at`` it does ``act`` first."""
    said, errors, count = (room.parent / name for name in ("said.txt", "errors.txt", "events.txt"))
    count.write_text("0")
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(room)
            for stream, file in ((1, said), (2, errors)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            _watch(str(room), count, at, act)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    told = errors.read_text(errors="replace")
    everything = said.read_text(errors="replace") + told
    return Ended(os.waitstatus_to_exitcode(status), everything, int(count.read_text() or 0), told)


def _watch(room: str, count: Path, at: int | None, act: Act | None) -> None:
    counter = os.open(count, os.O_WRONLY)
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in EVENTS:
            path = arguments[0]
        else:
            return
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, (str, os.PathLike)) or not os.path.abspath(path).startswith(room):
            return
        seen += 1
        os.pwrite(counter, str(seen).encode(), 0)
        if seen == at and act is not None:
            act()

    sys.addaudithook(hook)


def kill() -> None:
    """End the process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    """What the system says where there is no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def limited(work: Callable[[], int], size: int) -> Callable[[], int]:
    """The same where no file may grow beyond so many bytes, whoever writes it: Python, C++ or Rust."""

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return work()

    return run


@contextmanager
def room_like(pattern: Path, place: Path) -> Iterator[Path]:
    """A copy of a prepared room, gone afterwards."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(pattern, place, symlinks=True)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def leftovers(room: Path) -> list[str]:
    """Temporary files, locks, journals and earlier results that should be gone."""
    names = (".part", ".lock", ".partial.jsonl", ".tmp", ".old", ".replaced", "-journal")
    return sorted(str(p.relative_to(room)) for p in room.rglob("*") if p.name.endswith(names))


def digests(folder: Path, only: tuple[str, ...] = ("",)) -> dict[str, str]:
    """Content of each file below a folder whose path begins with one of ``only``; times in logs do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name.startswith(only):
            content = path.read_bytes()
            if path.suffix == ".jsonl" and b"step" in content[:200]:
                content = _without_times(content)
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def _without_times(content: bytes) -> bytes:
    rows = [json.loads(line) for line in content.splitlines()]
    steps = [row for row in rows if "loss" in row or "policy_loss" in row]  # others say what memory was free
    return json.dumps([{k: v for k, v in row.items() if not TIMES.search(k)} for row in steps]).encode()
