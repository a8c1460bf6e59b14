"""One row of preference data, checked: what was asked, what was answered, which answer won.

Rows come in two forms:

* a pair: ``prompt``, ``chosen``, ``rejected`` and optionally ``margin``;
* a ranked list: ``prompt``, ``responses``, ``ranks`` (lower is better). Every two responses of different rank make a
  pair; equal ranks are a tie and make none.

Texts are strings or chat messages (``[{"role": ..., "content": ...}, ...]``, also as a JSON string, which is how CSV
holds them). Without ``prompt`` it is the common start: of conversations, the messages that all have in common; of two
``Human: ... Assistant: ...`` dialogues, everything up to the last ``Assistant:`` in their common start. Other strings
need a prompt. Conversations that repeat the given prompt have it taken off, so it never counts as response.

Errors raised here name the field; the caller adds file and row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_rm.core.errors import RowError
from odin_rm.core.reading import parse_json
from odin_rm.data.render import ASSISTANT, Message, Prompt, Reply, is_transcript

_ASSISTANT_TURN = re.compile(rf"(?:^|\n)[ \t]*{ASSISTANT}")


@dataclass(frozen=True)
class PreferenceRow:
    """A checked row.

    Attributes:
        prompt: a string, or chat messages that end with the user's. A lone user message is its string.
        responses: a string each, or chat messages from an assistant's to an assistant's. A lone assistant message is
            its string.
        pairs: ``(chosen, rejected)`` positions in ``responses``.
        margin: of all pairs of the row, in reward units.
        ties: pairs of responses with equal rank.
        extra: per column, one number for each response.
    """

    prompt: Prompt
    responses: list[Reply]
    pairs: list[tuple[int, int]]
    margin: float = 0.0
    ties: int = 0
    extra: dict[str, list[float]] = field(default_factory=dict)


def parse_preference_row(row: Mapping[str, Any], extra_columns: Sequence[str] = ()) -> PreferenceRow:
    """Check one row of either form.

    Args:
        row: field names to values; unknown fields are ignored.
        extra_columns: names of per-response numbers to take along: ``chosen_<name>`` and ``rejected_<name>`` of a pair,
            a list ``<name>`` of a ranked list.

    Raises:
        RowError: the row is unusable; says which field and how to mend it.
    """
    if row.get("responses") is not None and row.get("chosen") is None:
        return _ranked_row(row, extra_columns)
    values = [_required(row, name, "Give every row a 'chosen' and a 'rejected'.") for name in ("chosen", "rejected")]
    prompt, (chosen, rejected) = _prompt_and_responses(row.get("prompt"), values, ["chosen", "rejected"])
    if chosen == rejected:
        raise RowError("'chosen' is equal to 'rejected'", fix="Remove the row; it states no preference.")
    extra = {
        name: [_number(row.get(f"{side}_{name}"), f"{side}_{name}") for side in ("chosen", "rejected")]
        for name in extra_columns
    }
    return PreferenceRow(prompt, [chosen, rejected], [(0, 1)], _margin(row), 0, extra)


def parse_prompt_response(row: Mapping[str, Any]) -> tuple[Prompt, Reply]:
    """Check a row to be scored: ``prompt`` and ``response``, strings or chat messages.

    Raises:
        RowError: the row is unusable.
    """
    value = _required(row, "response", "Give every row a 'prompt' and a 'response'.")
    messages = _messages(value, "response")
    if messages is None or messages[0]["role"] == "assistant":
        if _is_blank(row.get("prompt")):
            raise RowError("there is no 'prompt'", fix="Add it, or write 'response' as a whole conversation.")
        prompt, (response,) = _prompt_and_responses(row["prompt"], [value], ["response"])
        return prompt, response
    _check_order(messages, "response", "user")
    _check_response(messages[-1:], "response")
    if not _is_blank(row.get("prompt")):
        _check_repeats(_checked_prompt(row["prompt"]), messages[:-1])
    return _simple(messages[:-1]), _simple(messages[-1:])


def parse_prompt_row(row: Mapping[str, Any]) -> Prompt:
    """Check a row to be answered: ``prompt``, AlpacaEval's ``instruction``, or preference data, whose prompt is taken.

    Raises:
        RowError: the row is unusable.
    """
    if any(
        row.get(a) is not None and row.get(b) is not None for a, b in (("chosen", "rejected"), ("responses", "ranks"))
    ):
        return parse_preference_row(row).prompt
    value = row["instruction"] if row.get("prompt") is None and "instruction" in row else row.get("prompt")
    if _is_blank(value):
        raise RowError("field 'prompt' is missing or empty", fix="Give every row a 'prompt' (or an 'instruction').")
    return _checked_prompt(value)


def _ranked_row(row: Mapping[str, Any], extra_columns: Sequence[str]) -> PreferenceRow:
    texts = _as_list(row["responses"], "responses")
    ranks_value = _required(row, "ranks", "Give one rank for each response; lower is better.")
    ranks = [_number(rank, "ranks") for rank in _as_list(ranks_value, "ranks")]
    if len(texts) != len(ranks):
        what = f"'responses' has {len(texts)} entries and 'ranks' has {len(ranks)}"
        raise RowError(what, fix="Give one rank for each response.")
    if len(texts) < 2:
        raise RowError(f"'responses' has {len(texts)} entries", fix="A ranked list needs at least 2 responses.")
    names = [f"responses[{i}]" for i in range(len(texts))]
    prompt, responses = _prompt_and_responses(row.get("prompt"), texts, names)
    pairs, ties = [], 0
    for i in range(len(ranks)):
        for j in range(i + 1, len(ranks)):
            if ranks[i] == ranks[j]:
                ties += 1
            elif responses[i] == responses[j]:
                what = f"'{names[i]}' is equal to '{names[j]}', but they have different ranks"
                raise RowError(what, fix="Give equal responses one rank, or remove one.")
            else:
                pairs.append((i, j) if ranks[i] < ranks[j] else (j, i))
    if not pairs:
        raise RowError("'ranks' are all tied, so there is no pair", fix="Remove the row, or rank the responses.")
    extra = {}
    for name in extra_columns:
        extra[name] = [_number(value, name) for value in _as_list(row.get(name), name)]
        if len(extra[name]) != len(texts):
            what = f"'responses' has {len(texts)} entries and '{name}' has {len(extra[name])}"
            raise RowError(what, fix="Give one number for each response.")
    return PreferenceRow(prompt, responses, pairs, _margin(row), ties, extra)


def _prompt_and_responses(prompt: Any, values: list[Any], names: list[str]) -> tuple[Prompt, list[Reply]]:
    """Tell the prompt from the responses, whichever of the allowed forms they have."""
    responses = [_text_or_messages(value, name) for value, name in zip(values, names, strict=True)]
    given = None if _is_blank(prompt) else _checked_prompt(prompt)
    whole = [isinstance(r, list) and r[0]["role"] != "assistant" for r in responses]
    if all(whole):
        conversations = [r for r in responses if isinstance(r, list)]
        found, replies = _split_conversations(conversations, names)
        if given is not None:
            _check_repeats(given, found)
        return _simple(found), replies
    if any(whole):
        what = f"'{names[whole.index(True)]}' is a whole conversation and '{names[whole.index(False)]}' is not"
        raise RowError(what, fix="Write all of them as whole conversations, or all as responses only.")
    if given is None:
        if any(isinstance(r, list) for r in responses):
            raise RowError("there is no 'prompt' and the responses do not hold it", fix="Add a 'prompt'.")
        return _split_dialogues([r for r in responses if isinstance(r, str)], names)
    if isinstance(given, str) and is_transcript(given):
        responses = _without_transcript(given, responses)
    for response, name in zip(responses, names, strict=True):
        _check_response(response, name)
    return given, [_simple(r) if isinstance(r, list) else r for r in responses]


def _checked_prompt(value: Any) -> Prompt:
    prompt = _text_or_messages(value, "prompt")
    if isinstance(prompt, str):
        return prompt
    _check_order(prompt, "prompt", "user")
    if prompt[-1]["role"] != "user":
        raise RowError("'prompt' does not end with a user message", fix="End it with what the assistant is to answer.")
    if not prompt[-1]["content"].strip():
        raise RowError("'prompt' ends with an empty user message", fix="Remove the row, or fill it in.")
    return _simple(prompt)


def _check_response(response: Reply, name: str) -> None:
    if isinstance(response, str):
        if not response.strip():
            raise RowError(f"'{name}' is empty", fix="Remove the row; an empty response cannot be scored.")
        return
    if response[-1]["role"] != "assistant":
        raise RowError(f"'{name}' does not end with an assistant message", fix="End it with the assistant's response.")
    _check_order(response, name, "assistant")
    for message in response:
        if message["role"] == "assistant" and not message["content"].strip():
            raise RowError(f"'{name}' is empty", fix="Remove the row; an empty response cannot be scored.")


def _check_order(messages: list[Message], name: str, first: str) -> None:
    """Roles must be system (only first), then user and assistant in turn, beginning with ``first``."""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    expected = first
    for message in turns:
        if message["role"] != expected:
            number = next(i for i, m in enumerate(messages, start=1) if m is message)
            what = f"'{name}' has roles out of order: message {number} is '{message['role']}', expected '{expected}'"
            raise RowError(what, fix="Write an optional system message first, then user and assistant in turn.")
        expected = "assistant" if expected == "user" else "user"
    if not turns:
        raise RowError(f"'{name}' holds a system message only", fix="Add the user's message.")


def _split_conversations(conversations: list[list[Message]], names: list[str]) -> tuple[list[Message], list[Reply]]:
    """The messages that all conversations begin with, and what remains of each."""
    for conversation, name in zip(conversations, names, strict=True):
        _check_order(conversation, name, "user")
        if conversation[-1]["role"] != "assistant":
            raise RowError(
                f"'{name}' does not end with an assistant message", fix="End it with the assistant's response."
            )
    shortest = min(len(c) for c in conversations)
    shared = 0
    while shared < shortest and all(c[shared] == conversations[0][shared] for c in conversations):
        shared += 1
    if all(len(c) == shared for c in conversations):
        raise RowError(f"'{names[0]}' is equal to '{names[1]}'", fix="Remove the row; it states no preference.")
    if shared == shortest:
        name = names[[len(c) for c in conversations].index(shortest)]
        raise RowError(f"'{name}' is only the start of another conversation", fix="Give both a response of their own.")
    if shared == 0 or conversations[0][shared - 1]["role"] != "user":
        what = f"the conversations differ in message {shared + 1}, which is not the assistant's"
        raise RowError(what, fix="Compare responses to one and the same prompt.")
    remainders = [c[shared:] for c in conversations]
    for remainder, name in zip(remainders, names, strict=True):
        _check_response(remainder, name)
    return conversations[0][:shared], [_simple(remainder) for remainder in remainders]


def _check_repeats(given: Prompt, found: list[Message]) -> None:
    """A prompt given beside whole conversations must be what they begin with (a system message may be new)."""
    asked = [{"role": "user", "content": given}] if isinstance(given, str) else given
    without_system = [m for m in found if m["role"] != "system"]
    if [_stripped(m) for m in asked] not in ([_stripped(m) for m in found], [_stripped(m) for m in without_system]):
        # Some sets give only the last question beside a longer conversation.
        if isinstance(given, str) and given.strip() == found[-1]["content"].strip():
            return
        raise RowError("the conversations do not begin with 'prompt'", fix="Correct 'prompt', or leave it out.")


def _stripped(message: Message) -> Message:
    return {"role": message["role"], "content": message["content"].strip()}


def _split_dialogues(texts: list[str], names: list[str]) -> tuple[str, list[Reply]]:
    """Dialogues of ``Human:`` and ``Assistant:`` turns: the prompt ends with the last shared ``Assistant:``."""
    # The smallest and the largest string differ first where any two of them do.
    low, high = min(texts), max(texts)
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    common = low[:shared]
    turns = list(_ASSISTANT_TURN.finditer(common))
    if not is_transcript(common) or not turns:
        raise RowError(
            "there is no 'prompt', and the responses are not dialogues with a common start",
            fix="Add a 'prompt', or write chat messages or 'Human: ... Assistant: ...' dialogues.",
        )
    border = turns[-1].end()
    responses: list[Reply] = [text[border:].strip() for text in texts]
    for response, name in zip(responses, names, strict=True):
        _check_response(response, name)
    return common[:border].strip(), responses


def _without_transcript(prompt: str, responses: list[Reply]) -> list[Reply]:
    """Take a transcript off responses that all repeat it."""
    start = prompt.strip()
    texts = [r.lstrip() for r in responses if isinstance(r, str)]
    if len(texts) < len(responses) or not all(text.startswith(start) for text in texts):
        return responses
    return [text[len(start) :].lstrip().removeprefix(ASSISTANT).strip() for text in texts]


def _text_or_messages(value: Any, name: str) -> str | list[Message]:
    messages = _messages(value, name)
    if messages is not None:
        return messages
    if not isinstance(value, str):
        kind = type(value).__name__
        raise RowError(f"'{name}' is {kind}, not text", fix="Write a string or a list of chat messages.")
    return value


def _messages(value: Any, name: str) -> list[Message] | None:
    """Chat messages of a list (or of a JSON string that holds one); ``None`` for plain text."""
    if isinstance(value, str):
        value = _chat_in_string(value)
    if not isinstance(value, (list, tuple)):
        return None
    if not value:
        raise RowError(f"'{name}' has no messages", fix="Remove the row, or fill it in.")
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping):
            what = f"'{name}' is a list, but its entry {number} is no chat message"
            raise RowError(what, fix='Write messages as {"role": ..., "content": ...}.')
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            key = "role" if not isinstance(role, str) else "content"
            what = f"'{name}' message {number} has {'no' if message.get(key) is None else 'a non-string'} '{key}'"
            raise RowError(what, fix='Write messages as {"role": ..., "content": ...} with strings.')
        if role not in ("system", "user", "assistant"):
            raise RowError(f"'{name}' message {number} has the role '{role}'", fix="Use system, user or assistant.")
        messages.append({"role": role, "content": content})
    return messages


def _chat_in_string(text: str) -> Any:
    """The list of messages in a JSON string; any other text stays text, whatever it begins with."""
    if not text.startswith("[") or '"role"' not in text:
        return None
    try:
        value = parse_json(text)
    except ValueError:
        return None
    chat = isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value)
    return value if chat else None


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise RowError(f"'{name}' is not a JSON list ({error})", fix="Write it as [..., ...].") from error
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        what = f"field '{name}' is missing" if value is None else f"'{name}' is {type(value).__name__}, not a list"
        raise RowError(what, fix="Write it as a list with one entry for each response.")
    return list(value)


def _required(row: Mapping[str, Any], name: str, fix: str) -> Any:
    value = row.get(name)
    if value is None:
        raise RowError(f"field '{name}' is missing", fix=fix)
    return value


def _number(value: Any, name: str) -> float:
    if value is None or value == "":
        raise RowError(f"field '{name}' is missing", fix="Give a number.")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise RowError(f"'{name}' is {value!r:.40}, not a number", fix="Give a number.") from None
    if not math.isfinite(number):
        raise RowError(f"'{name}' is {number}, not a finite number", fix="Give a finite number.")
    return number


def _margin(row: Mapping[str, Any]) -> float:
    value = row.get("margin")
    return 0.0 if value is None or value == "" else _number(value, "margin")


def _is_blank(value: Any) -> bool:
    return not value.strip() if isinstance(value, str) else value is None or value == []


def _simple(messages: list[Message]) -> Any:
    """A lone user or assistant message as its string, so that both ways to write it are one text."""
    return messages[0]["content"] if len(messages) == 1 and messages[0]["role"] != "system" else messages
