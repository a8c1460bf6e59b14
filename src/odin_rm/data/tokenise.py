"""Text to token ids, with the true response length and an explicit policy for what does not fit.

The ids of a sequence are those of the rendered text as a whole (:mod:`odin_rm.data.render`), so they equal what
``apply_chat_template(tokenize=True)`` or a plain tokenizer call gives to anybody else's tool. Training, scoring, audit
and export all come through :func:`encode_responses`; there is no second way.

Where the prompt ends inside the ids matters only when something has to be cut: the prompt part is then the longest
common start of the sequence's ids and the prompt's own ids. A token that reaches over the border belongs to the
response, so a cut of the prompt never touches the response.

The response length ``L(y)`` is the number of tokens of the response's text alone: without prompt, without special
tokens and end marker, before truncation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.render import Prompt, Reply, plain_prompt, render_chat_prompt, response_texts
from odin_rm.data.rendered import (
    SplitText,
    render_conversation,
    rendered_prompt,
    split_rendered,
    without_end,
)
from odin_rm.data.template_form import TemplateForm, common_start, template_form

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["drop", "truncate_prompt_left", "truncate_response", "error"]
ReadAt = Literal["end", "end_of_turn", "before_pad"]
# Texts per call of the tokenizer: enough for its threads, few enough to keep Python lists small.
CHUNK = 1000
# truncate_response keeps at most this part of the window for the prompt when the response does not fit beside it.
PROMPT_SHARE = 4
# An end marker (an end-of-turn token and a line break, say) has at most this many ids.
_LONGEST_END_MARKER = 4


@dataclass(frozen=True)
class EncodingSettings:
    """How texts become sequences.

    Attributes:
        max_length: the most tokens of a sequence (prompt, response, end marker).
        overlong: what happens to a longer one.
            ``"drop"``: it is flagged ``dropped``; the loader drops its pairs and counts them.
            ``"truncate_prompt_left"``: the start of the prompt goes, the first special token ([CLS], BOS) and the whole
            response stay; where the response alone does not fit, as ``"drop"``.
            ``"truncate_response"``: the prompt is first cut from the left, down to a quarter of ``max_length`` if need
            be; then the response keeps its first tokens that fit, and the end marker. For encoders with short windows.
            ``"error"``: a :class:`~odin_rm.core.errors.DataError`.
        chat_template: a Jinja template (or the name of one of the tokenizer's) instead of the tokenizer's default;
            ``"plain"`` for the plain template; ``None`` for the tokenizer's own, or plain where it has none.
        read_at: where a rendered text ends, and with it where the reward is read: at the text's last token.
            ``"end"``: the template's own end.
            ``"end_of_turn"``: the end-of-turn token of the response. ChatML ends with ``<|im_end|>`` and a line break;
            a policy stops at ``<|im_end|>``, so that is the last token that a tool of reinforcement learning sends.
            ``"before_pad"``: the last token that is not the pad token, for models that an earlier odin-rm trained so.
    """

    max_length: int = 1024
    overlong: Overlong = "drop"
    chat_template: str | None = None
    read_at: ReadAt = "end"

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}", where="--max_length", fix="Give at least 1 token.")
        if self.overlong not in get_args(Overlong):
            known = ", ".join(get_args(Overlong))
            raise ConfigError(f"overlong is '{self.overlong}'", where="--overlong", fix=f"Use one of {known}.")
        if self.read_at not in get_args(ReadAt):
            known = ", ".join(get_args(ReadAt))
            raise ConfigError(f"read_at is '{self.read_at}'", where="--read_at", fix=f"Use one of {known}.")

    def without_window(self) -> EncodingSettings:
        """The same rendering and the same end, in the default window: for short texts that ask about a template."""
        return EncodingSettings(chat_template=self.chat_template, read_at=self.read_at)


@dataclass(frozen=True)
class EncodedResponse:
    """One sequence.

    Attributes:
        input_ids: what the model reads, after truncation; empty where ``dropped``.
        response_tokens: ``L(y)``, before truncation.
        sequence_tokens: length of the sequence before truncation.
        prompt_cut: prompt tokens that were cut away.
        response_cut: response tokens that were cut away.
        dropped: the sequence does not fit and the policy does not cut it.
        prompt_tokens: tokens of the prompt part; known (not -1) only where the sequence is longer than ``max_length``.
        ended: the response has its end; one that was cut before its end token has none, and none is written.
        completed: the rendered text that it comes from ended otherwise than the template ends it.
        rewritten: the response does not stand in the rendered text as it is: the template left a part of it out (a
            thought) or changed it. ``response_tokens`` counts all of it.
        asked, said: the prompt and the response that it was made of, where :func:`encode_responses` made it: a
            calibration counts attributes of the response's text.
    """

    input_ids: list[int]
    response_tokens: int
    sequence_tokens: int
    prompt_cut: int = 0
    response_cut: int = 0
    dropped: bool = False
    prompt_tokens: int = -1
    ended: bool = True
    completed: bool = False
    rewritten: bool = False
    asked: Prompt | None = field(default=None, compare=False, repr=False)
    said: Reply | None = field(default=None, compare=False, repr=False)

    @property
    def truncated(self) -> bool:
        """Whether anything was cut away."""
        return self.prompt_cut + self.response_cut > 0


def encode_response(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: Reply, settings: EncodingSettings
) -> EncodedResponse:
    """:func:`encode_responses` for one text."""
    return encode_responses(tokenizer, [prompt], [response], settings)[0]


def encode_responses(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    responses: Sequence[Reply],
    settings: EncodingSettings,
    *,
    ended: Sequence[bool] | None = None,
) -> list[EncodedResponse]:
    """Encode responses, each after its prompt.

    A prompt that the model's template has rendered already is taken as it is, and end tokens that a response has at its
    end are not written twice (:mod:`odin_rm.data.rendered`).

    Args:
        tokenizer: any Hugging Face tokenizer.
        prompts: a string or chat messages each.
        responses: a string or chat messages each; as many as ``prompts``.
        settings: window and policy.
        ended: whether each response has ended; nothing is written behind one that was cut. Default all.

    Raises:
        DataError: the chat template refuses a conversation, or a sequence is too long and the policy is ``"error"``;
            ``where`` gives its position ("response 3", from 1).
    """
    encoded: list[EncodedResponse] = []
    for start in range(0, len(prompts), CHUNK):
        part = slice(start, start + CHUNK)
        names = [f"response {start + i + 1}" for i in range(len(prompts[part]))]
        own_ended = None if ended is None else ended[part]
        made = encode_named(tokenizer, prompts[part], responses[part], settings, names, ended=own_ended)
        texts = zip(made, prompts[part], responses[part], strict=True)
        encoded += [replace(one, asked=prompt, said=response) for one, prompt, response in texts]
    return encoded


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    prompts: Sequence[Prompt | None] | None,
    settings: EncodingSettings,
) -> list[EncodedResponse]:
    """Encode texts in the form of the model's template; ids are those of the conversations as messages.

    Args:
        tokenizer: the model's.
        texts: prompt and response as a policy read and wrote them (:mod:`odin_rm.data.rendered`).
        prompts: what each text begins with, rendered or not, where that is known.
        settings: window and policy.

    Raises:
        DataError: a text is not in that form, or does not begin with its prompt, or a sequence is too long and the
            policy is ``"error"``; ``where`` gives its position ("text 3", from 1).
    """
    parts = []
    for number, text in enumerate(texts):
        try:
            parts.append(split_text(tokenizer, text, prompts[number] if prompts else None, settings))
        except DataError as error:
            raise RowError(error.what, where=f"text {number + 1}", fix=error.fix) from error
    encoded = encode_responses(
        tokenizer,
        [part.prompt for part in parts],
        [part.response for part in parts],
        settings,
        ended=[not part.cut for part in parts],
    )
    return [replace(one, completed=part.completed) for one, part in zip(encoded, parts, strict=True)]


def split_text(
    tokenizer: PreTrainedTokenizerBase, text: str, prompt: Prompt | None, settings: EncodingSettings
) -> SplitText:
    """:func:`odin_rm.data.rendered.split_rendered` for a model that reads as ``settings`` say."""
    to_end_of_turn = settings.read_at == "end_of_turn"
    return split_rendered(tokenizer, text, prompt, settings.chat_template, read_to_end_of_turn=to_end_of_turn)


def encode_named(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    responses: Sequence[Reply],
    settings: EncodingSettings,
    names: Sequence[str],
    *,
    ended: Sequence[bool] | None = None,
) -> list[EncodedResponse]:
    """One call's worth of :func:`encode_responses`; errors are placed by ``names``."""
    if not prompts:
        return []
    form = template_form(tokenizer, settings.chat_template)
    responses = [without_end(form, response) for response in responses]
    ended = [True] * len(prompts) if ended is None else [bool(one) for one in ended]
    texts = [
        _full_text(tokenizer, form, prompt, response, settings, name, has_end)
        for prompt, response, name, has_end in zip(prompts, responses, names, ended, strict=True)
    ]
    sequences = _ids(tokenizer, texts, special=not form.chat)
    if not form.chat:
        sequences = [_plain_end(tokenizer, form, *one) for one in zip(sequences, ended, strict=True)]
    if settings.read_at == "before_pad":
        sequences = [_before_pad(ids, tokenizer.pad_token_id) for ids in sequences]
    if empty := next((name for ids, name in zip(sequences, names, strict=True) if not ids), None):
        raise RowError("the template makes no token of the row", where=empty, fix="Give another chat_template.")
    lengths = _response_lengths(tokenizer, responses)
    overlong = [i for i, ids in enumerate(sequences) if len(ids) > settings.max_length]
    starts = [_prompt_text(tokenizer, form, prompts[i], texts[i], settings) for i in overlong]
    prompt_ids = dict(zip(overlong, _ids(tokenizer, starts, special=not form.chat) if starts else [], strict=True))
    encoded = []
    for i, ids in enumerate(sequences):
        if i in prompt_ids:
            border = common_start(ids, prompt_ids[i])
            one = _fit(tokenizer, ids, border, lengths[i], settings, names[i])
        else:
            one = EncodedResponse(ids, lengths[i], len(ids))
        rewritten = not _stands_in(responses[i], texts[i])
        if rewritten or not ended[i]:
            one = replace(one, ended=ended[i], rewritten=rewritten)
        encoded.append(one)
    return encoded


def _stands_in(response: Reply, text: str) -> bool:
    """Whether a rendered text holds what the assistant says, as it is but for white space at its ends."""
    if isinstance(response, str):
        return response.strip() in text
    said = [message[key] for message in response for key in ("reasoning_content", "content") if message.get(key)]
    return all(not isinstance(one, str) or one.strip() in text for one in said)


def _prompt_text(tokenizer: Any, form: TemplateForm, prompt: Prompt, text: str, settings: EncodingSettings) -> str:
    rendered = rendered_prompt(form, prompt)
    if rendered is not None:
        return str(rendered)
    return render_chat_prompt(tokenizer, prompt, text, settings.chat_template) if form.chat else plain_prompt(prompt)


def _full_text(
    tokenizer: Any,
    form: TemplateForm,
    prompt: Prompt,
    response: Reply,
    settings: EncodingSettings,
    name: str,
    has_end: bool,
) -> str:
    try:
        text = render_conversation(tokenizer, form, prompt, response, settings.chat_template, cut=not has_end)
    except DataError as error:
        raise RowError(error.what, where=name, fix=error.fix) from error
    return text.removesuffix(form.beyond_end) if has_end and settings.read_at == "end_of_turn" else text


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    return tokenizer(
        texts,
        add_special_tokens=special,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def _plain_end(tokenizer: Any, form: TemplateForm, ids: list[int], has_end: bool) -> list[int]:
    """The ids with one end token, or none behind a response that was cut."""
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    closed = bool(ids) and ids[-1] in closing
    if not has_end and form.may_be_cut:
        return ids[:-1] if closed else ids
    return ids if closed or tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]


def _response_lengths(tokenizer: Any, responses: Sequence[Reply]) -> list[int]:
    texts = [response_texts(response) for response in responses]
    counts = [len(ids) for ids in _ids(tokenizer, [text for parts in texts for text in parts], special=False)]
    ends = np.cumsum([len(parts) for parts in texts]).tolist()
    return [sum(counts[end - len(parts) : end]) for end, parts in zip(ends, texts, strict=True)]


def _before_pad(ids: list[int], pad_token_id: int | None) -> list[int]:
    last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] != pad_token_id), 0)
    return ids[: last + 1]


