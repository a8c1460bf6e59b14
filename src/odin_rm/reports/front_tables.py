"""The tables of fronts: what each arm attains, and which of two arms attains more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.blocks import DASH, Percent, Table, format_number


def arms_table(content: Mapping[str, Any], matched: Sequence[float], *, score: str, unit: str, digits: int) -> Table:
    """An arm per row: its runs, its front, its hypervolume and its score at each matched length.

    Args:
        content: of ``summarise_fronts``.
        matched: the lengths.
        score: the score in words.
        unit: of length.
        digits: of scores.
    """
    rows = []
    for name, arm in content["arms"].items():
        front = arm["front"]
        lengths = [row["length"] for row in front]
        span = f"{lengths[0]:,.0f}" if len(front) == 1 else f"{lengths[0]:,.0f} to {lengths[-1]:,.0f}"
        area = _area(arm["hypervolume"])
        rows.append([name, arm["runs"], len(front), span, front[-1]["score"], area, *arm["matched"]])
    columns = ["Arm", "Runs", "On the front", f"Front, {unit}", f"Best {score}", "Hypervolume"]
    columns += [f"Score {words}" for words in _at(matched, unit)]
    return Table("What each arm attains (95 % intervals).", columns, rows, digits=digits)


def comparisons_table(content: Mapping[str, Any], matched: Sequence[float], *, unit: str, digits: int) -> Table:
    """Every two arms: differences, first minus second, and the probability that the front of the first is higher.

    Args:
        content: of ``summarise_fronts``.
        matched: the lengths.
        unit: of length.
        digits: of scores.
    """
    rows = [
        [pair["first"], pair["second"], _area(pair["hypervolume_difference"]), *_interleaved(pair)]
        for pair in content["comparisons"]
    ]
    columns = ["First", "Second", "Hypervolume"]
    for words in _at(matched, unit):
        columns += [f"Difference {words}", f"P {words}"]
    caption = (
        "First minus second, with the probability P that the front of the first is the higher one (95 % intervals)."
    )
    return Table(caption, columns, rows, digits=digits)


def runs_table(points: Sequence[RunPoint], settings: Sequence[str], *, score: str, unit: str, digits: int) -> Table:
    """A run per row, with the settings that differ between runs.

    Args:
        points: the runs.
        settings: which ones are shown.
        score: the score in words.
        unit: of length.
        digits: of scores.
    """
    rows = [
        [
            point.name,
            point.arm,
            *(_setting(point.settings.get(name)) for name in settings),
            Figure(point.mean_length, point.length_low, point.length_high),
            Figure(point.score, point.score_low, point.score_high),
        ]
        for point in points
    ]
    return Table("Every run.", ["Run", "Arm", *settings, f"Mean length, {unit}", score], rows, digits=digits)


def _at(matched: Sequence[float], unit: str) -> list[str]:
    return [f"at {length:,.0f} {unit}" for length in matched]


def _area(figure: Figure) -> str:
    """Four digits that count, however large the unit is."""
    sides = [value for value in (figure.value, figure.low, figure.high) if value is not None]
    largest = max(map(abs, sides), default=0.0)
    digits = 0 if largest >= 1000 else 1 if largest >= 10 else 3
    text = [format_number(value, digits) if digits else format_number(round(value)) for value in sides]
    return DASH if not text else text[0] if len(text) < 3 else f"{text[0]} ({text[1]} to {text[2]})"


def _interleaved(pair: Mapping[str, Any]) -> list[Any]:
    cells: list[Any] = []
    for figure, probability in zip(pair["matched"], pair["matched_dominance"], strict=True):
        cells += [figure, Percent(probability)]
    return cells


def _setting(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:g}" if isinstance(value, float) else format_number(value) if isinstance(value, int) else str(value)
