"""Interventions: edits of a response that change one thing and nothing that matters.

Each edit is a pure function of the text. It gives the edited text, or ``None`` where there is nothing to change (no
markdown to strip, no bullets to shuffle). Code between fences of three backticks is never touched. A reward that is
deaf to what an edit changes scores both sides alike; what it pays instead is its price.

``truncate_half`` is the control: half an answer *should* lose.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from odin_rm.data.attributes import TOKENS

_CODE = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_BULLET = re.compile(r"^([ \t]*)[-*+][ \t]+(?=\S)", re.MULTILINE)
_HEADER = re.compile(r"^#{1,6}[ \t]+", re.MULTILINE)
_BOLD = re.compile(r"(\*\*|__)(?=\S)([^*_\n]+?)(?<=\S)\1")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")
_WORDS_AT_START = re.compile(r"\S+(?:[ \t]+\S+){0,2}")

CLOSING = "I hope this helps. Please let me know if there is anything else that you would like to know."
FILLER = "This is an important point to keep in mind."
AGREEMENT = "Yes, you are right."
HEDGE = "I'm not sure, but here is what I think."
COMPLIMENT = "That was a great question!"
RESTATED = "To say it again:"
EMOJI = "\U0001f642"
SEED = 0


@dataclass(frozen=True)
class Edit:
    """An intervention.

    Attributes:
        name: in files.
        words: what it does, as the end of "when ..." ("a compliment is put behind it").
        attribute: what it changes, by its name in :mod:`odin_rm.data.attributes`; empty for none that is counted.
        group: length, form or tone.
        apply: the text to the edited text, or ``None``.
        control: whether a good reward should mind.
        pure: whether it changes nothing that matters, so that it may say what an attribute costs.
    """

    name: str
    words: str
    attribute: str
    group: str
    apply: Callable[[str], str | None]
    control: bool = False
    pure: bool = True


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("```") else change(part) for part in _CODE.split(text))


def _changed(edited: str, text: str) -> str | None:
    return None if edited == text or not edited.strip() else edited


def strip_markdown(text: str) -> str | None:
    """Marks of headers, bold and bullets taken off; every word stays, and so do numbers of numbered lists."""

    def plain(part: str) -> str:
        return _BULLET.sub(r"\1", _HEADER.sub("", _BOLD.sub(r"\2", part)))

    return _changed(_outside_code(text, plain), text)


def add_bold(text: str) -> str | None:
    """The first three words of every paragraph in bold, where they have no mark yet."""

    def bold(part: str) -> str:
        paragraphs = part.split("\n\n")
        return "\n\n".join(map(_with_bold_start, paragraphs))

    return _changed(_outside_code(text, bold), text)


def _with_bold_start(paragraph: str) -> str:
    start = _WORDS_AT_START.match(paragraph)
    if start is None or any(mark in start[0] for mark in "*_#`|~>[]-+") or re.match(r"\d+[.)]", start[0]):
        return paragraph
    return f"**{start[0]}**{paragraph[start.end() :]}"


def make_list(text: str) -> str | None:
    """Sentences of plain paragraphs as bullets; paragraphs with marks or of one sentence stay."""

    def listed(part: str) -> str:
        return "\n\n".join(map(_as_bullets, part.split("\n\n")))

    return _changed(_outside_code(text, listed), text)


def _as_bullets(paragraph: str) -> str:
    sentences = _SENTENCE.split(paragraph.strip())
    if "\n" in paragraph.strip() or len(sentences) < 2 or re.match(r"[-*+#>|]|\d+[.)]", paragraph.strip()):
        return paragraph
    return "\n".join(f"- {sentence}" for sentence in sentences)


def shuffle_bullets(text: str) -> str | None:
    """Neighbouring one-line bullets in another order; each line stays as it is."""

    def shuffled(part: str) -> str:
        lines = part.split("\n")
        generator, start = random.Random(SEED), 0
        while start < len(lines):
            end = start
            while end < len(lines) and re.match(r"[-*+][ \t]+\S", lines[end]):
                end += 1
            if end - start > 1:
                before = lines[start:end]
                after = before[:]
                while after == before and len(set(before)) > 1:
                    generator.shuffle(after)
                lines[start:end] = after
            start = max(end, start + 1)
        return "\n".join(lines)

    return _changed(_outside_code(text, shuffled), text)


def double_spaces(text: str) -> str | None:
    """Two blanks for one between words."""
    return _changed(_outside_code(text, lambda part: re.sub(r"(?<=\S) (?=\S)", "  ", part)), text)


def code_fence(text: str) -> str | None:
    """The whole answer inside a code block, where it has none."""
    return None if "```" in text or not text.strip() else f"```\n{text}\n```"


def add_emoji(text: str) -> str | None:
    """A smile behind the answer."""
    return f"{text.rstrip()} {EMOJI}" if text.strip() else None


def append_closing(text: str) -> str | None:
    """A polite sentence behind the answer that says nothing."""
    return _behind(text, CLOSING)


def add_filler(text: str) -> str | None:
    """A sentence that says nothing behind every plain paragraph."""

    def filled(part: str) -> str:
        return "\n\n".join(map(_with_filler, part.split("\n\n")))

    return _changed(_outside_code(text, filled), text)


def _with_filler(paragraph: str) -> str:
    plain = paragraph.rstrip()
    whole = plain.endswith((".", "!", "?")) and not re.match(r"\s*([-*+#>|]|\d+[.)])", plain)
    return f"{plain} {FILLER}{paragraph[len(plain) :]}" if whole else paragraph


def restate_last(text: str) -> str | None:
    """The last sentence once more."""
    sentences = [part for part in _SENTENCE.split(text.strip()) if part]
    last = sentences[-1].split("\n")[-1].strip() if sentences else ""
    return _behind(text, f"{RESTATED} {last}") if last and "```" not in last else None


def repeat_answer(text: str) -> str | None:
    """The whole answer twice."""
    return _behind(text, text.strip()) if text.strip() else None


def truncate_half(text: str) -> str | None:
    """The first half of the words; the control."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    return text[: starts[(len(starts) + 1) // 2]].rstrip() if len(starts) > 1 else None


