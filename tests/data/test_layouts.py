"""Public layouts, each by a row made by hand; and the mapping of names."""

from __future__ import annotations

import pytest

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.columns import Columns
from odin_rm.data.demonstrations import read_demonstrations
from odin_rm.data.layouts import in_our_form
from odin_rm.data.prompts import load_prompts
from odin_rm.data.rows import parse_preference_row
from odin_rm.data.sources import open_source


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def said(speaker, text):
    return {"from": speaker, "value": text}


TALK = [user("q"), assistant("a"), user("r")]
# Row, prompt, chosen, rejected.
PAIRS = {
    "HelpSteer3": (
        {"context": [user("q")], "response1": "a", "response2": "b", "overall_preference": -2},
        ("q", "a", "b"),
    ),
    "HelpSteer3, second": (
        {"context": TALK, "response1": "a", "response2": "b", "overall_preference": 1},
        (TALK, "b", "a"),
    ),
    "HelpSteer2 preferences": (
        {
            "prompt": "q\n<extra_id_1>Assistant\na\n<extra_id_1>User\nr",
            "response_1": "x",
            "response_2": "y",
            "preference_strength": 3,
        },
        (TALK, "y", "x"),
    ),
    "PKU-SafeRLHF": (
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        ("q", "b", "a"),
    ),
    "SHP": ({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0}, ("q", "b", "a")),
    "JudgeBench": ({"question": "q", "response_A": "a", "response_B": "b", "label": "A>B"}, ("q", "a", "b")),
    "Arena battles": (
        {"winner": "model_b", "conversation_a": [*TALK, assistant("x")], "conversation_b": [*TALK, assistant("y")]},
        (TALK, "y", "x"),
    ),
    "Arena battles of texts": (
        {
            "prompt": '["q"]',
            "response_a": '["x"]',
            "response_b": '["y"]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        ("q", "x", "y"),
    ),
    "ms-swift": ({"messages": [user("q"), assistant("a")], "rejected_response": "b"}, ("q", "a", "b")),
    "ms-swift, query and response": (
        {"query": "r", "response": "x", "rejected_response": "y", "history": [["q", "a"]]},
        (TALK, "x", "y"),
    ),
    "axolotl, argilla": (
        {"system": "s", "instruction": "q", "chosen_response": "a", "rejected_response": "b"},
        ([{"role": "system", "content": "s"}, user("q")], "a", "b"),
    ),
    "LLaMA-Factory, output of two": ({"instruction": "q", "output": ["a", "b"]}, ("q", "a", "b")),
    "prompt=instruction": (
        {"instruction": "Translate", "input": "Good morning", "chosen": "a", "rejected": "b"},
        ("Translate\nGood morning", "a", "b"),
    ),
    "prompt=question": (
        {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
        ([{"role": "system", "content": "s"}, user("q")], "a", "b"),
    ),
    "prompt=messages": (
        {"messages": [user("q")], "chosen": assistant("a"), "rejected": assistant("b")},
        ("q", "a", "b"),
    ),
    "prompt=conversations": (
        {"conversations": [said("human", "q")], "chosen": said("gpt", "a"), "rejected": said("gpt", "b")},
        ("q", "a", "b"),
    ),
    "prompt=context_messages": ({"context_messages": TALK, "chosen": "a", "rejected": "b"}, (TALK, "a", "b")),
    "columns of messages": (
        {
            "prompt": "q",
            "chosen": {"role": ["user", "assistant"], "content": ["q", "a"]},
            "rejected": {"role": ["user", "assistant"], "content": ["q", "b"]},
        },
        ("q", "a", "b"),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_read_whole(name):
    row, (prompt, chosen, rejected) = PAIRS[name]
    ours, layout = in_our_form(row, "preferences")
    found = parse_preference_row(ours)
    ((best, worst),) = found.pairs
    assert (found.prompt, found.responses[best], found.responses[worst]) == (prompt, chosen, rejected)
    assert name.split(", second")[0] == (layout or "columns of messages")


def beats(row):
    """``{(better, worse)}`` of a ranked row, and its ties."""
    found = parse_preference_row(in_our_form(row, "preferences")[0])
    return {(found.responses[c], found.responses[r]) for c, r in found.pairs}, found.ties


def test_ranked_layouts_by_hand():
    nectar = {
        "prompt": "\n\nHuman: q\n\nAssistant: ",
        "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}],
    }
    assert beats(nectar) == ({("b", "a")}, 0)
    columns = {"prompt": "q", "answers": {"answer": ["a", "b"], "rank": [1.0, 1.0]}}
    assert beats(columns) == (set(), 1)
    rated = [
        {"response": "a", "overall_score": 9, "fine-grained_score": 3.5},
        {"response": "b", "overall_score": 1, "fine-grained_score": 4.0},
        {"response": "c", "overall_score": 1, "fine-grained_score": 3.5},
    ]
    assert beats({"instruction": "q", "completions": rated}) == ({("b", "a"), ("b", "c")}, 1)
    four = {"prompt": "q", "chosen": ["g"], "rejected": ["x", "y", "z"]}
    assert beats(four) == ({("g", "x"), ("g", "y"), ("g", "z")}, 3)
    three = {"prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["x", "y", "z"]}
    assert len(beats(three)[0]) == 9


@pytest.mark.parametrize("winner", ["tie", "tie (bothbad)", "both_bad"])
def test_a_tie_of_a_battle_is_counted_and_makes_no_pair(winner):
    row = {
        "winner": winner,
        "conversation_a": [user("q"), assistant("a")],
        "conversation_b": [user("q"), assistant("b")],
    }
    assert beats(row) == (set(), 1)


def test_rated_rows_of_one_prompt_are_one_ranked_list():
    def rated(prompt, response, helpfulness):
        others = {"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness, **others}

    rows = [rated("p", "a", 1), rated("p", "b", 3), rated("q", "c", 2), rated("q", "d", 2)]
    placed = list(open_source(rows, want="preferences").rows(None))
    found = [parse_preference_row(one.row) for one in placed]
    assert [one.layout for one in placed] == ["HelpSteer", "HelpSteer"]
    assert [(one.prompt, one.pairs, one.ties) for one in found] == [("p", [(1, 0)], 0), ("q", [], 1)]
    assert [one.number for one in placed] == [1, 3]


def test_what_a_reader_does_not_use_stays_data_about_the_row():
    row = PAIRS["SHP"][0] | {"domain": "askscience"}
    assert in_our_form(row, "preferences")[0]["domain"] == "askscience"


AMBIGUOUS = {
    "two layouts": PAIRS["SHP"][0] | PAIRS["HelpSteer3"][0],
    "two prompts": {"question": "q", "messages": [user("r")], "chosen": "a", "rejected": "b"},
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_row_is_refused_and_says_the_way_out(name):
    with pytest.raises(RowError) as caught:
        in_our_form(AMBIGUOUS[name], "preferences")
    assert "--columns" in caught.value.fix


@pytest.mark.parametrize(
    "row, message",
    [
        (PAIRS["PKU-SafeRLHF"][0] | {"better_response_id": 2}, "'better_response_id' is 2"),
        (PAIRS["SHP"][0] | {"labels": 0.5}, "'labels' is 0.5"),
        (PAIRS["Arena battles"][0] | {"winner": "gpt-4"}, "'winner' is 'gpt-4'"),
        (PAIRS["HelpSteer3"][0] | {"overall_preference": "much"}, "'overall_preference' is 'much'"),
        ({"prompt": "q", "answers": [{"answer": "a"}, {"answer": "b", "rank": 1}]}, "entry 1 has no 'rank'"),
        ({"instruction": "q", "completions": [{"response": "a"}, {"response": "b"}]}, "no rating that all of them"),
        ({"messages": [user("q")], "rejected_response": "b"}, "do not end with an assistant message"),
        ({"conversations": [said("bird", "q")], "chosen": "a", "rejected": "b"}, "is from 'bird'"),
    ],
)
def test_a_layout_with_something_else_in_it_is_refused(row, message):
    with pytest.raises(RowError) as caught:
        parse_preference_row(in_our_form(row, "preferences")[0])
    assert message in caught.value.what


def test_demonstrations_and_prompts_of_public_layouts():
    rows = [
        {"instruction": "Translate", "input": "Good day", "output": "Guten Tag"},
        {"messages": [*TALK, assistant("x")]},
        {"conversations": [said("human", "q"), said("gpt", "a")]},
        {"question": "1 + 1", "answer": "2"},
        {"prompt": "p", "completion": "c"},
        {"query": "r", "history": [["q", "a"]], "response": "x"},
        {"data_source": "gsm8k", "prompt": [user("q")], "reward_model": {"ground_truth": "4"}, "response": "4"},
    ]
    prompts = ["Translate\nGood day", TALK, "q", "1 + 1", "p", TALK, "q"]
    found = read_demonstrations(rows)
    assert found.prompts == prompts
    assert [reply for (reply,) in found.responses] == ["Guten Tag", "x", "a", "2", "c", "x", "4"]
    assert load_prompts(rows).prompts == prompts
    assert load_prompts(rows).columns["data_source"][-1] == "gsm8k"


def test_names_from_the_command_line():
    names = Columns(["prompt=question", "chosen=answer_a", "margin="])
    row = {"question": "q", "answer_a": "a", "rejected": "b", "prompt": "a topic", "margin": 3}
    assert names.apply(row) == {"prompt": "q", "chosen": "a", "rejected": "b"}
    swapped = Columns(["chosen=rejected", "rejected=chosen"])
    assert swapped.apply({"chosen": "a", "rejected": "b"}) == {"chosen": "b", "rejected": "a"}
    source = open_source([row], columns=["prompt=question", "chosen=answer_a"], want="preferences")
    found = parse_preference_row(next(source.rows(None)).row)
    assert (found.prompt, found.responses, found.margin) == ("q", ["a", "b"], 3.0)


def test_a_slip_in_a_name_is_told():
    with pytest.raises(DataError, match=r"has no column 'quesion' \(it has question, a\)"):
        list(open_source([{"question": "q", "a": 1}], columns=["prompt=quesion"]).rows(None))
    for wrong in (["prompt"], ["=question"], ["prompt=a", "prompt=b"]):
        with pytest.raises(ConfigError, match="--columns"):
            Columns(wrong)


def test_errors_call_fields_as_the_rows_do():
    with pytest.raises(RowError, match="row 1: 'better' is empty"):
        read_demonstrations([{"question": "q", "better": " "}], columns=["prompt=question", "response=better"])
