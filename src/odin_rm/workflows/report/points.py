"""Runs as points, read from what other commands wrote: ``pareto.json``, ``summary.json``, figures' data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.comparison.records import Fronts, FrontSummary

Row = Mapping[str, Any]

LENGTH_LABEL = "mean response tokens"
SCORE_LABELS = {"win_score": "win score", "true_quality": "true quality"}


def read_fronts(path: Path, name: str, content: Row) -> Fronts:
    """The runs of ``pareto.json`` or of a figure's data file: ``points`` with ``arm``, ``length`` and ``score``.

    Raises:
        DataError: a point lacks one of them, or there is no point.
    """
    points = [_point(path, number, row) for number, row in enumerate(_rows(content.get("points")), start=1)]
    if not points:
        raise DataError("holds no point", where=str(path), fix="Make it again from runs that ended.")
    marks = {}
    for row in _rows(content.get("marks")):
        length, score = as_figure(row.get("length")), as_figure(row.get("score"))
        if length.value is not None and score.value is not None:
            marks[str(row.get("name", "mark"))] = (length.value, score.value)
    score_label, length_label = _label(content, "score", "score"), _label(content, "length", LENGTH_LABEL)
    lengths = content.get("lengths")
    known = {str(key): at for key, at in lengths.items() if number_of(at)} if isinstance(lengths, Mapping) else {}
    return Fronts(name, points, score_label, length_label, marks, known, _summary(path, content))


def read_experiment(path: Path, name: str, content: Row) -> list[Fronts]:
    """The policies of a testbed experiment as points, once for each score that all of them have.

    Raises:
        DataError: a run has no arm or no length.
    """
    runs = _rows(content.get("runs"))
    fronts = []
    for score, label in SCORE_LABELS.items():
        if not runs or any(as_figure(row.get(score)).value is None for row in runs):
            continue
        points = [_point(path, number, row, "mean_tokens", score) for number, row in enumerate(runs, start=1)]
        start = content.get("start")
        marks = {}
        if isinstance(start, Mapping):
            at = [as_figure(start.get(column)).value for column in ("mean_tokens", score)]
            marks = {} if None in at else {"start (SFT)": (at[0], at[1])}
        fronts.append(Fronts(name, points, label, LENGTH_LABEL, marks))  # type: ignore[arg-type]
    return fronts


def _summary(path: Path, content: Row) -> FrontSummary | None:
    """The fronts of ``pareto.json``; a figure's data file has none of their intervals."""
    if "arms" not in content:
        return None
    try:
        arms = {
            str(name): {**arm, "hypervolume": as_figure(arm["hypervolume"]),
                        **{key: [as_figure(row) for row in arm[key]] for key in ("band", "matched")}}
            for name, arm in content["arms"].items()
        }  # fmt: skip
        comparisons = [
            {**pair, "hypervolume_difference": as_figure(pair["hypervolume_difference"]),
             "dominance": [number_of(share) for share in pair["dominance"]],
             "matched": [as_figure(row) for row in pair["matched"]],
             "matched_dominance": [number_of(row["dominance"]) for row in pair["matched"]]}
            for pair in content["comparisons"]
        ]  # fmt: skip
        matched = [row["length"] for row in next(iter(content["arms"].values()))["matched"]]
        return FrontSummary(arms, comparisons, content["grid"], matched, content["y"], content["length_unit"])
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        what = f"is no output of odin-rm pareto ({type(error).__name__}: {error})"
        raise DataError(what, where=str(path), fix="Make it again with odin-rm pareto.") from error


def as_figure(value: Any) -> Figure:
    """A number, or an object of ``value``, ``low`` and ``high``; undefined for anything else."""
    if isinstance(value, Mapping):
        point, low, high = (number_of(value.get(side)) for side in ("value", "low", "high"))
        return Figure(point, low, high, why=None if value.get("why") is None else str(value["why"]))
    return Figure(number_of(value))


def number_of(value: Any) -> float | None:
    """A number; ``None`` for anything else, NaN too."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return float(value) if known else None


def _point(path: Path, number: int, row: Row, length_field: str = "length", score_field: str = "score") -> RunPoint:
    length, score = as_figure(row.get(length_field)), as_figure(row.get(score_field))
    arm = row.get("arm", row.get("reward_model"))
    for field, value in (("arm", arm), (length_field, length.value), (score_field, score.value)):
        if value is None:
            fix = "Make it again from runs that ended."
            raise DataError(f"'{field}' is missing", where=f"{path}, point {number}", fix=fix)
    settings = row.get("settings")
    return RunPoint(
        arm=str(arm),
        mean_length=float(length.value or 0.0),
        score=float(score.value or 0.0),
        name=str(row.get("name") or ""),
        algorithm=str(row.get("algorithm") or ""),
        settings=settings if isinstance(settings, Mapping) else {},
        score_low=score.low,
        score_high=score.high,
        length_low=length.low,
        length_high=length.high,
    )


def _label(content: Row, key: str, default: str) -> str:
    value = content.get(key) or content.get(f"{key}_label")
    return value if isinstance(value, str) else default


def _rows(value: Any) -> Sequence[Row]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []
