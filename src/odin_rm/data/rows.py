"""One row of preference data, checked: what was asked, what was answered, which answer won.

Rows come in two forms:

* a pair: ``prompt``, ``chosen``, ``rejected`` and optionally ``margin``;
* a ranked list: ``prompt``, ``responses``, ``ranks`` (lower is better). Every two responses of different rank make a
  pair; equal ranks are a tie and make none.

Texts are strings or chat messages in any form of :mod:`odin_rm.data.messages`. A string is text, whatever it looks like
(CSV cells: :mod:`odin_rm.data.cells`). Without ``prompt`` it is the common start: of conversations, the messages that
all have in common; of ``Human: ... Assistant: ...`` dialogues, the turns that all have in common. Other strings need a
prompt. Responses that repeat the prompt have it taken off, so it never counts as response.

Beside the prompt a row may hold what else the model reads: ``system`` (a system message), ``input`` (Alpaca's: text
behind the prompt), ``tools`` and ``chat_template_kwargs`` (for the chat template). Further fields are data about the
row.

Errors raised here name the field; the caller adds file and row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.reading import parse_json
from odin_rm.data.messages import (
    ASSISTANT,
    SYSTEM_ROLES,
    ChatPrompt,
    Message,
    as_messages,
    check_text,
    is_transcript,
    simple,
    transcript_start,
    transcript_turns,
)
from odin_rm.data.render import Prompt, Reply, prompt_messages

# A prompt that responses may repeat by accident, as "Yes" or "Hi there", is not taken off them.
_REPEATED_CHARACTERS = 12
_RESERVED = ("messages", "conversation", "chat_template", "add_generation_prompt", "tokenize", "tools", "strftime_now")


class TiesCount(dict[str, Any]):
    """A row of a public layout in the form of ours; one that states a tie is counted there, not refused."""


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
    check_text(row)
    if row.get("responses") is not None and row.get("chosen") is None:
        return _ranked_row(row, extra_columns)
    values = [
        _required(row, name, "Give every row a 'chosen' and a 'rejected', or name them: --columns chosen=theirs.")
        for name in ("chosen", "rejected")
    ]
    prompt, (chosen, rejected) = _prompt_and_responses(row, values, ["chosen", "rejected"])
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
    check_text(row)
    value = _required(row, "response", "Give every row a 'prompt' and a 'response'.")
    messages = as_messages(value, "response")
    given = _given_prompt(row)
    if messages is None and given is None and isinstance(value, str) and is_transcript(value):
        turns = transcript_turns(value)
        if len(turns) > 1 and turns[-1]["role"] == "assistant":  # a whole dialogue
            _check_response(turns[-1]["content"], "response")
            return _with_context(transcript_start(value, len(turns) - 1), row), turns[-1]["content"]
    if messages is None or messages[0]["role"] == "assistant":
        if given is None:
            raise RowError("there is no 'prompt'", fix="Add it, or write 'response' as a whole conversation.")
        prompt, (response,) = _prompt_and_responses(row, [value], ["response"])
        return prompt, response
    _check_order(messages, "response", "user")
    _check_response(messages[-1:], "response")
    if given is not None:
        _check_repeats(given, messages[:-1])
    return _with_context(simple(messages[:-1]), row), simple(messages[-1:])


def parse_prompt_row(row: Mapping[str, Any]) -> Prompt:
    """Check a row to be answered: ``prompt``, AlpacaEval's ``instruction``, or preference data, whose prompt is taken.

    Raises:
        RowError: the row is unusable.
    """
    check_text(row)
    if any(
        row.get(a) is not None and row.get(b) is not None for a, b in (("chosen", "rejected"), ("responses", "ranks"))
    ):
        return parse_preference_row(row).prompt
    if row.get("prompt") is None and "instruction" in row:
        row = {**row, "prompt": row["instruction"]}
    prompt = _given_prompt(row)
    if prompt is None:
        raise RowError("field 'prompt' is missing or empty", fix="Give every row a 'prompt' (or an 'instruction').")
    return _with_context(prompt, row)


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
    prompt, responses = _prompt_and_responses(row, texts, names)
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
    if not pairs and not isinstance(row, TiesCount):
        raise RowError("'ranks' are all tied, so there is no pair", fix="Remove the row, or rank the responses.")
    extra = {}
    for name in extra_columns:
        extra[name] = [_number(value, name) for value in _as_list(row.get(name), name)]
        if len(extra[name]) != len(texts):
            what = f"'responses' has {len(texts)} entries and '{name}' has {len(extra[name])}"
            raise RowError(what, fix="Give one number for each response.")
    return PreferenceRow(prompt, responses, pairs, _margin(row), ties, extra)


def _prompt_and_responses(row: Mapping[str, Any], values: list[Any], names: list[str]) -> tuple[Prompt, list[Reply]]:
    """Tell the prompt from the responses, whichever of the allowed forms they have; add what stands beside it."""
    prompt, responses = _split(_given_prompt(row), values, names)
    return _with_context(prompt, row), responses


def _split(given: Prompt | None, values: list[Any], names: list[str]) -> tuple[Prompt, list[Reply]]:
    responses = [_text_or_messages(value, name) for value, name in zip(values, names, strict=True)]
    whole = [isinstance(r, list) and r[0]["role"] != "assistant" for r in responses]
    if all(whole):
        conversations = [r for r in responses if isinstance(r, list)]
        found, replies = _split_conversations(conversations, names)
        if given is not None:
            _check_repeats(given, found)
        return simple(found), replies
    if any(whole):
        what = f"'{names[whole.index(True)]}' is a whole conversation and '{names[whole.index(False)]}' is not"
        raise RowError(what, fix="Write all of them as whole conversations, or all as responses only.")
    texts = [r for r in responses if isinstance(r, str)]
    if given is None:
        if len(texts) < len(responses):
            raise RowError("there is no 'prompt' and the responses do not hold it", fix="Add a 'prompt'.")
        return _split_dialogues(texts, names)
    if isinstance(given, str) and len(texts) == len(responses):
        if is_transcript(given):
            texts = _without_transcript(given, texts)
        elif all(is_transcript(text) for text in texts):
            given, responses = _dialogues_that_ask(given, texts, names)
            texts = [r for r in responses if isinstance(r, str)]
        else:
            texts = _without_prompt(given, texts)
        responses = list(texts) if len(texts) == len(responses) else responses
    for response, name in zip(responses, names, strict=True):
        _check_response(response, name)
    return given, [simple(r) if isinstance(r, list) else r for r in responses]


def _given_prompt(row: Mapping[str, Any]) -> Prompt | None:
    """The prompt that a row states, with Alpaca's ``input`` behind it; ``None`` where it states none."""
    value = row.get("prompt")
    if _is_blank(value):
        return None
    prompt = _checked_prompt(value)
    further = row.get("input")
    if _is_blank(further):
        return prompt
    way_out = "To leave it out: --columns input="
    if not isinstance(further, str):
        kind = type(further).__name__
        raise RowError(f"'input' is {kind}, not text to stand behind 'prompt'", fix=f"Write a string. {way_out}")
    known = prompt if isinstance(prompt, str) else "\n".join(message["content"] or "" for message in prompt)
    if further.strip() in known:
        return prompt
    if not isinstance(prompt, str) or is_transcript(prompt):
        what = "'input' stands beside a 'prompt' that is a conversation"
        raise RowError(what, fix=f"Put it into the last user message. {way_out}")
    return f"{prompt}\n{further}"


