"""Judgements that were made before: AlpacaEval annotation files, and the folders that ``odin-rm judge`` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError
from odin_rm.core.files import bad_row, read_rows
from odin_rm.core.reading import read_bytes
from odin_rm.evaluation.judgements import Judgement, Question
from odin_rm.judging.judge import Judge, Record
from odin_rm.results.annotation_rows import ORDERS, check_preferences, parse_annotation, parse_orders
from odin_rm.results.preference_codes import ALPACA_EVAL, PreferenceCodes

_Key = tuple[str, str, str]


class RecordedJudge(Judge):
    """Answers from a file of annotations, found by their texts; rows are read as ``odin-rm win-rate`` reads them.

    Rows that we wrote hold one preference per order; AlpacaEval's hold one for both, and it answers both. Where each
    order is a row of its own, ``candidate_first`` and ``candidate_second`` answer their own order; of orders by other
    names nobody knows which is which, and their mean answers both. A row that shows the two answers the other way round
    is turned.

    Args:
        path: an annotation file, or a folder that holds ``annotations.json``.
        codes: how its preferences are written.

    Raises:
        DataError: an unreadable file, preferences that may be written in other codes, or a row that is no annotation.
    """

    ask_again = False

    def __init__(self, path: str, codes: PreferenceCodes = ALPACA_EVAL) -> None:
        self.path = Path(path, "annotations.json") if Path(path).is_dir() else Path(path)
        self.name, self.codes = self.path.name, codes
        self._candidates: dict[_Key, str] = {}
        held: dict[_Key, dict[str | None, float | None]] = {}
        numbered = list(read_rows(self.path))
        check_preferences(self.path, [row for _, row in numbered], codes)
        for number, row in numbered:
            self._add(held, number, row)
        self._preferences: dict[_Key, float | None] = {}
        for (instruction, first, second), by_order in held.items():
            straight, turned = _both_orders(by_order)
            # The second place of each question is the row's output_2, then its output_1.
            self._preferences[instruction, first, second] = straight
            self._preferences[instruction, second, first] = None if turned is None else 3.0 - turned

    def _add(self, held: dict[_Key, dict[str | None, float | None]], number: int, row: dict[str, Any]) -> None:
        # An empty output is never asked about, so it does no harm here.
        item = parse_annotation(self.path, number, row, empty=True, codes=self.codes)
        given: dict[str | None, float | None] = dict(parse_orders(self.path, number, row, self.codes).items())
        given = given or {item.order: item.preference}
        first, second = item.baseline_output, item.candidate_output
        by_order = held.setdefault((item.instruction, first, second), {})
        of_another = item.candidate != self._candidates.setdefault((item.instruction, first, second), item.candidate)
        if of_another and given.items() <= by_order.items():
            return  # two models that answer alike were judged alike
        turned = first != second and (item.instruction, second, first) in held
        if turned or (first != second and by_order and (None in by_order or None in given or given.keys() & by_order)):
            raise bad_row(self.path, number, "the same two outputs are judged again", "Keep one row of them.")
        by_order |= given

    def identity(self) -> dict[str, Any]:
        codes = {"preference_codes": list(self.codes.words)} if self.codes.words else {}
        return {"kind": "recorded", "sha256": hashlib.sha256(read_bytes(self.path)).hexdigest(), **codes}

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


def _both_orders(by_order: dict[str | None, float | None]) -> tuple[float | None, float | None]:
    """The preference for the candidate when it is shown second, and when it is shown first."""
    if by_order.keys() <= set(ORDERS):
        return by_order.get("candidate_second"), by_order.get("candidate_first")
    given = [value for value in by_order.values() if value is not None]
    mean = sum(given) / len(given) if len(given) == len(by_order) else None
    return mean, mean
