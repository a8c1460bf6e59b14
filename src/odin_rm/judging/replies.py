"""What a chat endpoint sends back, read as JSON of unknown shape into words, their ending and counts of tokens.

Servers disagree on how they say that a reply is whole: ``stop``, ``eos_token``, ``end_turn``, nothing at all. An ending
by any other name says nothing of the words before it, so they are not to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from odin_rm.core.untrusted import parse_json, plain_text, whole_number

_WHOLE = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "completed", "complete", "finished"}
_CUT = {"length", "max_tokens", "max_output_tokens", "max_length", "model_length"}


class Odd(Exception):
    """A reply that nobody can use: no chat completion, or an error in place of one."""


class BrokenStream(Exception):
    """A stream that ended before the reply did."""


@dataclass(frozen=True)
class Reply:
    """What came back of a call.

    Attributes:
        text: the words.
        finish: why they end, by the server's word; ``None`` where it has none.
        prompt_tokens, completion_tokens: by the endpoint's count; ``None`` where it gives no count.
    """

    text: str
    finish: str | None
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def whole(self) -> bool:
        """Whether the words ended by themselves."""
        return self.finish is None or self.finish.lower() in _WHOLE

    @property
    def readable(self) -> bool:
        """Whether the words are the model's, whole or cut off; not so where a filter or a tool call ended them."""
        return self.whole or (self.finish or "").lower() in _CUT


def read_completion(content: bytes | str) -> Reply:
    """A whole chat completion.

    Raises:
        Odd: it is none.
    """
    try:
        body = parse_json(content)
    except ValueError as error:
        raise Odd("the reply is not valid JSON") from error
    choice = _first_choice(body)
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise Odd(f"the reply is no chat completion{_error_in(body)}")
    return _reply(_words(message.get("content")), choice.get("finish_reason"), message, body.get("usage"))


def join_pieces(lines: Sequence[str]) -> Reply:
    """A chat completion that came as server-sent events.

    Args:
        lines: of the body.

    Raises:
        Odd: it is none.
        BrokenStream: its end is missing.
    """
    events = [line[5:].strip() for line in lines if line.startswith("data:")]
    if not events:
        if any(line.strip() for line in lines):
            return read_completion("\n".join(lines))  # a server that does not stream
        raise BrokenStream("the stream ended before the reply did")
    pieces: list[str] = []
    finish: Any = None
    usage: Any = None
    said: dict[str, Any] = {}
    ended = False
    for number, event in enumerate(events, start=1):
        if event == "[DONE]":
            ended = True
            break
        try:
            body = parse_json(event)
        except ValueError as error:
            if number == len(events):
                raise BrokenStream("the stream ended before the reply did") from error
            raise Odd("a piece of the reply is not valid JSON") from error
        if not isinstance(body, dict) or body.get("error"):
            raise Odd(f"a piece of the reply is no chat completion{_error_in(body)}")
        usage = body.get("usage") or usage
        if (choice := _first_choice(body)) is not None:
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else {}
            pieces.append(_words(delta.get("content")))
            said |= {name: value for name, value in delta.items() if name == "refusal" and value}
            finish = choice.get("finish_reason") or finish
    if finish is None and not ended:
        raise BrokenStream("the stream ended before the reply did")
    return _reply("".join(pieces), finish, said, usage)


# ---- internals -------------------------------------------------------------------------------------------------------


def _first_choice(body: Any) -> dict[str, Any] | None:
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _reply(text: str, finish: Any, message: dict[str, Any], usage: Any) -> Reply:
    if finish is not None and not isinstance(finish, str):
        finish = f"{finish!r:.40}"
    if message.get("refusal"):
        finish = "refusal"
    counts = usage if isinstance(usage, dict) else {}
    tokens = (whole_number(counts.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(plain_text(text), finish, *tokens)


def _words(content: Any) -> str:
    """The text of a message; of one in parts, its parts of text (others hold thoughts, pictures, calls)."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (
        part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in ("text", "output_text")
    )
    return "".join(text for text in texts if isinstance(text, str))


def _error_in(body: Any) -> str:
    """What a server says in place of a reply."""
    error = body.get("error") if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return f" ({said[:200]})" if isinstance(said, str) and said else ""
