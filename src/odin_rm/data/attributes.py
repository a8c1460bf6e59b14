"""Attributes of a response: pure functions of its text, by name, each with its unit.

An attribute is what a reward may be bought with: length, markdown, hedges, compliments. Headers, list items and bold
are counted by LMArena's own rules, with the content of code blocks cut out. Phrases (hedges, compliments, refusals) are
fixed English lists; they count what they say and no more.

Three kinds of names are understood everywhere:

* a name of :data:`ATTRIBUTES`;
* ``column:NAME``, a number that the rows carry;
* ``module:function``, a Python function that takes the text and gives a number.

``response_tokens`` is a column or comes from a tokenizer: text alone has no tokens.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
import string
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.data.render import Reply, response_texts
from odin_rm.data.text_view import Phrases, TextView

COLUMN = "column:"
MEASURED = "measured."
"""What stands before the name of an attribute among the columns of a preference set, where a command asked for it."""
TOKENS = "response_tokens"


@dataclass(frozen=True)
class Attribute:
    """A number of a response.

    Attributes:
        name: in files and flags.
        words: what it counts, for people, in the plural ("list items").
        unit: the amount that a price is told for ("list item", "100 words").
        step: that amount in the attribute's own numbers (1, 100).
        measure: what computes it, from the text; ``None`` where the rows or a tokenizer have to give it.
        own: whether it is a user's function, whose figures must not be remembered: the function may change.
    """

    name: str
    words: str
    unit: str
    step: float
    measure: Callable[[TextView], float] | None
    own: bool = False


# ---- markdown, as LMArena counts it ----------------------------------------------------------------------------------

# LMArena's own patterns are ^#{1,6}\s, ^\s*\d+\.\s and ^\s*[-*+]\s over lines. These count the same marks and are found
# quickly, because they begin with a plain character; a property test holds them together.
_HEADER = re.compile(r"\n#{1,6}(?=\s)")
_LIST_ITEM = re.compile(r"\n\s*(?:\d+\.|[-*+])(?=\s)")
_BOLD_STARS = re.compile(r"\*\*[^*\n]+\*\*")
_BOLD_LINES = re.compile(r"__[^_\n]+__")
_TABLE = re.compile(r"\n[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*(?=\n|$)")
_BARE_LINK = re.compile(r"https?://\S")
_NAMED_LINK = re.compile(r"\[[^\]\n]+\]\((?!https?://)[^)\s]+\)")


def headers(view: TextView) -> float:
    """Lines that begin with one to six ``#`` and white space, outside code."""
    return len(_HEADER.findall(view.lines)) if "#" in view.prose else 0


def bold(view: TextView) -> float:
    """``**spans**`` and ``__spans__`` inside a line, outside code."""
    prose = view.prose
    stars = len(_BOLD_STARS.findall(prose)) if "**" in prose else 0
    return stars + (len(_BOLD_LINES.findall(prose)) if "__" in prose else 0)


def list_items(view: TextView) -> float:
    """Lines that begin with ``1.``, ``-``, ``*`` or ``+`` and white space, outside code."""
    return len(_LIST_ITEM.findall(view.lines))


def markdown(view: TextView) -> float:
    """Headers, bold spans and list items together."""
    return headers(view) + bold(view) + list_items(view)


def code_blocks(view: TextView) -> float:
    """Fenced code blocks: pairs of three backticks."""
    return view.text.count("```") // 2


def links(view: TextView) -> float:
    """Addresses (``https://...``), and ``[words](target)`` whose target is none."""
    text = view.text
    bare = len(_BARE_LINK.findall(text)) if "://" in text else 0
    return bare + (len(_NAMED_LINK.findall(text)) if "](" in text else 0)


def tables(view: TextView) -> float:
    """Markdown tables: rows of dashes that divide a table's head from its body, outside code."""
    return len(_TABLE.findall(view.lines)) if "|" in view.prose else 0


# ---- length and characters -------------------------------------------------------------------------------------------

_SENTENCE_ENDS = (".", "!", "?")
_FULL_WIDTH_ENDS = ("\u3002", "\uff01", "\uff1f")
# Two plain characters first, so that it is found quickly; then what must stand before and after them.
_SPACES = re.compile(r"  (?<=\S  ) *(?=\S)")
_DIGITS, _ASCII_LETTERS = string.digits.encode(), string.ascii_letters.encode()
_PICTURE = "[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23fa\u2934\u2935\u3030\u303d]"
_FIRST_EMOJI = "\u20e3"
_TONE = "[\U0001f3fb-\U0001f3ff]"
_ONE_PICTURE = f"{_PICTURE}\ufe0f?{_TONE}?"
_EMOJI = re.compile(f"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE_PICTURE}(?:\u200d{_ONE_PICTURE})*")
_LETTERS = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(
    r"[A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]+"
)


