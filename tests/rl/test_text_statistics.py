"""Distinct n-grams and repetition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.rl.text_statistics import text_statistics

RESPONSES = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=6)


def test_by_hand():
    # Unigrams 1 2 1 2 1 2 | 1 3: 3 of 8 distinct. Bigrams 12 21 12 21 12 | 13: 3 of 6. Trigrams 121 212 121 212:
    # 2 of 4.
    # 4-grams of the first: 1212 2121 1212, one of three was there before; the second has none.
    found = text_statistics([[1, 2, 1, 2, 1, 2], [1, 3]])
    assert found == pytest.approx({"distinct_1": 3 / 8, "distinct_2": 1 / 2, "distinct_3": 1 / 2, "repetition": 1 / 6})


def test_a_loop_repeats_and_a_list_of_new_words_does_not():
    assert text_statistics([[7] * 100])["repetition"] == pytest.approx(96 / 97)
    assert text_statistics([list(range(100))]) == {"distinct_1": 1, "distinct_2": 1, "distinct_3": 1, "repetition": 0}


def test_the_same_response_twice_is_less_distinct_but_repeats_nothing_in_itself():
    found = text_statistics([[1, 2, 3, 4, 5]] * 2)
    assert found == {"distinct_1": 0.5, "distinct_2": 0.5, "distinct_3": 0.5, "repetition": 0.0}


@pytest.mark.parametrize("responses", [[], [[]], [[], []]])
def test_nothing_written_is_zero_not_an_error(responses):
    assert set(text_statistics(responses).values()) == {0.0}


@given(RESPONSES, st.randoms(use_true_random=False))
def test_shares_that_know_neither_order_nor_names(responses, random):
    found = text_statistics(responses)
    assert all(0 <= value <= 1 for value in found.values())
    shuffled = random.sample(responses, len(responses))
    renamed = [[token * 7 + 3 for token in ids] for ids in shuffled]
    assert text_statistics(renamed) == pytest.approx(found)


@given(RESPONSES.filter(lambda responses: any(responses)))
def test_against_sets_of_joined_strings(responses):
    words = ["".join(map(str, ids)) for ids in responses]  # one character a token
    bigrams = [word[k : k + 2] for word in words for k in range(len(word) - 1)]
    expected = len(set(bigrams)) / len(bigrams) if bigrams else 0
    assert text_statistics(responses)["distinct_2"] == pytest.approx(expected)
    before = [sum(w[k : k + 4] in [w[j : j + 4] for j in range(k)] for k in range(len(w) - 3)) for w in words]
    shares = [seen / (len(w) - 3) if len(w) > 3 else 0 for seen, w in zip(before, words, strict=True)]
    assert text_statistics(responses)["repetition"] == pytest.approx(sum(shares) / len(shares))
