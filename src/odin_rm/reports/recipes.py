"""The paper's figures from plain records: fronts of all arms, the effect of one setting, reward against length by head.

Each function returns :class:`Panels`: the charts, the plain data that they show, and their description in words.

    figure = main_fronts(points, length_label="mean response tokens", score_label="win score")
    figure = setting_effect(points, "kl_coef", setting_label="KL coefficient", ...)
    figure = reward_against_length([HeadScores("odin", "quality", length_R, quality_R), ...])
    figure = recipe_figure("kl", points, length_label=..., score_label=...)     # by name, see RECIPES
    draw_panels(figure.charts).savefig("kl.png")                               # chart_still
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.evaluation.records import RunPoint
from odin_rm.reports.fronts import Band, FrontAxes, Panels, front_panel, front_rows, front_words, runs_by_arm
from odin_rm.reports.reward_length import HeadScores, reward_against_length

__all__ = [
    "RECIPES",
    "Band",
    "HeadScores",
    "Panels",
    "Recipe",
    "main_fronts",
    "recipe_figure",
    "reward_against_length",
    "setting_effect",
]

MOST_PANELS = 9


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
"""The figures of runs by name; ``heads`` is :func:`reward_against_length`, which takes scored responses."""


def recipe_figure(
    name: str,
    points: Sequence[RunPoint],
    *,
    length_label: str,
    score_label: str,
    panel: str | None = None,
    marks: Sequence[RunPoint] = (),
    lengths: Mapping[str, float] | None = None,
) -> Panels:
    """A figure of :data:`RECIPES`.

    Args:
        name: of the recipe.
        points: the runs; those that the recipe is not about are left out.
        length_label, score_label: of the axes, with their units.
        panel: instead of the recipe's.
        marks, lengths: as in :func:`main_fronts`.

    Raises:
        ConfigError: there is no such recipe.
        DataError: no run has the setting, or all have the same value.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe '{name}'", fix=f"Use one of: {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    labels: dict[str, Any] = {"length_label": length_label, "score_label": score_label, "lengths": lengths}
    if recipe.setting is None:
        return main_fronts(points, marks=marks, **labels)
    held = [p for p in points if not recipe.algorithms or not p.algorithm or p.algorithm in recipe.algorithms]
    return setting_effect(
        held, recipe.setting, setting_label=recipe.setting_label, panel=panel or recipe.panel, marks=marks, file=name,
        caption=recipe.title, **labels,
    )  # fmt: skip


def main_fronts(
    points: Sequence[RunPoint],
    *,
    length_label: str,
    score_label: str,
    bands: Mapping[str, Band] | None = None,
    marks: Sequence[RunPoint] = (),
    lengths: Mapping[str, float] | None = None,
    file: str = "main",
    title: str = "",
    caption: str = "",
) -> Panels:
    """Every run as a point, and the front of each arm as the step line of what it attains at each length.

    Args:
        points: the runs. Arms are told apart by colour and marker, algorithms by how the marker is filled.
        length_label, score_label: of the axes, with their units.
        bands: intervals of the fronts by arm.
        marks: single policies that are compared with and are no part of a front (the start, DPO), by their ``name``.
        lengths: lengths to mark by a vertical line, by name: what the optimum needs, the baseline's.
        file, title, caption: of the chart.

    Raises:
        DataError: there is no point.
    """
    if not points:
        raise DataError("there is no run to draw")
    arms, axes = runs_by_arm(points), FrontAxes(length_label, score_label, marks, dict(lengths or {}))
    chart = front_panel(axes, arms, axes.limits(points), file=file, title=title, caption=caption, bands=bands)
    fronts = {arm: front_rows(runs) for arm, runs in arms.items()}
    data = {
        "length": length_label,
        "score": score_label,
        "points": [p.to_json() for p in points],
        "fronts": fronts,
        "marks": [p.to_json() for p in marks],
        "lengths": dict(axes.lengths),
    }
    return Panels([chart], data, chart.alt)


def setting_effect(
    points: Sequence[RunPoint],
    setting: str,
    *,
    length_label: str,
    score_label: str,
    setting_label: str = "",
    panel: str = "arm",
    marks: Sequence[RunPoint] = (),
    lengths: Mapping[str, float] | None = None,
    file: str = "effect",
    caption: str = "",
) -> Panels:
    """What one setting does: a panel per arm, a colour and a front per value of the setting.

    Args:
        points: the runs; those without the setting are left out.
        setting: its name in the runs' ``settings``.
        length_label, score_label: of the axes, with their units.
        setting_label: the setting in words; default its name.
        panel: what a panel is for: ``arm``, ``algorithm`` or another setting.
        marks, lengths: as in :func:`main_fronts`, in every panel.
        file, caption: of the charts; the number of its panel follows the name of each.

    Raises:
        DataError: no run has the setting, all have the same value, or there are too many panels to read.
    """
    held = [point for point in points if point.value_of(setting) is not None]
    if not held:
        raise DataError(f"no run has the setting '{setting}'", fix="Give runs whose settings are known.")
    values = sorted({_key(point.value_of(setting)) for point in held})
    if len(values) == 1:
        fix = "Give runs that differ in it."
        raise DataError(f"all runs have {setting} {values[0][1]}: there is no effect to show", fix=fix)
    panels: dict[str, list[RunPoint]] = {}
    for point in held:
        panels.setdefault(_text(point.value_of(panel)), []).append(point)
    if len(panels) > MOST_PANELS:
        fix = f"Leave arms out: at most {MOST_PANELS} are legible."
        raise DataError(f"{len(panels)} panels, one for each {panel}", fix=fix)
    names = {value: f"{setting_label or setting} = {value[1]}" for value in values}
    places = {name: k / max(1, len(names) - 1) for k, name in enumerate(names.values())}
    axes = FrontAxes(length_label, score_label, marks, dict(lengths or {}))
    limits, y_range = axes.limits(held), axes.score_limits(held)
    data: dict[str, Any] = {"length": length_label, "score": score_label, "setting": setting, "panels": []}
    charts = []
    for k, (title, runs) in enumerate(panels.items()):
        by_value = {value: [p for p in runs if _key(p.value_of(setting)) == value] for value in values}
        by_value = {value: found for value, found in by_value.items() if found}
        groups = {names[value]: found for value, found in by_value.items()}
        chart = front_panel(
            axes, groups, limits, file=f"{file}_{k + 1}", title=title, caption=caption, places=places, y_range=y_range
        )
        charts.append(chart)
        fronts = {value[1]: front_rows(found) for value, found in by_value.items()}
        data["panels"].append({panel: title, "points": [p.to_json() for p in runs], "fronts": fronts})
    words = " ".join(f"{part[panel]}: {front_words(part['fronts'])}" for part in data["panels"])
    return Panels(charts, data, f"Scatter plots of {score_label} against {length_label} by {setting}. {words}")


# ---- internals -------------------------------------------------------------------------------------------------------


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
