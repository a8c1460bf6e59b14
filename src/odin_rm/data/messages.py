"""Chat messages in any of the forms that data sets have, as one form; and dialogues written as text.

Forms of a conversation:

* a list of ``{"role": ..., "content": ...}``; further fields (``name``, ``tool_calls``, ``tool_call_id``,
  ``reasoning_content``, ...) stay, because a chat template may read them. A content of text parts
  (``[{"type": "text", "text": ...}]``) is their text, end to end;
* a list of ``{"from": "human" | "gpt" | ..., "value": ...}``;
* one message alone;
* columns of messages, ``{"role": [...], "content": [...]}``, as Arrow keeps a sequence of records.

A *transcript* is text that begins with ``Human:`` and whose turns begin a line with ``Human:`` or ``Assistant:``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from odin_rm.core.errors import RowError
from odin_rm.core.reading import parse_json
from odin_rm.core.rows import has_half_character

Message = dict[str, Any]

HUMAN, ASSISTANT, SYSTEM = "Human:", "Assistant:", "System:"
ROLES = ("system", "developer", "user", "assistant", "tool")
SYSTEM_ROLES = ("system", "developer")
PLAIN_FIELDS = frozenset(("role", "content"))
"""A message that has no others says all in its text."""

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
_WRITE = 'Write messages as {"role": ..., "content": ...}.'
_TURN = re.compile(r"(?:^|\n)[ \t]*(Human|Assistant):[ \t]?")


class ChatPrompt(list[Message]):
    """A prompt of chat messages with what else the template is given, which the rows have beside it.

    Attributes:
        variables: by name; ``tools`` (JSON schemas), and what ``chat_template_kwargs`` holds.
    """

    def __init__(self, messages: list[Message], variables: Mapping[str, Any]) -> None:
        super().__init__(messages)
        self.variables = dict(variables)

    def __eq__(self, other: object) -> bool:
        return list.__eq__(self, other) and self.variables == template_variables(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ChatPrompt({list(self)!r}, {self.variables!r})"


def template_variables(prompt: object) -> dict[str, Any]:
    """What a template is given beside the messages of a prompt."""
    return prompt.variables if isinstance(prompt, ChatPrompt) else {}


def as_messages(value: Any, name: str) -> list[Message] | None:
    """The messages of a conversation in any form; ``None`` for what is no conversation (text, a number, ...).

    Args:
        value: of a field.
        name: of the field, for messages.

    Raises:
        RowError: it is meant as a conversation, but is none.
    """
    if hasattr(value, "tolist"):  # a numpy array
        value = value.tolist()
    if isinstance(value, Mapping):
        if not {"role", "content"} <= set(value) and not {"from", "value"} <= set(value):
            return None
        value = _rows_of(value, name)
    if not isinstance(value, (list, tuple)):
        return None
    if not value:
        raise RowError(f"'{name}' has no messages", fix="Remove the row, or fill it in.")
    return [_message(message, name, number) for number, message in enumerate(value, start=1)]


def _rows_of(value: Mapping[str, Any], name: str) -> list[Any]:
    """One message as a list of it, columns of messages as rows."""
    columns = {key: cell.tolist() if hasattr(cell, "tolist") else cell for key, cell in value.items()}
    roles = columns["role" if "role" in columns else "from"]
    if not isinstance(roles, (list, tuple)):
        return [value]
    if any(not isinstance(cell, (list, tuple)) or len(cell) != len(roles) for cell in columns.values()):
        raise RowError(f"'{name}' has columns of messages of different lengths", fix=_WRITE)
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _message(value: Any, name: str, number: int) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(f"'{name}' is a list, but its entry {number} is no chat message", fix=_WRITE)
    if "role" not in value and "from" in value:
        return _shared_message(value, name, number)
    role, content = value.get("role"), _text_of(value.get("content"), name, number)
    calls = value.get("tool_calls") is not None and len(value["tool_calls"]) > 0
    if not isinstance(role, str) or not (isinstance(content, str) or (content is None and calls)):
        key = "role" if not isinstance(role, str) else "content"
        what = f"'{name}' message {number} has {'no' if value.get(key) is None else 'a non-string'} '{key}'"
        raise RowError(what, fix=f"{_WRITE[:-1]} with strings.")
    if role not in ROLES:
        raise RowError(f"'{name}' message {number} has the role '{role}'", fix=f"Use one of {', '.join(ROLES)}.")
    # A field of null is one that Arrow made up because another message has it.
    further = {key: cell for key, cell in value.items() if key not in PLAIN_FIELDS and cell is not None}
    if calls:
        further["tool_calls"] = [_call(call, name, number) for call in further["tool_calls"]]
    return {"role": role, "content": content, **further}


def _shared_message(value: Mapping[str, Any], name: str, number: int) -> Message:
    """A message of ``from`` and ``value``."""
    speaker, text = value["from"], value.get("value")
    if speaker not in _SPEAKERS:
        known = ", ".join(_SPEAKERS)
        raise RowError(f"'{name}' message {number} is from '{speaker}'", fix=f"Use one of {known}.")
    if not isinstance(text, str):
        what = f"'{name}' message {number} has {'no' if text is None else 'a non-string'} 'value'"
        raise RowError(what, fix='Write messages as {"from": ..., "value": ...} with strings.')
    if speaker != "function_call":
        return {"role": _SPEAKERS[speaker], "content": text}
    try:
        calls = parse_json(text)
    except ValueError:
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or any(not isinstance(call, dict) or "name" not in call for call in calls):
        what = f"'{name}' message {number} is from 'function_call', but holds no call"
        raise RowError(what, fix='Write it as {"name": ..., "arguments": ...}.')
    return {"role": "assistant", "content": None, "tool_calls": [_call(call, name, number) for call in calls]}


def _call(call: Any, name: str, number: int) -> dict[str, Any]:
    """A tool call as ``{"type": "function", "function": {...}}``, with its arguments as they are."""
    if not isinstance(call, Mapping):
        what = f"'{name}' message {number} has a tool call that is {type(call).__name__}"
        raise RowError(what, fix='Write it as {"type": "function", "function": {"name": ..., "arguments": ...}}.')
    if "function" not in call and "name" in call:
        return {"type": "function", "function": dict(call)}
    return dict(call)


def _text_of(content: Any, name: str, number: int) -> Any:
    """The text of a message of text parts; any other content as it is."""
    if hasattr(content, "tolist"):
        content = content.tolist()
    if not isinstance(content, (list, tuple)) or not content:
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"'{name}' message {number} has a part of type '{kind}', and only text is read"
            raise RowError(what, fix="Remove the row, or write its text alone.")
    return "".join(part["text"] for part in content)


def is_plain(message: Message) -> bool:
    """Whether a message says all in its text."""
    return set(message) <= PLAIN_FIELDS and isinstance(message["content"], str)


def simple(messages: list[Message]) -> Any:
    """A lone user or assistant message as its string, so that both ways to write it are one text."""
    lone = len(messages) == 1 and is_plain(messages[0]) and messages[0]["role"] in ("user", "assistant")
    return messages[0]["content"] if lone else messages


def check_text(value: Any) -> None:
    """Refuse half characters (lone surrogates), which have no UTF-8 form and which no tokenizer takes.

    Raises:
        RowError: the value holds one, however deep.
    """
    if has_half_character(value):
        raise RowError("holds half a character (a lone surrogate)", fix="Remove it.")


# ---- transcripts -----------------------------------------------------------------------------------------------------


def is_transcript(text: str) -> bool:
    """Whether a text is a dialogue with named speakers."""
    return text.lstrip().startswith(HUMAN)


def transcript_turns(text: str) -> list[Message]:
    """The turns of a transcript as messages, white space at their ends left out.

    Two turns of one speaker behind each other are one, which then has the second name in its text. An ``Assistant:`` at
    the very end, behind which nothing stands, is a turn without text.
    """
    places = _turn_places(text)
    ends = [start for _, start, _ in places[1:]] + [len(text)]
    return [
        {"role": role, "content": text[body:end].strip()} for (role, _, body), end in zip(places, ends, strict=True)
    ]


def transcript_start(text: str, turns: int) -> str:
    """A transcript up to and with the name of the speaker whose turn follows ``turns`` others."""
    return text[: _turn_places(text)[turns][2]].strip()


def _turn_places(text: str) -> list[tuple[str, int, int]]:
    """``(role, start, start of its text)`` of each turn."""
    found: list[tuple[str, int, int]] = []
    for place in _TURN.finditer(text):
        role = "user" if place[1] == "Human" else "assistant"
        if not found or found[-1][0] != role:
            found.append((role, place.start(), place.end()))
    return found
