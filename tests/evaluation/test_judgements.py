"""Both orders together, by hand; and what swapping the answers shows of a judge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.evaluation.judgements import (
    BothOrders,
    Judgement,
    Question,
    combine_orders,
    preference_of,
    summarise_orders,
)

PREFERENCES = st.sampled_from([1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    ("baseline_first", "candidate_first", "expected"),
    [
        (2.0, 1.0, 2.0),  # the candidate wins in both places
        (1.0, 2.0, 1.0),
        (1.0, 1.0, 1.5),  # the first place wins, whoever stands there
        (2.0, 1.5, 1.75),
        (1.5, 1.5, 1.5),
        (None, 1.0, None),
        (2.0, None, None),
    ],
)
def test_the_mean_of_both_orders(baseline_first, candidate_first, expected):
    assert combine_orders(Judgement(baseline_first), Judgement(candidate_first)).preference == expected


def test_a_question_without_reply_is_missing():
    assert combine_orders(None, Judgement(1.0)) == BothOrders(None, 2.0)
    assert Question("q", "a", "b").swapped() == Question("q", "b", "a")


@pytest.mark.parametrize(
    ("first", "second", "margin", "expected"),
    [(1.0, 2.0, 0.0, 2.0), (2.0, 1.0, 0.0, 1.0), (1.0, 1.0, 0.0, 1.5), (1.0, 1.5, 0.5, 1.5), (1.0, 1.75, 0.5, 2.0)],
)
def test_preference_of_two_scores(first, second, margin, expected):
    assert preference_of(first, second, margin) == expected


def test_the_summary_by_hand():
    judged = [BothOrders(2.0, 2.0), BothOrders(1.0, 2.0), BothOrders(1.5, 1.0), BothOrders(1.0, 1.0)]
    summary = summarise_orders([*judged, BothOrders(None, 2.0)])
    assert (summary["prompts"], summary["wins"], summary["ties"], summary["losses"]) == (5, 1, 1, 2)
    assert (summary["missing"], summary["disagreement"], summary["reversal"]) == (1, 0.5, 0.25)
    # First place: 0 + 1, 1 + 1, 0.5 + 0, 1 + 0 of 8.
    assert summary["first_place_preference"] == 4.5 / 8


def test_the_summary_of_nothing():
    summary = summarise_orders([BothOrders(None, None)])
    assert (summary["missing"], summary["disagreement"], summary["first_place_preference"]) == (1, None, None)


@given(st.lists(st.tuples(PREFERENCES, PREFERENCES), min_size=1))
def test_exchanging_the_models_mirrors_the_result_and_leaves_the_judge_as_it_is(orders):
    summary = summarise_orders([BothOrders(*pair) for pair in orders])
    mirrored = summarise_orders([BothOrders(3 - first, 3 - second) for second, first in orders])
    assert (mirrored["wins"], mirrored["ties"]) == (summary["losses"], summary["ties"])
    for name in ("disagreement", "reversal", "first_place_preference"):
        assert mirrored[name] == pytest.approx(summary[name])
