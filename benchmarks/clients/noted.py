"""What the scripts in this folder share: the request, and the answer that is written anew after each way of asking."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Noted:
    """Scores and kinds of error by way of asking."""

    def __init__(self) -> None:
        source, self._target = sys.argv[1:3]
        self.request: dict[str, Any] = json.loads(Path(source).read_text(encoding="utf-8"))
        self.rows: list[dict[str, str]] = self.request["rows"]
        self._found: dict[str, Any] = {"scores": {}, "errors": {}, "failed": {}}

    def scores(self, way: str, call: Callable[[], Iterable[Any]]) -> None:
        """Note the scores that a call gives, or why there are none."""
        try:
            self._found["scores"][way] = [float(value) for value in call()]
        except Exception as error:
            traceback.print_exc()
            self._found["failed"][way] = f"{type(error).__name__}: {error}"[:400]
        self._write()

    def error(self, way: str, call: Callable[[], Any]) -> None:
        """Note the class of the error that a call ends with."""
        try:
            call()
            self._found["errors"][way] = "none"
        except Exception as error:
            self._found["errors"][way] = f"{type(error).__name__} {getattr(error, 'status_code', '')}".strip()
        self._write()

    def _write(self) -> None:
        Path(self._target).write_text(json.dumps(self._found), encoding="utf-8")
