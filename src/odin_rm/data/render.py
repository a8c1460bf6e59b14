"""Prompt and response to the one text that the model reads.

There are two ways:

* A tokenizer with a chat template (or an explicit ``chat_template``): the conversation is rendered by
  ``apply_chat_template``. A string prompt is one user message, a string response one assistant message; a string that
  is a transcript (it begins with ``Human:``) is its turns. The template is the whole truth about special tokens; none
  are added. A template that asks for today's date is given :data:`TEMPLATE_DATE`, on any day.
* Otherwise the plain template::

      System: {system message}      (where there is one)

      Human: {user message}

      Assistant: {response}

  A string prompt that begins with ``Human:`` is a transcript already. It is used as it is, without white space at its
  ends, and gets the line ``Assistant:`` unless it ends with one. The tokenizer then adds its own special tokens
  (``[CLS] ... [SEP]``, a beginning-of-sequence token), and its end-of-sequence token follows where it has one and it is
  not there yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import DataError
from odin_rm.data.messages import (
    ASSISTANT,
    HUMAN,
    PLAIN_FIELDS,
    SYSTEM,
    Message,
    is_transcript,
    template_variables,
    transcript_turns,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | list[Message]
Reply = str | list[Message]

PLAIN = "plain"
TEMPLATE_DATE = datetime(2024, 7, 26)
"""What ``strftime_now`` of a chat template says: one score for one text on any day. It is the date that the Llama 3
templates, in which this began, write where nobody gives one."""
_SPEAKER = {"user": HUMAN, "assistant": ASSISTANT, "system": SYSTEM, "developer": SYSTEM}


def uses_chat_template(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> bool:
    """Whether texts go through a chat template (else through the plain template)."""
    if chat_template is not None:
        return chat_template != PLAIN
    own = getattr(tokenizer, "chat_template", None)
    return bool(own.strip() if isinstance(own, str) else own)  # an empty template would make every text empty


def prompt_messages(prompt: Prompt) -> list[Message]:
    """The prompt as chat messages; those of a transcript are its turns, if the last one is the user's."""
    if not isinstance(prompt, str):
        return prompt
    if is_transcript(prompt):
        turns = transcript_turns(prompt)
        if len(turns) > 1 and not turns[-1]["content"]:  # the header of the turn that is asked for
            turns.pop()
        if turns[-1]["role"] == "user" and all(turn["content"] for turn in turns):
            return turns
    return [{"role": "user", "content": prompt}]


def response_messages(response: Reply) -> list[Message]:
    """The response as chat messages."""
    return [{"role": "assistant", "content": response}] if isinstance(response, str) else response


def response_texts(response: Reply) -> list[str]:
    """The texts that a response's length is counted over: what the assistant says in it, thoughts and calls of tools
    in fields of their own included (a call as JSON of its name and arguments)."""
    if isinstance(response, str):
        return [response]
    return [text for message in response if message["role"] == "assistant" for text in _written(message)]


def _written(message: Message) -> list[str]:
    thought = message.get("reasoning_content")
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    return [
        *([thought] if isinstance(thought, str) else []),
        *([message["content"]] if message["content"] is not None else []),
        *(json.dumps(call, ensure_ascii=False) for call in calls),
    ]


def plain_prompt(prompt: Prompt) -> str:
    """The prompt in the plain template, up to and including the last ``Assistant:``.

    Raises:
        DataError: it holds a message that the plain template has no words for.
    """
    if isinstance(prompt, list) and [message["role"] for message in prompt] == ["user"]:
        prompt = prompt[0]["content"]
    if isinstance(prompt, list):
        return "\n\n".join([_turn(message) for message in prompt] + [ASSISTANT])
    if not is_transcript(prompt):
        return f"{HUMAN} {prompt}\n\n{ASSISTANT}"
    transcript = prompt.strip()
    return transcript if transcript.endswith(f"\n{ASSISTANT}") else f"{transcript}\n{ASSISTANT}"


def plain_response(response: Reply) -> str:
    """What follows :func:`plain_prompt`, with the space between.

    Raises:
        DataError: it holds a message that the plain template has no words for.
    """
    if isinstance(response, list):
        head, *rest = response
        text = "\n\n".join([_said(head), *(_turn(message) for message in rest)])
    else:
        text = response
    return text if text[:1].isspace() else f" {text}"


def _turn(message: Message) -> str:
    return f"{_SPEAKER.get(message['role'], '')} {_said(message)}"


def _said(message: Message) -> str:
    if message["role"] not in _SPEAKER or not isinstance(message["content"], str):
        what = "a message of a tool" if message["role"] not in _SPEAKER else "a message of tool calls alone"
        fix = "Give a chat_template that writes it, or leave the row out."
        raise DataError(f"the plain template has no words for {what}", fix=fix)
    return message["content"]


_THOUGHTS = {"reasoning_content", "reasoning", "thinking"}


def unrendered(tokenizer: PreTrainedTokenizerBase, chat_template: str | None, *texts: Prompt | Reply) -> set[str]:
    """Fields of messages, and values beside them (``tools``), that the template does not write.

    A template is taken to write what it names.
    """
    found: set[str] = set()
    for text in texts:
        if not isinstance(text, str):
            found |= {key for message in text for key in message} - PLAIN_FIELDS
            found |= set(template_variables(text))
    if not found:
        return found
    source = _template_source(tokenizer, chat_template) if uses_chat_template(tokenizer, chat_template) else ""
    written = {name for name in found if name in source}
    if any(name in source for name in _THOUGHTS):  # transformers gives a thought under each of its names
        written |= _THOUGHTS
    return found - written


