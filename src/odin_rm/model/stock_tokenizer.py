"""The tokenizer that goes out with an exported model: other tools must read the very ids that the model was trained on.

Those tools know one way to render a conversation, the tokenizer's chat template, and add no special tokens to what it
gives; for a query and a document some of them add special tokens afterwards. The template that goes out
(:mod:`odin_rm.model.stock_template`) gives the ids of the training in each of these ways, or it does not go out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from odin_rm.core.errors import DataError, ExportError
from odin_rm.data.messages import is_transcript
from odin_rm.data.render import (
    beyond_turn,
    prompt_messages,
    response_messages,
    template_ending,
    uses_chat_template,
    with_fixed_date,
)
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.model.stock_template import Pairs, around

_SAMPLES: tuple[tuple[Any, str], ...] = (
    ("What is 2 + 2?", "It is 4."),
    ("  Spaces before,\nand a line break after \n", " and the like here \n"),
    ("Human: Hello.\n\nAssistant: Hi.\n\nHuman: And now?", "Now it is over."),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "d"),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}], "No."),
)

# data.render's plain template: turns by name, a blank line between, a dialogue in one user message as it is.
_PLAIN_TEMPLATE = (
    "{% set names = {'system': 'System:', 'user': 'Human:', 'assistant': 'Assistant:'} %}"
    "{% set whole = messages[0]['role'] == 'user' and messages[0]['content'].lstrip().startswith('Human:')"
    " and (messages | length == 1 or (messages | length == 2 and messages[1]['role'] == 'assistant')) %}"
    "{{ PREFIX }}"
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if whole and loop.first %}{{ text.strip() }}"
    "{% if not text.strip().endswith('\\nAssistant:') %}{{ '\\nAssistant:' }}{% endif %}"
    "{% else %}"
    "{% if not whole %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ names[message['role']] }}{% endif %}"
    "{% if not (loop.last and message['role'] == 'assistant' and text[:1].isspace()) %}{{ ' ' }}{% endif %}{{ text }}"
    "{% endif %}{% endfor %}"
    "{% if not add_generation_prompt %}{{ SUFFIX }}{% elif not whole %}{{ '\\n\\nAssistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class StockTokenizer:
    """What goes out, and what was proved of it.

    Attributes:
        tokenizer: the copy: right padding, the training window, the template.
        conversations: whether its chat template gives conversations the ids of the training.
        pairs: whether it gives them to a query and a document: ``both`` where the tool adds special tokens and where it
            does not, ``rendered`` only where it does not, ``none``.
        adds: the special tokens that the tokenizer puts before and after a text by itself.
        ending: what the text of a conversation has after the response.
        rest: the part of it after the end-of-turn token, at which a policy stops.
    """

    tokenizer: Any
    conversations: bool
    pairs: Pairs
    adds: tuple[str, str]
    ending: str = ""
    rest: str = ""


def stock_tokenizer(tokenizer: Any, settings: EncodingSettings) -> StockTokenizer:
    """A copy of ``tokenizer`` as other tools want it.

    Args:
        tokenizer: the reward model's tokenizer, with a pad token.
        settings: how the training rendered and cut texts.

    Raises:
        ExportError: the training read at the end-of-turn token, and no template can say so: every tool would read
            another token.
    """
    stock = copy.deepcopy(tokenizer)
    stock.padding_side = "right"
    stock.model_max_length = settings.max_length
    adds = _added_tokens(tokenizer)
    chat = uses_chat_template(tokenizer, settings.chat_template)
    beyond = beyond_turn(tokenizer, settings.chat_template) if chat else ""
    cut = beyond if settings.read_at == "end_of_turn" else ""
    own = _own_template(tokenizer, settings)
    for template, pairs in _candidates(own, cut, adds):
        stock.chat_template = template
        if same_conversations(stock, tokenizer, settings) and same_pairs(stock, tokenizer, settings, pairs):
            return StockTokenizer(stock, True, pairs, adds, template_ending(stock, None), beyond_turn(stock, None))
    if cut:
        raise ExportError(
            "the model is read at the end-of-turn token, and its chat template cannot be made to end there",
            fix="Train with --read_at end to export it.",
        )
    stock.chat_template = None
    return StockTokenizer(stock, False, "none", adds)


def same_conversations(stock: Any, tokenizer: Any, settings: EncodingSettings) -> bool:
    """Whether the stock tokenizer's template gives conversations the ids of the training; at least one was rendered."""
    seen = [_same_ids(stock, tokenizer, settings, prompt, response) for prompt, response in _SAMPLES]
    return False not in seen and True in seen


