"""Attributes of a text: counted by hand, held to LMArena's own patterns, and read by name."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError
from odin_rm.data.attributes import (
    ATTRIBUTES,
    DEFAULT,
    FLATTERY,
    HEDGES,
    REFUSALS,
    find_attribute,
    measure_texts,
)
from odin_rm.data.text_view import TextView
from tests.published import published


def measured(name: str, text: str) -> float:
    return float(ATTRIBUTES[name].measure(TextView(text)))


MARKDOWN = """# Title

Some **bold** and __also bold__, but not **this
over lines**.

## Steps
1. one
2. two
   - under two
* three

```python
# no header
- no item
**no bold**
```

See https://example.org and [the manual](docs/x.md), ![picture](http://e.org/p.png).

| a | b |
|---|:-:|
| 1 | 2 |
"""


@pytest.mark.parametrize(
    "name, value",
    [
        ("headers", 2),
        ("bold", 2),
        ("markdown", 8),
        ("list_items", 4),
        ("code_blocks", 1),
        ("links", 3),
        ("tables", 1),
        ("paragraphs", 6),
        ("emoji", 0),
        ("exclamations", 1),
        ("characters", len(MARKDOWN)),
        ("digits", 4),
    ],
)
def test_markdown_by_hand(name, value):
    assert measured(name, MARKDOWN) == value


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("words", "  one two\nthree ", 3),
        ("words", "", 0),
        ("sentences", "One. Two! Three? 3.5 is no end. Dr.X", 4),
        ("sentences", "\u4eca\u65e5\u306f\u3002\u660e\u65e5\uff01", 2),
        ("headers", "####### seven\n#nine\n # indented\n###### six", 1),
        ("headers", "# ", 1),
        ("list_items", "1.\n- - x\n10. y\n1) z\n\u2022 w\n+ v", 4),
        ("list_items", "\n\n   - after empty lines", 1),
        ("bold", "**a** **b** *c* __d__ ****", 3),
        ("double_spaces", "a  b   c\n    indented  \nd e", 2),
        ("digits", "12 and \u0663", 2),
        ("exclamations", "Yes!! No\uff01", 3),
        ("questions", "Why? Who\uff1f", 2),
        ("emoji", "\U0001f600 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea 1\ufe0f\u20e3 \u2764\ufe0f", 5),
        ("emoji", "\U0001f468\u200d\U0001f469\u200d\U0001f467", 1),
        ("emoji", "caf\u00e9 \u2014 \u201cquoted\u201d \u20ac 5", 0),
        ("other_script", "abc \ud55c\uad6d\uc5b4", 0.5),
        ("other_script", "caf\u00e9 \u2014 stra\u00dfe", 0.0),
        ("other_script", "\u041f\u0440\u0438\u0432\u0435\u0442", 1.0),
        ("other_script", "12", 0.0),
        ("hedges", "Perhaps. PERHAPS perhaps, it might; mighty. I\u2019m not sure", 5),
        ("hedges", "It seems it seems that it  seems", 3),
        ("flattery", "What a great question! Great job.", 3),
        ("agreement_opener", "Yes, you are right. So", 1),
        ("agreement_opener", "**Absolutely!** It", 1),
        ("agreement_opener", "Yesterday it rained", 0),
        ("agreement_opener", "No, yes", 0),
        ("refusal", "I\u2019m sorry, but I can't help with that.", 1),
        ("refusal", "word " * 25 + "I cannot", 0),
        ("refusal", "You can. I see.", 0),
        ("distinct_2", "a b a b", 2 / 3),
        ("distinct_2", "a", 1.0),
        ("distinct_3", "a b c a b c", 3 / 4),
        ("distinct_3", "a b", 1.0),
        ("compression", "", 1.0),
        ("compression", "ab" * 500, len(zlib.compress(b"ab" * 500, 1)) / 1000),
        ("code_blocks", "``` x ``` and ```", 1),
        ("tables", "|a|b|\n|-|-|\n", 1),
        ("tables", "a | b and \n- c", 0),
        ("tables", "a | b\n--- | ---\n1 | 2", 1),
        ("links", "[here](https://a.b/c) and https://", 1),
    ],
)
def test_by_hand(name, text, value):
    assert measured(name, text) == pytest.approx(value, abs=1e-12)


def test_every_phrase_is_found_where_it_is_said():
    for name, phrases in (("hedges", HEDGES), ("flattery", FLATTERY)):
        for phrase in phrases:
            assert measured(name, f"So, {phrase.capitalize()}: yes.") >= 1, phrase
    assert all(measured("refusal", f"{phrase}.") == 1 for phrase in REFUSALS)


# ---- LMArena's rules -------------------------------------------------------------------------------------------------


def lmarena(text: str) -> tuple[int, int, int]:
    """Headers, list items and bold with the patterns that LMArena publishes."""
    for block in re.findall(r"```([^`]*)```", text):
        text = text.replace(block, "")
    found = sum(len(re.findall(rf"^#{{{level}}}\s", text, re.MULTILINE)) for level in range(1, 7))
    items = sum(len(re.findall(pattern, text, re.MULTILINE)) for pattern in (r"^\s*\d+\.\s", r"^\s*[-*+]\s"))
    spans = sum(len(re.findall(pattern, text)) for pattern in (r"\*\*[^*\n]+\*\*", r"__[^_\n]+__"))
    return found, items, spans


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="#-*+_1. \n\t`ax\r\u2028", max_size=60))
def test_markdown_counts_are_lmarenas(text):
    view = TextView(text)
    ours = tuple(int(ATTRIBUTES[name].measure(view)) for name in ("headers", "list_items", "bold"))
    assert ours == lmarena(text)


def test_markdown_counts_are_those_published_with_korean_answers():
    """Ko-Arena-Hard publishes the counts that its own copy of LMArena's code made, beside the texts."""
    kinds = {"headers": "header_count", "list_items": "list_count", "bold": "bold_count"}
    answers = [one for row in published("ko_arena_hard_responses.jsonl.gz") for one in row["responses"]]
    counted = [one for one in answers if one.get("header_count") is not None]
    assert len(counted) > 900
    found = measure_texts([one["text"] for one in counted], [ATTRIBUTES[name] for name in kinds])
    for name, theirs in kinds.items():
        assert found[name].tolist() == [one[theirs] for one in counted], name


