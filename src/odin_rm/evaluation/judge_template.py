"""What a language model is asked as a judge, and the strict reading of what it replies.

A template is a YAML file of ``prompt`` (with the placeholders ``{instruction}``, ``{output_1}`` and ``{output_2}``),
``reply`` (the form of the verdict) and, if wanted, ``system``. Two come with the package: ``scores`` and ``pairwise``.

A reply is read strictly or not at all: what is not exactly in the form has no preference, and nobody guesses one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.reading import parse_yaml, read_text
from odin_rm.evaluation.judgements import Question, preference_of

PLACEHOLDERS = ("instruction", "output_1", "output_2")
TEMPLATES = ("scores", "pairwise")

_FIELD = re.compile("{(" + "|".join(PLACEHOLDERS) + ")}")
_SCORE = r"(\d+(?:\.\d+)?)"
_SCORES = re.compile(rf"{_SCORE}(?:\s+|\s*,\s*){_SCORE}")
_VERDICT = re.compile(r"verdict:\s*(a|b|tie)\.?", re.IGNORECASE)
_BARE = re.compile(r"(a|b|tie)\.?", re.IGNORECASE)
_THINKING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class JudgeTemplate:
    """A question to a judge and the form of its answer.

    Attributes:
        name: the package's name of it, or the file's.
        prompt: the user message, with placeholders.
        reply: ``scores`` (two numbers from 1 to 10 on the first line) or ``choice`` (one line ``Verdict: A``, ``B`` or
            ``tie``, or such a word alone).
        system: the system message; none where empty.
    """

    name: str
    prompt: str
    reply: str
    system: str = ""

    def messages(self, question: Question) -> list[dict[str, str]]:
        """The chat messages that put a question. Braces inside the texts themselves stay what they are."""
        texts = {"instruction": question.instruction, "output_1": question.first, "output_2": question.second}
        user = {"role": "user", "content": _FIELD.sub(lambda match: texts[match[1]], self.prompt)}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    def parse(self, reply: str, *, complete: bool = True) -> float | None:
        """The preference in a reply: 1 the first answer, 2 the second, 1.5 a tie; ``None`` where it has not the form.

        Args:
            reply: the judge's words; a leading ``<think>`` block is not part of them.
            complete: whether the reply ended by itself. The last line of one that was cut off is not read.
        """
        lines = _THINKING.sub("", reply, count=1).strip().splitlines()
        lines = [line.strip() for line in (lines if complete else lines[:-1])]
        return _REPLIES[self.reply](lines)


def parse_scores(lines: list[str]) -> float | None:
    """The preference in two scores from 1 to 10 that are all of the first line."""
    match = _SCORES.fullmatch(lines[0]) if lines else None
    if match is None:
        return None
    first, second = float(match[1]), float(match[2])
    return preference_of(first, second) if min(first, second) >= 1 and max(first, second) <= 10 else None


def parse_choice(lines: list[str]) -> float | None:
    """The preference in the only line ``Verdict: A | B | tie``, or in a reply that is such a word and nothing else."""
    plain = [line.replace("*", "").strip() for line in lines]
    found = [match[1] for line in plain if (match := _VERDICT.fullmatch(line))]
    if not found and len(plain) == 1 and (match := _BARE.fullmatch(plain[0])):
        found = [match[1]]
    return {"a": 1.0, "b": 2.0, "tie": 1.5}[found[0].lower()] if len(found) == 1 else None


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
