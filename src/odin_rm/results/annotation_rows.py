"""One row of an annotation file as a judgement: the only way in which rows of any file become judgements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odin_rm.core.files import bad_row, json_name
from odin_rm.results.preference_codes import ALPACA_EVAL, PreferenceCodes, UnknownPreferenceError

ORDERS = ("candidate_first", "candidate_second")
FIX_ROW = "Write rows of instruction, output_1, output_2 and preference, as AlpacaEval does."


@dataclass(frozen=True)
class Annotation:
    """One judgement of one pair of answers.

    Attributes:
        instruction: the prompt.
        baseline_output, candidate_output: the answers.
        baseline, candidate: who gave them.
        preference: 1 (baseline) to 2 (candidate); ``None`` where the judgement is missing.
        order: which order of showing was judged; ``None`` where the file does not say.
        annotator: the judge, where the file names one.
        file, row: where it stands.
    """

    instruction: str
    baseline_output: str
    candidate_output: str
    baseline: str
    candidate: str
    preference: float | None
    order: str | None
    annotator: str | None
    file: str
    row: int

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.file}, row {self.row}"


EMPTY_LOST = "empty_output_lost"
"""True in rows of ``odin-rm judge --empty_outputs lose`` that no judge was asked about."""


def parse_annotation(
    path: Path,
    number: int,
    row: dict[str, Any],
    named: dict[str, set[str]] | None = None,
    *,
    empty: bool = False,
    codes: PreferenceCodes = ALPACA_EVAL,
) -> Annotation:
    """The judgement of a row.

    Args:
        path, number: where the row stands.
        row: as it was read; numbers may be text, as in CSV files.
        named: takes in the instruction under its candidate, also where the rest is unusable.
        empty: whether an output may be empty; one that has lost for being empty (:data:`EMPTY_LOST`) always may.
        codes: how preferences are written.

    Raises:
        RowError: a field is missing, or is none.
    """
    candidate = _name(path, number, row, "generator_2") or path.name.split(".")[0]
    instruction = row.get("instruction", row.get("prompt"))
    if instruction is None or instruction == "":
        raise bad_row(path, number, "there is no 'instruction' (or 'prompt')", FIX_ROW)
    if not isinstance(instruction, str):
        instruction = json.dumps(instruction, ensure_ascii=False, sort_keys=True)
    if named is not None:
        named.setdefault(candidate, set()).add(instruction)
    empty = empty or row.get(EMPTY_LOST) is True
    return Annotation(
        instruction=instruction,
        baseline_output=_output(path, number, row, "output_1", empty),
        candidate_output=_output(path, number, row, "output_2", empty),
        baseline=_name(path, number, row, "generator_1") or "baseline",
        candidate=candidate,
        preference=parse_preference(path, number, row, codes=codes),
        order=_name(path, number, row, "order"),
        annotator=_name(path, number, row, "annotator"),
        file=str(path),
        row=number,
    )


def check_preferences(path: Path, rows: Sequence[dict[str, Any]], codes: PreferenceCodes) -> None:
    """Refuse a file whose preferences may be written in other codes than these.

    Raises:
        DataError: see :meth:`PreferenceCodes.check_file`.
    """
    names = ("preference", *(f"preference_{order}" for order in ORDERS))
    codes.check_file(path, [row[name] for row in rows for name in names if name in row])


def parse_orders(
    path: Path, number: int, row: dict[str, Any], codes: PreferenceCodes = ALPACA_EVAL
) -> dict[str, float | None]:
    """The preference of each of :data:`ORDERS`; nothing where the row does not say what either of them gave.

    Raises:
        RowError: a preference is no number between 1 and 2.
    """
    fields = {order: f"preference_{order}" for order in ORDERS}
    given = {
        order: parse_preference(path, number, row, name, codes=codes) if name in row else None
        for order, name in fields.items()
    }
    return {} if set(given.values()) == {None} else given


def parse_preference(
    path: Path, number: int, row: dict[str, Any], name: str = "preference", *, codes: PreferenceCodes = ALPACA_EVAL
) -> float | None:
    """A preference between 1 and 2, of a number, a text or a code; see :meth:`PreferenceCodes.read`.

    Returns:
        The preference; ``None`` where the field says that there is none.

    Raises:
        RowError: there is no such field, or it holds something else.
    """
    if name not in row:
        raise bad_row(path, number, f"field '{name}' is missing", FIX_ROW)
    try:
        return codes.read(row[name])
    except UnknownPreferenceError as error:
        fix = "1 means output_1 is better, 2 output_2, 1.5 a tie; --preference_codes names others."
        raise bad_row(path, number, str(error), fix) from None


def _name(path: Path, number: int, row: dict[str, Any], name: str) -> str | None:
    """What a row calls a model, a judge or an order; numbers are names too."""
    value = row.get(name)
    if isinstance(value, (list, dict)):
        raise bad_row(path, number, f"'{name}' is {json_name(value)}, not text", "Give a name.")
    return None if value is None else str(value)


def _output(path: Path, number: int, row: dict[str, Any], name: str, empty: bool) -> str:
    value = row.get(name)
    if value is None:
        raise bad_row(path, number, f"field '{name}' is missing", FIX_ROW)
    if not isinstance(value, str):
        raise bad_row(path, number, f"'{name}' is {json_name(value)}, not text", FIX_ROW)
    if not value.strip() and not empty:
        raise bad_row(path, number, f"'{name}' is empty", "Generate it again, or leave it out: --on_bad_row skip.")
    return value
