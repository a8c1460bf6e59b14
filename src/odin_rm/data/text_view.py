"""A response as the attributes read it: each form of the text is made once and shared by all that need it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cached_property

# What LMArena cuts out before it counts headers, lists and bold: the text between two fences of three backticks.
_CODE = re.compile(r"```([^`]*)```")
_ASCII = bytes(range(128))
# ASCII in lower case, every mark but the apostrophe a blank; one table, one pass over the bytes.
_SPEECH = bytes(
    ord(" ") if chr(k) in string.punctuation.replace("'", "") else ord(chr(k).lower()) if k < 128 else k
    for k in range(256)
)
_MARKS = dict.fromkeys("‘’", "'") | dict.fromkeys("–—…“”•", " ")
_TYPESET = [(mark, mark.encode(), plain.encode()) for mark, plain in _MARKS.items()]
OPENING_WORDS = 25


class TextView:
    """A text and the forms of it that attributes count in.

    Args:
        text: the response.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """The words: runs of anything but white space."""
        return self.text.split()

    @cached_property
    def prose(self) -> str:
        """The text with the content of its code blocks cut out, by LMArena's own rule.

        Each block's content is removed *wherever* it stands, as LMArena's ``remove_pattern`` does, so that counts are
        equal to the published ones to the last one.
        """
        if "```" not in self.text:
            return self.text
        prose = self.text
        for block in _CODE.findall(self.text):
            prose = prose.replace(block, "")
        return prose

    @cached_property
    def lines(self) -> str:
        """The prose with a line break in front, so that the start of every line has one before it."""
        return "\n" + self.prose

    @cached_property
    def content(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode("utf-8", "surrogatepass")

    @cached_property
    def beyond_ascii(self) -> str:
        """The characters that are not ASCII, in their order."""
        if self.text.isascii():
            return ""
        return self.content.translate(None, _ASCII).decode("utf-8", "surrogatepass")

    @cached_property
    def spoken_words(self) -> list[bytes]:
        """The words without punctuation, ASCII letters in lower case, in UTF-8."""
        return _spoken_words(self.content, self.beyond_ascii)

    @cached_property
    def spoken(self) -> bytes:
        """Those words, each between blanks of its own (`` i  see ``); phrases are looked up in it."""
        return _spaced(self.spoken_words)

    @cached_property
    def vocabulary(self) -> set[bytes]:
        """Which words are there."""
        return set(self.spoken_words)

    @cached_property
    def opening(self) -> bytes:
        """The first 25 words as in ``spoken``; what a response opens with."""
        return _spaced(self.spoken_words[:OPENING_WORDS])


class Phrases:
    """A list of phrases to look up in texts.

    Args:
        phrases: lower case.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        self._by_key: dict[bytes, list[bytes]] = {}
        for phrase in phrases:
            words = _spoken_words(phrase.encode(), "")
            # The longest word is the rarest: few texts have it, and only in those the phrase is looked for.
            self._by_key.setdefault(max(words, key=len), []).append(_spaced(words))
        self._keys = frozenset(self._by_key)
        self._all = tuple(phrase for group in self._by_key.values() for phrase in group)

    def count(self, view: TextView) -> int:
        """How often any of them is said."""
        found = view.vocabulary & self._keys
        return sum(view.spoken.count(phrase) for word in found for phrase in self._by_key[word])

    def in_opening(self, view: TextView) -> bool:
        """Whether one of them is among the first words."""
        found = self._keys.intersection(view.spoken_words[:OPENING_WORDS])
        return any(phrase in view.opening for word in found for phrase in self._by_key[word])

    def opens(self, view: TextView) -> bool:
        """Whether the text begins with one of them."""
        return view.opening.startswith(self._all)


def _spoken_words(content: bytes, beyond_ascii: str) -> list[bytes]:
    if beyond_ascii:
        for mark, typeset, plain in _TYPESET:
            if mark in beyond_ascii:
                content = content.replace(typeset, plain)
    return content.translate(_SPEECH).split()


def _spaced(words: list[bytes]) -> bytes:
    return b" " + b"  ".join(words) + b" "
