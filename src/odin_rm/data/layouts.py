"""Readers of public layouts: rows as data sets have them, in the form that :mod:`odin_rm.data.rows` takes.

A layout is chosen by structure, which columns a row has and what is in them, never by a data set's name. A row in our
own form is left as it is; one that fits two layouts is refused. Each reader is a pure function of a row. What a reader
does not use stays with the row as data about it.

Preferences of two responses, a number or a word that says which is better, a list of rated responses: all become a pair
or a ranked list. A tie makes no pair and is counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from odin_rm.core.errors import RowError
from odin_rm.core.reading import parse_json
from odin_rm.data.messages import as_messages, is_transcript
from odin_rm.data.rows import TiesCount

Row = Mapping[str, Any]
Want = Literal["preferences", "demonstrations", "prompts"]
"""What a command reads rows for."""

PROMPT_NAMES = ("messages", "conversations", "context_messages", "context", "instruction", "question", "query", "input")
"""What a prompt is called elsewhere. ``instruction`` and ``query`` may have ``input`` and ``history`` beside them."""
_HOLD_A_QUESTION = {"instruction", "question", "query"}
_DATA_BESIDE = {"instruction": ("input",), "query": ("input",)}
_WAY_OUT = "Say which with --columns, as in prompt=question chosen=answer_a rejected=answer_b."


@dataclass(frozen=True)
class Layout:
    """A form of rows.

    Attributes:
        name: for the log.
        needs: columns that it is known by; all are there and not null.
        read: a row to the fields of our form.
        fits: what else its columns must hold.
        uses: further columns that the reader takes.
    """

    name: str
    needs: tuple[str, ...]
    read: Callable[[Row], dict[str, Any]]
    fits: Callable[[Row], bool] = lambda row: True
    uses: tuple[str, ...] = ()

    def matches(self, row: Row) -> bool:
        """Whether a row has this form."""
        return all(row.get(name) is not None for name in self.needs) and self.fits(row)


def in_our_form(row: Row, want: Want) -> tuple[dict[str, Any] | Row, str | None]:
    """A row in the form of :mod:`odin_rm.data.rows`.

    Args:
        row: field names to values.
        want: what it is read for.

    Returns:
        The row, and the name of the layout that it had; ``None`` for our own.

    Raises:
        RowError: it fits two layouts, or its layout holds something else than it should.
    """
    layout = _layout_of(row, want)
    if layout is not None:
        read = layout.read(row)
        used = {*layout.needs, *layout.uses} - _HOLD_A_QUESTION
        row = TiesCount({name: value for name, value in row.items() if name not in used} | read)
    elif want != "preferences" and is_rated_response(row):
        return {**row, "prompt": helpsteer_prompt(row["prompt"])}, HELPSTEER
    named, spelling = _with_prompt(row, want)
    return named, layout.name if layout else spelling


def _layout_of(row: Row, want: Want) -> Layout | None:
    if _is_pair(row) or (want == "demonstrations" and row.get("response") is not None):
        return None
    fitting = [layout for layout in PREFERENCES if layout.matches(row)]
    if not fitting and want == "demonstrations":
        fitting = [layout for layout in DEMONSTRATIONS if layout.matches(row)]
    if len(fitting) > 1:
        names = " and of ".join(layout.name for layout in fitting)
        raise RowError(f"the row fits the layouts of {names}", fix=_WAY_OUT)
    return fitting[0] if fitting else None


def _is_pair(row: Row) -> bool:
    """Whether a row is in our own form, whatever it calls the prompt."""
    if row.get("responses") is not None and row.get("ranks") is not None:
        return True
    if row.get("chosen") is None or row.get("rejected") is None:
        return False
    return not (_is_texts(row["chosen"]) and _is_texts(row["rejected"]))


def _with_prompt(row: Row, want: Want) -> tuple[dict[str, Any] | Row, str | None]:
    """The row with its prompt under our name, and what it was called; the row itself where that says nothing.

    Whole conversations hold their prompt; other columns are then data about the row.
    """
    if not _blank(row.get("prompt")) or _holds_prompt(row):
        return row, None
    found = [name for name in PROMPT_NAMES if not _blank(row.get(name))]
    found = [name for name in found if not any(name in _DATA_BESIDE.get(other, ()) for other in found)]
    if not found:
        return row, None
    if len(found) > 1:
        what = f"there is no 'prompt', but both '{found[0]}' and '{found[1]}'"
        raise RowError(what, fix=f"Say which one it is: --columns prompt={found[0]}")
    name = found[0]
    asked, history = row[name], row.get("history")
    if name in _DATA_BESIDE:
        asked = _with_input(asked, row.get("input"))
        if not _blank(history):
            asked = [*_history(history), {"role": "user", "content": asked}]
    kept = {key: value for key, value in row.items() if key not in (name, "prompt")}
    if name in _DATA_BESIDE:
        kept.pop("input", None)
        kept.pop("history", None)
    if want == "prompts" and not isinstance(asked, str):
        asked = _asked(asked, name)
    kept["prompt"] = asked
    return TiesCount(kept) if isinstance(row, TiesCount) else kept, f"prompt={name}"


def _holds_prompt(row: Row) -> bool:
    """Whether the responses are whole conversations."""
    first = row.get("chosen")
    if first is None and isinstance(row.get("responses"), (list, tuple)) and row["responses"]:
        first = row["responses"][0]
    first = row.get("response") if first is None else first
    if isinstance(first, str):
        return is_transcript(first)
    if first is None:
        return False
    messages = as_messages(first, "chosen")
    return messages is not None and messages[0]["role"] != "assistant"


def _with_input(asked: Any, further: Any) -> Any:
    """Alpaca's question: the instruction, and in the next line what it is about."""
    return asked if _blank(further) or not isinstance(asked, str) else f"{asked}\n{further}"


