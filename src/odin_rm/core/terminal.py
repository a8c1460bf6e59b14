"""The one place where lines go to a terminal: names, columns and error bodies come from data and may hold anything."""

from __future__ import annotations

import sys
from typing import TextIO

from odin_rm.core.untrusted import printable


def say(text: str, *, error: bool = False, flush: bool = False) -> None:
    """Print a line, with control characters as their codes.

    Args:
        text: what to say.
        error: on standard error.
        flush: at once, where others print between.
    """
    stream: TextIO = sys.stderr if error else sys.stdout
    shown = printable(text)
    try:
        print(shown, file=stream, flush=flush)
    except UnicodeEncodeError:  # a terminal that has not these letters
        encoding = stream.encoding or "ascii"
        print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=flush)