def characters(view: TextView) -> float:
    """Characters, white space among them."""
    return len(view.text)


def words(view: TextView) -> float:
    """Words: runs of anything but white space."""
    return len(view.words)


def sentences(view: TextView) -> float:
    """Ends of sentences: full stops, exclamation and question marks before a blank, a line break or the end."""
    text = view.text
    found = sum(text.count(mark + gap) for mark in _SENTENCE_ENDS for gap in (" ", "\n")) + text.endswith(
        _SENTENCE_ENDS
    )
    return found + sum(map(view.beyond_ascii.count, _FULL_WIDTH_ENDS)) if view.beyond_ascii else found


def paragraphs(view: TextView) -> float:
    """Parts between empty lines."""
    return sum(bool(part.strip()) for part in view.text.split("\n\n"))


def digits(view: TextView) -> float:
    """The digits 0 to 9."""
    return len(view.content) - len(view.content.translate(None, _DIGITS))


def exclamations(view: TextView) -> float:
    """Exclamation marks."""
    return view.text.count("!") + view.text.count("\uff01")


def questions(view: TextView) -> float:
    """Question marks."""
    return view.text.count("?") + view.text.count("\uff1f")


def emoji(view: TextView) -> float:
    """Emoji; a flag, a skin tone or a family is one."""
    beyond = view.beyond_ascii
    return len(_EMOJI.findall(view.text)) if beyond and max(beyond) >= _FIRST_EMOJI else 0


def double_spaces(view: TextView) -> float:
    """Runs of two or more blanks between words of a line."""
    return len(_SPACES.findall(view.text)) if "  " in view.text else 0


def other_script(view: TextView) -> float:
    """Share of letters that are not Latin, 0 for a text without letters: tells languages of other scripts apart."""
    beyond = view.beyond_ascii
    if not beyond:
        return 0.0
    letters = sum(map(len, _LETTERS.findall(beyond)))
    others = letters - sum(map(len, _LATIN.findall(beyond)))
    plain = len(view.content) - len(view.content.translate(None, _ASCII_LETTERS))
    return others / (letters + plain) if others else 0.0


# ---- repetition ------------------------------------------------------------------------------------------------------


def distinct_2(view: TextView) -> float:
    """Distinct pairs of neighbouring words over all of them; 1 where there is none."""
    words_ = view.words
    return len(set(itertools.pairwise(words_))) / (len(words_) - 1) if len(words_) > 1 else 1.0


def distinct_3(view: TextView) -> float:
    """Distinct runs of three words over all of them; 1 where there is none."""
    words_ = view.words
    if len(words_) < 3:
        return 1.0
    return len(set(zip(words_, words_[1:], words_[2:], strict=False))) / (len(words_) - 2)


def compression(view: TextView) -> float:
    """Bytes of the text compressed by zlib (level 1) over its bytes; low where it repeats itself, 1 where it is empty.

    Short texts cannot be compressed, so the figure falls with length as well: read it beside length.
    """
    return len(zlib.compress(view.content, 1)) / len(view.content) if view.content else 1.0


# ---- phrases ---------------------------------------------------------------------------------------------------------

HEDGES = (
    "perhaps", "maybe", "possibly", "probably", "presumably", "arguably", "seemingly", "apparently", "might",
    "it seems", "it appears", "it depends", "in general", "generally speaking", "to some extent", "i think",
    "i believe", "i'm not sure", "i am not sure", "i'm not certain", "not entirely sure", "could be", "may be",
    "as far as i know", "it is possible", "it's possible", "if i recall", "more or less", "in some cases", "tends to",
)  # fmt: skip
FLATTERY = (
    "great question", "good question", "excellent question", "fantastic question", "wonderful question",
    "interesting question", "insightful question", "thoughtful question", "brilliant question", "great point",
    "excellent point", "good point", "great idea", "brilliant idea", "excellent idea", "wonderful idea",
    "great choice", "excellent choice", "what a great", "what a wonderful", "what a fantastic", "what a brilliant",
    "what a lovely", "you're absolutely right", "you are absolutely right", "well done", "great job",
    "impressive", "you clearly", "thank you for sharing", "thanks for sharing", "thank you for asking",
)  # fmt: skip
AGREEMENTS = (
    "yes", "yeah", "yep", "absolutely", "definitely", "certainly", "of course", "sure", "exactly", "indeed", "agreed",
    "i agree", "i completely agree", "i totally agree", "you're right", "you are right", "you're absolutely right",
    "you are absolutely right", "you're correct", "you are correct", "that's right", "that is right", "that's correct",
    "that is correct", "i couldn't agree more", "great question", "good point",
)  # fmt: skip
REFUSALS = (
    "i can't", "i cannot", "i can not", "i'm sorry", "i am sorry", "i apologize", "i apologise", "i'm unable",
    "i am unable", "i'm not able", "i am not able", "i won't", "i will not", "as an ai", "as a language model",
    "as an artificial intelligence", "i must decline", "i'm not comfortable", "i am not comfortable",
    "unable to assist", "unable to help",
)  # fmt: skip

