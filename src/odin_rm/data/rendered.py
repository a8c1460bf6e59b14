"""Text that a template has rendered already, and the end of a response as a policy writes it.

A policy is given a rendered prompt and writes until its end token. Servers and frameworks hand on what it read and
wrote: text in the form of the template, but seldom the template's whole text. The start token is there or not, the
ending stops at the end-of-turn token (ChatML goes on with a line break), an end token has been appended, or there is
none, because the response was cut. Here such a text becomes the one that the model was trained on. The rules:

* **Rendered already** is a string prompt that begins as the template begins (its first special token, a start token
  aside; where it begins with none, its first words) *and* ends with what the template writes between a user message
  and the response. Both are asked of the template itself. Chat messages are never taken for rendered.
* **A whole text** ends its prompt where its prompt is known to end, else behind the last place of what stands between a
  user message and a response.
* **An end token** is the template's end-of-turn token (the first special token behind a response) or the tokenizer's
  end token. Those at the end of a response are taken off, and the template's own ending is written, once.
* **A response without an end token** was cut. Nothing is written behind it. Where the template writes nothing behind a
  response, and where the tokenizer closes every text itself ([SEP]), nothing tells a cut response from another: none
  counts as cut.
* **The start token** is written as often as the template or the tokenizer writes it: once, or not at all.
* The response goes through the template (which may trim it), so ids equal those of the conversation as messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import DataError
from odin_rm.data.render import (
    ASSISTANT,
    Prompt,
    Reply,
    plain_prompt,
    plain_response,
    render_chat,
    render_prompt,
)
from odin_rm.data.template_form import PROBES, TemplateForm, template_form

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RenderedPrompt(str):
    """A prompt as the template writes it, with the header of the assistant's turn."""


@dataclass(frozen=True)
class SplitText:
    """A rendered text in its parts.

    Attributes:
        prompt: as the template writes it (a plain string where none has rendered it).
        response: what the assistant says, without lead and ending.
        cut: it has no end token.
        completed: it ended, but not as the template ends it.
    """

    prompt: str
    response: str
    cut: bool
    completed: bool


def rendered_prompt(form: TemplateForm, prompt: Prompt) -> RenderedPrompt | None:
    """The prompt as the template writes it if it is rendered already (see the rules above), else ``None``."""
    if isinstance(prompt, RenderedPrompt):
        return prompt
    if not isinstance(prompt, str):
        return None
    body = form.without_start_tokens(prompt)
    if not any(body.startswith(start) for start in form.starts if start):
        return None
    if not form.chat:
        body = body.rstrip(" ")
        return RenderedPrompt(body) if body.endswith(f"\n{ASSISTANT}") else None
    if form.lead and body.endswith(form.header + form.lead):
        body = body.removesuffix(form.lead)
    return RenderedPrompt(form.bos + body) if form.header and body.endswith(form.header) else None


def check_not_half_rendered(form: TemplateForm, prompt: Prompt) -> None:
    """Refuse a string prompt that begins with the template's special token and does not end with its header.

    Raises:
        DataError: so it does.
    """
    if not (isinstance(prompt, str) and form.starts_special) or rendered_prompt(form, prompt) is not None:
        return
    if form.without_start_tokens(prompt).startswith(form.starts):
        raise DataError(
            f"'prompt' begins as the chat template begins, but does not end with {form.header!r}",
            fix="End it so (add_generation_prompt=True), or give the question alone.",
        )


def render_any_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, chat_template: str | None) -> str:
    """:func:`odin_rm.data.render.render_prompt`, but a prompt that is rendered already is taken as it is.

    Raises:
        DataError: the chat template refuses the conversation.
    """
    rendered = rendered_prompt(template_form(tokenizer, chat_template), prompt)
    return render_prompt(tokenizer, prompt, chat_template) if rendered is None else str(rendered)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    form: TemplateForm,
    prompt: Prompt,
    response: Reply,
    chat_template: str | None,
    *,
    cut: bool = False,
) -> str:
    """The text that the model reads, without what the tokenizer itself adds (the plain template's special tokens).

    Args:
        tokenizer: the model's.
        form: what its template writes around texts.
        prompt: a string, chat messages, or a prompt that is rendered already.
        response: a string or chat messages, without end tokens (:func:`without_end`).
        chat_template: as in :class:`odin_rm.data.tokenise.EncodingSettings`.
        cut: the response has no end, so none is written.

    Raises:
        DataError: the chat template refuses the conversation.
    """
    rendered = rendered_prompt(form, prompt)
    if not form.chat:
        return (plain_prompt(prompt) if rendered is None else rendered) + plain_response(response)
    if rendered is None:
        text = render_chat(tokenizer, prompt, response, chat_template)
    else:
        text = _behind(tokenizer, form, rendered, response, chat_template)
    return text.removesuffix(form.ending) if cut else text


def without_end(form: TemplateForm, response: Reply) -> Reply:
    """A response without the end tokens at its end, and padding behind them; of messages the last one's.

    Padding without an end token before it was written by somebody (a text about tokens), and an ending follows it. It
    goes only where nothing is written behind a response: no text may end with the pad token.
    """
    text = response if isinstance(response, str) else (response[-1]["content"] or "")
    if not _has_end(form, text):
        return response
    before, found = _split_tokens(form, text)
    if not found and form.ending:
        return response
    return before if isinstance(response, str) else [*response[:-1], {**response[-1], "content": before}]


