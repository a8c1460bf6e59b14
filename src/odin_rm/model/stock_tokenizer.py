"""The tokenizer that goes out with an exported model: other tools must read the very ids that the model was trained on.

Those tools know one way to render a conversation, the tokenizer's chat template, and add no special tokens to what it
gives. A model trained on the plain template therefore gets that template in Jinja, special tokens included.
"""

from __future__ import annotations

import copy
from typing import Any

from odin_rm.data.render import PLAIN, prompt_messages, response_messages
from odin_rm.data.tokenise import EncodingSettings, encode_response

_SAMPLES: tuple[tuple[Any, str], ...] = (
    ("What is 2 + 2?", "It is 4."),
    ("Human: Hello.\n\nAssistant: Hi.\n\nHuman: And now?", "Now it is over."),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "d"),
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


def stock_tokenizer(tokenizer: Any, settings: EncodingSettings) -> tuple[Any, bool]:
    """A copy of ``tokenizer`` as other tools want it: right padding, the training window, the training's template.

    Args:
        tokenizer: the reward model's tokenizer, with a pad token.
        settings: how the training rendered and cut texts.

    Returns:
        The copy, and whether its chat template gives the ids that training saw; where it cannot (a tokenizer that does
        not read special tokens out of text), the copy has no chat template.
    """
    stock = copy.deepcopy(tokenizer)
    stock.padding_side = "right"
    stock.model_max_length = settings.max_length
    own = getattr(tokenizer, "chat_template", None)
    if settings.chat_template == PLAIN or (settings.chat_template is None and own is None):
        stock.chat_template = _plain_chat_template(tokenizer)
    elif settings.chat_template is not None:
        stock.chat_template = tokenizer.get_chat_template(settings.chat_template)
    if all(_same_ids(stock, tokenizer, settings, prompt, response) for prompt, response in _SAMPLES):
        return stock, True
    stock.chat_template = None
    return stock, False


def _plain_chat_template(tokenizer: Any) -> str:
    """The plain template with the special tokens that a plain tokenizer call (and our end marker) adds."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = list(tokenizer("a")["input_ids"])
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    before, after = full[:start], full[start + len(bare) :]
    end = tokenizer.eos_token_id
    if end is not None and (after or full)[-1] not in (end, tokenizer.sep_token_id):
        after = [*after, end]
    prefix, suffix = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (before, after))
    return _PLAIN_TEMPLATE.replace("PREFIX", repr(prefix)).replace("SUFFIX", repr(suffix))


def _same_ids(stock: Any, tokenizer: Any, settings: EncodingSettings, prompt: Any, response: str) -> bool:
    import jinja2

    roomy = EncodingSettings(chat_template=settings.chat_template)
    messages = prompt_messages(prompt) + response_messages(response)
    try:
        text = stock.apply_chat_template(messages, tokenize=False)
        wanted = encode_response(tokenizer, prompt, response, roomy).input_ids
    except (jinja2.TemplateError, TypeError, KeyError, ValueError):
        # A template of the model's own that refuses such a conversation refuses it in training too.
        return settings.chat_template != PLAIN and getattr(tokenizer, "chat_template", None) is not None
    return list(stock(text, add_special_tokens=False)["input_ids"]) == list(wanted)
