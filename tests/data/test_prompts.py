"""Prompts: every form of row, the ids that a policy goes on from, and what does not fit."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.prompts import encode_prompts, load_prompts
from odin_rm.data.tokenise import EncodingSettings, encode_response
from tests.data.conftest import word_level

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
CHAT = [{"role": "system", "content": "c"}, {"role": "user", "content": "a b"}]


def says(text):
    return {"role": "assistant", "content": text}


def encode(tokenizer, prompts, most=100, **kwargs):
    return encode_prompts(tokenizer, prompts, max_prompt_tokens=most, **kwargs)


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_every_form_of_row_gives_its_prompt():
    rows = [
        {"prompt": "a"},
        {"prompt": CHAT},
        {"instruction": "b", "output": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {
            "chosen": [*CHAT, {"role": "assistant", "content": "x"}],
            "rejected": [*CHAT, {"role": "assistant", "content": "y"}],
        },
        {"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: a\n\nAssistant: c"},
        {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]},
        {"prompt": [{"role": "user", "content": "lone"}]},
    ]
    found = load_prompts(rows)
    assert found.prompts == ["a", CHAT, "b", "a", CHAT, "Human: a\n\nAssistant:", "a", "lone"]
    assert found.places[1] == "in-memory rows, row 2"


def test_other_fields_become_columns_with_gaps_where_a_row_has_none():
    found = load_prompts([{"prompt": "a", "answer": 4}, {"prompt": "b", "topic": "x"}])
    assert found.columns == {"answer": [4, None], "topic": [None, "x"]}


@pytest.mark.parametrize(
    "row, words",
    [
        ({"response": "a"}, "'prompt' is missing"),
        ({"prompt": "  "}, "empty"),
        ({"prompt": []}, "empty"),
        ({"prompt": 3}, "not text"),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, "out of order"),
        ({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "end with a user"),
    ],
)
def test_an_unusable_row_is_named_or_left_out(row, words):
    with pytest.raises(RowError, match=words) as raised:
        load_prompts([{"prompt": "a"}, row])
    assert raised.value.where == "in-memory rows, row 2"
    found = load_prompts([{"prompt": "a"}, row], on_bad_row="skip")
    assert (found.prompts, found.skipped) == (["a"], 1)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_prompt_file_is_one_line(content, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(DataError) as raised:
        load_prompts(str(path))
    assert "prompts.jsonl" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_usable_prompt_at_all_says_the_first_reason(tmp_path):
    with pytest.raises(DataError, match=r"no usable prompt.*row 1"):
        load_prompts([{"x": 1}, {"y": 2}], on_bad_row="skip")
    with pytest.raises(ConfigError):
        load_prompts([{"prompt": "a"}], on_bad_row="ignore")  # type: ignore[arg-type]


def test_files_of_rows_are_read(tmp_path):
    path = tmp_path / "prompts.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n{"prompt": "b"}\n'))
    assert load_prompts(path).prompts == ["a", "b"]


@pytest.mark.parametrize("name", ["lima_test_prompts.jsonl.gz", "oasst_en_val_prompts.jsonl.gz"])
def test_real_prompts_load(name):
    if not (SHARED / name).exists():
        pytest.skip("the shared data are not beside the repository")
    found = load_prompts(SHARED / name)
    assert len(found.prompts) > 100
    assert all(found.prompts)


# ---- ids -------------------------------------------------------------------------------------------------------------


def test_plain_prompts_end_with_the_assistants_header(plain_tokenizer, bos_tokenizer):
    ids, kept = encode(plain_tokenizer, ["a b", CHAT])
    assert plain_tokenizer.convert_ids_to_tokens(ids[0]) == ["Human:", "a", "b", "Assistant:"]
    assert plain_tokenizer.convert_ids_to_tokens(ids[1]) == ["System:", "c", "Human:", "a", "b", "Assistant:"]
    assert kept == [0, 1]
    (ids,), _ = encode(bos_tokenizer, ["a"])
    assert bos_tokenizer.convert_ids_to_tokens(ids) == ["<s>", "Human:", "a", "Assistant:"]


def test_an_end_token_that_the_tokenizer_adds_is_left_out(bert_tokenizer):
    (ids,), _ = encode(bert_tokenizer, ["a"])
    assert bert_tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "Human:", "a", "Assistant:"]


def test_chat_prompts_have_the_templates_special_tokens_once(chat_tokenizer):
    (ids,), _ = encode(chat_tokenizer, ["a"])
    assert chat_tokenizer.convert_ids_to_tokens(ids) == (
        ["<s>", "<|im_start|>", "user", "a", "<|im_end|>", "<|im_start|>", "assistant"]
    )
    expected = chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert ids == expected


def test_the_template_can_be_given_or_be_plain(chat_tokenizer, plain_tokenizer):
    (plain,), _ = encode(chat_tokenizer, ["a"], chat_template="plain")
    assert chat_tokenizer.convert_ids_to_tokens(plain) == ["<s>", "Human:", "a", "Assistant:"]
    (chat,), _ = encode(plain_tokenizer, ["a"], chat_template="{{ messages[0]['content'] }} is")
    assert plain_tokenizer.convert_ids_to_tokens(chat) == ["a", "is"]


@pytest.mark.parametrize("kind", ["plain_tokenizer", "bos_tokenizer", "chat_tokenizer", "byte_tokenizer"])
@pytest.mark.parametrize("prompt", ["a b", CHAT, "Human: a\n\nAssistant: b\n\nHuman: c"])
def test_prompt_ids_begin_what_a_reward_model_reads(kind, prompt, request):
    tokenizer = request.getfixturevalue(kind)
    (ids,), _ = encode(tokenizer, [prompt])
    whole = encode_response(tokenizer, prompt, "d e", EncodingSettings(max_length=200)).input_ids
    assert whole[: len(ids)] == ids


def test_a_template_that_refuses_a_prompt_names_it(plain_tokenizer):
    template = "{{ raise_exception('no system') if messages[0]['role'] == 'system' else 'a' }}"
    with pytest.raises(RowError, match="no system") as raised:
        encode(plain_tokenizer, ["a", CHAT], chat_template=template)
    assert raised.value.where == "prompt 2"


# ---- too long --------------------------------------------------------------------------------------------------------


def test_a_prompt_too_long_is_an_error_that_names_the_row(plain_tokenizer):
    with pytest.raises(RowError, match="6 tokens, more than max_prompt_tokens \\(5\\)") as raised:
        encode(plain_tokenizer, ["a", "a b c d"], 5)
    assert raised.value.where == "prompt 2"
    with pytest.raises(RowError) as raised:
        encode(plain_tokenizer, ["a", "a b c d"], 5, places=["f, row 1", "f, row 7"])
    assert raised.value.where == "f, row 7"
    assert "--overlong_prompt" in str(raised.value)


def test_a_prompt_too_long_is_dropped_with_its_position(plain_tokenizer):
    ids, kept = encode(plain_tokenizer, ["a", "a b c d", "b"], 5, overlong="drop")
    assert kept == [0, 2]
    assert [plain_tokenizer.convert_ids_to_tokens(one)[1] for one in ids] == ["a", "b"]


def test_all_too_long_is_an_error_even_when_dropped(plain_tokenizer):
    with pytest.raises(DataError, match="all 2 prompts"):
        encode(plain_tokenizer, ["a b c d", "a b c d e"], 5, overlong="drop")


def test_a_prompt_too_long_loses_its_start_but_for_the_start_token(bos_tokenizer, plain_tokenizer):
    (ids,), _ = encode(bos_tokenizer, ["a b c d"], 4, overlong="truncate_left")
    assert bos_tokenizer.convert_ids_to_tokens(ids) == ["<s>", "c", "d", "Assistant:"]
    (ids,), _ = encode(plain_tokenizer, ["a b c d"], 4, overlong="truncate_left")
    assert plain_tokenizer.convert_ids_to_tokens(ids) == ["b", "c", "d", "Assistant:"]


@given(words=st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=12), most=st.integers(1, 16))
def test_a_cut_prompt_fits_and_is_an_end_of_the_whole(words, most):
    tokenizer = word_level(eos_token="</s>")
    (whole,), _ = encode(tokenizer, [" ".join(words)], 1000)
    (cut,), _ = encode(tokenizer, [" ".join(words)], most, overlong="truncate_left")
    assert len(cut) == min(most, len(whole))
    assert whole[len(whole) - len(cut) :] == cut


def test_there_must_be_room_for_a_token(plain_tokenizer):
    with pytest.raises(ConfigError, match="max_prompt_tokens"):
        encode(plain_tokenizer, ["a"], 0)