_HEDGES, _FLATTERY, _AGREEMENTS, _REFUSALS = map(Phrases, (HEDGES, FLATTERY, AGREEMENTS, REFUSALS))


def hedges(view: TextView) -> float:
    """Hedging phrases (:data:`HEDGES`)."""
    return _HEDGES.count(view)


def flattery(view: TextView) -> float:
    """Compliments to the one who asks (:data:`FLATTERY`)."""
    return _FLATTERY.count(view)


def agreement_opener(view: TextView) -> float:
    """1 where the first words are an agreement (:data:`AGREEMENTS`), else 0."""
    return float(_AGREEMENTS.opens(view))


def refusal(view: TextView) -> float:
    """1 where a phrase of refusal or apology (:data:`REFUSALS`) stands in the first 25 words, else 0."""
    return float(_REFUSALS.in_opening(view))


# ---- the registry ----------------------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, Attribute] = {
    one.name: one
    for one in (
        Attribute(TOKENS, "response tokens", "100 tokens", 100, None),
        Attribute("characters", "characters", "1,000 characters", 1000, characters),
        Attribute("words", "words", "100 words", 100, words),
        Attribute("sentences", "sentences", "sentence", 1, sentences),
        Attribute("paragraphs", "paragraphs", "paragraph", 1, paragraphs),
        Attribute("headers", "headers", "header", 1, headers),
        Attribute("bold", "bold spans", "bold span", 1, bold),
        Attribute("list_items", "list items", "list item", 1, list_items),
        Attribute("markdown", "marks of markdown", "mark", 1, markdown),
        Attribute("code_blocks", "code blocks", "code block", 1, code_blocks),
        Attribute("links", "links", "link", 1, links),
        Attribute("emoji", "emoji", "emoji", 1, emoji),
        Attribute("tables", "tables", "table", 1, tables),
        Attribute("hedges", "hedges", "hedge", 1, hedges),
        Attribute("flattery", "compliments", "compliment", 1, flattery),
        Attribute("agreement_opener", "agreements at the start", "agreement", 1, agreement_opener),
        Attribute("refusal", "refusals", "refusal", 1, refusal),
        Attribute("digits", "digits", "10 digits", 10, digits),
        Attribute("exclamations", "exclamation marks", "exclamation mark", 1, exclamations),
        Attribute("questions", "question marks", "question mark", 1, questions),
        Attribute("double_spaces", "double spaces", "double space", 1, double_spaces),
        Attribute("distinct_2", "distinct word pairs", "tenth of the word pairs", 0.1, distinct_2),
        Attribute("distinct_3", "distinct word triples", "tenth of the word triples", 0.1, distinct_3),
        Attribute("compression", "compressed size", "tenth of the size", 0.1, compression),
        Attribute("other_script", "letters of other scripts", "tenth of the letters", 0.1, other_script),
    )
}
LENGTHS = (TOKENS, "characters", "words")
_ON_REQUEST = (TOKENS, "markdown", "sentences", "questions", "distinct_2")
DEFAULT = tuple(name for name in ATTRIBUTES if name not in _ON_REQUEST)
"""The 20 that are measured where nothing is asked for."""
CARRIED = [TOKENS]
"""Those that reading a preference file measures. Optimiser batches and evaluations carry them by name, training logs
the quality head's correlation with them, ``score`` writes them, an audit of a model measures them, and reports show
them. The first is always there and comes from the tokenizer."""


def text_attributes() -> list[str]:
    """The carried attributes that are functions of the text."""
    return [name for name in CARRIED if ATTRIBUTES[name].measure is not None]


