"""The paper's figures from plain records: fronts of all arms, the effect of one setting, reward against length by head.

Each function returns a :class:`Drawing`: the figure, the plain data that it shows, and its description in words.

    drawing = draw_main_fronts(points, length_label="mean response tokens", score_label="win score")
    drawing = draw_setting_effect(points, "kl_coef", setting_label="KL coefficient", ...)
    drawing = draw_reward_against_length([HeadScores("odin", "quality", length_R, quality_R), ...])
    drawing = draw_recipe("kl", points, length_label=..., score_label=...)     # by name, see RECIPES
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.evaluation.pareto import RunPoints, pareto_front
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.blocks import format_number
from odin_rm.reports.fronts import (
    Drawing,
    Look,
    draw_band,
    draw_front,
    draw_marks,
    draw_runs,
    legend_above,
    length_limits,
    panel_grid,
)
from odin_rm.reports.reward_length import HeadScores, draw_reward_against_length
from odin_rm.reports.style import MARKERS, model_colours, model_markers, new_canvas, shorten, styled

__all__ = [
    "RECIPES",
    "Band",
    "Drawing",
    "HeadScores",
    "Recipe",
    "draw_main_fronts",
    "draw_recipe",
    "draw_reward_against_length",
    "draw_setting_effect",
    "run_points",
    "runs_by_arm",
]

MOST_PANELS = 9
MOST_BANDS, MOST_INTERVALS = 5, 40
"""Arms and runs up to which a figure shows intervals; beyond that they hide what they belong to."""


@dataclass(frozen=True)
class Band:
    """The front of an arm at each of some lengths with its interval.

    Attributes:
        length_M: lengths.
        figures: the front there, undefined where it attains nothing.
    """

    length_M: np.ndarray
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Recipe:
    """One of the paper's figures of runs.

    Attributes:
        title: what it shows.
        setting: the setting that is the colour; ``None`` draws the fronts of all arms.
        setting_label: the setting in words.
        panel: what a panel is for: ``arm``, ``algorithm`` or a setting.
        algorithms: only runs of these; empty for all.
    """

    title: str
    setting: str | None = None
    setting_label: str = ""
    panel: str = "arm"
    algorithms: tuple[str, ...] = ()


RECIPES: Mapping[str, Recipe] = {
    "main": Recipe("Score against length: every run, and what each arm attains."),
    "kl": Recipe("The effect of the KL coefficient.", "kl_coef", "KL coefficient β"),
    "epsilon": Recipe("The effect of PPO's ratio clipping.", "clip_epsilon", "ε", algorithms=("ppo",)),
    "experience_size": Recipe(
        "The effect of the responses collected with one policy.", "experience_size", "N", algorithms=("ppo",)
    ),
    "clip": Recipe("The effect of clipping the reward.", "reward_clip", "reward clip c"),
    "length_penalty": Recipe("The effect of a length penalty.", "length_penalty", "length penalty α"),
}
"""The figures of runs by name; ``heads`` is :func:`draw_reward_against_length`, which takes scored responses."""


def draw_recipe(
    name: str,
    points: Sequence[RunPoint],
    *,
    length_label: str,
    score_label: str,
    panel: str | None = None,
    marks: Sequence[RunPoint] = (),
    lengths: Mapping[str, float] | None = None,
) -> Drawing:
    """A figure of :data:`RECIPES`.

    Args:
        name: of the recipe.
        points: the runs; those that the recipe is not about are left out.
        length_label, score_label: of the axes, with their units.
        panel: instead of the recipe's.
        marks, lengths: as in :func:`draw_main_fronts`.

    Raises:
        ConfigError: there is no such recipe.
        DataError: no run has the setting, or all have the same value.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe '{name}'", fix=f"Use one of: {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    labels: dict[str, Any] = {"length_label": length_label, "score_label": score_label}
    if recipe.setting is None:
        return draw_main_fronts(points, marks=marks, lengths=lengths, **labels)
    kept = [p for p in points if not recipe.algorithms or not p.algorithm or p.algorithm in recipe.algorithms]
    return draw_setting_effect(
        kept, recipe.setting, setting_label=recipe.setting_label, panel=panel or recipe.panel, marks=marks,
        lengths=lengths, **labels,
    )  # fmt: skip


def runs_by_arm(points: Sequence[RunPoint]) -> dict[str, list[RunPoint]]:
    """The runs of each arm, arms in order of appearance."""
    arms: dict[str, list[RunPoint]] = {}
    for point in points:
        arms.setdefault(point.arm, []).append(point)
    return arms


def run_points(points: Sequence[RunPoint]) -> RunPoints:
    """The columns of some runs, as :mod:`odin_rm.evaluation.pareto` takes them."""
    return RunPoints(np.array([p.mean_length for p in points]), np.array([p.score for p in points]))


def draw_main_fronts(
    points: Sequence[RunPoint],
    *,
    length_label: str,
    score_label: str,
    bands: Mapping[str, Band] | None = None,
    band_label: str = "95 % interval of the front",
    marks: Sequence[RunPoint] = (),
    lengths: Mapping[str, float] | None = None,
) -> Drawing:
    """Every run as a point, and the front of each arm as the step line of what it attains at each length.

    Args:
        points: the runs. Arms are told apart by colour and marker, algorithms by how the marker is filled.
        length_label, score_label: of the axes, with their units.
        bands: intervals of the fronts by arm.
        band_label: what they are.
        marks: single policies that are compared with and are no part of a front (the start, DPO), by their ``name``.
        lengths: lengths to mark by a vertical line, by name: what the optimum needs, the baseline's.

    Raises:
        DataError: there is no point.
    """
    if not points:
        raise DataError("there is no run to draw")
    arms, lengths = runs_by_arm(points), lengths or {}
    look = Look(model_colours(list(arms)), model_markers(list(arms)), _algorithms(points))
    limits = length_limits([*points, *marks], lengths.values())
    with styled():
        canvas, (axis,) = new_canvas(width=8.6, height=5.2)
        bands = bands if bands and len(bands) <= MOST_BANDS else {}
        for arm, band in bands.items():
            draw_band(axis, band.length_M, band.figures, look.colours[arm])
        for arm, runs in arms.items():
            draw_front(axis, run_points(runs), limits[1], look.colours[arm])
            few = len(points) <= MOST_INTERVALS
            draw_runs(axis, runs, look.colours[arm], look.markers[arm], look.algorithms, few)
        draw_marks(axis, marks, lengths, limits)
        axis.set_xlim(*limits)
        axis.set_xlabel(length_label)
        axis.set_ylabel(score_label)
        legend_above(canvas, look, lengths, band_label if bands else "")
    fronts = {arm: _front_rows(runs) for arm, runs in arms.items()}
    data = {
        "length": length_label,
        "score": score_label,
        "points": [p.to_json() for p in points],
        "fronts": fronts,
        "marks": [p.to_json() for p in marks],
        "lengths": dict(lengths),
    }
    return Drawing(canvas, data, f"Scatter plot of {score_label} against {length_label}. {_front_words(fronts)}")


def draw_setting_effect(
    points: Sequence[RunPoint],
    setting: str,
    *,
    length_label: str,
    score_label: str,
    setting_label: str = "",
    panel: str = "arm",
    marks: Sequence[RunPoint] = (),
    lengths: Mapping[str, float] | None = None,
) -> Drawing:
    """What one setting does: a panel per arm, a colour and a front per value of the setting.

    Args:
        points: the runs; those without the setting are left out.
        setting: its name in the runs' ``settings``.
        length_label, score_label: of the axes, with their units.
        setting_label: the setting in words; default its name.
        panel: what a panel is for: ``arm``, ``algorithm`` or another setting.
        marks, lengths: as in :func:`draw_main_fronts`, in every panel.

    Raises:
        DataError: no run has the setting, all have the same value, or there are too many panels to read.
    """
    kept = [point for point in points if point.value_of(setting) is not None]
    if not kept:
        raise DataError(f"no run has the setting '{setting}'", fix="Give runs whose settings are known.")
    values = sorted({_key(point.value_of(setting)) for point in kept})
    if len(values) == 1:
        fix = "Give runs that differ in it."
        raise DataError(f"all runs have {setting} {values[0][1]}: there is no effect to show", fix=fix)
    panels: dict[str, list[RunPoint]] = {}
    for point in kept:
        panels.setdefault(_text(point.value_of(panel)), []).append(point)
    if len(panels) > MOST_PANELS:
        fix = f"Leave arms out: at most {MOST_PANELS} are legible."
        raise DataError(f"{len(panels)} panels, one for each {panel}", fix=fix)
    lengths = lengths or {}
    names = [f"{setting_label or setting} = {text}" for _, text in values]
    look = Look(_shades(names), {n: MARKERS[k % len(MARKERS)] for k, n in enumerate(names)}, _algorithms(kept))
    limits = length_limits([*kept, *marks], lengths.values())
    data: dict[str, Any] = {"length": length_label, "score": score_label, "setting": setting, "panels": []}
    with styled():
        canvas, axes = panel_grid(len(panels))
        for axis, (title, runs) in zip(axes, panels.items(), strict=False):
            fronts = {}
            for name, value in zip(names, values, strict=True):
                held = [point for point in runs if _key(point.value_of(setting)) == value]
                if held:
                    draw_front(axis, run_points(held), limits[1], look.colours[name])
                    few = len(runs) <= MOST_INTERVALS
                    draw_runs(axis, held, look.colours[name], look.markers[name], look.algorithms, few)
                    fronts[value[1]] = _front_rows(held)
            draw_marks(axis, marks, lengths, limits)
            axis.set_xlim(*limits)
            axis.set_title(shorten(title))
            data["panels"].append({panel: title, "points": [p.to_json() for p in runs], "fronts": fronts})
        canvas.supxlabel(length_label, fontsize=10)
        canvas.supylabel(score_label, fontsize=10)
        legend_above(canvas, look, lengths)
    words = " ".join(f"{part[panel]}: {_front_words(part['fronts'])}" for part in data["panels"])
    return Drawing(canvas, data, f"Scatter plots of {score_label} against {length_label} by {setting}. {words}")


# ---- internals -------------------------------------------------------------------------------------------------------


def _algorithms(points: Sequence[RunPoint]) -> list[str]:
    return list(dict.fromkeys(point.algorithm for point in points if point.algorithm))


def _shades(names: Sequence[str]) -> dict[str, str]:
    """From dark to light in order: the values of a setting have one."""
    shades = colormaps["viridis"](np.linspace(0.0, 0.82, len(names)))
    return {name: to_hex(shade) for name, shade in zip(names, shades, strict=True)}


def _key(value: Any) -> tuple[tuple[int, float, str], str]:
    """Numbers in their order, text after them; and how the value is written."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return (1, 0.0, value), value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), ""), _text(value)
    return (1, 0.0, str(value)), str(value)


def _text(value: Any) -> str:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return "none" if value == math.inf else f"{value:g}"
    return "unknown" if value in (None, "") else str(value)


def _front_rows(runs: Sequence[RunPoint]) -> list[dict[str, Any]]:
    return [
        {"name": runs[k].name, "length": runs[k].mean_length, "score": runs[k].score}
        for k in pareto_front(run_points(runs))
    ]


def _front_words(fronts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    parts = [
        f"{name}: " + ", ".join(f"{format_number(float(r['score']), 2)} at {r['length']:.0f}" for r in rows)
        for name, rows in fronts.items()
    ]
    return "Front of " + "; ".join(parts) + "."
