"""Battles from files: LMArena's rows, Arena-Hard's judgements with the models' answers, and AlpacaEval's annotations.

* **LMArena**: ``model_a``, ``model_b``, ``winner`` (``model_a``, ``model_b``, ``tie``, ``tie (bothbad)``), and counts
  in ``conv_metadata`` (``sum_assistant_a_tokens``, ``header_count_a``, ``list_count_a``, ``bold_count_a``, and
  ``_b``);
* **Arena-Hard**: ``uid`` or ``question_id``, ``model``, ``baseline`` and ``games``: the first with the baseline as A,
  the second with the model as A, each ``A>>B``, ``A>B``, ``A=B``, ``B>A`` or ``B>>A``, as text or as ``{"score":
  ...}``. Counts stand in the row (``token_len``, ``header_count``, ``list_count``, ``bold_count``, or all in
  ``metadata``) or in the answers' files.

A count that is an object (``{"h1": 2, "h2": 0}``) is summed. A missing one leaves the battle out of style control only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.files import bad_row, read_rows
from odin_rm.data.attributes import bold, headers, list_items
from odin_rm.data.text_view import TextView
from odin_rm.evaluation.style_control import Battles
from odin_rm.results.annotations import SystemAnnotations

_OUTCOMES = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}
_VERDICTS = {"A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B=A": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3)}
_UNKNOWN = [math.nan] * 4
_FIELDS = ("token_len", "header_count", "list_count", "bold_count")


class _Collected:
    """Battles as they come."""

    def __init__(self) -> None:
        self.models: dict[str, int] = {}
        self.questions: dict[str, int] = {}
        self.rows: list[tuple[int, int, float, float, int]] = []
        self.counts: list[list[list[float]]] = []

    def add(
        self, question: str, first: str, second: str, outcome: float, weight: float, counts: list[list[float]]
    ) -> None:
        """Take a battle."""
        a, b = (self.models.setdefault(name, len(self.models)) for name in (first, second))
        number = self.questions.setdefault(question, len(self.questions))
        self.rows.append((a, b, outcome, weight, number))
        self.counts.append(counts)

    def battles(self, where: str) -> Battles:
        """The columns.

        Raises:
            DataError: there is none.
        """
        if not self.rows:
            raise DataError("there are no battles", where=where, fix="Give rows of LMArena or of Arena-Hard.")
        first, second, outcome, weight, question = np.array(self.rows, dtype=np.float64).T
        return Battles(
            tuple(self.models), first.astype(int), second.astype(int), outcome, weight,
            np.array(self.counts, dtype=np.float64).reshape(-1, 2, 4), question.astype(int),
        )  # fmt: skip


def holds_battles(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of LMArena's or of Arena-Hard's."""
    return ("winner" in row and "model_a" in row) or "games" in row


def read_battles(files: Sequence[str], answers: Sequence[str] = (), baseline: str | None = None) -> Battles:
    """The battles of files.

    Args:
        files: of LMArena's or Arena-Hard's rows.
        answers: Arena-Hard's answers, rows of ``uid`` (or ``question_id``), ``model`` and ``metadata``.
        baseline: whom Arena-Hard's rows compare with, where they do not say.

    Raises:
        RowError: a row is neither, or lacks a field.
        DataError: no battle, or no baseline.
    """
    known: dict[tuple[str, str], list[float]] = {}
    for file in answers:
        for number, row in read_rows(file):
            question = row.get("uid", row.get("question_id"))
            if question is None or row.get("model") is None:
                raise bad_row(file, number, "has no uid (or question_id) or no model", "Give Arena-Hard's answers.")
            known[str(question), str(row["model"])] = _stated(row)
    found, judged = _Collected(), []
    for file in files:
        for number, row in read_rows(file):
            try:
                if "games" in row:
                    judged.append(_judged(row, baseline))
                    known.setdefault(judged[-1][:2], _stated(row))
                else:
                    _arena(row, str(number), found)
            except RowError as error:
                raise bad_row(file, number, error.what, error.fix) from error
    for question, model, other, games in judged:
        theirs, ours = known.get((question, other), _UNKNOWN), known.get((question, model), _UNKNOWN)
        if model == other:
            continue
        for k, (outcome, weight) in enumerate(games):
            won = 1 - outcome if k == 0 else outcome
            found.add(question, model, other, won, weight, [ours, theirs])
    return found.battles(str(files[0]))


def _arena(row: Mapping[str, Any], number: str, found: _Collected) -> None:
    winner = row.get("winner")
    if winner not in _OUTCOMES or row.get("model_a") is None or row.get("model_b") is None:
        what = f"'winner' is {winner!r}" if "winner" in row else "has no 'winner'"
        raise RowError(what, fix=f"Write model_a and model_b, and one of {', '.join(_OUTCOMES)}.")
    metadata = row.get("conv_metadata") or row
    sides = []
    for side in "ab":
        names = (f"sum_assistant_{side}_tokens", f"header_count_{side}", f"list_count_{side}", f"bold_count_{side}")
        sides.append([_count(metadata.get(name), name) for name in names])
    question = str(row.get("question_id", row.get("id", number)))
    found.add(question, str(row["model_a"]), str(row["model_b"]), _OUTCOMES[winner], 1, sides)


def _judged(row: Mapping[str, Any], baseline: str | None) -> tuple[str, str, str, list[tuple[float, int]]]:
    question, model = row.get("uid", row.get("question_id")), row.get("model")
    other = row.get("baseline", baseline)
    if question is None or model is None:
        raise RowError("has no uid (or question_id) or no model", fix="Give Arena-Hard's judgements.")
    if other is None:
        raise RowError("does not say whom the model was compared with", fix="Name it by --battle_baseline.")
    games = row["games"]
    if not isinstance(games, list) or len(games) != 2:
        raise RowError("'games' is no list of two verdicts", fix="Give both orders; the first has the baseline as A.")
    verdicts = []
    for game in games:
        score = game.get("score") if isinstance(game, Mapping) else game
        if score not in _VERDICTS:
            raise RowError(f"a game's verdict is {score!r}", fix=f"Write one of {', '.join(_VERDICTS)}.")
        verdicts.append(_VERDICTS[score])
    return str(question), str(model), str(other), verdicts


def _stated(row: Mapping[str, Any]) -> list[float]:
    metadata = row.get("metadata") or row
    return [_count(metadata.get(name), name) for name in _FIELDS]


def _count(value: Any, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, Mapping):
        return float(sum(_count(one, name) for one in value.values()))
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RowError(f"'{name}' is {value!r}, not a number", fix="Write a count.") from None


def battles_of_annotations(systems: Iterable[SystemAnnotations], count_tokens: Any) -> Battles:
    """AlpacaEval's annotations as battles: the candidate against its baseline, a preference as a share of a win.

    Args:
        systems: judgements by candidate.
        count_tokens: the number of tokens of a text.
    """
    found, seen = _Collected(), {}

    def counts(text: str) -> list[float]:
        if text not in seen:
            view = TextView(text)
            seen[text] = [float(count_tokens(text)), headers(view), list_items(view), bold(view)]
        return seen[text]

    for system in systems:
        rows = zip(system.prompts, system.preference, system.candidate_outputs, system.baseline_outputs, strict=True)
        for prompt, preference, ours, theirs in rows:
            sides = [counts(ours), counts(theirs)]
            found.add(prompt, system.candidate, system.baseline, float(preference) - 1, 1, sides)
    return found.battles("annotations")
