"""What a language model is asked as a judge, and the strict reading of what it replies.

A template is a YAML file of ``prompt`` (with the placeholders ``{instruction}``, ``{output_1}`` and ``{output_2}``),
``reply`` (the form of the verdict) and, if wanted, ``system``. Two come with the package: ``scores`` and ``pairwise``.
The placeholder ``{mark}``, beside the names of blocks, is a word that no text in the question holds, so that no answer
can close its own block. It is made of the texts, which no text can foresee, and is no part of what a question is.

A reply is read strictly or not at all: what is not exactly in the form has no preference, and nobody guesses one. An
answer may hold a verdict, and a judge may repeat it; so what counts is where a judge puts its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.reading import parse_yaml, read_text
from odin_rm.evaluation.judgements import Question, preference_of

PLACEHOLDERS = ("instruction", "output_1", "output_2")
TEMPLATES = ("scores", "pairwise")

_FIELD = re.compile("{(" + "|".join((*PLACEHOLDERS, "mark")) + ")}")
_SCORE = r"(\d+(?:\.\d+)?)"
_SCORES = re.compile(rf"{_SCORE}(?:\s+|\s*,\s*){_SCORE}")
_BRACKETED_SCORES = re.compile(rf"[^\[\]]*\[\[{_SCORE}\s*,\s*{_SCORE}\]\]\.?")
_VERDICT = re.compile(r"verdict:\s*(a|b|tie)\.?", re.IGNORECASE)
_BRACKETED = re.compile(r"[^\[\]]*\[\[(a|b|c|tie)\]\]\.?", re.IGNORECASE)
_BARE = re.compile(r"(a|b|tie)\.?", re.IGNORECASE)
_NAME = "(?:seed:)?(?:think|thinking|thought|reasoning)"
_OPENS = re.compile(rf"\s*(?:<{_NAME}>|\[THINK\]|◁think▷)", re.IGNORECASE)
_CLOSES = re.compile(rf"</{_NAME}>|\[/THINK\]|◁/think▷", re.IGNORECASE)
# A judge that will not judge, and says so, has no verdict whatever it quotes.
_REFUSES = re.compile(
    r"\b(?:I|we)(?:['’]m| am| are|['’]re| have| must)? ?"
    r"(?:cannot|can['’]t|can not|won['’]t|will not|not able to|unable to|refuse to|decline to|to decline to) (?:\w+ )?"
    r"(?:judge|compare|choose|evaluate|grade|rate|assess|decide|comply|assist|help with"
    r"|(?:give|provide|offer) an?(?:y)? (?:verdict|judge?ment|comparison|score|rating|evaluation|assessment|choice))\b",
    re.IGNORECASE,
)
_WHERE_REFUSALS_STAND = 300


@dataclass(frozen=True)
class JudgeTemplate:
    """A question to a judge and the form of its answer.

    Attributes:
        name: the package's name of it, or the file's.
        prompt: the user message, with placeholders.
        reply: ``scores`` (two numbers from 1 to 10 on the first or the last line, or MT-bench's ``[[8,7]]`` at the
            end of the last) or ``choice`` (the last line ``Verdict: A``, ``B`` or ``tie``, or such a word alone, or
            MT-bench's ``[[A]]``, ``[[B]]`` and, for a tie, ``[[C]]`` at its end).
        system: the system message; none where empty.
    """

    name: str
    prompt: str
    reply: str
    system: str = ""

    def messages(self, question: Question) -> list[dict[str, str]]:
        """The chat messages that put a question. Braces inside the texts themselves stay what they are."""
        texts = {"instruction": question.instruction, "output_1": question.first, "output_2": question.second}
        texts["mark"] = _mark(texts.values())
        user = {"role": "user", "content": _FIELD.sub(lambda match: texts[match[1]], self.prompt)}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    def parse(self, reply: str, *, complete: bool = True) -> float | None:
        """The preference in a reply: 1 the first answer, 2 the second, 1.5 a tie; ``None`` where it has not the form.

        Reasoning before the reply is not part of it: a block of ``<think>`` or its like, whose opening tag may be
        missing, as where a chat template has written it. It ends at the last closing tag, for a judge that reasons
        about an answer may quote one.

        Args:
            reply: the judge's words.
            complete: whether the reply ended by itself. The last line of one that was cut off is not read.
        """
        preference = _REPLIES[self.reply](reply, complete)
        # "I cannot tell them apart" is a way to a tie; with a winner it is a refusal that quotes.
        return None if preference != 1.5 and _refuses(reply) else preference


def parse_scores(reply: str, complete: bool = True) -> float | None:
    """The preference in two scores from 1 to 10 that are all of the last line, or of the first one (FastChat's form).

    Reasoning before is no part of it. The first and the last line must not contradict each other. A closing tag without
    an opening one may also be a quotation in the reasons of a judge that did not reason before; then the very first
    line has to agree. A reply that was cut off has no last line.
    """
    parts, opened = _CLOSES.split(reply), _OPENS.match(reply) is not None
    if not complete:  # a tag may be one that the reasoning quotes
        return None if opened or len(parts) > 1 else _scores(_lines(reply, complete)[:1])
    if len(parts) == 1 and opened:
        return None
    lines = _lines(parts[-1])
    found = {_scores(lines[:1]), _scores(lines[-1:])}
    if not opened and len(parts) > 1:
        found.add(_scores(_lines(parts[0])[:1]))
    found.discard(None)
    behind = _scores(lines[:1]) or _scores(lines[-1:])
    return behind if len(found) == 1 else None


def parse_choice(reply: str, complete: bool = True) -> float | None:
    """The preference in the last line ``Verdict: A | B | tie``, or in a reply that is such a word and nothing else.

    A last line that ends with MT-bench's ``[[A]]``, ``[[B]]`` or ``[[C]]`` (a tie) is such a line.

    A reply that was cut off has no last line. Two verdicts one after the other are none.
    """
    if not complete or (_OPENS.match(reply) and not _CLOSES.search(reply)):
        return None
    lines = [line.replace("*", "").strip() for line in _lines(_after_reasoning(reply))]
    matches = [_VERDICT.fullmatch(line) or _BRACKETED.fullmatch(line) for line in lines[-2:]]
    found = [match[1] if match else None for match in matches]
    if lines and found[-1] is None and len(lines) == 1 and (match := _BARE.fullmatch(lines[0])):
        found = [match[1]]
    if not found or found[-1] is None or (len(found) == 2 and found[0] is not None):
        return None
    return {"a": 1.0, "b": 2.0, "tie": 1.5, "c": 1.5}[found[-1].lower()]


def _scores(lines: list[str]) -> float | None:
    match = (_SCORES.fullmatch(lines[0]) or _BRACKETED_SCORES.fullmatch(lines[0])) if lines else None
    if match is None:
        return None
    first, second = float(match[1]), float(match[2])
    return preference_of(first, second) if min(first, second) >= 1 and max(first, second) <= 10 else None


def _lines(text: str, complete: bool = True) -> list[str]:
    """Lines with something on them, without the last of a text that was cut off."""
    lines = text.strip().splitlines()
    return [line.strip() for line in (lines if complete else lines[:-1]) if line.strip()]


def _after_reasoning(reply: str) -> str:
    return _CLOSES.split(reply)[-1]


def _refuses(reply: str) -> bool:
    """Whether a reply begins with a refusal: behind its reasoning, or at once where no tag opens any."""
    starts = [_after_reasoning(reply), *([] if _OPENS.match(reply) else [reply])]
    return any(_REFUSES.search(text.lstrip()[:_WHERE_REFUSALS_STAND]) for text in starts)


def _mark(texts: Iterable[str]) -> str:
    """A word that depends on all texts of a question, in any order: to hold it, a text would have to foresee itself."""
    content = json.dumps(sorted(texts)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


_REPLIES = {"scores": parse_scores, "choice": parse_choice}


def load_template(name: str) -> JudgeTemplate:
    """A template of the package by name, or anybody's by path.

    Raises:
        ConfigError: no such file, not a template, an unknown form of reply, or a placeholder is missing.
    """
    if name in TEMPLATES:
        text = (resources.files("odin_rm.evaluation") / "judge_templates" / f"{name}.yaml").read_text(encoding="utf-8")
        return JudgeTemplate(name, **parse_yaml(text))
    try:
        text = read_text(name)
    except DataError as error:
        what = "no such template" if isinstance(error, FileNotFoundError) else error.what
        raise ConfigError(what, where=name, fix=f"Give {' or '.join(TEMPLATES)}, or the path of a file.") from error
    return JudgeTemplate(Path(name).stem, **_check(name, text))


def _check(name: str, text: str) -> dict[str, str]:
    try:
        values: Any = parse_yaml(text)
    except DataError as error:
        raise ConfigError(
            error.what, where=name, fix="Write prompt: |, reply: scores or choice, and system: if wanted."
        ) from error
    prompt = values.get("prompt") if isinstance(values, dict) else text
    missing = [f"{{{field}}}" for field in PLACEHOLDERS if f"{{{field}}}" not in str(prompt)]
    if missing:
        what = f"the template's prompt has no {' and no '.join(missing)}"
        raise ConfigError(what, where=name, fix="Write each placeholder where its text belongs.")
    form = values.get("reply") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(form, str) or form not in _REPLIES:
        what = f"the template does not say the form of the reply ({' or '.join(_REPLIES)})"
        raise ConfigError(what, where=name, fix="Write YAML with 'reply: scores' or 'reply: choice', and 'prompt: |'.")
    strange = [
        str(key)
        for key, value in values.items()
        if key not in ("prompt", "reply", "system") or not isinstance(value, str)
    ]
    if strange:
        raise ConfigError(
            f"'{strange[0]}' is no text field of a template", where=name, fix="Use prompt, reply, system."
        )
    return values
