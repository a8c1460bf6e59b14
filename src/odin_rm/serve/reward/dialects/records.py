"""What all protocols share: the texts that a request asks for, their scores, and what is wrong with a request.

A protocol is read by a pure function from a JSON body to :class:`Asked`: items to be scored, and a function from their
scores to the reply. Nothing in this package loads a model or knows of a server.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Any


class Problem(Exception):
    """A request that cannot be answered.

    Args:
        status: of HTTP.
        message: what is wrong, for the client.
        param: the field of the request.
        retry_after: seconds after which to ask again.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after = status, message, param, retry_after


@dataclass(frozen=True)
class Item:
    """One thing to be scored: prompt and response, or a text, or token ids.

    Attributes:
        param: the field of the request that it comes from.
        prompt, response: strings or chat messages; a text may have a prompt too, which it begins with.
        text: prompt and response in one, as a template has rendered them, or free text.
        ids: token ids, read as they are.
        free: a text that is in the form of no template is scored as it stands; else it is refused.
        special: whether free text gets the tokenizer's own special tokens.
        window: the most tokens, where the client asks for fewer than the model takes; a longer text is cut.
        cut: a longer text than the window loses the start of its prompt instead of being refused.
        variables: what the chat template gets beside messages: ``tools``, ``chat_template_kwargs``.
        optional: where it cannot be read, or does not fit, it has no score, and the request goes on.
    """

    param: str
    prompt: Json = None
    response: Json = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    free: bool = False
    special: bool = True
    window: int | None = None
    cut: bool = False
    variables: Mapping[str, Json] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Scored:
    """What the model says of an item.

    Attributes:
        quality: the reward, calibrated where the model is; NaN for an optional item that could not be read.
        length: what a length head says, for logs; ``None`` without one.
        response_tokens: of the response alone; ``None`` where nobody knows where it begins.
        tokens: that the model has read.
        cut: the response has no end token.
        free: the text was in the form of no template.
        truncated: something of it was cut away, for it did not fit.
        taken_off: by the model's calibration; without it the reward would be so much higher.
        attributes: of the response, by name, for logs; empty where nobody knows where it begins.
    """

    quality: float
    length: float | None
    response_tokens: int | None
    tokens: int
    cut: bool = False
    free: bool = False
    truncated: bool = False
    taken_off: float = 0.0
    attributes: Mapping[str, float] = field(default_factory=dict)


NO_SCORE = Scored(math.nan, None, None, 0)
Reply = Callable[[str, Sequence[Scored]], Json]


@dataclass(frozen=True)
class Asked:
    """A request that has been understood.

    Attributes:
        items: what is to be scored.
        reply: makes the answer from the model's name and the scores, in order.
        model: the model's name, where the client gives one.
        named: an unknown name is refused.
    """

    items: tuple[Item, ...]
    reply: Reply
    model: str | None = None
    named: bool = False


@dataclass(frozen=True)
class Dialect:
    """A protocol at one path.

    Attributes:
        name: for logs and metrics.
        read: takes the JSON body.
        error: makes the body of an error from status, message and field.
        bad_status: of a request that cannot be read.
    """

    name: str
    read: Callable[[Mapping[str, Json]], Asked]
    error: Callable[[int, str, str | None], Json]
    bad_status: int = 400


_numbers = itertools.count(1)


def new_id(kind: str) -> str:
    """A name for a reply."""
    return f"{kind}-{int(time.time() * 1000):x}-{next(_numbers):x}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


# ---- sizes -----------------------------------------------------------------------------------------------------------


def check_count(texts: int, most: int) -> None:
    """Refuse a request of more texts than are taken."""
    if texts > most:
        raise Problem(413, f"the request has {texts:,} texts; at most {most:,} are taken")


def check_lists(body: Mapping[str, Json], most: int) -> None:
    """:func:`check_count` of a body's lists, before anything is made of their entries. Ids of one text may be more."""
    for value in body.values():
        inner = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(inner, list) and inner and not isinstance(inner[0], int):
            check_count(len(inner), most)


# ---- fields ----------------------------------------------------------------------------------------------------------