def _fit(
    tokenizer: Any, ids: list[int], border: int, response_tokens: int, settings: EncodingSettings, name: str
) -> EncodedResponse:
    """Apply the policy to a sequence that is too long."""
    window = settings.max_length
    flagged = EncodedResponse([], response_tokens, len(ids), dropped=True, prompt_tokens=border)
    if settings.overlong == "error":
        raise overlong_error(flagged, settings, name)
    if settings.overlong == "drop":
        return flagged
    head = ids[:1] if border and ids[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else []
    prompt, response = ids[len(head) : border], ids[border:]
    room = window - len(head) - len(response)
    if room < 0 and settings.overlong == "truncate_prompt_left":
        return flagged
    if settings.overlong == "truncate_response":
        room = max(room, min(len(prompt), window // PROMPT_SHARE - len(head)), 0)
    kept_prompt = prompt[len(prompt) - room :] if room < len(prompt) else prompt
    end = _end_marker(tokenizer, response)
    response_room = window - len(head) - len(kept_prompt)
    if len(response) > response_room:
        body = response_room - end
        if body < 1:
            return flagged
        kept_response = response[:body] + response[len(response) - end :]
    else:
        kept_response = response
    return EncodedResponse(
        head + kept_prompt + kept_response,
        response_tokens,
        len(ids),
        prompt_cut=len(prompt) - len(kept_prompt),
        response_cut=len(response) - len(kept_response),
        prompt_tokens=border,
    )


def _end_marker(tokenizer: Any, response: list[int]) -> int:
    """Number of ids from the last special token on, where that is the end of the sequence."""
    special = set(tokenizer.all_special_ids)
    for length in range(1, min(_LONGEST_END_MARKER, len(response)) + 1):
        if response[-length] in special:
            return length
    return 0


def overlong_error(encoded: EncodedResponse, settings: EncodingSettings, where: str) -> RowError:
    """The error of the policy ``"error"``; says so where the prompt alone is too long."""
    alone = encoded.prompt_tokens > settings.max_length
    part, tokens = ("prompt alone", encoded.prompt_tokens) if alone else ("sequence", encoded.sequence_tokens)
    return RowError(
        f"the {part} has {tokens:,} tokens, more than max_length ({settings.max_length:,})",
        where=where,
        fix="Raise --max_length, or choose --overlong drop, truncate_prompt_left or truncate_response.",
    )
