"""What a training run remarks on itself, as lines on the console."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from odin_rm.core.ranks import is_main_process
from odin_rm.core.terminal import say


class _Lines(logging.Handler):
    """One line each: remarks beside the training log, warnings where errors go."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), error=record.levelno >= logging.WARNING, flush=True)


@contextmanager
def shown_log() -> Iterator[None]:
    """Print what the run remarks on itself while it goes on, from the main process."""
    if not is_main_process():
        yield
        return
    logger, lines = logging.getLogger("odin_rm"), _Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