def _history(value: Any) -> list[dict[str, str]]:
    turns = _list(value, "history")
    messages = []
    for turn in turns:
        if not isinstance(turn, (list, tuple)) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise RowError("'history' is no list of question and answer", fix='Write [["question", "answer"], ...].')
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def _asked(value: Any, name: str) -> Any:
    """A conversation without the answer at its end."""
    messages = as_messages(value, name)
    if messages is None:
        raise RowError(f"'{name}' is {type(value).__name__}, not a list of messages", fix="Write chat messages.")
    return messages[:-1] if len(messages) > 1 and messages[-1]["role"] == "assistant" else messages


# ---- readers: preferences --------------------------------------------------------------------------------------------


def pair(first: Any, second: Any, preference: float) -> dict[str, Any]:
    """Two responses as a pair: above 0 the second wins, below 0 the first, at 0 it is a tie."""
    if preference == 0:
        return {"responses": [first, second], "ranks": [1, 1]}
    chosen, rejected = (second, first) if preference > 0 else (first, second)
    return {"chosen": chosen, "rejected": rejected}


def ranked(responses: list[Any], scores: list[float]) -> dict[str, Any]:
    """Responses with a number each, the higher the better, as a ranked list; equal texts of unequal number once."""
    if len(responses) < 2:
        raise RowError(f"the row has {len(responses)} responses", fix="Leave it out; a preference needs two.")
    best: dict[str, tuple[Any, float]] = {}
    for response, score in zip(responses, scores, strict=True):
        key = json.dumps(response, sort_keys=True, default=str)
        if key not in best or score > best[key][1]:
            best[key] = (response, score)
    kept = list(best.values())
    return {"responses": [response for response, _ in kept], "ranks": [-score for _, score in kept]}


def lists_of_texts(row: Row) -> dict[str, Any]:
    """``chosen`` and ``rejected`` are lists: each of the one beats each of the other."""
    chosen, rejected = _list(row["chosen"], "chosen"), _list(row["rejected"], "rejected")
    if not chosen or not rejected:
        raise RowError(f"'{'rejected' if chosen else 'chosen'}' is an empty list", fix="Remove the row, or fill it in.")
    return {"responses": [*chosen, *rejected], "ranks": [1] * len(chosen) + [2] * len(rejected)}


_WINNERS = {"model_a": -1, "a": -1, "model_b": 1, "b": 1}


