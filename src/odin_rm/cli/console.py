"""The console for tables: what stands in a cell is text, and nothing in it is markup or moves the cursor."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from odin_rm.core.untrusted import printable


class PlainConsole(Console):
    """A console that takes every text as it stands."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)

    def render_str(self, text: str, **settings: Any) -> Text:  # type: ignore[override]
        """The text, with control characters as their codes: cells, titles and lines all come through here."""
        return super().render_str(printable(text), **{**settings, "markup": False, "emoji": False})