def same_pairs(stock: Any, tokenizer: Any, settings: EncodingSettings, pairs: Pairs) -> bool:
    """Whether it gives them to a query and a document in each of the ways that ``pairs`` promises."""
    ways = {"both": (True, False), "rendered": (False,), "none": ()}[pairs]
    # A transcript is a conversation of several turns to us, and one question to a tool that scores pairs.
    samples = [(p, r) for p, r in _SAMPLES if isinstance(p, str) and not is_transcript(p)]
    seen = [_same_ids(stock, tokenizer, settings, *sample, pair=way) for sample in samples for way in ways]
    return False not in seen and (True in seen or not ways)


def _own_template(tokenizer: Any, settings: EncodingSettings) -> Any:
    """The template of the training; a dictionary by name where the tokenizer has several and none was chosen."""
    if not uses_chat_template(tokenizer, settings.chat_template):
        return _plain_chat_template(tokenizer)
    if settings.chat_template is not None:
        return with_fixed_date(tokenizer.get_chat_template(settings.chat_template))
    return with_fixed_date(tokenizer.chat_template)


def _candidates(own: Any, cut: str, adds: tuple[str, str]) -> Iterator[tuple[Any, Pairs]]:
    """Templates from the most able to the model's own, each with the pairs that it takes."""
    for pairs in get_args(Pairs):
        kinds = own if isinstance(own, dict) else {"": own}
        made = {name: around(t, beyond=cut, prefix=adds[0], suffix=adds[1], pairs=pairs) for name, t in kinds.items()}
        yield (made if isinstance(own, dict) else made[""]), pairs
    if not cut:
        yield own, "none"


def _added_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = list(tokenizer("a")["input_ids"])
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return full[:start], full[start + len(bare) :]


def _added_tokens(tokenizer: Any) -> tuple[str, str]:
    before, after = _added_ids(tokenizer)
    return "".join(tokenizer.convert_ids_to_tokens(before)), "".join(tokenizer.convert_ids_to_tokens(after))


def _plain_chat_template(tokenizer: Any) -> str:
    """The plain template with the special tokens that a plain tokenizer call (and our end marker) adds."""
    before, after = _added_ids(tokenizer)
    end, last = tokenizer.eos_token_id, list(tokenizer("a")["input_ids"])[-1]
    if end is not None and last not in (end, tokenizer.sep_token_id):
        after = [*after, end]
    prefix, suffix = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (before, after))
    return _PLAIN_TEMPLATE.replace("PREFIX", repr(prefix)).replace("SUFFIX", repr(suffix))


def _same_ids(
    stock: Any, tokenizer: Any, settings: EncodingSettings, prompt: Any, response: str, *, pair: bool | None = None
) -> bool | None:
    """Whether one text has the ids of the training; ``None`` where the training's template refuses it too.

    ``pair``: as query and document, where the tool lets the tokenizer add special tokens (``True``) or says
    ``common_kwargs`` and adds none (``False``); ``None`` for messages.
    """
    import jinja2

    try:
        wanted = encode_response(tokenizer, prompt, response, settings.without_window()).input_ids
    except DataError:
        return None
    messages = prompt_messages(prompt) + response_messages(response)
    if pair is not None:
        messages = [{"role": "query", "content": prompt}, {"role": "document", "content": response}]
    options: dict[str, Any] = {"common_kwargs": {}} if pair is False else {}
    try:
        text = stock.apply_chat_template(messages, tokenize=False, **options)
    except (jinja2.TemplateError, TypeError, KeyError, ValueError):
        return False
    return list(stock(text, add_special_tokens=bool(pair))["input_ids"]) == list(wanted)
