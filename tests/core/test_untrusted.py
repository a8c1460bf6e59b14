"""What comes from outside: counts, texts, JSON."""

from __future__ import annotations

import json

import pytest

from odin_rm.core.untrusted import parse_json, plain_text, whole_number


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), (17, 17), (17.0, 17), (2**53, 2**53)]
    + [(value, None) for value in (None, True, "17", -1, 17.5, 2**53 + 1, 1e300, float("nan"), float("inf"), [17], {})],
)
def test_a_count_is_a_whole_number_that_can_be_counted(value, count):
    assert whole_number(value) == count


def test_half_characters_become_replacement_marks_and_all_else_stays():
    assert plain_text("caf\u00e9 \U0001f600 \ud83d.") == "caf\u00e9 \U0001f600 \ufffd."
    assert plain_text("plain\x1b") == "plain\x1b"
    assert plain_text("\udc80") == plain_text("\ud83d") == "\ufffd"
    assert plain_text("\ud83d\ude00") == "\U0001f600"  # two halves that belong together


@pytest.mark.parametrize(
    "content", [b"[" * 10**6, b'{"a":' * 10**5, b"9" * 5000, b"\xff", b"", "{"], ids=lambda c: str(c[:9])
)
def test_what_is_no_json_is_one_kind_of_error(content):
    with pytest.raises(ValueError):
        parse_json(content)
    assert parse_json(json.dumps({"a": [1]})) == {"a": [1]}