def _template_source(tokenizer: Any, chat_template: str | None) -> str:
    try:
        return tokenizer.get_chat_template(chat_template)
    except (ValueError, TypeError, AttributeError):
        return str(chat_template or tokenizer.chat_template)


def render_chat(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: Reply, chat_template: str | None) -> str:
    """The whole conversation through the chat template.

    Raises:
        DataError: the template refuses the conversation (for example a system message that it does not know).
    """
    messages = [*prompt_messages(prompt), *response_messages(response)]
    return render_messages(tokenizer, messages, chat_template, False, template_variables(prompt))


def render_chat_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, full_text: str, chat_template: str | None
) -> str:
    """The part of ``full_text`` (see :func:`render_chat`) that is the prompt.

    Normally that is the prompt with the header of the assistant's turn. Some templates write another header when a
    response is asked for than when it is there; then the header counts as part of the response.
    """
    for with_header in (True, False):
        text = render_messages(
            tokenizer, list(prompt_messages(prompt)), chat_template, with_header, template_variables(prompt)
        )
        if full_text.startswith(text):
            return text
    return ""


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, chat_template: str | None) -> str:
    """What a policy is given to answer: the prompt with the header of the assistant's turn, by either way.

    Raises:
        DataError: the chat template refuses the conversation.
    """
    if not uses_chat_template(tokenizer, chat_template):
        return plain_prompt(prompt)
    messages = list(prompt_messages(prompt))
    return render_messages(tokenizer, messages, chat_template, True, template_variables(prompt))


def template_ending(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> str:
    """What the chat template writes after a response: ``"<|im_end|>\\n"`` for ChatML; empty where it depends on it."""
    endings = set()
    for response in ("Apple", "Seven pears"):
        try:
            text = render_chat(tokenizer, "Which?", response, chat_template)
        except DataError:  # it wants another kind of conversation
            return ""
        endings.add(text.rpartition(response)[2] if response in text else "")
    return endings.pop() if len(endings) == 1 else ""


def beyond_turn(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> str:
    """What the chat template writes after the response's end-of-turn token: ``"\\n"`` for ChatML, often nothing.

    The end-of-turn token is the first special token after the response; without one nothing is beyond it.
    """
    return parts_of_ending(tokenizer, template_ending(tokenizer, chat_template))[2]


def parts_of_ending(tokenizer: PreTrainedTokenizerBase, ending: str) -> tuple[str, str, str]:
    """What stands before the first special token of a template's ending, that token, and what stands behind it.

    Without a special token all three are empty.
    """
    # Of two that begin at the same place the longer one.
    places = {ending.find(token): token for token in reversed(special_tokens(tokenizer)) if token in ending}
    return ending.partition(places[min(places)]) if places else ("", "", "")


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Special and added tokens as text, the longest first."""
    found = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return sorted((token for token in found if token.strip()), key=lambda token: (-len(token), token))


def render_messages(
    tokenizer: Any,
    messages: list[Message],
    chat_template: str | None,
    with_header: bool,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Messages through the chat template, with or without the header of the assistant's turn behind them.

    Raises:
        DataError: the template refuses them.
    """
    import jinja2

    chat_template = dated_template(tokenizer, chat_template)
    given = dict(variables or {})
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=chat_template, tokenize=False, add_generation_prompt=with_header, **given
        )
    except (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        reason = "something in it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(
            f"the chat template refuses the conversation ({reason})",
            fix="Change the messages, or give another chat_template ('plain' needs none).",
        ) from error


def dated_template(tokenizer: Any, chat_template: str | None) -> str | None:
    """The template as it is given, or with :data:`TEMPLATE_DATE` where it asks for today's."""
    if "strftime_now" not in str(chat_template or tokenizer.chat_template):
        return chat_template
    return str(with_fixed_date(_template_source(tokenizer, chat_template)))


_DATE_CALL = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")


_DIRECTIVES = "aAdbBmyYHIpMSfjUWuwGVFTDRecxXn"


def with_fixed_date(template: Any) -> Any:
    """A chat template that writes :data:`TEMPLATE_DATE` by itself, in any library.

    Calls of ``strftime_now`` with a text become the date as text. For other calls a macro of that name is put before
    the template, which writes the date for each of the directives that ``strftime`` knows.
    """
    if isinstance(template, dict):
        return {name: with_fixed_date(one) for name, one in template.items()}
    if not isinstance(template, str):
        return template
    fixed = _DATE_CALL.sub(lambda call: f"'{TEMPLATE_DATE.strftime(call[2])}'", template)
    if "strftime_now(" not in fixed.replace(" ", ""):
        return fixed
    writes = "".join(f" | replace('%{letter}', '{TEMPLATE_DATE.strftime('%' + letter)}')" for letter in _DIRECTIVES)
    # A line break behind a block may be taken for its end.
    border = "\n" if fixed.startswith("\n") else ""
    return f"{{% macro strftime_now(format) %}}{{{{ format{writes} }}}}{{% endmacro %}}{border}{fixed}"


def fixed_date(tokenizer: Any, chat_template: str | None) -> str | None:
    """The date that stands for today's in the chat template's texts; ``None`` where it asks for none."""
    if not uses_chat_template(tokenizer, chat_template):
        return None
    asks = "strftime_now" in _template_source(tokenizer, chat_template)
    return TEMPLATE_DATE.strftime("%Y-%m-%d") if asks else None
