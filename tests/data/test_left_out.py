"""What is left out of a data set, by reason and side, and the line that says so."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.core.errors import DataError
from odin_rm.data.left_out import data_line, left_out_reasons, overlong_by_side
from odin_rm.data.load import load_preferences
from odin_rm.data.split import select_pairs, select_prompts
from odin_rm.data.tokenise import EncodingSettings
from tests.data.conftest import CHATML, word_level

COUNTS = {"pairs": 10, "pairs_stated": 10, "max_length": 64}
# With a window of 6 words "c d" fits behind the prompt "a" and longer responses do not.
SIDES = [
    {"prompt": "a", "chosen": "b c d", "rejected": "b"},
    {"prompt": "a", "chosen": "b", "rejected": "e f g"},
    {"prompt": "a", "chosen": "b c d", "rejected": "e f g"},
    {"prompt": "a", "chosen": "c", "rejected": "b c d"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
]


def test_sides_add_up():
    chosen, rejected = np.array([1, 1, 0, 0, 1], bool), np.array([0, 1, 1, 0, 0], bool)
    assert overlong_by_side(chosen, rejected) == {
        "dropped_overlong_pairs": 4,
        "overlong_chosen": 2,
        "overlong_rejected": 1,
        "overlong_both": 1,
    }


@pytest.mark.parametrize(
    "counts, line",
    [
        ({}, "x.jsonl: 10 pairs, none left out."),
        (
            {"pairs": 4, "dropped_overlong_pairs": 6, "overlong_chosen": 3, "overlong_rejected": 2, "overlong_both": 1},
            "x.jsonl: 4 of 10 pairs are used. Left out: 6 longer than max_length 64 (chosen 3, rejected 2, both 1).",
        ),
        (
            {"pairs": 7, "identical_pairs": 2, "dropped_overlong_pairs": 1, "overlong_rejected": 1},
            "x.jsonl: 7 of 10 pairs are used. Left out: 1 longer than max_length 64 (rejected 1); "
            "2 with the same tokens for chosen and rejected.",
        ),
        (
            {"pairs": 10, "pairs_not_read_by_all": 4},
            "x.jsonl: 6 of 10 pairs are used. Left out: 4 that another model cannot read.",
        ),
        (
            {"skipped_rows": 1, "ties": 2, "truncated_prompts": 1, "truncated_responses": 2000},
            "x.jsonl: 10 pairs, none left out. 1 unusable row skipped. 2 ties of equal rank made no pair. "
            "Cut to fit: 1 prompt and 2,000 responses.",
        ),
    ],
)
def test_the_line_by_value(counts, line):
    assert data_line(COUNTS | counts, "/some/where/x.jsonl") == line


def test_the_line_on_other_things_than_pairs():
    counts = {"prompts": 3, "prompts_stated": 5, "dropped_overlong_prompts": 2, "max_prompt_tokens": 512}
    line = data_line(counts, "p.jsonl", noun="prompts", limit="max_prompt_tokens")
    assert line == "p.jsonl: 3 of 5 prompts are used. Left out: 2 longer than max_prompt_tokens 512."
    assert left_out_reasons({"prompts": 3, "prompts_stated": 3}, noun="prompts") == []


def adds_up(report):
    assert report["pairs_stated"] == report["pairs"] + report["dropped_overlong_pairs"] + report["identical_pairs"]
    sides = ("overlong_chosen", "overlong_rejected", "overlong_both")
    assert report["dropped_overlong_pairs"] == sum(report[name] for name in sides)


def test_overlong_pairs_are_counted_by_side(plain_tokenizer):
    report = load_preferences(SIDES, plain_tokenizer, EncodingSettings(6)).report
    names = ("pairs_stated", "pairs", "overlong_chosen", "overlong_rejected", "overlong_both", "identical_pairs")
    assert [report[name] for name in names] == [5, 1, 1, 2, 1, 0]
    adds_up(report)


def test_a_pair_that_is_the_same_after_truncation_is_left_out(bert_tokenizer):
    # [CLS], a quarter of the window with it for the prompt, five words, [SEP]: what follows the fifth word is cut.
    rows = [
        {"prompt": "a", "chosen": "b c d e f g", "rejected": "b c d e f h i"},  # the same five words
        {"prompt": "a", "chosen": "b c d e g g", "rejected": "b c d e f h i"},
        {"prompt": "e", "chosen": "b c d e f h", "rejected": "b c d e f i"},
    ]
    data = load_preferences(rows, bert_tokenizer, EncodingSettings(8, "truncate_response"))
    assert (data.report["pairs_stated"], data.report["pairs"], data.report["identical_pairs"]) == (3, 1, 2)
    adds_up(data.report)
    assert data.pair_row.tolist() == [2]
    # The responses of the pairs that went are gone, but for the one that another pair needs.
    assert (data.num_responses, data.num_prompts) == (2, 1)
    assert data.response_tokens[[data.pair_chosen[0], data.pair_rejected[0]]].tolist() == [6, 7]
    whole = load_preferences(rows, bert_tokenizer, EncodingSettings(20)).report
    assert (whole["pairs"], whole["identical_pairs"]) == (3, 0)


def test_a_pair_that_the_template_makes_one_is_left_out(chat_tokenizer):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": " b "},
        {"prompt": "a", "chosen": "<think> c </think> d", "rejected": "<think> e </think> d"},
        {"prompt": "a", "chosen": "b", "rejected": "d"},
    ]
    chat_tokenizer.chat_template = CHATML.replace("m['content']", "m['content'].split('</think>')[-1] | trim")
    data = load_preferences(rows, chat_tokenizer)
    assert (data.report["pairs_stated"], data.report["identical_pairs"], data.num_pairs) == (3, 2, 1)
    assert data.pair_row.tolist() == [3]
    chat_tokenizer.chat_template = CHATML.replace("m['content']", "m['content'] | replace(' ', ' a ')")
    assert load_preferences(rows, chat_tokenizer).report["identical_pairs"] == 0


def test_pairs_of_a_ranked_list(bert_tokenizer):
    rows = [{"prompt": "a", "responses": ["b c d e f g", "b c d e f h", "e", "g"], "ranks": [1, 2, 3, 3]}]
    report = load_preferences(rows, bert_tokenizer, EncodingSettings(8, "truncate_response")).report
    # 5 pairs and a tie; the first two are one to the model, and each still stands against the third and the fourth.
    names = ("pairs_stated", "pairs", "identical_pairs", "ties", "responses")
    assert [report[name] for name in names] == [5, 4, 1, 1, 4]


def test_nothing_is_left(bert_tokenizer):
    same = [{"prompt": "a", "chosen": "b c d e f g", "rejected": "b c d e f h"}]
    cut = EncodingSettings(8, "truncate_response")
    with pytest.raises(DataError, match=r"no usable pair: chosen and rejected have the same tokens in 1 of 1 pairs\."):
        load_preferences(same, bert_tokenizer, cut)
    long = {"prompt": "a b c d e f g h i j", "chosen": "b c d e", "rejected": "b c"}
    both = [long, {"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "x", "rejected": "y"}]
    with pytest.raises(DataError, match="same tokens in 1 of 2 pairs, and in the other 1 a sequence does not fit"):
        load_preferences([both[0], both[2]], bert_tokenizer, EncodingSettings(8))
    assert load_preferences(both, bert_tokenizer, EncodingSettings(8)).num_pairs == 1


def test_keys_tell_pairs_apart_whatever_the_tokenizer(plain_tokenizer, bert_tokenizer, tmp_path):
    one = load_preferences(SIDES, plain_tokenizer, EncodingSettings(50))
    other = load_preferences(SIDES[::-1], bert_tokenizer, EncodingSettings(60))
    keys = dict(zip(one.pair_row.tolist(), one.pair_key.tolist(), strict=True))
    assert len(set(keys.values())) == 5
    assert {6 - row: key for row, key in zip(other.pair_row.tolist(), other.pair_key.tolist(), strict=True)} == keys
    # The two sides the other way round, and the same answers to another prompt, are other pairs.
    swapped = {"prompt": "a", "chosen": SIDES[0]["rejected"], "rejected": SIDES[0]["chosen"]}
    more = load_preferences([SIDES[0], swapped, SIDES[0] | {"prompt": "e"}, SIDES[0]], plain_tokenizer)
    by_row = dict(zip(more.pair_row.tolist(), more.pair_key.tolist(), strict=True))
    assert by_row[1] == by_row[4] == keys[1]
    assert len(set(by_row.values())) == 3


def test_part_of_a_data_set(plain_tokenizer):
    rows = [
        *SIDES[:2],
        {"prompt": "e", "chosen": "f", "rejected": "g h"},
        {"prompt": "e", "chosen": "f", "rejected": "b"},
    ]
    data = load_preferences(rows, plain_tokenizer)
    keep = data.pair_row == 3
    part = select_pairs(data, keep)
    assert (part.num_pairs, part.num_responses, part.num_prompts) == (1, 2, 1)
    assert part.pair_key.tolist() == data.pair_key[keep].tolist()
    assert part.response_tokens.tolist() == [1, 2]
    assert part.input_ids(1).tolist() == data.input_ids(int(data.pair_rejected[keep][0])).tolist()
    assert select_pairs(data, np.ones(4, dtype=bool)) is data
    by_prompt = select_prompts(data, np.array([1]))
    assert by_prompt.pair_key.tolist() == data.pair_key[data.pair_row >= 3].tolist()
    assert by_prompt.response_prompt.tolist() == [0, 0, 0]


def test_same_tokens_by_an_unknown_word():
    # Two words that the tokenizer does not know are one token to it.
    data = load_preferences(
        [{"prompt": "a", "chosen": "qq", "rejected": "zz"}, {"prompt": "a", "chosen": "b", "rejected": "zz"}],
        word_level(eos_token="</s>"),
    )
    assert (data.report["identical_pairs"], data.num_pairs) == (1, 1)