def _with_context(prompt: Prompt, row: Mapping[str, Any]) -> Prompt:
    """The prompt with the row's system message before it, and with what the template is given beside it."""
    system = row.get("system")
    if not _is_blank(system):
        if not isinstance(system, str):
            raise RowError(f"'system' is {type(system).__name__}, not text", fix="Write it as a string.")
        messages = list(prompt_messages(prompt))
        if messages[0]["role"] not in SYSTEM_ROLES:
            prompt = [{"role": "system", "content": system}, *messages]
        elif (messages[0]["content"] or "").strip() != system.strip():
            fix = "Give one of them. To leave the column out: --columns system="
            raise RowError("'system' and the system message of 'prompt' are different", fix=fix)
    variables = _template_variables(row)
    return ChatPrompt(list(prompt_messages(prompt)), variables) if variables else prompt


def _template_variables(row: Mapping[str, Any]) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    if not _is_blank(row.get("chat_template_kwargs")):
        variables = _from_json(row["chat_template_kwargs"])
        if not isinstance(variables, Mapping):
            raise RowError("'chat_template_kwargs' is no mapping", fix='Write {"name": value, ...}.')
        variables = {str(name): value for name, value in variables.items() if value is not None}
        if taken := next((name for name in _RESERVED if name in variables), None):
            raise RowError(f"'chat_template_kwargs' gives '{taken}'", fix="Leave it out; odin-rm gives it itself.")
    if not _is_blank(row.get("tools")):
        tools = _from_json(row["tools"])
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise RowError("'tools' is no list of JSON schemas", fix='Write [{"type": "function", ...}, ...].')
        if tools:
            variables["tools"] = [dict(tool) for tool in tools]
    return variables