def texts_of(body: Mapping[str, Json], name: str) -> list[str]:
    """A field that is a string or a list of strings, as a list."""
    value = body.get(name)
    if value is None:
        raise Problem(400, f"'{name}' is missing", param=name)
    values = value if isinstance(value, list) else [value]
    for number, one in enumerate(values):
        if not isinstance(one, str):
            raise Problem(400, f"'{name}' entry {number + 1} is {kind(one)}, not text", param=name)
    return values


def document_texts(body: Mapping[str, Json], name: str) -> list[str]:
    """Texts, each a string or an object with ``text`` or with ``content`` of text parts."""
    value = body.get(name)
    if value is None:
        raise Problem(400, f"'{name}' is missing", param=name)
    if isinstance(value, Mapping) and isinstance(value.get("content"), list):
        values = value["content"]
    else:
        values = value if isinstance(value, list) else [value]
    return [_document(one, name, number) for number, one in enumerate(values)]


def _document(value: Json, name: str, number: int) -> str:
    if isinstance(value, Mapping):
        content = value.get("text", value.get("content"))
        value = content_text(content) if isinstance(content, list) else content
    if not isinstance(value, str):
        raise Problem(400, f"'{name}' entry {number + 1} is no text", param=name)
    return value


def content_text(content: Json) -> str | None:
    """The text of a message's content: a string, or parts that are all text; ``None`` for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return None if not parts or len(texts) < len(parts) else "".join(texts)


def messages_of(value: Json, name: str) -> list[dict[str, Json]]:
    """Chat messages, parts of text joined; what else they hold (calls of tools, reasoning) stays, for the template.

    Raises:
        Problem: they are none.
    """
    if not isinstance(value, list) or not value:
        raise Problem(400, f"'{name}' is {'empty' if value == [] else kind(value)}, not a list of messages", param=name)
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise Problem(400, f"'{name}' message {number} has no role", param=name)
        content = content_text(message.get("content"))
        if content is None and not (message.get("content") is None and message.get("tool_calls")):
            raise Problem(400, f"'{name}' message {number} has no content of text", param=name)
        messages.append({**message, "content": content})
    return messages


def variables_of(body: Mapping[str, Json]) -> dict[str, Json]:
    """What a request gives the chat template beside messages."""
    return {name: body[name] for name in ("tools", "chat_template_kwargs") if body.get(name)}


def conversation(messages: list[dict[str, Json]], name: str, **changes: Any) -> Item:
    """The last message of a conversation as the response to those before it."""
    if messages[-1]["role"] != "assistant":
        raise Problem(400, f"'{name}' does not end with a message of the assistant, so nothing is scored", param=name)
    if len(messages) < 2:
        raise Problem(400, f"'{name}' has nothing before the assistant's message", param=name)
    return Item(name, prompt=messages[:-1], response=messages[-1:], **changes)


def flag_of(body: Mapping[str, Json], name: str, default: bool) -> bool:
    """A field that is true or false."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Problem(400, f"'{name}' is {kind(value)}, not true or false", param=name)
    return value


def whole_number(body: Mapping[str, Json], name: str, least: int) -> int | None:
    """A field that is a whole number of at least ``least``."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Problem(400, f"'{name}' must be a whole number of at least {least}", param=name)
    return value


def name_of(body: Mapping[str, Json]) -> str | None:
    """The model's name in a request."""
    value = body.get("model")
    if value is not None and not isinstance(value, str):
        raise Problem(400, f"'model' is {kind(value)}, not text", param="model")
    return value


def kind(value: Json) -> str:
    """What a JSON value is called."""
    if value is None:
        return "missing"
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")


def sigmoid(value: float) -> float:
    """``1 / (1 + exp(-x))``, without an overflow."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def usage(scores: Sequence[Scored]) -> dict[str, int | None]:
    """Tokens as OpenAI counts them; vLLM's clients know two fields of details, which it leaves empty as well."""
    tokens = sum(one.tokens for one in scores)
    counts: dict[str, int | None] = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return counts | {"prompt_tokens_details": None, "completion_tokens_details": None}
