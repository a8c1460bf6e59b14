"""What goes through a chat template: all that it reads, on any day, row by row."""

from __future__ import annotations

import pytest

from odin_rm.core.errors import DataError, RowError
from odin_rm.data.collect import pack, unpack
from odin_rm.data.demonstrations import read_comparisons
from odin_rm.data.left_out import data_line
from odin_rm.data.load import load_preferences
from odin_rm.data.messages import ChatPrompt
from odin_rm.data.render import (
    plain_prompt,
    plain_response,
    prompt_messages,
    render_chat,
    response_texts,
    unrendered,
    with_fixed_date,
)
from odin_rm.data.template_check import TemplateCheck
from odin_rm.data.tokenise import EncodingSettings, encode_response
from tests.calendar_year import set_year
from tests.data.conftest import CHATML

DATED = "{{ strftime_now('%d %b %Y') }} " + CHATML
TOOLS = (
    "{% if tools %}{{ tools | tojson }} {% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] or '' }}{% for c in m.tool_calls or [] %} call {{ c.function.name }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
FUSSY = (
    "{% for m in messages %}{% if 'k' in m['content'] %}{{ raise_exception('no k') }}{% endif %}{% endfor %}" + CHATML
)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **further):
    return {"role": "assistant", "content": text, **further}


def test_a_template_with_the_date_writes_one_date_on_any_day(chat_tokenizer, monkeypatch):
    chat_tokenizer.chat_template = DATED
    texts = set()
    for year in (2026, 2031):
        set_year(monkeypatch, year)
        texts.add(render_chat(chat_tokenizer, "a", "b", None))
        texts.add(render_chat(chat_tokenizer, "a", "b", DATED))
        by_name = "{% set form = '%d %b %Y' %}{{ strftime_now(form) }} " + CHATML
        texts.add(render_chat(chat_tokenizer, "a", "b", by_name))
    assert len(texts) == 1
    text = texts.pop()
    assert text.startswith("26 Jul 2024 ")
    # Other libraries know today's date only, so what is exported writes the same one by itself.
    fixed = with_fixed_date(DATED)
    assert "strftime_now" not in fixed
    messages = [user("a"), assistant("b")]
    assert chat_tokenizer.apply_chat_template(messages, chat_template=fixed, tokenize=False) == text


def test_tools_and_calls_reach_the_template_and_tell_rows_apart(chat_tokenizer):
    chat_tokenizer.chat_template = TOOLS
    tools = [{"type": "function", "function": {"name": "f"}}]
    calls = assistant("b", tool_calls=[CALL])
    assert render_chat(chat_tokenizer, ChatPrompt([user("a")], {"tools": tools}), [calls], None) == (
        chat_tokenizer.apply_chat_template([user("a"), calls], tools=tools, tokenize=False)
    )
    row = {"prompt": "a", "chosen": [calls], "rejected": "b"}
    data = load_preferences([row, row | {"tools": tools}], chat_tokenizer)
    assert data.num_pairs == 2
    assert data.num_prompts == 2
    assert data.report["identical_pairs"] == 0
    assert data.report["unrendered"] == []


def test_what_the_template_does_not_write_is_said(chat_tokenizer, plain_tokenizer):
    calls = assistant("b", tool_calls=[CALL], reasoning_content="hm")
    row = {"prompt": "a", "chosen": [calls], "rejected": "c", "tools": [{"type": "function"}]}
    data = load_preferences([row], chat_tokenizer)
    assert data.report["unrendered"] == ["reasoning_content", "tool_calls", "tools"]
    assert "does not write what rows hold in reasoning_content, tool_calls, tools." in data_line(data.report, "rows")
    # Two answers that differ there only are one to this model: no pair, and counted.
    same = {"prompt": "a", "chosen": [calls], "rejected": "b"}
    both = load_preferences([same, row], chat_tokenizer)
    assert (both.num_pairs, both.report["identical_pairs"]) == (1, 1)
    assert unrendered(plain_tokenizer, None, "a", [calls]) == {"tool_calls", "reasoning_content"}
    assert unrendered(plain_tokenizer, None, "a", "b") == set()


