"""The chat template that goes out, letter by letter: messages, pairs, parts, tools, end of turn, generation."""

from __future__ import annotations

import jinja2
import pytest
from transformers import PreTrainedTokenizerFast

from odin_rm.core.errors import ExportError
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.model import stock_tokenizer as module
from odin_rm.model.stock_template import around
from odin_rm.model.stock_tokenizer import stock_tokenizer
from tests.model.words import build_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As model makers write them: over several lines, with blanks before tags, a macro that calls itself, tools, thoughts.
RICH = """\
{%- macro nested(value, depth) %}
    {%- if depth > 0 %}
        {{- '(' }}{{ nested(value, depth - 1) }}{{- ')' }}
    {%- else %}
        {{- value }}
    {%- endif %}
{%- endmacro %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'none' %}
{%- endif %}
[{{ system }}]
{% if tools %}
{{ tools | tojson }}
{% endif %}
{%- for message in messages %}
    {%- set last = loop.last %}
  <{{ message.role }}>{{ nested(message.content, 2) }}
    {%- for call in message.tool_calls or [] %}!{{ call.function.name }}{%- endfor %}
{% if message.role == 'assistant' %}
<|im_end|>
{% endif %}
{%- endfor %}
"""
SPOKEN = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- 'A: ' }}
        {% generation %}
{{ message.content }}<|im_end|>
        {% endgeneration %}
    {%- else %}
        {{- 'U: ' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
ASKED = [{"role": "user", "content": "why?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "no"}]
PAIR = [{"role": "query", "content": "why?"}, {"role": "document", "content": "no"}]


def tokenizer_with(template: str | None, name: str = "llama") -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer(name)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def written(tokenizer: PreTrainedTokenizerFast, messages, **options) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def test_the_template_goes_on_as_it_was_and_takes_pairs():
    made = stock_tokenizer(tokenizer_with(CHATML, "gpt2"), EncodingSettings())
    expected = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
    assert (made.conversations, made.pairs, made.adds, made.ending, made.rest) == (
        True, "both", ("", ""), "<|im_end|>\n", "\n",
    )  # fmt: skip
    assert written(made.tokenizer, ANSWERED) == expected
    assert written(made.tokenizer, PAIR) == expected
    asked = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    assert written(made.tokenizer, ASKED, add_generation_prompt=True) == asked
    assert written(made.tokenizer, ASKED) == asked.removesuffix("<|im_start|>assistant\n")


def test_nothing_follows_the_end_of_turn_token_of_a_finished_answer():
    made = stock_tokenizer(tokenizer_with(CHATML, "gpt2"), EncodingSettings(read_at="end_of_turn"))
    expected = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>"
    assert (made.pairs, made.ending, made.rest) == ("both", "<|im_end|>", "")
    assert written(made.tokenizer, ANSWERED) == written(made.tokenizer, PAIR) == expected
    # What asks for an answer is the policy's business and stays.
    assert written(made.tokenizer, ASKED) == "<|im_start|>user\nwhy?<|im_end|>\n"
    again = [*ANSWERED, *ASKED]
    assert written(made.tokenizer, again) == expected + "\n<|im_start|>user\nwhy?<|im_end|>\n"
    assert written(made.tokenizer, ANSWERED, add_generation_prompt=True) == expected + "\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "name, adds, messages, pair",
    [
        ("llama", ("<bos>", ""), "<bos>Human: why?\n\nAssistant: no<eos>", "Human: why?\n\nAssistant: no<eos>"),
        ("bert", ("<bos>", "<eos>"), "<bos>Human: why?\n\nAssistant: no<eos>", "Human: why?\n\nAssistant: no"),
        ("gpt2", ("", ""), "Human: why?\n\nAssistant: no<eos>", "Human: why?\n\nAssistant: no<eos>"),
    ],
)
@pytest.mark.parametrize("read_at", ["end", "end_of_turn"])
def test_special_tokens_are_there_once_in_each_way_of_calling(read_at, name, adds, messages, pair):
    tokenizer, settings = build_tokenizer(name), EncodingSettings(read_at=read_at)
    made = stock_tokenizer(tokenizer, settings)
    assert (made.conversations, made.pairs, made.adds, made.ending, made.rest) == (True, "both", adds, "<eos>", "")
    assert written(made.tokenizer, ANSWERED) == messages
    assert written(made.tokenizer, PAIR) == pair  # and the tool lets the tokenizer add the rest
    assert written(made.tokenizer, PAIR, common_kwargs={}) == messages  # sentence-transformers adds none
    ids = encode_response(tokenizer, "why?", "no", settings).input_ids
    assert made.tokenizer(messages, add_special_tokens=False)["input_ids"] == ids
    assert made.tokenizer(pair)["input_ids"] == ids


def test_a_start_token_of_the_template_is_left_out_of_pairs():
    made = stock_tokenizer(tokenizer_with("{{ bos_token }}" + CHATML), EncodingSettings())
    assert made.pairs == "both"
    assert written(made.tokenizer, ANSWERED).startswith("<bos><|im_start|>user")
    assert written(made.tokenizer, PAIR).startswith("<|im_start|>user")


def test_pairs_are_refused_where_the_tool_would_add_a_token_that_training_never_saw():
    made = stock_tokenizer(tokenizer_with(CHATML), EncodingSettings())
    assert (made.conversations, made.pairs, made.adds) == (True, "rendered", ("<bos>", ""))
    with pytest.raises(jinja2.TemplateError, match="cannot write a query and a document"):
        written(made.tokenizer, PAIR)
    assert written(made.tokenizer, PAIR, common_kwargs={}) == written(made.tokenizer, ANSWERED)


def test_content_in_parts_of_text_is_joined():
    made = stock_tokenizer(tokenizer_with(CHATML, "gpt2"), EncodingSettings()).tokenizer
    parts = [{"type": "text", "text": "wh"}, {"type": "text", "text": "y?"}]
    assert written(made, [{"role": "user", "content": parts}, ANSWERED[1]]) == written(made, ANSWERED)
    assert written(made, [{"role": "query", "content": parts}, PAIR[1]]) == written(made, ANSWERED)


def test_macros_system_messages_tools_and_calls_are_rendered_as_before():
    tokenizer = tokenizer_with(RICH, "gpt2")
    made = stock_tokenizer(tokenizer, EncodingSettings()).tokenizer
    called = {"role": "assistant", "content": "so", "tool_calls": [{"type": "function", "function": {"name": "look"}}]}
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    talk = [{"role": "system", "content": "brief"}, *ANSWERED, *ASKED, called]
    for options in ({}, {"tools": [tool]}):
        assert written(made, talk, **options) == written(tokenizer, talk, **options)
    assert "[brief]" in written(made, talk, tools=[tool])
    assert "((why?))" in written(made, talk)
    assert "!look" in written(made, talk)
    assert '"look"' in written(made, talk, tools=[tool])


def test_the_spans_of_generation_stay_where_they_were():
    tokenizer = tokenizer_with(SPOKEN)
    for read_at, dropped in (("end", 0), ("end_of_turn", len("\n"))):
        made = stock_tokenizer(tokenizer, EncodingSettings(read_at=read_at)).tokenizer
        talk = [*ANSWERED, *ANSWERED]
        before = written(tokenizer, talk)
        assert written(made, talk) == before[: len(before) - dropped]
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        found, expected = (t.apply_chat_template(talk, **options) for t in (made, tokenizer))
        assert found["input_ids"] == expected["input_ids"]
        assert found["assistant_masks"] == expected["assistant_masks"]
        assert 0 < sum(found["assistant_masks"]) < len(found["input_ids"])


def test_going_on_with_the_last_message_works():
    made = stock_tokenizer(tokenizer_with(CHATML, "gpt2"), EncodingSettings(read_at="end_of_turn")).tokenizer
    open_end = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\nno"
    assert written(made, ANSWERED, continue_final_message=True) == open_end


def test_templates_by_name_keep_their_names():
    tokenizer = tokenizer_with(None, "gpt2")
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ (tools or []) | length }}" + CHATML}
    made = stock_tokenizer(tokenizer, EncodingSettings(read_at="end_of_turn")).tokenizer
    assert written(made, ANSWERED).endswith("no<|im_end|>")
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert written(made, ANSWERED, tools=tools).startswith("1<|im_start|>user")
    chosen = stock_tokenizer(tokenizer, EncodingSettings(chat_template="tool_use")).tokenizer
    assert isinstance(chosen.chat_template, str)


def test_an_export_can_be_exported_again():
    first = stock_tokenizer(tokenizer_with("{{ bos_token }}" + CHATML), EncodingSettings(read_at="end_of_turn"))
    second = stock_tokenizer(first.tokenizer, EncodingSettings())
    assert (second.conversations, second.pairs) == (True, "both")
    for messages in (ANSWERED, PAIR, ASKED):
        assert written(second.tokenizer, messages) == written(first.tokenizer, messages)


# ---- what cannot be said ---------------------------------------------------------------------------------------------


def with_a_line_more(template, **options):
    return around(template, **options) + "{{ '\n' }}{{ 'more' }}"


def test_an_unfaithful_template_is_never_shipped(monkeypatch):
    """One that writes more than training saw falls back to the model's own, or to none."""
    monkeypatch.setattr(module, "around", with_a_line_more)
    tokenizer = tokenizer_with(CHATML, "gpt2")
    made = stock_tokenizer(tokenizer, EncodingSettings())
    assert (made.conversations, made.pairs) == (True, "none")
    assert made.tokenizer.chat_template == CHATML
    with pytest.raises(ExportError, match="read at the end-of-turn token"):
        stock_tokenizer(tokenizer, EncodingSettings(read_at="end_of_turn"))


def test_a_template_that_nobody_can_render_is_none(monkeypatch):
    tokenizer = build_tokenizer("llama")
    monkeypatch.setattr(module, "_PLAIN_TEMPLATE", module._PLAIN_TEMPLATE + " more")
    made = stock_tokenizer(tokenizer, EncodingSettings())
    assert (made.conversations, made.pairs, made.tokenizer.chat_template) == (False, "none", None)


def test_a_template_that_refuses_every_sample_proves_nothing():
    tokenizer = tokenizer_with("{{ raise_exception('no') }}", "gpt2")
    assert not stock_tokenizer(tokenizer, EncodingSettings()).conversations