def measure_attributes(response: Reply) -> dict[str, float]:
    """The carried attributes of a response that are functions of its text, by name."""
    found = {name: ATTRIBUTES[name].measure for name in text_attributes()}
    view = TextView("\n".join(response_texts(response)) if found else "")
    return {name: float(measure(view)) for name, measure in found.items() if measure is not None}


def measure_reply(response: Reply, attributes: Sequence[Attribute]) -> list[float]:
    """Attributes of what the assistant says in a response, in their order; each needs its ``measure``."""
    view = TextView("\n\n".join(response_texts(response)))
    return [float(one.measure(view)) for one in attributes if one.measure is not None]


def describe(name: str) -> dict[str, str]:
    """What reports say of an attribute: its ``words`` and ``unit``."""
    one = ATTRIBUTES.get(name) or given(name)
    return {"words": one.words, "unit": one.unit}


def find_attribute(name: str, where: str = "--attributes") -> Attribute:
    """The attribute of a name.

    Args:
        name: of :data:`ATTRIBUTES`, ``column:NAME`` or ``module:function``.
        where: the option that names it, for messages.

    Raises:
        ConfigError: there is none of that name, or the function cannot be imported.
    """
    if name in ATTRIBUTES:
        return ATTRIBUTES[name]
    if name.startswith(COLUMN):
        column = name.removeprefix(COLUMN)
        known = ATTRIBUTES.get(column)
        return Attribute(column, known.words, known.unit, known.step, None) if known else given(column)
    if ":" in name:
        return _of_function(name, where)
    fix = f"Use {', '.join(ATTRIBUTES)}, column:NAME or module:function."
    raise ConfigError(f"there is no attribute '{name}'", where=where, fix=fix)


def attributes_of_text(names: Sequence[str], where: str) -> list[Attribute]:
    """The attributes of these names, all to be measured of the text.

    Args:
        names: as of :func:`find_attribute`.
        where: the option that names them, for messages.

    Raises:
        ConfigError: there is no such attribute, or it is none of the text.
    """
    for name in names:
        if name not in ATTRIBUTES and (name.startswith(COLUMN) or ":" not in name):
            fix = f"Use {', '.join(ATTRIBUTES)} or module:function."
            raise ConfigError(f"there is no attribute '{name}' of the text", where=where, fix=fix)
    return [find_attribute(name, where) for name in names]


def given(name: str) -> Attribute:
    """An attribute that the rows carry as a number."""
    if name in ATTRIBUTES:
        known = ATTRIBUTES[name]
        return Attribute(name, known.words, known.unit, known.step, None)
    return Attribute(name, name.replace("_", " "), f"1 {name.replace('_', ' ')}", 1, None)


def _of_function(name: str, where: str) -> Attribute:
    module, function = name.split(":", 1)
    here = str(Path.cwd())
    if here not in sys.path:  # a file beside the data, as with --reward of odin-rm rl
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module is the user's own, and so is what it raises
        fix = "Write module:function of a module that Python finds here."
        raise ConfigError(f"'{name}' cannot be imported ({error})", where=where, fix=fix) from error
    if not callable(found):
        raise ConfigError(f"'{name}' is no function", where=where, fix="Name a function of one text.")

    def measure(view: TextView) -> float:
        return _checked_number(found(view.text), name)

    words_ = function.replace("_", " ")
    return Attribute(function, words_, f"1 {words_}", 1, measure, own=True)


def _checked_number(value: object, name: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        what = f"'{name}' gave {value!r}, which is no number"
        raise ConfigError(what, where="--attributes", fix="Return a number for every text.") from error
    if not math.isfinite(number):
        raise ConfigError(f"'{name}' gave {number}", where="--attributes", fix="Return a finite number.")
    return number


def measure_texts(texts: Iterable[str], attributes: Sequence[Attribute]) -> dict[str, np.ndarray]:
    """The attributes of many texts.

    Args:
        texts: the responses, ``R`` of them.
        attributes: what to compute; each needs its ``measure``.

    Returns:
        Name to ``(R,)`` float64.

    Raises:
        ConfigError: a user's own function gives no finite number.
    """
    measures = [one.measure for one in attributes if one.measure is not None]
    assert len(measures) == len(attributes)
    rows: list[list[float]] = []
    for text in texts:
        view = TextView(text)
        rows.append([measure(view) for measure in measures])
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(measures))
    return {one.name: np.ascontiguousarray(table[:, k]) for k, one in enumerate(attributes)}