def _from_json(value: Any) -> Any:
    """A list or mapping, which may be written as JSON: its field holds no text."""
    if isinstance(value, str):
        try:
            return parse_json(value)
        except ValueError:
            return None
    return value.tolist() if hasattr(value, "tolist") else value


def _checked_prompt(value: Any) -> Prompt:
    prompt = _text_or_messages(value, "prompt")
    if isinstance(prompt, str):
        return prompt
    _check_order(prompt, "prompt", "user", greeting=True)
    if prompt[-1]["role"] not in ("user", "tool"):
        raise RowError("'prompt' does not end with a user message", fix="End it with what the assistant is to answer.")
    if not (prompt[-1]["content"] or "").strip() and prompt[-1]["role"] == "user":
        raise RowError("'prompt' ends with an empty user message", fix="Remove the row, or fill it in.")
    return simple(prompt)


def _check_response(response: Reply, name: str) -> None:
    if isinstance(response, str):
        if not response.strip():
            raise RowError(f"'{name}' is empty", fix="Remove the row; an empty response cannot be scored.")
        return
    if response[-1]["role"] != "assistant":
        raise RowError(f"'{name}' does not end with an assistant message", fix="End it with the assistant's response.")
    _check_order(response, name, "assistant")
    for message in response:
        says = (message["content"] or "").strip() or message.get("tool_calls")
        if message["role"] == "assistant" and not says:
            raise RowError(f"'{name}' is empty", fix="Remove the row; an empty response cannot be scored.")


_NEXT = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}


def _check_order(messages: list[Message], name: str, first: str, *, greeting: bool = False) -> None:
    """Roles must be system (only first), then user and assistant in turn, beginning with ``first``.

    Tools answer an assistant's message, and the assistant goes on behind them. With ``greeting`` the assistant may have
    spoken first.
    """
    turns = messages[1:] if messages[0]["role"] in SYSTEM_ROLES else messages
    expected: tuple[str, ...] = (first, "assistant") if greeting and len(turns) > 1 else (first,)
    for message in turns:
        if message["role"] not in expected:
            number = next(i for i, m in enumerate(messages, start=1) if m is message)
            what = f"'{name}' has roles out of order: message {number} is '{message['role']}', expected '{expected[0]}'"
            raise RowError(what, fix="Write an optional system message first, then user and assistant in turn.")
        expected = _NEXT[message["role"]]
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
    shared = _shared_turns(conversations, names)
    if shared == 0 or conversations[0][shared - 1]["role"] not in ("user", "tool"):
        what = f"the conversations differ in message {shared + 1}, which is not the assistant's"
        raise RowError(what, fix="Compare responses to one and the same prompt.")
    remainders = [c[shared:] for c in conversations]
    for remainder, name in zip(remainders, names, strict=True):
        _check_response(remainder, name)
    return conversations[0][:shared], [simple(remainder) for remainder in remainders]


def _shared_turns(conversations: list[list[Message]], names: list[str]) -> int:
    """How many messages all conversations begin with."""
    shortest = min(len(c) for c in conversations)
    shared = 0
    while shared < shortest and all(c[shared] == conversations[0][shared] for c in conversations):
        shared += 1
    if all(len(c) == shared for c in conversations):
        raise RowError(f"'{names[0]}' is equal to '{names[-1]}'", fix="Remove the row; it states no preference.")
    if shared == shortest:
        name = names[[len(c) for c in conversations].index(shortest)]
        raise RowError(f"'{name}' is only the start of another conversation", fix="Give both a response of their own.")
    return shared