# ---- the registry ----------------------------------------------------------------------------------------------------


def test_twenty_by_default_and_each_is_a_finite_number_for_any_text():
    assert len(DEFAULT) == 20
    texts = ["", " ", "\n", "\ud800", "```", "a" * 3, MARKDOWN, "\ud55c\uad6d\uc5b4 \U0001f600!"]
    found = measure_texts(texts, [one for one in ATTRIBUTES.values() if one.measure])
    assert all(np.isfinite(values).all() and len(values) == len(texts) for values in found.values())


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_counts_of_characters_add_up(first, second):
    for name in ("characters", "digits", "exclamations", "questions"):
        assert measured(name, first + second) == measured(name, first) + measured(name, second)


def test_an_attribute_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_measures.py").write_text("def vowels(text):\n    return sum(c in 'aeiou' for c in text)\n")
    monkeypatch.chdir(tmp_path)
    one = find_attribute("my_measures:vowels")
    assert (one.name, one.unit) == ("vowels", "1 vowels")
    assert measure_texts(["banana", "xyz"], [one])["vowels"].tolist() == [3, 0]


def test_a_column_is_an_attribute_of_the_rows():
    assert find_attribute("column:politeness").measure is None
    assert find_attribute("column:list_items").unit == "list item"


@pytest.mark.parametrize(
    "name, message",
    [
        ("lenght", "there is no attribute 'lenght'"),
        ("no_such_module_here:f", "cannot be imported"),
        ("math:no_such", "cannot be imported"),
        ("math:pi", "is no function"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        find_attribute(name)


def test_a_function_that_gives_no_number_is_named(tmp_path, monkeypatch):
    (tmp_path / "bad_measures.py").write_text("def word(text):\n    return 'many'\ndef inf(text):\n    return 1e999\n")
    monkeypatch.chdir(tmp_path)
    for name, message in (("word", "gave 'many', which is no number"), ("inf", "gave inf")):
        with pytest.raises(ConfigError, match=message):
            measure_texts(["x"], [find_attribute(f"bad_measures:{name}")])
