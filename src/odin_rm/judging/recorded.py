"""Judgements that were made before: AlpacaEval annotation files, and the folders that ``odin-rm judge`` writes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError
from odin_rm.core.files import bad_row, read_rows
from odin_rm.evaluation.judgements import Judgement, Question
from odin_rm.judging.judge import Judge, Record

ORDERS = ("preference_candidate_second", "preference_candidate_first")

_Key = tuple[str, str, str]


class RecordedJudge(Judge):
    """Answers from a file of annotations, found by their texts.

    Rows that we wrote hold one preference per order; AlpacaEval's hold one for both, and it answers both. A row that
    shows the two answers the other way round is turned.

    Args:
        path: an annotation file, or a folder that holds ``annotations.json``.

    Raises:
        DataError: an unreadable file, or a row that is no annotation.
    """

    ask_again = False

    def __init__(self, path: str) -> None:
        self.path = Path(path, "annotations.json") if Path(path).is_dir() else Path(path)
        self.name = self.path.name
        self._preferences: dict[_Key, float | None] = {}
        for number, row in read_rows(self.path):
            self._add(number, row)

    def _add(self, number: int, row: dict[str, Any]) -> None:
        texts = [text for name in ("instruction", "output_1", "output_2") if isinstance(text := row.get(name), str)]
        if len(texts) < 3:
            fix = "Give AlpacaEval's annotations: instruction, output_1, output_2, preference."
            raise bad_row(self.path, number, "is no annotation of two outputs", fix)
        instruction, first, second = texts
        columns = ORDERS if all(name in row for name in ORDERS) else ("preference", "preference")
        straight, turned = (self._preference(number, row, name) for name in columns)
        # The second place of each question is the row's output_2, then its output_1.
        answers = {
            (instruction, first, second): straight,
            (instruction, second, first): None if turned is None else 3.0 - turned,
        }
        if first != second and any(key in self._preferences for key in answers):
            raise bad_row(self.path, number, "the same two outputs are judged again", "Keep one row of them.")
        self._preferences |= answers

    def _preference(self, number: int, row: dict[str, Any], name: str) -> float | None:
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 2:
            raise bad_row(self.path, number, f"'{name}' is {value!r}, not a number from 1 to 2", "Correct it.")
        return float(value)

    def identity(self) -> dict[str, Any]:
        return {"kind": "recorded", "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def prepare(self, questions: Sequence[Question]) -> None:
        missing = {q.instruction for q in questions if (q.instruction, q.first, q.second) not in self._preferences}
        if missing:
            example = " ".join(min(missing).split())[:60]
            what = f"holds no judgement of these outputs for {len(missing)} instructions (one is '{example}')"
            raise DataError(what, where=str(self.path), fix="Record them, or give the outputs that were judged.")

    def judge(self, questions: Sequence[Question], record: Record) -> None:
        for number, question in enumerate(questions):
            preference = self._preferences[question.instruction, question.first, question.second]
            record(number, Judgement(preference))