def test_the_length_counts_thoughts_and_calls():
    said = assistant("b", tool_calls=[CALL], reasoning_content="hm")
    assert response_texts([said]) == ["hm", "b", '{"name": "f", "arguments": {"x": 1}}']


def test_a_prompt_with_tools_survives_the_disk():
    prompt = ChatPrompt([user("a")], {"tools": [{"type": "function"}]})
    assert unpack(pack(prompt)) == prompt
    assert unpack(pack(prompt)) != [user("a")]
    assert pack(prompt) != pack(list(prompt))


def test_a_response_that_the_template_cuts_is_counted(chat_tokenizer):
    chat_tokenizer.chat_template = THINKING
    thought = "<think> a b c </think> d"
    assert encode_response(chat_tokenizer, "a", thought, EncodingSettings()).rewritten
    assert not encode_response(chat_tokenizer, "a", "d", EncodingSettings()).rewritten
    rows = [{"prompt": "a", "chosen": thought, "rejected": "e"}, {"prompt": "b", "chosen": thought, "rejected": " d"}]
    data = load_preferences(rows, chat_tokenizer)
    assert data.report["rewritten_responses"] == 1
    assert data.report["identical_pairs"] == 1
    assert "1 response not read as written" in data_line(data.report, "rows")


def test_a_row_that_the_template_refuses_for_its_words_can_be_left_out(chat_tokenizer):
    chat_tokenizer.chat_template = FUSSY
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "k", "rejected": "c"},
        {"prompt": "d", "chosen": "e", "rejected": "f"},
    ]
    data = load_preferences(rows, chat_tokenizer, on_bad_row="skip")
    assert (data.num_pairs, data.report["skipped_rows"]) == (2, 1)
    check = TemplateCheck(chat_tokenizer, None, every_row=True)
    assert len(read_comparisons(rows, on_bad_row="skip", check=check).prompts) == 2
    with pytest.raises(RowError, match=r"row 2: the chat template refuses the conversation \(no k"):
        load_preferences(rows, chat_tokenizer)


def test_an_empty_template_is_none(chat_tokenizer):
    chat_tokenizer.chat_template = ""
    tokens = chat_tokenizer.convert_ids_to_tokens(
        encode_response(chat_tokenizer, "a", "b", EncodingSettings()).input_ids
    )
    assert tokens == ["<s>", "Human:", "a", "Assistant:", "b", "<|im_end|>"]


def test_a_template_that_writes_nothing_is_refused(chat_tokenizer):
    with pytest.raises(DataError, match="makes no token of the row"):
        encode_response(chat_tokenizer, "a", "b", EncodingSettings(chat_template="{% if false %}{{ x }}{% endif %}"))


def test_a_transcript_is_its_turns_for_a_chat_template():
    turns = [user("a\nb"), assistant("c"), user("d")]
    assert prompt_messages("\n\nHuman: a\nb\n\nAssistant: c\n\nHuman: d\n\nAssistant:") == turns
    assert prompt_messages("Human: a\nb\nAssistant: c\nHuman: d\n") == turns
    assert prompt_messages("Human: a") == [user("a")]
    # One that does not end with a question is no prompt of turns.
    assert prompt_messages("Human: a\nAssistant: b") == [user("Human: a\nAssistant: b")]


def test_the_plain_template_has_no_words_for_tools():
    assert plain_prompt([{"role": "developer", "content": "s"}, user("a")]) == "System: s\n\nHuman: a\n\nAssistant:"
    with pytest.raises(DataError, match="no words for a message of a tool"):
        plain_prompt([user("a"), assistant("b"), {"role": "tool", "content": "12"}])
    with pytest.raises(DataError, match="no words for a message of tool calls alone"):
        plain_response([assistant(None, tool_calls=[CALL])])
