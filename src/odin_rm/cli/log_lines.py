"""What a training run remarks on itself, as lines on the console."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from odin_rm.core.console import NORMAL, QUIET, VERBOSE, level, say
from odin_rm.core.ranks import is_main_process


class _Lines(logging.Handler):
    """One line each: remarks beside the training log, warnings where errors go."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), error=record.levelno >= logging.WARNING)


LEVELS = {QUIET: logging.WARNING, NORMAL: logging.INFO, VERBOSE: logging.DEBUG}


@contextmanager
def shown_log() -> Iterator[None]:
    """Print what the run remarks on itself while it goes on, from the main process; ``--quiet`` leaves warnings."""
    logger, lines = logging.getLogger("odin_rm"), _Lines()
    if not is_main_process() or any(isinstance(handler, _Lines) for handler in logger.handlers):
        yield
        return
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(LEVELS[level()])
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)