def arena(row: Row) -> dict[str, Any]:
    """A battle of two conversations; ties of both kinds (``tie``, ``both bad``) are ties."""
    winner = str(row["winner"]).strip().lower()
    if winner not in _WINNERS and "tie" not in winner and "both" not in winner:
        raise RowError(f"'winner' is {row['winner']!r:.40}", fix="It must be model_a, model_b or a tie.")
    first, second = (as_messages(row[f"conversation_{side}"], f"conversation_{side}") for side in "ab")
    if not first or not second:
        raise RowError("'conversation_a' and 'conversation_b' are no chat messages", fix="Write chat messages.")
    if first[:-1] == second[:-1]:
        return {"prompt": first[:-1], **pair(first[-1:], second[-1:], _WINNERS.get(winner, 0))}
    # The answers of earlier turns differ, too: the whole is compared, from the first of them on.
    return pair(first, second, _WINNERS.get(winner, 0))


def arena_texts(row: Row) -> dict[str, Any]:
    """A battle whose prompts and answers are lists of a conversation's turns, written as JSON."""
    asked, *answers = (_turns(row[name], name) for name in ("prompt", "response_a", "response_b"))
    if not asked or any(len(answer) != len(asked) for answer in answers):
        raise RowError("'prompt', 'response_a' and 'response_b' have turns of different number", fix="Leave it out.")
    first, second = (_conversation(asked, answer) for answer in answers)
    wins = [_number(row[f"winner_model_{side}"], f"winner_model_{side}") for side in "ab"]
    compared = pair(first, second, wins[1] - wins[0])
    if first[:-1] == second[:-1]:
        return {"prompt": first[:-1], **pair(first[-1:], second[-1:], wins[1] - wins[0])}
    return compared


def _turns(value: Any, name: str) -> list[Any]:
    """Texts of a list that may be written as JSON; else one text."""
    if isinstance(value, str):
        try:
            found = parse_json(value)
        except ValueError:
            found = value
        value = found if isinstance(found, list) else [value]
    turns = _list(value, name)
    if any(not isinstance(turn, str) for turn in turns):
        raise RowError(f"'{name}' has a turn without text", fix="Leave the row out.")
    return turns


def _conversation(asked: list[str], answers: list[str]) -> list[dict[str, str]]:
    return [
        message
        for question, answer in zip(asked, answers, strict=True)
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]


def helpsteer3(row: Row) -> dict[str, Any]:
    """``overall_preference`` from -3 (the first is much better) to 3 (the second)."""
    return pair(row["response1"], row["response2"], _number(row["overall_preference"], "overall_preference"))


def helpsteer2_preference(row: Row) -> dict[str, Any]:
    """``preference_strength`` from -3 (the first is much better) to 3 (the second)."""
    strength = _number(row["preference_strength"], "preference_strength")
    return {"prompt": helpsteer_prompt(row.get("prompt")), **pair(row["response_1"], row["response_2"], strength)}


_EXTRA_TURNS = {"\n<extra_id_1>Assistant\n": "assistant", "\n<extra_id_1>User\n": "user"}


def helpsteer_prompt(prompt: Any) -> Any:
    """HelpSteer's prompt of several turns, which lines of ``<extra_id_1>`` and a speaker part, as messages."""
    if not isinstance(prompt, str) or not any(mark in prompt for mark in _EXTRA_TURNS):
        return prompt
    messages: list[dict[str, str]] = []
    rest, role = prompt, "user"
    while True:
        places = {rest.find(mark): mark for mark in _EXTRA_TURNS if mark in rest}
        if not places:
            return [*messages, {"role": role, "content": rest}]
        mark = places[min(places)]
        text, _, rest = rest.partition(mark)
        messages.append({"role": role, "content": text})
        role = _EXTRA_TURNS[mark]


def nectar(row: Row) -> dict[str, Any]:
    """``answers``, each with ``answer`` and ``rank`` (1 is best)."""
    answers = _entries(row["answers"], "answers", ("answer", "rank"))
    return ranked([one["answer"] for one in answers], [-_number(one["rank"], "answers.rank") for one in answers])


_RATINGS = ("fine-grained_score", "overall_score")


