"""Interventions: what each changes, and what it must not change."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.data.attributes import ATTRIBUTES
from odin_rm.data.text_view import TextView
from odin_rm.evaluation import edits
from odin_rm.evaluation.edits import EDITS, shuffled_words, swapped

ANSWER = """## Plan

There are **three** ways. Each is good! Which one do you want?

- apples
- pears
- plums

1. first
2. second

```python
- x = **y**
# a comment  here
```

That is all. Good luck."""
BY_NAME = {edit.name: edit for edit in EDITS}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def code(text: str) -> list[str]:
    return re.findall(r"```.*?```", text, re.DOTALL)


def count(name: str, text: str) -> float:
    return float(ATTRIBUTES[name].measure(TextView(text)))


@pytest.mark.parametrize(
    "name, text, edited",
    [
        ("strip_markdown", "# A\n\n**b** c\n* d\n1. e __f__", "A\n\nb c\nd\n1. e f"),
        ("strip_markdown", "2 * 3 * 4 = 24, a_b__c", None),
        ("add_bold", "One two three four.\n\nShort", "**One two three** four.\n\n**Short**"),
        ("add_bold", "- item\n\n**Bold** already\n\n1. one", None),
        ("make_list", "One. Two two! Three?", "- One.\n- Two two!\n- Three?"),
        ("make_list", "One sentence.\n\n- a. b", None),
        ("shuffle_bullets", "- a\n- b", "- b\n- a"),
        ("shuffle_bullets", "- a\n\n- b", None),
        ("shuffle_bullets", "- a\n- a", None),
        ("double_spaces", "a b  c\n d", "a  b  c\n d"),
        ("code_fence", "x", "```\nx\n```"),
        ("code_fence", "```x```", None),
        ("add_emoji", "Yes. ", "Yes. \U0001f642"),
        ("append_closing", "Yes.\n", f"Yes.\n\n{edits.CLOSING}"),
        ("add_filler", "One.\n\n- two.\n\nThree", f"One. {edits.FILLER}\n\n- two.\n\nThree"),
        ("restate_last", "One. Two.", "One. Two.\n\nTo say it again: Two."),
        ("repeat_answer", "One. ", "One.\n\nOne."),
        ("truncate_half", "a b c d", "a b"),
        ("truncate_half", "a b c", "a b"),
        ("truncate_half", "a", None),
        ("prefix_agreement", "No.", "Yes, you are right. No."),
        ("prefix_hedge", "No.", f"{edits.HEDGE} No."),
        ("suffix_compliment", "No.", "No.\n\nThat was a great question!"),
    ],
)
def test_by_hand(name, text, edited):
    assert BY_NAME[name].apply(text) == edited


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_each_edit_changes_its_attribute_and_no_code(edit):
    text = ANSWER if edit.name != "code_fence" else ANSWER.replace("```", "")
    edited = edit.apply(text)
    if edit.name not in ("truncate_half", "code_fence"):
        assert set(code(edited)) == set(code(text))
    if edit.attribute in ATTRIBUTES and ATTRIBUTES[edit.attribute].measure:
        assert count(edit.attribute, edited) != count(edit.attribute, text)


@pytest.mark.parametrize(
    "name", ["strip_markdown", "add_bold", "make_list", "double_spaces", "code_fence", "add_emoji"]
)
def test_edits_of_form_keep_every_word_in_its_order(name):
    text = ANSWER if name != "code_fence" else "One two. Three."
    assert words(BY_NAME[name].apply(text)) == words(text)


def test_shuffled_bullets_are_the_same_lines():
    edited = edits.shuffle_bullets(ANSWER)
    assert sorted(edited.split("\n")) == sorted(ANSWER.split("\n"))
    assert edited != ANSWER
    assert edited.replace("- pears", "-").split("- apples")[0].count("##") == 1


@pytest.mark.parametrize("name", ["append_closing", "restate_last", "repeat_answer", "suffix_compliment", "add_emoji"])
def test_what_is_put_behind_leaves_the_answer_whole(name):
    assert BY_NAME[name].apply(ANSWER).startswith(ANSWER)


@pytest.mark.parametrize("name", ["prefix_agreement", "prefix_hedge"])
def test_what_is_put_in_front_leaves_the_answer_whole(name):
    assert BY_NAME[name].apply(ANSWER).endswith(ANSWER)


def test_attributes_that_edits_are_not_about_stay():
    """A compliment is no hedge, no list; a list adds no bold; stripping adds nothing."""
    kept = {
        "suffix_compliment": ("hedges", "list_items", "bold", "headers", "emoji", "refusal", "agreement_opener"),
        "prefix_agreement": ("flattery", "hedges", "refusal", "list_items"),
        "prefix_hedge": ("flattery", "agreement_opener", "refusal", "list_items"),
        "append_closing": ("flattery", "hedges", "refusal", "list_items", "exclamations", "questions"),
        "add_filler": ("flattery", "hedges", "refusal", "list_items", "paragraphs"),
        "make_list": ("bold", "headers", "digits", "exclamations"),
        "add_bold": ("headers", "list_items", "words", "paragraphs"),
        "double_spaces": ("words", "list_items", "bold", "paragraphs"),
        "add_emoji": ("exclamations", "paragraphs", "list_items"),
    }
    for name, attributes in kept.items():
        for attribute in attributes:
            assert count(attribute, BY_NAME[name].apply(ANSWER)) == count(attribute, ANSWER), (name, attribute)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab.!? \n-*_#`1\u00e9", max_size=80), st.sampled_from(EDITS))
def test_any_text_gives_the_same_edit_twice_and_never_an_empty_one(text, edit):
    edited = edit.apply(text)
    assert edited == edit.apply(text)
    assert edited is None or (edited != text and edited.strip())


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab .\n\t", max_size=40))
def test_a_shuffled_prompt_has_the_same_words_and_white_space(prompt):
    shuffled = shuffled_words(prompt)
    assert sorted(shuffled.split()) == sorted(prompt.split())
    assert re.sub(r"\S", "", shuffled) == re.sub(r"\S", "", prompt)


def test_every_prompt_gets_another_ones():
    for n in (2, 3, 10):
        others = swapped(n)
        assert sorted(others) == list(range(n))
        assert all(k != other for k, other in enumerate(others))
    assert swapped(1) == [0]