def _check_repeats(given: Prompt, found: list[Message]) -> None:
    """A prompt given beside whole conversations must be what they begin with (a system message may be new)."""
    asked = [{"role": "user", "content": given}] if isinstance(given, str) else given
    without_system = [m for m in found if m["role"] != "system"]
    if [_stripped(m) for m in asked] not in ([_stripped(m) for m in found], [_stripped(m) for m in without_system]):
        # Some sets give only the last question beside a longer conversation.
        if isinstance(given, str) and given.strip() == (found[-1]["content"] or "").strip():
            return
        raise RowError("the conversations do not begin with 'prompt'", fix="Correct 'prompt', or leave it out.")


def _stripped(message: Message) -> Message:
    return {**message, "content": (message["content"] or "").strip()}


def _split_dialogues(texts: list[str], names: list[str]) -> tuple[str, list[Reply]]:
    """Dialogues of ``Human:`` and ``Assistant:`` turns: the prompt ends with the first turn that differs."""
    dialogues = [transcript_turns(text) if is_transcript(text) else [] for text in texts]
    if not all(any(turn["role"] == "assistant" for turn in dialogue) for dialogue in dialogues) or not all(
        dialogue[0] == dialogues[0][0] for dialogue in dialogues
    ):
        raise RowError(
            "there is no 'prompt', and the responses are not dialogues with a common start",
            fix="Add a 'prompt', or write chat messages or 'Human: ... Assistant: ...' dialogues.",
        )
    shared = _shared_turns(dialogues, names)
    if dialogues[0][shared - 1]["role"] != "user":
        what = f"the dialogues differ in turn {shared + 1}, which is not the assistant's"
        raise RowError(what, fix="Compare responses to one and the same prompt.")
    remainders: list[Reply] = [simple(dialogue[shared:]) for dialogue in dialogues]
    for remainder, name in zip(remainders, names, strict=True):
        _check_response(remainder, name)
    return transcript_start(texts[0], shared), remainders


def _dialogues_that_ask(given: str, texts: list[str], names: list[str]) -> tuple[Prompt, list[Reply]]:
    """Whole dialogues beside a prompt that is their last question; else texts that only look like dialogues."""
    dialogues = [transcript_turns(text) for text in texts]
    ends = [dialogue[-1]["role"] == "assistant" and len(dialogue) > 1 for dialogue in dialogues]
    asked = [dialogue[:-1] for dialogue in dialogues]
    same = all(ends) and all(turns == asked[0] for turns in asked)
    if same and asked[0][-1]["content"] == given.strip():
        return transcript_start(texts[0], len(asked[0])), [dialogue[-1]["content"] for dialogue in dialogues]
    return given, list(texts)


def _without_transcript(prompt: str, texts: list[str]) -> list[str]:
    """Take a transcript off responses that all repeat it."""
    start = prompt.strip()
    if not all(text.lstrip().startswith(start) for text in texts):
        return texts
    return [text.lstrip()[len(start) :].lstrip().removeprefix(ASSISTANT).strip() for text in texts]


def _without_prompt(prompt: str, texts: list[str]) -> list[str]:
    """Take a prompt off responses that all repeat it, as text that a model was given and wrote on.

    One response alone may quote its question; it must go on in another line.
    """
    start = prompt.strip()
    rests = [text.lstrip()[len(start) :] for text in texts if text.lstrip().startswith(start)]
    long_enough = len(start) >= _REPEATED_CHARACTERS
    if len(rests) < len(texts) or not long_enough or not all(rest.strip() for rest in rests):
        return texts
    if len(rests) == 1:
        return [rests[0].strip()] if rests[0].lstrip(" \t").startswith("\n") else texts
    border = all(not (rest[0].isalnum() and start[-1].isalnum()) for rest in rests)
    return [rest.strip() for rest in rests] if border else texts


def _text_or_messages(value: Any, name: str) -> str | list[Message]:
    messages = as_messages(value, name)
    if messages is not None:
        return messages
    if not isinstance(value, str):
        kind = type(value).__name__
        raise RowError(f"'{name}' is {kind}, not text", fix="Write a string or a list of chat messages.")
    return value


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except DataError as error:
            what = f"'{name}' is not a JSON list (it {error.what})"
            raise RowError(what, fix="Write it as [..., ...].") from error
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
    if isinstance(value, str):
        return not value.strip()
    return value is None or (hasattr(value, "__len__") and len(value) == 0)
