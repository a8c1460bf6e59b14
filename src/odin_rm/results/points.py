"""Runs as points, read from what other commands wrote: ``pareto.json``, ``summary.json``, figures' data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from odin_rm.core.errors import DataError
from odin_rm.evaluation.records import RunPoint
from odin_rm.results.contents import Row, as_figure, as_written, number_of, rows_of
from odin_rm.results.records import Fronts, FrontSummary
from odin_rm.results.run_records import as_point
from odin_rm.results.runs import experiment_runs

LENGTH_LABEL = "mean response tokens"
SCORE_LABELS = {"win_score": "win score", "true_quality": "true quality"}


def read_fronts(path: Path, name: str, content: Row) -> Fronts:
    """The runs of ``pareto.json`` or of a figure's data file: ``points`` with ``arm``, ``length`` and ``score``.

    Raises:
        DataError: a point lacks one of them, or there is no point.
    """
    points = [_point(path, number, row) for number, row in enumerate(rows_of(content.get("points")), start=1)]
    if not points:
        raise DataError("holds no point", where=str(path), fix="Make it again from runs that ended.")
    marks = {}
    for row in rows_of(content.get("marks")):
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
        DataError: a run has no length.
    """
    with as_written(path):
        runs = experiment_runs(path, {"runs": rows_of(content.get("runs"))})
    start = content.get("start")
    fronts = []
    for score, label in SCORE_LABELS.items():
        if not runs or not all(run.has("tokens", score) for run in runs):
            continue
        marks = {}
        if isinstance(start, Mapping):
            length, height = (as_figure(start.get(column)).value for column in ("mean_tokens", score))
            marks = {} if length is None or height is None else {"start (SFT)": (length, height)}
        points = [as_point(run, run.arm, "tokens", score) for run in runs]
        fronts.append(Fronts(name, points, label, LENGTH_LABEL, marks))
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


def _point(path: Path, number: int, row: Row) -> RunPoint:
    length, score = as_figure(row.get("length")), as_figure(row.get("score"))
    arm = row.get("arm", row.get("reward_model"))
    for field, value in (("arm", arm), ("length", length.value), ("score", score.value)):
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
