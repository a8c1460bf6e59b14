"""A progress bar for long passes: on stderr, only on a terminal, only once the work turns out to be long."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

# Below this many rows the pass is over before anybody could read a bar.
FROM_ROWS = 20_000


class Progress:
    """Counts rows and shows a bar from :data:`FROM_ROWS` on.

    Args:
        label: what is being done.
        total: number of rows, where it is known.
    """

    def __init__(self, label: str, total: int | None = None) -> None:
        self._label, self._total, self._done = label, total, 0
        self._bar: Any = None
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def update(self, rows: int) -> None:
        """``rows`` more are done."""
        self._done += rows
        if self._bar is not None:
            self._bar.update(rows)
        elif self._wanted and max(self._done, self._total or 0) >= FROM_ROWS:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._label, total=self._total, initial=self._done, unit=" rows", file=sys.stderr, leave=False
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
