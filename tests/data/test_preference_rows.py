"""Rows: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import json

import pytest

from odin_rm.core.errors import RowError
from odin_rm.data.messages import ChatPrompt
from odin_rm.data.rows import parse_preference_row, parse_prompt_response


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "be kind"}
TOOL = {"role": "tool", "content": "12"}


def test_strings_and_chat_are_one_thing():
    strings = parse_preference_row({"prompt": "a", "chosen": "b", "rejected": "c"})
    chat = parse_preference_row({"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]})
    mixed = parse_preference_row({"prompt": "a", "chosen": [assistant("b")], "rejected": "c"})
    implicit = parse_preference_row({"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]})
    repeated = parse_preference_row(
        {"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]}
    )
    assert strings == chat == mixed == implicit == repeated
    assert (strings.prompt, strings.responses, strings.pairs, strings.margin) == ("a", ["b", "c"], [(0, 1)], 0.0)


def test_implicit_prompt_is_the_common_start_of_conversations():
    start = [SYSTEM, user("a"), assistant("b"), user("c")]
    row = parse_preference_row({"chosen": [*start, assistant("x")], "rejected": [*start, assistant("y")]})
    assert row.prompt == start
    assert row.responses == ["x", "y"]


def test_a_response_may_go_on_over_several_turns():
    row = parse_preference_row(
        {"chosen": [user("a"), assistant("x"), user("u"), assistant("z")], "rejected": [user("a"), assistant("y")]}
    )
    assert row.prompt == "a"
    assert row.responses == [[assistant("x"), user("u"), assistant("z")], "y"]


def test_a_system_message_before_a_given_prompt_joins_it():
    conversation = [SYSTEM, user("a")]
    row = parse_preference_row(
        {"prompt": "a", "chosen": [*conversation, assistant("b")], "rejected": [*conversation, assistant("c")]}
    )
    assert row.prompt == conversation


def test_implicit_prompt_of_dialogues_ends_at_the_last_shared_assistant_turn():
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    row = parse_preference_row({"chosen": start + " yes", "rejected": start + " yonder"})
    assert row.prompt == start.strip()
    assert row.responses == ["yes", "yonder"]  # the shared "y" belongs to the responses


def test_a_given_transcript_is_taken_off_responses_that_repeat_it():
    row = parse_preference_row({"prompt": "Human: a\n", "chosen": "Human: a\nAssistant: b", "rejected": "Human: a c"})
    assert row.responses == ["b", "c"]
    kept = parse_preference_row({"prompt": "Human: a\n", "chosen": "Human: a\nAssistant: b", "rejected": "c"})
    assert kept.responses[0] == "Human: a\nAssistant: b"


def test_ranked_list_with_ties_counted_by_hand():
    # ranks 2 1 2 3: better ones are (1 over 0), (1 over 2), (1 over 3), (0 over 3), (2 over 3); 0 and 2 are tied.
    row = parse_preference_row({"prompt": "p", "responses": ["a", "b", "c", "d"], "ranks": [2, 1, 2, 3]})
    assert sorted(row.pairs) == [(0, 3), (1, 0), (1, 2), (1, 3), (2, 3)]
    assert row.ties == 1


def test_ranked_list_from_csv_cells():
    row = parse_preference_row({"prompt": "p", "responses": '["a", "b"]', "ranks": "[2, 1.5]"})
    assert row.pairs == [(1, 0)]


def test_equal_responses_of_one_rank_are_a_tie():
    row = parse_preference_row({"prompt": "p", "responses": ["a", "a", "b"], "ranks": [1, 1, 2]})
    assert row.pairs == [(0, 2), (1, 2)]


@pytest.mark.parametrize("margin, expected", [(None, 0.0), ("", 0.0), ("0.5", 0.5), (2, 2.0), (-1.0, -1.0)])
def test_margin(margin, expected):
    row = parse_preference_row({"prompt": "p", "chosen": "a", "rejected": "b", "margin": margin})
    assert row.margin == expected


def test_extra_columns_of_pairs_and_lists():
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_q": 1.5, "rejected_q": "2"}
    assert parse_preference_row(pair, ["q"]).extra == {"q": [1.5, 2.0]}
    ranked = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2], "q": [3, 4]}
    assert parse_preference_row(ranked, ["q"]).extra == {"q": [3.0, 4.0]}


def test_text_that_only_looks_like_a_list_stays_text():
    row = parse_preference_row({"prompt": "p", "chosen": '[1, 2] and "role"', "rejected": "[x]"})
    assert row.responses == ['[1, 2] and "role"', "[x]"]


def test_a_string_is_text_even_where_it_is_json():
    chat = '[{"role": "assistant", "content": "b"}]'
    assert parse_preference_row({"prompt": "p", "chosen": chat, "rejected": "c"}).responses == [chat, "c"]
    assert parse_prompt_response({"prompt": "p", "response": chat}) == ("p", chat)


def test_what_a_template_reads_beside_the_text_stays():
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}]
    spoken = assistant("Let me look.") | {"tool_calls": calls, "reasoning_content": "hm", "unused": None}
    row = parse_preference_row({"prompt": [user("w?") | {"name": "Bob"}], "chosen": [spoken], "rejected": "no"})
    assert row.prompt == [user("w?") | {"name": "Bob"}]
    assert row.responses[0] == [
        assistant("Let me look.") | {"tool_calls": calls, "reasoning_content": "hm"}  # a null is no field
    ]
    # Two answers that differ in a call only are two answers, and a call needs no text.
    silent = [{"role": "assistant", "content": None, "tool_calls": calls}]
    row = parse_preference_row({"prompt": "w?", "chosen": silent, "rejected": [{**silent[0], "tool_calls": calls * 2}]})
    assert row.responses[0] != row.responses[1]


def test_system_input_and_tools_enter_the_prompt():
    rest = {"chosen": "a", "rejected": "b"}
    assert parse_preference_row({"prompt": "p", "system": "s", **rest}).prompt == [
        {"role": "system", "content": "s"},
        user("p"),
    ]
    assert parse_preference_row({"prompt": "Translate", "input": "Good day", **rest}).prompt == "Translate\nGood day"
    assert parse_preference_row({"prompt": "Translate: Good day", "input": "Good day", **rest}).prompt == (
        "Translate: Good day"
    )
    schema = [{"type": "function", "function": {"name": "weather"}}]
    with_tools = parse_preference_row({"prompt": "p", "tools": json.dumps(schema), **rest}).prompt
    assert isinstance(with_tools, ChatPrompt)
    assert (list(with_tools), with_tools.variables) == ([user("p")], {"tools": schema})
    assert with_tools != parse_preference_row({"prompt": "p", **rest, "tools": [{"type": "other"}]}).prompt
    assert parse_preference_row({"prompt": "p", "tools": [], "system": "", **rest}).prompt == "p"


def test_tools_answer_and_the_assistant_may_speak_first():
    greeted = [assistant("Hello"), user("w?")]
    asked = [user("w?"), assistant("call"), TOOL]
    rest = {"chosen": [assistant("yes")], "rejected": "no"}
    assert parse_preference_row({"prompt": greeted, **rest}).prompt == greeted
    assert parse_preference_row({"prompt": asked, **rest}).prompt == asked
    parts = [{"role": "user", "content": [{"type": "text", "text": "w"}, {"type": "text", "text": "?"}]}]
    assert parse_preference_row({"prompt": parts, **rest}).prompt == "w?"


def test_a_prompt_that_responses_repeat_is_taken_off():
    question = "What is 2 + 2?"
    row = parse_preference_row({"prompt": question, "chosen": f"{question}\nFour.", "rejected": f"{question} Five."})
    assert row.responses == ["Four.", "Five."]
    for chosen, rejected in ((f"{question} 4", "Five"), (question, f"{question} 5")):  # one that does not repeat it
        kept = parse_preference_row({"prompt": question, "chosen": chosen, "rejected": rejected})
        assert kept.responses == [chosen, rejected]
    short = parse_preference_row({"prompt": "Yes", "chosen": "Yes, it is", "rejected": "Yes and no"})
    assert short.responses == ["Yes, it is", "Yes and no"]
    # One response alone may quote its question; an echo goes on in another line.
    assert parse_prompt_response({"prompt": question, "response": f"{question} It is 4."})[1].startswith(question)
    assert parse_prompt_response({"prompt": question, "response": f"{question}\n4"}) == (question, "4")


def test_dialogues_are_compared_turn_by_turn():
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    whole = {"chosen": f"{start} x", "rejected": f"{start} y\n\nHuman: d\n\nAssistant: z"}
    row = parse_preference_row(whole)
    assert row.prompt == start.strip()
    assert row.responses == ["x", [assistant("y"), user("d"), assistant("z")]]
    # A prompt beside them that is their last question is not another one; text that only begins like one stays text.
    asked = parse_preference_row({"prompt": "c", "chosen": f"{start} x", "rejected": f"{start} y"})
    assert (asked.prompt, asked.responses) == (start.strip(), ["x", "y"])
    written = parse_preference_row({"prompt": "Write a play", "chosen": "Human: hi", "rejected": "Human: ho"})
    assert written.responses == ["Human: hi", "Human: ho"]
    assert parse_prompt_response({"response": f"{start} x"}) == (start.strip(), "x")


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LIST = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}
BAD_ROWS = [
    ({"prompt": "p", "rejected": "b"}, "field 'chosen' is missing"),
    (PAIR | {"rejected": None}, "field 'rejected' is missing"),
    (PAIR | {"rejected": "a"}, "'chosen' is equal to 'rejected'"),
    (PAIR | {"chosen": " \n"}, "'chosen' is empty"),
    (PAIR | {"chosen": [assistant("")]}, "'chosen' is empty"),
    (PAIR | {"chosen": 3}, "'chosen' is int, not text"),
    (PAIR | {"prompt": {"a": 1}}, "'prompt' is dict, not text"),
    (PAIR | {"chosen": []}, "'chosen' has no messages"),
    (PAIR | {"chosen": ["a"]}, "'chosen' is a list, but its entry 1 is no chat message"),
    (PAIR | {"chosen": [{"role": "assistant"}]}, "'chosen' message 1 has no 'content'"),
    (PAIR | {"chosen": [{"role": "assistant", "content": 1}]}, "'chosen' message 1 has a non-string 'content'"),
    (PAIR | {"chosen": [{"role": "gpt", "content": "a"}]}, "'chosen' message 1 has the role 'gpt'"),
    (PAIR | {"prompt": [user("a"), user("b")]}, "'prompt' has roles out of order: message 2 is 'user'"),
    (PAIR | {"prompt": [user("a"), SYSTEM]}, "'prompt' has roles out of order: message 2 is 'system'"),
    (PAIR | {"prompt": [assistant("a"), assistant("b")]}, "message 2 is 'assistant', expected 'user'"),
    (PAIR | {"prompt": [TOOL, user("b")]}, "message 1 is 'tool', expected 'user'"),
    (PAIR | {"system": 3}, "'system' is int, not text"),
    (PAIR | {"prompt": [SYSTEM, user("p")], "system": "be rude"}, "'system' and the system message of 'prompt'"),
    (PAIR | {"input": 3}, "'input' is int"),
    (PAIR | {"prompt": [user("p"), assistant("a"), user("q")], "input": "new"}, "'input' stands beside a 'prompt'"),
    (PAIR | {"tools": "no JSON"}, "'tools' is no list of JSON schemas"),
    (PAIR | {"chat_template_kwargs": {"messages": []}}, "'chat_template_kwargs' gives 'messages'"),
    (PAIR | {"chosen": "a \ud83d b"}, "holds half a character"),
    (PAIR | {"chosen": [assistant("a") | {"name": "\udc00"}]}, "holds half a character"),
    (PAIR | {"chosen": [{"role": "assistant", "content": [{"type": "image"}]}]}, "a part of type 'image'"),
    (
        {"chosen": "Human: a\n\nAssistant: b\n\nHuman: c", "rejected": "Human: a\n\nAssistant: b\n\nHuman: d"},
        "the dialogues differ in turn 3",
    ),
    (PAIR | {"prompt": [SYSTEM]}, "'prompt' holds a system message only"),
    (PAIR | {"prompt": [user("a"), assistant("b")]}, "'prompt' does not end with a user message"),
    (PAIR | {"prompt": [user(" ")]}, "'prompt' ends with an empty user message"),
    (PAIR | {"chosen": [assistant("a"), user("b")]}, "'chosen' does not end with an assistant message"),
    (PAIR | {"chosen": [user("p"), assistant("a")]}, "'chosen' is a whole conversation and 'rejected' is not"),
    (
        {"prompt": "q", "chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]},
        "the conversations do not begin with 'prompt'",
    ),
    (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        "the conversations differ in message 1",
    ),
    (
        {
            "chosen": [user("p"), assistant("a"), user("q"), assistant("x")],
            "rejected": [user("p"), assistant("a"), user("r"), assistant("x")],
        },
        "the conversations differ in message 3",
    ),
    (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("a"), user("q"), assistant("b")]},
        "'chosen' is only the start of another conversation",
    ),
    (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("a")]},
        "'chosen' is equal to 'rejected'",
    ),
    ({"chosen": [user("p")], "rejected": [user("q")]}, "'chosen' does not end with an assistant message"),
    ({"chosen": [assistant("p")], "rejected": [assistant("q")]}, "there is no 'prompt'"),
    ({"chosen": "a", "rejected": "b"}, "there is no 'prompt'"),
    ({"prompt": "", "chosen": "a", "rejected": "b"}, "there is no 'prompt'"),
    ({"chosen": "Human: a", "rejected": "Human: b"}, "there is no 'prompt'"),
    ({"chosen": "Human: a\nAssistant: ", "rejected": "Human: a\nAssistant: b"}, "'chosen' is empty"),
    (PAIR | {"margin": float("nan")}, "'margin' is nan, not a finite number"),
    (PAIR | {"margin": "inf"}, "'margin' is inf, not a finite number"),
    (PAIR | {"margin": "much"}, "'margin' is 'much', not a number"),
    (PAIR | {"margin": True}, "'margin' is True, not a number"),
    (LIST | {"ranks": [1]}, "'responses' has 2 entries and 'ranks' has 1"),
    (LIST | {"ranks": None}, "field 'ranks' is missing"),
    (LIST | {"ranks": 3}, "'ranks' is int, not a list"),
    (LIST | {"ranks": [1, None]}, "field 'ranks' is missing"),
    (LIST | {"responses": ["a"], "ranks": [1]}, "'responses' has 1 entries"),
    (LIST | {"responses": "[a"}, "'responses' is not a JSON list"),
    (LIST | {"responses": "a"}, "'responses' is str, not a list"),
    (LIST | {"responses": ["a", ""]}, "'responses[1]' is empty"),
    (LIST | {"responses": ["a", 2]}, "'responses[1]' is int, not text"),
    (LIST | {"responses": ["a", "a"]}, "'responses[0]' is equal to 'responses[1]'"),
    (LIST | {"ranks": [1, 1]}, "'ranks' are all tied, so there is no pair"),
]


@pytest.mark.parametrize("row, message", BAD_ROWS, ids=[message[:50] for _, message in BAD_ROWS])
def test_bad_rows_say_what_and_how_to_mend_it(row, message):
    with pytest.raises(RowError) as caught:
        parse_preference_row(row)
    assert message in caught.value.what
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_bad_extra_columns():
    with pytest.raises(RowError, match="field 'rejected_q' is missing"):
        parse_preference_row(PAIR | {"chosen_q": 1}, ["q"])
    with pytest.raises(RowError, match="'responses' has 2 entries and 'q' has 1"):
        parse_preference_row(LIST | {"q": [1]}, ["q"])


def test_rows_to_be_scored():
    assert parse_prompt_response({"prompt": "a", "response": "b"}) == ("a", "b")
    assert parse_prompt_response({"prompt": [user("a")], "response": [assistant("b")]}) == ("a", "b")
    assert parse_prompt_response({"response": [user("a"), assistant("b")]}) == ("a", "b")
    assert parse_prompt_response({"prompt": "a", "response": [user("a"), assistant("b")]}) == ("a", "b")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "a"}, "field 'response' is missing"),
        ({"response": "b"}, "there is no 'prompt'"),
        ({"prompt": "a", "response": ""}, "'response' is empty"),
        ({"prompt": "a", "response": 2}, "'response' is int"),
        ({"response": [user("a")]}, "does not end with an assistant"),
        ({"response": [assistant("a")]}, "there is no 'prompt'"),
        ({"response": [user("a"), user("b"), assistant("a")]}, "roles out of order"),
        ({"prompt": "b", "response": [user("a"), assistant("b")]}, "do not begin with 'prompt'"),
    ],
)
def test_bad_rows_to_be_scored(row, message):
    with pytest.raises(RowError) as caught:
        parse_prompt_response(row)
    assert message in caught.value.what
