"""Templates of judges: filling them in, the strict reading of replies, and what is no template."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError
from odin_rm.evaluation.judge_template import PLACEHOLDERS, TEMPLATES, JudgeTemplate, load_template
from odin_rm.evaluation.judgements import Question

GOOD = "reply: choice\nprompt: |\n  {instruction} A {output_1} B {output_2}\n"


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ("7 8", 2.0),
        ("8 7", 1.0),
        ("7 7", 1.5),
        ("9.5 9\nThe first is better.", 1.0),
        ("10 1", 1.0),
        ("1, 10\nBecause.", 2.0),
        ("\n\n  6 8  \nBecause.", 2.0),
        ("<think>Is it 9 3? No.</think>\n\n4 6", 2.0),
        ("", None),
        ("7", None),
        ("7 8 9", None),
        ("0 5", None),
        ("5 11", None),
        ("-1 5", None),
        ("8/10 7/10", None),
        ("Assistant 1: 8, Assistant 2: 7", None),
        ("Scores:\n8 7", None),
        ("8 7 because it is better", None),
        ("eight seven", None),
        ("<think>8 7", None),
    ],
)
def test_scores_are_read_from_the_first_line_alone(reply, preference):
    assert load_template("scores").parse(reply) == preference


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ("Verdict: A", 1.0),
        ("Verdict: B", 2.0),
        ("verdict: TIE.", 1.5),
        ("B is shorter, and right.\n\n**Verdict: B**", 2.0),
        ("A", 1.0),
        ("tie", 1.5),
        ("Verdict: A\nVerdict: B", None),
        ("Verdict: A\nVerdict: A", None),
        ("Verdict: A or B", None),
        ("Verdict: C", None),
        ("The verdict: A", None),
        ("A\nis better", None),
        ("A is better", None),
        ("", None),
    ],
)
def test_a_choice_is_one_line_and_nothing_else(reply, preference):
    assert load_template("pairwise").parse(reply) == preference


@pytest.mark.parametrize(
    ("name", "reply", "preference"),
    [
        ("scores", "7 1", None),
        ("scores", "7 10\nThe sec", 2.0),
        ("pairwise", "Verdict: A\nI mean", 1.0),
        ("pairwise", "Verdict: A", None),
        ("pairwise", "A", None),
    ],
)
def test_the_last_line_of_a_reply_that_was_cut_off_is_not_read(name, reply, preference):
    assert load_template(name).parse(reply, complete=False) == preference


@given(first=st.integers(10, 100), second=st.integers(10, 100))
def test_swapped_scores_swap_the_preference(first, second):
    template = load_template("scores")
    straight, swapped = template.parse(f"{first / 10} {second / 10}"), template.parse(f"{second / 10} {first / 10}")
    assert straight is not None
    assert straight + swapped == 3.0  # type: ignore[operator]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_package_templates_hold_every_text_once(name):
    system, user = load_template(name).messages(Question("THE TASK", "ANSWER ONE", "ANSWER TWO"))
    assert [system["role"], user["role"]] == ["system", "user"]
    places = [user["content"].index(text) for text in ("THE TASK", "ANSWER ONE", "ANSWER TWO")]
    assert places == sorted(places)
    assert not any(f"{{{name}}}" in user["content"] for name in PLACEHOLDERS)


def test_placeholders_inside_the_texts_are_texts():
    template = JudgeTemplate("t", "{instruction}|{output_1}|{output_2}|{other}", "scores")
    (message,) = template.messages(Question("{output_1}", "{output_2} {instruction}", r"\1 {0}"))
    assert message["content"] == r"{output_1}|{output_2} {instruction}|\1 {0}|{other}"


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "system: Be fair.\n")
    template = load_template(str(path))
    assert (template.name, template.reply, template.system) == ("mine", "choice", "Be fair.")
    assert template.messages(Question("q", "x", "y"))[1]["content"] == "q A x B y\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Which is better?", "has no {instruction} and no {output_1} and no {output_2}"),
        (GOOD.replace("{output_2}", "{output2}"), "has no {output_2}. Write each placeholder"),
        (GOOD.replace("prompt", "system"), "has no {instruction}"),
        ("Rate {instruction} {output_1} {output_2}", "not say the form of the reply"),
        (GOOD.replace("choice", "stars"), "not say the form of the reply (scores or choice)"),
        (GOOD + "user: x\n", "'user' is no text field"),
        (GOOD + "system: [a]\n", "'system' is no text field"),
        ("prompt: 'a", "is not valid YAML"),
    ],
)
def test_what_is_no_template_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_template(str(path))
    assert said in str(error.value)


def test_a_template_that_is_not_there():
    with pytest.raises(ConfigError, match=r"none\.yaml: no such template\. Give scores or pairwise, or the path"):
        load_template("none.yaml")