def ultrafeedback(row: Row) -> dict[str, Any]:
    """``completions``, each with ``response`` and ratings; ``fine-grained_score`` counts, else ``overall_score``."""
    completions = _entries(row["completions"], "completions", ("response",))
    name = next((name for name in _RATINGS if all(one.get(name) is not None for one in completions)), None)
    if name is None:
        raise RowError("'completions' have no rating that all of them have", fix=f"Give them {' or '.join(_RATINGS)}.")
    scores = [_number(one[name], f"completions.{name}") for one in completions]
    return ranked([one["response"] for one in completions], scores)


def safe_rlhf(row: Row) -> dict[str, Any]:
    """``better_response_id``, 0 or 1. (``--columns better_response_id=safer_response_id`` reads the safer one.)"""
    better = _one_of(row["better_response_id"], "better_response_id", (0, 1))
    return pair(row["response_0"], row["response_1"], 2 * better - 1)


def shp(row: Row) -> dict[str, Any]:
    """``labels``: 1 where answer A has more votes, 0 where B has."""
    label = _one_of(row["labels"], "labels", (0, 1))
    return {"prompt": row["history"], **pair(row["human_ref_A"], row["human_ref_B"], 1 - 2 * label)}


def judgebench(row: Row) -> dict[str, Any]:
    """``label``: ``A>B``, ``B>A`` or ``A=B``."""
    words = {"A>B": -1, "B>A": 1, "A=B": 0, "B=A": 0}
    label = str(row["label"]).replace(" ", "").upper()
    return pair(row["response_A"], row["response_B"], words[label])


def ms_swift(row: Row) -> dict[str, Any]:
    """``messages`` that end with the chosen answer, and ``rejected_response`` or ``rejected_messages``."""
    messages = as_messages(row["messages"], "messages")
    if not messages or messages[-1]["role"] != "assistant":
        raise RowError("'messages' do not end with an assistant message", fix="End them with the chosen response.")
    if row.get("rejected_messages") is not None:
        return {"chosen": messages, "rejected": row["rejected_messages"]}
    last = max(i for i, message in enumerate(messages) if message["role"] == "user") + 1 if len(messages) > 1 else 0
    chosen = messages[last:]
    return {"prompt": messages[:last], "chosen": chosen, "rejected": row["rejected_response"]}


def query_and_rejected(row: Row) -> dict[str, Any]:
    """``query``, ``response`` and ``rejected_response``, as ms-swift's earlier files have them."""
    return {"chosen": row["response"], "rejected": row["rejected_response"]}


def chosen_response(row: Row) -> dict[str, Any]:
    """``chosen_response`` and ``rejected_response``, as axolotl's ``argilla`` strategies have them."""
    return {"chosen": row["chosen_response"], "rejected": row["rejected_response"]}


def output_pair(row: Row) -> dict[str, Any]:
    """``output`` of two texts, the better one first, as LLaMA-Factory's earlier files have them."""
    better, worse = _list(row["output"], "output")
    return {"chosen": better, "rejected": worse}


def _pairs_of_messages(row: Row) -> bool:
    return row.get("rejected_response") is not None or row.get("rejected_messages") is not None


PREFERENCES = (
    Layout(
        "lists of chosen and rejected (RewardBench 2, RM-Bench)",
        ("chosen", "rejected"),
        lists_of_texts,
        lambda row: _is_texts(row["chosen"]) and _is_texts(row["rejected"]),
    ),
    Layout("Arena battles", ("conversation_a", "conversation_b", "winner"), arena),
    Layout(
        "Arena battles of texts",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        arena_texts,
        uses=("winner_tie",),
    ),
    Layout("HelpSteer3", ("response1", "response2", "overall_preference"), helpsteer3),
    Layout("HelpSteer2 preferences", ("response_1", "response_2", "preference_strength"), helpsteer2_preference),
    Layout("Nectar", ("answers",), nectar, lambda row: _is_entries(row["answers"], "answer")),
    Layout("UltraFeedback", ("completions",), ultrafeedback, lambda row: _is_entries(row["completions"], "response")),
    Layout("PKU-SafeRLHF", ("response_0", "response_1", "better_response_id"), safe_rlhf),
    Layout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), shp),
    Layout(
        "JudgeBench",
        ("response_A", "response_B", "label"),
        judgebench,
        lambda row: str(row["label"]).replace(" ", "").upper() in ("A>B", "B>A", "A=B", "B=A"),
    ),
    Layout(
        "ms-swift",
        ("messages",),
        ms_swift,
        _pairs_of_messages,
        ("rejected_response", "rejected_messages"),
    ),
    Layout("ms-swift, query and response", ("query", "response", "rejected_response"), query_and_rejected),
    Layout("axolotl, argilla", ("chosen_response", "rejected_response"), chosen_response),
    Layout(
        "LLaMA-Factory, output of two",
        ("instruction", "output"),
        output_pair,
        lambda row: _is_texts(row["output"]) and len(row["output"]) == 2,
    ),
)