def split_end(form: TemplateForm, response: str) -> tuple[str, bool]:
    """What stands before the end tokens (or the padding) of a response, and whether it ended."""
    text, found = _split_tokens(form, response)
    return text, found or not form.may_be_cut


def _split_tokens(form: TemplateForm, response: str) -> tuple[str, bool]:
    """What stands before the end tokens and the padding of a response, and whether there is an end."""
    text, found = response, False
    while form.pad and text.rstrip().endswith(form.pad):
        text = text.rstrip().removesuffix(form.pad)
    while (before := _before_end(form, text)) is not None:
        text, found = before, True
    if form.ending and not form.ends_with_token and text.endswith(form.ending):
        text, found = text.removesuffix(form.ending), True
    return text, found


def split_rendered(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    prompt: Prompt | None,
    chat_template: str | None,
    *,
    read_to_end_of_turn: bool = False,
) -> SplitText:
    """Take a rendered text apart.

    Args:
        tokenizer: the model's.
        text: prompt and response in the form of the model's template; special tokens as text.
        prompt: what it begins with, rendered or not, where that is known.
        chat_template: as in :class:`odin_rm.data.tokenise.EncodingSettings`.
        read_to_end_of_turn: nothing behind the end-of-turn token is missing.

    Raises:
        DataError: the text is not in that form, or does not begin with its prompt.
    """
    form = template_form(tokenizer, chat_template)
    body = form.without_start_tokens(text)
    start = _known_prompt(tokenizer, form, body, prompt, chat_template) if prompt is not None else _find(form, body)
    behind = body[len(start) :]
    if not behind.strip():
        raise DataError("the text has no response", fix="Write what the assistant says behind the prompt.")
    content, ended = split_end(form, behind)
    if form.lead and content.startswith(form.lead):
        content = content.removeprefix(form.lead)
    elif not form.chat and content.startswith(" ") and not content[1:2].isspace():
        content = content[1:]
    if prompt is None and form.chat and any(token in content for token in form.end_tokens[:1]):
        fix = "End it with the assistant's response, or give its 'prompt'."
        raise DataError("the text goes on behind the end of the assistant's turn", fix=fix)
    ends = {form.ending, form.ending.removesuffix(form.beyond_end) if read_to_end_of_turn else form.ending}
    whole = any(behind.endswith(end) for end in ends)
    completed = ended and not whole and (form.chat or form.may_be_cut)
    return SplitText(RenderedPrompt(form.bos + start), content, not ended, completed)


# ---- prompts inside texts --------------------------------------------------------------------------------------------


def _known_prompt(tokenizer: Any, form: TemplateForm, body: str, prompt: Prompt, chat_template: str | None) -> str:
    """The start of a text that is its prompt."""
    start = form.without_start_tokens(render_any_prompt(tokenizer, prompt, chat_template))
    if body.startswith(start):
        return start
    # A prompt that was rendered with other options of the template (a switched-off thought) ends otherwise.
    if form.chat and isinstance(prompt, str):
        start = form.without_start_tokens(prompt)
        if body.startswith(start):
            return start.removesuffix(form.lead)
    raise DataError("the text does not begin with its 'prompt'", fix="Give the prompt that it begins with, or none.")


def _find(form: TemplateForm, body: str) -> str:
    """The start of a text up to its last header."""
    begins = not form.starts or body.startswith(form.starts)
    if form.chat:
        place = body.rfind(form.header) + len(form.header) if form.header and form.header in body else 0
    else:
        header = f"\n{ASSISTANT}"
        place = body.rfind(header) + len(header) if header in body else 0
    if begins and place:
        return body[:place]
    expected = " or ".join(repr(start) for start in form.starts)
    what = "has no header of the assistant's turn" if begins else f"does not begin with {expected}"
    name = "chat template" if form.chat else "plain template"
    raise DataError(
        f"the text is not in the form of the model's {name}: it {what}",
        fix="Give 'prompt' and 'response', or a text that the model's own template has rendered.",
    )


def _behind(
    tokenizer: Any, form: TemplateForm, prompt: RenderedPrompt, response: Reply, chat_template: str | None
) -> str:
    """A rendered prompt with a response behind it as the template writes one.

    What the template writes before the message is left aside: it may hold today's date.
    """
    text = render_chat(tokenizer, PROBES[0], response, chat_template)
    _, found, behind = text.partition(PROBES[0])
    bare = form.header.removesuffix(form.asking)
    if found and behind.startswith(form.header):
        return prompt + behind.removeprefix(form.header)
    if found and behind.startswith(bare):  # a response that is there has another header, which is part of the rest
        return prompt.removesuffix(form.asking) + behind.removeprefix(bare)
    raise DataError(
        "the chat template writes a prompt otherwise when a response follows it",
        fix="Give prompt and response as chat messages.",
    )


def _before_end(form: TemplateForm, text: str) -> str | None:
    """What stands before the last end token, where nothing but white space or a part of the ending is behind it."""
    for token in form.end_tokens:
        before, found, behind = text.rpartition(token)
        own = token == form.end_tokens[0]
        if found and (not behind.strip() or (own and form.beyond_end.startswith(behind))):
            return before.removesuffix(form.before_end) if own else before
    return None


def _has_end(form: TemplateForm, text: str) -> bool:
    return any(token in text for token in (*form.end_tokens, *([form.pad] if form.pad else ())))
