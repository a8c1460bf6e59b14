"""What comes from outside, made fit for use: texts for files and terminals, JSON and numbers of servers."""

from __future__ import annotations

import html
import json
import re
from typing import Any

# Controls of terminals, marks that turn the direction of writing, ends of lines by other names, halves of characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_TERMINAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LONGEST_INTEGER = 308
"""Digits up to which a float can hold a whole number."""


def printable(text: str) -> str:
    """The text as a terminal may have it: what would move the cursor, colour, rename or hide is written as its code.

    Newlines and tabs stay.
    """
    return _CONTROL.sub(lambda match: _code(ord(match[0])), text)


def without_controls(text: str) -> str:
    """The text of a file that other programs show: controls of terminals are written as their codes, the rest stays."""
    return _TERMINAL.sub(lambda match: _code(ord(match[0])), text)


def _code(number: int) -> str:
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def shortened(text: str, most: int = 1000) -> str:
    """The text, cut in its middle where it is longer than a message should be."""
    return text if len(text) <= most else f"{text[: most - 200]} ... {text[-190:]}"


def markdown_text(text: str) -> str:
    """A text from data on one line of Markdown, as itself: no HTML, no link, no picture, no end of a table's cell."""
    line = " ".join(printable(text).split()).replace("\\", "\\\\")
    return re.sub(r"([|*`\[\]])", r"\\\1", html.escape(line, quote=False))


def plain_text(text: str) -> str:
    """The text with a replacement mark for each half character, which no file and no other server would take."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_integer(digits: str) -> int:
    """A whole number of a JSON text. One that no float can hold is a ``ValueError``: rounded it would be another."""
    if len(digits.lstrip("-")) > _LONGEST_INTEGER:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits, {_LONGEST_INTEGER} are read at most")
    return int(digits)


def parse_json(content: bytes | str) -> Any:
    """What a body in JSON holds; whatever is wrong with it, however deep it is nested, is a ``ValueError``."""
    try:
        return json.loads(content, parse_int=json_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def whole_number(value: Any, most: int = 2**53) -> int | None:
    """A count from the network, ``None`` where it is none: no number, negative, or larger than any count."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most or value != int(value):
        return None
    return int(value)
