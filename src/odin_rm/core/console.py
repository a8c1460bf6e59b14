"""How much a command says: ``--quiet``, ``--verbose``, and lines that do not run into a bar."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TextIO

from odin_rm.core.errors import ConfigError
from odin_rm.core.untrusted import printable

QUIET, NORMAL, VERBOSE = -1, 0, 1
FLAGS = {"--quiet": QUIET, "--verbose": VERBOSE}
"""What every command takes beside its own settings."""

_level = NORMAL


def level() -> int:
    """How much is said: :data:`QUIET`, :data:`NORMAL` or :data:`VERBOSE`."""
    return _level


def set_level(wanted: int) -> None:
    """Say more or less from here on."""
    global _level
    _level = wanted


def level_of(arguments: Sequence[str]) -> int:
    """The level that the flags among a command's arguments ask for.

    Raises:
        ConfigError: both flags are given.
    """
    wanted = {FLAGS[word] for word in arguments if word in FLAGS}
    if len(wanted) > 1:
        raise ConfigError("does not go with --verbose", where="--quiet", fix="Give one of them.")
    return wanted.pop() if wanted else NORMAL


def say(line: str, stream: TextIO | None = None, *, error: bool = False) -> None:
    """Print a line, with control characters as their codes; a bar that is being drawn makes room for it.

    This is the one place where lines go to a terminal: names, columns and error bodies come from data and may hold
    anything.

    Args:
        line: what to say.
        stream: where; standard output by default.
        error: on standard error.
    """
    stream = stream or (sys.stderr if error else sys.stdout)
    shown = printable(line)
    try:
        _print(shown, stream)
    except UnicodeEncodeError:  # a terminal that has not these letters
        encoding = stream.encoding or "ascii"
        _print(shown.encode(encoding, "backslashreplace").decode(encoding), stream)


def _print(line: str, stream: TextIO) -> None:
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        print(line, file=stream, flush=True)
    else:
        tqdm.tqdm.write(line, file=stream)
        stream.flush()


def remark(line: str) -> None:
    """A line on how it goes, which ``--quiet`` leaves out."""
    if _level > QUIET:
        say(line)


def next_step(*words: object) -> None:
    """The last line of a command that went well: what to do now. ``--quiet`` leaves it out.

    Args:
        words: of a command line that can be copied; words in capitals are for the user to replace.
    """
    remark(f"next: {shlex.join(str(word) for word in words)}")