# ---- readers: demonstrations -----------------------------------------------------------------------------------------


def last_turn(name: str) -> Callable[[Row], dict[str, Any]]:
    """Of a conversation the last answer is the response, and all before it the prompt."""

    def read(row: Row) -> dict[str, Any]:
        return {"response": row[name]}

    return read


def renamed(**names: str) -> Callable[[Row], dict[str, Any]]:
    """Fields under other names."""

    def read(row: Row) -> dict[str, Any]:
        return {new: row[theirs] for new, theirs in names.items()}

    return read


def _ends_with_answer(name: str) -> Callable[[Row], bool]:
    def fits(row: Row) -> bool:
        messages = as_messages(row[name], name)
        return bool(messages) and messages is not None and messages[-1]["role"] == "assistant"

    return fits


def _is_text(name: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row[name], str)


DEMONSTRATIONS = (
    Layout("messages", ("messages",), last_turn("messages"), _ends_with_answer("messages")),
    Layout(
        "conversations (ShareGPT)", ("conversations",), last_turn("conversations"), _ends_with_answer("conversations")
    ),
    Layout("prompt and completion (TRL)", ("completion",), renamed(response="completion")),
    Layout(
        "instruction and output (Alpaca)", ("instruction", "output"), renamed(response="output"), _is_text("output")
    ),
    Layout("question and answer", ("question", "answer"), renamed(response="answer"), _is_text("answer")),
)


# ---- rows of one response --------------------------------------------------------------------------------------------

HELPSTEER = "HelpSteer"
_HELPSTEER = ("prompt", "response", "helpfulness", "correctness", "coherence")


def is_rated_response(row: Row) -> bool:
    """Whether a row is one rated response of HelpSteer; rows of one prompt stand behind each other there."""
    return all(row.get(name) is not None for name in _HELPSTEER) and not _is_pair(row)


def helpsteer(rows: list[Row]) -> dict[str, Any]:
    """The rated responses to one prompt as a ranked list by ``helpfulness``."""
    scores = [_number(row["helpfulness"], "helpfulness") for row in rows]
    return TiesCount(
        {"prompt": helpsteer_prompt(rows[0]["prompt"]), **ranked([row["response"] for row in rows], scores)}
    )


# ---- cells -----------------------------------------------------------------------------------------------------------


def _list(value: Any, name: str) -> list[Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            value = None
    if not isinstance(value, (list, tuple)):
        raise RowError(f"'{name}' is no list", fix="Write it as [..., ...].")
    return list(value)


def _entries(value: Any, name: str, keys: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Records of a list, or of columns as Arrow keeps them."""
    if isinstance(value, Mapping):
        value = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    found = _list(value, name)
    for number, one in enumerate(found, start=1):
        missing = [key for key in keys if not isinstance(one, Mapping) or one.get(key) is None]
        if missing:
            raise RowError(f"'{name}' entry {number} has no '{missing[0]}'", fix="Remove the row, or fill it in.")
    return found


def _is_entries(value: Any, key: str) -> bool:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return key in value
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping) and key in value[0]


def _is_texts(value: Any) -> bool:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) for one in value)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"'{name}' is {value!r:.40}, not a number", fix="Leave the row out, or fill it in.")
    return number


def _one_of(value: Any, name: str, codes: tuple[int, ...]) -> int:
    number = _number(value, name)
    if number not in codes:
        known = " or ".join(map(str, codes))
        raise RowError(f"'{name}' is {value!r:.40}", fix=f"It must be {known} in this layout.")
    return int(number)


def _blank(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (hasattr(value, "__len__") and len(value) == 0)
