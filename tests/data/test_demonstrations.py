"""What a policy is trained on is what it will see and write: prompt ids, response ids, the end token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import DataError, RowError
from odin_rm.data.demonstrations import (
    PolicyRows,
    encode_replies,
    encode_rows,
    read_comparisons,
    read_demonstrations,
)
from odin_rm.data.prompts import encode_prompts
from odin_rm.data.tokenise import EncodingSettings, encode_response
from tests.data.conftest import CHATML

WIDE = EncodingSettings(max_length=10_000)
CHAT = [
    {"role": "system", "content": "b"},
    {"role": "user", "content": "what is up"},
    {"role": "assistant", "content": "a b"},
    {"role": "user", "content": "what"},
]


def ids_of(tokenizer: Any, prompt: Any, reply: str, **kwargs: Any) -> tuple[list[int], list[int]]:
    (prompt_ids,), _ = encode_prompts(tokenizer, [prompt], max_prompt_tokens=10_000, **kwargs)
    ends = {tokenizer.eos_token_id}
    (response_ids,) = encode_replies(tokenizer, [prompt], [prompt_ids], [reply], end_token_ids=ends, **kwargs)
    return prompt_ids, response_ids


@pytest.mark.parametrize("prompt", ["what", CHAT, "Human: a\nAssistant: b\nHuman: c"], ids=["text", "chat", "old"])
@pytest.mark.parametrize("name", ["plain_tokenizer", "bos_tokenizer", "byte_tokenizer"])
def test_both_parts_are_the_whole_conversation_in_the_plain_template(name, prompt, request):
    tokenizer = request.getfixturevalue(name)
    prompt_ids, response_ids = ids_of(tokenizer, prompt, "not much")
    assert prompt_ids + response_ids == encode_response(tokenizer, prompt, "not much", WIDE).input_ids
    assert response_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in response_ids[:-1]
    assert tokenizer.decode(response_ids[:-1]).strip() == "not much"


@pytest.mark.parametrize("prompt", ["what is up", CHAT], ids=["text", "chat"])
def test_both_parts_are_the_whole_conversation_in_a_chat_template(prompt, chat_tokenizer):
    prompt_ids, response_ids = ids_of(chat_tokenizer, prompt, "not much")
    assert prompt_ids + response_ids == encode_response(chat_tokenizer, prompt, "not much", WIDE).input_ids
    assert chat_tokenizer.convert_ids_to_tokens(response_ids) == ["not", "much", "<|im_end|>"]
    assert chat_tokenizer.convert_ids_to_tokens(prompt_ids)[-2:] == ["<|im_start|>", "assistant"]


def test_what_a_template_puts_behind_the_end_is_not_learnt(byte_tokenizer):
    """ChatML writes a line break after the end of a turn; the byte tokenizer has a token for it."""
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    end, stop = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id
    (prompt_ids,), _ = encode_prompts(tokenizer, ["yes"], max_prompt_tokens=100, chat_template=CHATML)
    whole = encode_response(tokenizer, "yes", "no", EncodingSettings(100, chat_template=CHATML)).input_ids
    kwargs: dict[str, Any] = {"chat_template": CHATML}
    (response_ids,) = encode_replies(tokenizer, ["yes"], [prompt_ids], ["no"], end_token_ids={end, stop}, **kwargs)
    assert tokenizer.decode(response_ids) == "no<|im_end|>"
    assert prompt_ids + response_ids == whole[:-1]
    assert tokenizer.decode(whole[-1:]) == "\n"
    # Where the turn's end is no end of writing, the end token follows all that the template writes.
    (longer,) = encode_replies(tokenizer, ["yes"], [prompt_ids], ["no"], end_token_ids={stop}, **kwargs)
    assert prompt_ids + longer == [*whole, stop]


def test_a_header_that_only_prompts_have_stays_in_the_prompt(chat_tokenizer):
    """Where rollouts start after another header than conversations have, the response begins with its text."""
    thinking = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant k {% endif %}")
    prompt_ids, response_ids = ids_of(chat_tokenizer, "what", "not much", chat_template=thinking)
    assert chat_tokenizer.convert_ids_to_tokens(prompt_ids)[-2:] == ["assistant", "k"]
    assert chat_tokenizer.convert_ids_to_tokens(response_ids) == ["not", "much", "<|im_end|>"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip))
def test_whatever_is_said_is_what_is_learnt(byte_tokenizer, reply):
    _, response_ids = ids_of(byte_tokenizer, "yes", reply)
    assert byte_tokenizer.decode(response_ids[:-1]).removeprefix(" ") == reply.removeprefix(" ")


# ---- rows ----


def test_demonstrations_of_every_form():
    rows = [
        {"prompt": "p", "response": "r"},
        {"response": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "s"}]},
        {"prompt": "p", "chosen": "c", "rejected": "d"},
        {"prompt": "p", "chosen": "c", "rejected": "e"},
        {"prompt": "x", "responses": ["third", "first", "also first"], "ranks": [3, 1, 1]},
    ]
    read = read_demonstrations(rows)
    assert list(zip(read.prompts, read.responses, strict=True)) == [
        ("p", ("r",)),
        ("q", ("s",)),
        ("p", ("c",)),  # once, though it wins twice
        ("x", ("first",)),
        ("x", ("also first",)),
    ]


def test_comparisons_of_both_forms():
    rows = [
        {"prompt": "p", "chosen": "c", "rejected": "d"},
        {"prompt": "x", "responses": ["worst", "best", "middle"], "ranks": [3, 1, 2]},
    ]
    assert read_comparisons(rows).responses == [("c", "d"), ("best", "worst"), ("middle", "worst"), ("best", "middle")]


def test_bad_rows_are_placed_or_left_out():
    rows: list[dict[str, Any]] = [{"prompt": "p", "response": "r"}, {"prompt": "p"}, {"prompt": "p", "response": " "}]
    with pytest.raises(RowError, match=r"row 2: field 'response' is missing.*on_bad_row skip"):
        read_demonstrations(rows)
    read = read_demonstrations(rows, on_bad_row="skip")
    assert read.responses == [("r",)]
    assert [row["row"] for row in read.skipped] == [2, 3]
    with pytest.raises(DataError, match="no usable row in 2 rows"):
        read_demonstrations(rows[1:], on_bad_row="skip")


def test_a_response_of_several_turns_is_no_response_of_a_policy():
    turns = [{"role": r, "content": "a"} for r in ("assistant", "user", "assistant")]
    with pytest.raises(RowError, match="has 3 messages"):
        read_comparisons([{"prompt": "p", "chosen": turns, "rejected": "b"}])


def test_rows_that_do_not_fit_are_left_out_or_refused(plain_tokenizer):
    rows = PolicyRows(["what", "what is up is up"], [("a b",), ("c",)], ["row 1", "row 2"])
    end = {plain_tokenizer.eos_token_id}
    # Human: what Assistant: a b </s> is 6 tokens, the other row 9.
    fits = encode_rows(plain_tokenizer, rows, end_token_ids=end, max_length=6)
    assert (len(fits.prompt_ids), fits.overlong) == (1, 1)
    assert encode_rows(plain_tokenizer, rows, end_token_ids=end, max_length=9).overlong == 0
    with pytest.raises(DataError, match="row 2: has 9 tokens, more than"):
        encode_rows(plain_tokenizer, rows, end_token_ids=end, max_length=6, overlong="error")
    with pytest.raises(DataError, match=r"row 1: has 6 tokens.*No row fits"):
        encode_rows(plain_tokenizer, rows, end_token_ids=end, max_length=5)


def test_a_pair_stays_or_goes_together(plain_tokenizer):
    rows = PolicyRows(["what", "what"], [("a", "b c d"), ("a", "b")], ["row 1", "row 2"])
    found = encode_rows(plain_tokenizer, rows, end_token_ids={plain_tokenizer.eos_token_id}, max_length=6)
    assert [len(pair) for pair in found.response_ids] == [2]
    assert found.overlong == 1


def test_what_is_left_out_is_counted(plain_tokenizer):
    end = {plain_tokenizer.eos_token_id}
    # Human: what Assistant: and the end token are 4 tokens; qq and zz are one unknown word.
    pairs = [("a", "b c d"), ("b c d", "a"), ("b c d", "d c b"), ("qq", "zz"), ("a", "b")]
    rows = PolicyRows(["what"] * 5, pairs, [f"row {k}" for k in range(5)], rows=6, skipped=[{"row": 6}], ties=2)
    found = encode_rows(plain_tokenizer, rows, end_token_ids=end, max_length=6)
    assert found.report == {
        "rows": 6,
        "skipped_rows": 1,
        "pairs_stated": 5,
        "pairs": 1,
        "dropped_overlong_pairs": 3,
        "overlong_chosen": 1,
        "overlong_rejected": 1,
        "overlong_both": 1,
        "identical_pairs": 1,
        "ties": 2,
        "max_length": 6,
        "layouts": {},
        "unrendered": [],
    }
    assert len(found.prompt_ids) == 1
    with pytest.raises(DataError, match="row 3: no usable pair: chosen and rejected have the same tokens"):
        encode_rows(plain_tokenizer, PolicyRows(["what"], pairs[3:4], ["row 3"]), end_token_ids=end, max_length=6)
    alone = PolicyRows(["what", "what"], [("a",), ("b c d",)], ["row 1", "row 2"], rows=2)
    report = encode_rows(plain_tokenizer, alone, end_token_ids=end, max_length=6).report
    names = ("demonstrations_stated", "demonstrations", "dropped_overlong_demonstrations")
    assert [report[name] for name in names] == [2, 1, 1]
    assert "identical_pairs" not in report


def test_ties_of_ranked_lists_are_counted():
    row = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}
    read = read_comparisons([row, row])
    assert (len(read.prompts), read.ties, read.source) == (4, 2, "in-memory rows")


def test_a_policy_without_an_end_token_cannot_learn_to_end(plain_tokenizer):
    with pytest.raises(DataError, match="no end token"):
        encode_replies(plain_tokenizer, ["a"], [[1]], ["b"], end_token_ids=set())
