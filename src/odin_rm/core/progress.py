"""How far a long pass is, in one line: as a bar on a terminal, elsewhere printed every 30 seconds.

    step 120/960  loss 0.41  acc 0.77  length -0.02  1.2k pairs/s  3:10 left

A pass that is over sooner says nothing, unless ``always``. The line comes from :func:`progress_line` on both ways, and
time from a clock that tests can set.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from odin_rm.core.console import QUIET, VERBOSE, level, say
from odin_rm.core.ranks import is_main_process

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LINES_IF_VERBOSE = 5.0
SECONDS_BEFORE_A_BAR = 1.0
"""A pass that is over sooner needs none."""
SECONDS_BETWEEN_DRAWINGS = 0.1

Clock = Callable[[], float]
_THOUSANDS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def progress_line(
    label: str, done: int, total: int | None, words: str, speed: str, seconds: float | None, ending: str = "left"
) -> str:
    """The line.

    Args:
        label: what is counted.
        done, total: how many parts of how many; ``None`` where that is not known.
        words: further figures.
        speed: parts per second, in words.
        seconds: how long it will take (or took); ``None`` where that is not known.
        ending: the word behind the time.
    """
    count = f"{label} {done:,}" + ("" if total is None else f"/{total:,}")
    spent = "" if seconds is None else f"{duration(seconds)} {ending}"
    return "  ".join(part for part in (count, words, speed, spent) if part)


def duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``3:10`` or ``1:02:10``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rate(value: float, unit: str) -> str:
    """A speed in three digits: ``0.25 pairs/s``, ``45 pairs/s``, ``1.2k pairs/s``."""
    for letter, size in _THOUSANDS:
        if value >= size * 0.9995:
            return f"{_three_digits(value / size)}{letter} {unit}/s"
    return f"{_three_digits(value)} {unit}/s"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


class Progress:
    """Counts parts of a pass and says how far it is, from the main process only and not where ``--quiet`` is given.

    Args:
        label: what is done, or counted.
        total: its parts, where they are known.
        done: parts that are there already, which do not count for the speed.
        unit: what the speed counts, ``rows`` for ``rows/s``; no speed without it.
        always: draw from the start, and print a last line, however short the pass is.
        bar: whether a bar may be drawn.
        clock: seconds from some start on.
        terminal: where a bar is drawn, if it is one; standard error by default.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        done: int = 0,
        unit: str = "",
        always: bool = False,
        bar: bool = True,
        clock: Clock | None = None,
        terminal: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.done = label, total, done
        self._before, self._unit, self._always, self._words = done, unit, always, ""
        self._clock: Clock = clock or time.monotonic
        self._terminal = terminal or sys.stderr
        self._silent = level() <= QUIET or not is_main_process()
        self._draws = bar and self._terminal.isatty()
        self._every = SECONDS_BETWEEN_LINES_IF_VERBOSE if level() >= VERBOSE else SECONDS_BETWEEN_LINES
        self._bar: Any = None
        self._began = self._said = self._drawn = self._clock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=error is None)

    def advance(self, parts: int = 1) -> None:
        """``parts`` more are done."""
        self.reach(self.done + parts)

    def reach(self, done: int) -> None:
        """So many parts are done in all."""
        self.done = done
        if self._silent:
            return
        now = self._clock()
        if self._draws:
            self._draw(now)
        elif now - self._said >= self._every and not (self._always and done == self.total):
            self._said = now
            say(self.line())

    def tell(self, words: str) -> None:
        """What the line says beside the counts from here on."""
        self._words = words

    def line(self) -> str:
        """The line as it is now."""
        elapsed, parts = self._clock() - self._began, self.done - self._before
        known = parts > 0 and elapsed > 0
        speed = rate(parts / elapsed, self._unit) if known and self._unit else ""
        left = (self.total - self.done) * elapsed / parts if known and self.total is not None else None
        return progress_line(self.label, self.done, self.total, self._words, speed, left)

    def close(self, *, finished: bool = True) -> None:
        """Take the bar away; where ``always``, say in a last line how it ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._always and finished and not self._silent:
            elapsed = self._clock() - self._began
            parts = self.done - self._before
            speed = rate(parts / elapsed, self._unit) if self._unit and elapsed > 0 else ""
            say(progress_line(self.label, self.done, self.total, self._words, speed, elapsed, "in all"))
        self._silent = True

    def _draw(self, now: float) -> None:
        if self._bar is None:
            if not self._always and now - self._began < SECONDS_BEFORE_A_BAR:
                return
            from tqdm import tqdm

            shape = "{desc}" if self.total is None else "{bar:24} {desc}"
            self._bar = tqdm(
                total=self.total, bar_format=shape, file=self._terminal, leave=False, dynamic_ncols=True, mininterval=0
            )
        elif now - self._drawn < SECONDS_BETWEEN_DRAWINGS and self.done != self.total:
            return
        self._drawn = now
        self._bar.n = self.done
        self._bar.set_description_str(self.line(), refresh=True)
