"""What a section of a page holds: texts, tables, pictures, sample texts, and how a number reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from odin_rm.evaluation.records import Figure

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
FOLD_AFTER = 700
"""Characters of a text that are shown before the rest is folded."""


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text (blank line between them). Markup is escaped."""

    text: str
    kind = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs, each on one line."""
        return [" ".join(part.split()) for part in re.split(r"\n\s*\n", self.text.strip())]


@dataclass(frozen=True)
class Percent:
    """A table cell to show in percent: a share as a number or a :class:`Figure`."""

    share: Any


@dataclass(frozen=True)
class Table:
    """A table with a caption. The first column holds the row headings.

    Attributes:
        caption: what the table shows, a sentence.
        columns: the headings, the first above the row headings.
        rows: cells: text, numbers, ``None`` (a dash), :class:`Figure` (value with its interval below) or
            :class:`Percent`.
        note: small print below the table.
        digits: decimal places of numbers.
        percent: show numbers and figures of these columns (by heading) in percent.
        folded: hide it behind a "show" line that a key or a click opens.
        file: name of its LaTeX file where a page writes such files; empty for none.

    Raises:
        ValueError: a column has no heading.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    digits: int = 3
    percent: Sequence[str] = ()
    folded: bool = False
    file: str = ""
    kind = "table"

    def __post_init__(self) -> None:
        if not all(self.columns):  # a screen reader reads the heading before each cell
            raise ValueError(f"a column of '{self.caption}' has no heading")

    def cell(self, value: Any, column: int) -> dict[str, str]:
        """A cell as ``main`` text, ``interval`` text and ``why`` (a reason where a figure is undefined)."""
        return format_cell(value, self.digits, self.columns[column] in self.percent)


@dataclass(frozen=True)
class Passage:
    """A text that somebody or something wrote; nothing in it is markup."""

    text: str

    @property
    def _cut(self) -> int:
        if len(self.text) <= FOLD_AFTER * 5 // 4:
            return len(self.text)
        space = self.text.rfind(" ", FOLD_AFTER // 2, FOLD_AFTER)
        return FOLD_AFTER if space < 0 else space

    @property
    def shown(self) -> str:
        """What is shown at once."""
        return self.text[: self._cut] or "(nothing)"

    @property
    def rest(self) -> str:
        """What is folded."""
        return self.text[self._cut :]

    @property
    def rest_words(self) -> str:
        """How much is folded."""
        return f"{len(self.rest):,} characters"


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt: who wrote it, facts as name and value, the text."""

    name: str
    facts: Sequence[tuple[str, str]]
    text: Passage


@dataclass(frozen=True)
class Sample:
    """A prompt with answers side by side."""

    prompt: Passage
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Samples:
    """Prompts with their answers; ``anchor`` tells one such block of the page from another."""

    samples: Sequence[Sample]
    anchor: str = "s"
    kind = "samples"


def format_number(value: float | int | None, digits: int = 3, percent: bool = False) -> str:
    """A number for people: fixed places, a true minus sign, thousands apart, a dash for none."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    text = f"{100 * value:.1f} %" if percent else f"{value:.{digits}f}"
    if float(text.rstrip(" %")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def format_cell(value: Any, digits: int = 3, percent: bool = False) -> dict[str, str]:
    """Text of a table cell; see :class:`Table`."""
    if isinstance(value, Percent):
        return format_cell(value.share, digits, percent=True)
    if isinstance(value, Figure):
        interval = ""
        if value.low is not None and value.high is not None:
            interval = f"{format_number(value.low, digits, percent)} to {format_number(value.high, digits, percent)}"
        return {"main": format_number(value.value, digits, percent), "interval": interval, "why": value.why or ""}
    if value is None or isinstance(value, int | float):
        return {"main": format_number(value, digits, percent), "interval": "", "why": ""}
    return {"main": str(value), "interval": "", "why": ""}
