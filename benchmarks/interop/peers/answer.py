"""What the scripts in this folder share. They run in environments of their own, so nothing of odin-rm is imported.

A script is called as ``python SCRIPT.py REQUEST.json ANSWER.json``. The request holds ``rows`` (``prompt``,
``response``; a pair's two rows follow each other), ``models`` (name -> ``export``: its folder, ``encoder``: whether it
is one) and what else the script needs. The answer is written anew after each way of calling, so a crash loses only what
was not reached.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


class Answer:
    """Scores by model and way of calling, or why there are none.

    Args:
        packages: whose versions are noted.
    """

    def __init__(self, *packages: str) -> None:
        source, self._target = sys.argv[1:3]
        self.request: dict[str, Any] = json.loads(Path(source).read_text(encoding="utf-8"))
        self.rows: list[dict[str, str]] = self.request["rows"]
        versions = {name: importlib.metadata.version(name) for name in packages}
        self._found: dict[str, Any] = {"versions": versions, "results": []}
        self._write()

    def models(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and folders of each model."""
        yield from self.request["models"].items()

    def conversations(self) -> list[list[dict[str, str]]]:
        """The rows as chat messages."""
        return [
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
            for row in self.rows
        ]

    def measure(self, model: str, way: str, call: Callable[[], Iterable[Any]]) -> None:
        """Note the scores that a call gives, or its error."""
        result: dict[str, Any] = {"model": model, "way": way}
        try:
            result["scores"] = [float(value) for value in call()]
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            result["error"] = f"{type(error).__name__}: {error}"[:500]
        self._found["results"].append(result)
        self._write()

    def load(self, model: str, ways: Iterable[str], loader: Callable[[], Any]) -> Any:
        """What a loader gives; where it fails, its error is noted for these ways and ``None`` comes back."""
        try:
            return loader()
        except (Exception, SystemExit) as error:
            problem = error
            traceback.print_exc()
        for way in ways:
            self.measure(model, way, lambda: _raise(problem))
        return None

    def _write(self) -> None:
        temporary = Path(self._target + ".part")
        temporary.write_text(json.dumps(self._found), encoding="utf-8")
        os.replace(temporary, self._target)


def _raise(error: BaseException) -> Any:
    raise error


def batches(items: list[Any], size: int = 8) -> Iterator[list[Any]]:
    """Slices of a list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
