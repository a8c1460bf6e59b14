"""What is done of a long piece of work, so that the same command goes on where a stopped one ended.

A journal is a file of JSON lines beside the output: what was asked, then a line for each part that is done. It is there
only while the work is under way, and after a kill.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from odin_rm.core.atomic import append_jsonl, atomic_write_bytes, dump_json
from odin_rm.core.errors import DataError, OutputError
from odin_rm.core.reading import parse_json, read_bytes

Part = dict[str, Any]


class Journal:
    """The parts of a piece of work that are done.

    Args:
        path: the file.
        asked: all that decides the result; JSON values.
        anew: forget what a stopped run by other settings left, instead of refusing to go on.

    Attributes:
        parts: what an earlier, stopped run has done, in its order.

    Raises:
        OutputError: a stopped run left parts by other settings, or the file holds something else.
    """

    def __init__(self, path: Path, asked: Part, *, anew: bool = False) -> None:
        self.path, self.asked = path, parse_json(dump_json(asked))
        self.parts: list[Part] = []
        self._lines: list[bytes] = []
        if not os.path.lexists(path):
            return
        try:
            # A line that a kill has cut off has no end, and counts as never written.
            lines = read_bytes(path).split(b"\n")[:-1]
            left, *parts = [parse_json(line) for line in lines] or [{"asked": self.asked}]
            there = dict(left["asked"])
            parts = [dict(part) for part in parts]
        except (DataError, KeyError, TypeError, ValueError) as error:
            what = "holds something else than what a stopped run has done"
            raise OutputError(what, where=str(path), fix="Move it away.") from error
        changed = [name for name, value in self.asked.items() if there.get(name) != value]
        if not changed:
            self._lines, self.parts = lines, parts
        elif not anew:
            what = f"was left by a stopped run with another {changed[0]}"
            raise OutputError(what, where=str(path), fix="Delete it to start anew, or give the same settings.")

    def begin(self) -> None:
        """Make the file, or take a cut line off it.

        Raises:
            OutputError: it cannot be written.
        """
        lines = self._lines or [dump_json({"asked": self.asked}).encode("utf-8")]
        atomic_write_bytes(self.path, b"".join(line + b"\n" for line in lines))

    def add(self, part: Part) -> None:
        """Note a part that is done.

        Raises:
            OutputError: it cannot be written; the parts before it are kept.
        """
        append_jsonl(self.path, part)

    def remove(self) -> None:
        """All is done, or none of it is of use; where it cannot be removed, it counts for the same work only."""
        with contextlib.suppress(OSError):
            self.path.unlink()