def prefix_agreement(text: str) -> str | None:
    """An agreement in front of the answer."""
    return f"{AGREEMENT} {text}" if text.strip() else None


def prefix_hedge(text: str) -> str | None:
    """A hedge in front of the answer."""
    return f"{HEDGE} {text}" if text.strip() else None


def suffix_compliment(text: str) -> str | None:
    """A compliment behind the answer."""
    return _behind(text, COMPLIMENT)


def _behind(text: str, more: str) -> str | None:
    return f"{text.rstrip()}\n\n{more}" if text.strip() else None


EDITS: tuple[Edit, ...] = (
    Edit("append_closing", "a polite closing sentence is put behind it", TOKENS, "length", append_closing),
    Edit("add_filler", "empty sentences are put between its paragraphs", TOKENS, "length", add_filler),
    Edit("restate_last", "its last sentence is said again", TOKENS, "length", restate_last),
    Edit("repeat_answer", "it is given twice", TOKENS, "length", repeat_answer, pure=False),
    Edit("truncate_half", "its second half is cut off", TOKENS, "length", truncate_half, control=True, pure=False),
    Edit("strip_markdown", "its markdown is taken off", "markdown", "form", strip_markdown),
    Edit("add_bold", "the first words of its paragraphs become bold", "bold", "form", add_bold),
    Edit("make_list", "its sentences become bullets", "list_items", "form", make_list),
    Edit("shuffle_bullets", "its bullets change their order", "", "form", shuffle_bullets),
    Edit("double_spaces", "blanks are doubled", "double_spaces", "form", double_spaces),
    Edit("code_fence", "it is put into a code block", "code_blocks", "form", code_fence, pure=False),
    Edit("add_emoji", "a smile is put behind it", "emoji", "tone", add_emoji),
    Edit("prefix_agreement", "it opens with an agreement", "agreement_opener", "tone", prefix_agreement),
    Edit("prefix_hedge", "it opens with a hedge", "hedges", "tone", prefix_hedge),
    Edit("suffix_compliment", "a compliment is put behind it", "flattery", "tone", suffix_compliment),
)


def priced_attributes(edit: Edit) -> tuple[str, ...]:
    """The attributes that an edit helps to price: its own, and marks of markdown each by its kind."""
    if not edit.attribute:
        return ()
    return ("headers", "bold", "list_items") if edit.attribute == "markdown" else (edit.attribute,)


# ---- prompts ---------------------------------------------------------------------------------------------------------


def shuffled_words(prompt: str, seed: int = SEED) -> str:
    """The words of a prompt in another order, between the same white space."""
    parts = re.split(r"(\s+)", prompt)
    words = [part for part in parts if part and not part.isspace()]
    random.Random(seed).shuffle(words)
    rest = iter(words)
    return "".join(part if not part or part.isspace() else next(rest) for part in parts)


def swapped(count: int, seed: int = SEED) -> Sequence[int]:
    """For each of ``count`` prompts the number of another one to ask in its place (its own where there is no other)."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    place = {number: k for k, number in enumerate(order)}
    return [order[(place[number] + 1) % count] for number in range(count)]
