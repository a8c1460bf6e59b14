"""Runs from a plain table: one row per run with its mean length and its score, from whatever code trained it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scipy.special import ndtri

from odin_rm.core.files import bad_row
from odin_rm.core.reading import parse_json
from odin_rm.evaluation.bootstrap import LEVEL
from odin_rm.evaluation.records import Figure
from odin_rm.results.run_records import LENGTHS, SCORES, RunRecord

NAMES = ("name", "generator", "model", "")
"""Columns that name the run; the last is the nameless first column of AlpacaEval's leaderboards."""
LENGTH_COLUMNS = {
    "tokens": ("mean_tokens", "tokens"),
    "characters": ("mean_characters", "characters", "avg_length"),
    None: ("mean_length", "length"),
}
"""Columns of the mean length; one without a unit is in the unit that is asked for."""
COUNTS = ("n", "n_total")
_TEXT = ("arm", "algorithm", "baseline", "judge")
_ENDINGS = ("_low", "_high", "_standard_error")
FIX = "Write columns arm, mean_tokens (or mean_characters) and score."


def read_table(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]], length: str, score: str) -> list[RunRecord]:
    """A run per row.

    Columns are ``arm``; a name (:data:`NAMES`); a mean length (:data:`LENGTH_COLUMNS`); a score by its own name or as
    ``score``, also with ``_low`` and ``_high`` or ``_standard_error``; ``n``, ``seed``, ``algorithm``, ``baseline``,
    ``judge``; ``settings``, an object. Every other column is a setting.

    Args:
        path: the file, for messages.
        rows: row numbers and rows.
        length, score: what a column without a unit, and one called ``score``, is.

    Raises:
        RowError: a row that names neither a run nor an arm, that is no number where one is needed, or that says nothing
            of a run.
    """
    return [_record(path, number, dict(row), length, score) for number, row in rows]


def _record(path: Path, number: int, row: dict[str, Any], length: str, score: str) -> RunRecord:
    row = {key: value for key, value in row.items() if value is not None and value != ""}
    named = next((str(row.pop(key)) for key in NAMES if key in row), None)
    text = {key: str(row.pop(key)) for key in _TEXT if key in row}
    if named is None and "arm" not in text:
        raise bad_row(path, number, "names neither a run nor its arm", FIX)
    seed, n = (_whole(path, number, row, keys) for keys in (("seed",), COUNTS))
    lengths = {unit: _figure(path, number, row, columns) for unit, columns in LENGTH_COLUMNS.items()}
    plain = lengths.pop(None)
    lengths[length] = lengths[length] or plain
    scores = {name: _figure(path, number, row, (name,)) for name in SCORES}
    plain = _figure(path, number, row, ("score",))
    scores[score] = scores[score] or plain
    if named is None and not any([*lengths.values(), *scores.values()]):
        raise bad_row(path, number, "has neither a mean length nor a score", FIX)
    settings = row.pop("settings", {})
    if isinstance(settings, str):
        settings = _settings(path, number, settings)
    if not isinstance(settings, Mapping):
        raise bad_row(path, number, "'settings' is no object", 'Write {"kl_coef": 0.1, ...}, or a column for each.')
    return RunRecord(
        name=named or f"{text['arm']} {number}",
        where=f"{path}, row {number}",
        arm=text.get("arm", ""),
        algorithm=text.get("algorithm", ""),
        seed=seed,
        n=n,
        settings=dict(settings) | {key: _value(value) for key, value in row.items()},
        lengths={unit: figure for unit in LENGTHS if (figure := lengths[unit]) is not None},
        scores={name: figure for name, figure in scores.items() if figure is not None},
        baseline=text.get("baseline"),
        judge=text.get("judge"),
    )


def _figure(path: Path, number: int, row: dict[str, Any], columns: Iterable[str]) -> Figure | None:
    """The number of the first column that is there, with its interval; the columns are taken off the row."""
    found: Figure | None = None
    for column in columns:
        if column not in row:
            continue
        value, (low, high, error) = (
            _float(path, number, column, row.pop(column)),
            (_float(path, number, column + end, row.pop(column + end, None)) for end in _ENDINGS),
        )
        if error is not None and value is not None and low is None and high is None:
            spread = float(ndtri((1 + LEVEL) / 2)) * error
            low, high = value - spread, value + spread
        found = found or Figure(value, low, high)
    return found


def _float(path: Path, number: int, column: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        out = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        out = math.nan
    if not math.isfinite(out):
        raise bad_row(path, number, f"'{column}' is {value!r}, not a number", "Give a number, or remove the row.")
    return out


def _whole(path: Path, number: int, row: dict[str, Any], columns: Iterable[str]) -> int | None:
    found = None
    for column in columns:
        value = _float(path, number, column, row.pop(column, None))
        if value is not None and not value.is_integer():
            raise bad_row(path, number, f"'{column}' is {value:g}, not a whole number", "Give a whole number.")
        found = int(value) if found is None and value is not None else found
    return found


def _settings(path: Path, number: int, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise bad_row(path, number, "'settings' is not valid JSON", 'Write {"kl_coef": 0.1, ...}.') from error


def _value(value: Any) -> Any:
    """A CSV cell that is a number as a number."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and value.strip().lstrip("+-").isdigit() else number
