"""The part of an audit's page on two models: what has fallen, and what has grown in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure
from odin_rm.reports.audit_charts import FIGURES, NEAR_ZERO
from odin_rm.reports.blocks import MINUS, Percent, Plot, Table, Text, format_number
from odin_rm.reports.sections import Section
from odin_rm.reports.style import INK, model_colours, new_canvas, shorten, styled

_HOW_TO_READ = """
Both models are measured on the same pairs and the same resamples of prompts, so an interval of a difference is narrower
than those of its two sides. A bias that was taken off one attribute may come back on another one: read all rows. The
reward's coefficient is that of a regression on the differences of all attributes.

These are an audit's figures. They cannot tell a mended model from one that was overdone: give the model's probe to
odin-rm certify for a verdict.
"""


def substitution_section(content: Mapping[str, Any], results: Sequence[AuditResult]) -> Section:
    """The section on one comparison.

    Args:
        content: of :func:`odin_rm.evaluation.paired_audit.paired_audit`.
        results: the audits, for the attributes' words.
    """
    before, after = content["before"], content["after"]
    matrix = content["attributes"]
    words = {name: next((r.attributes[name].get("words", name) for r in results if name in r.attributes), name)
             for name in matrix}  # fmt: skip
    known = [name for name in matrix if matrix[name]["within"]["difference"]["value"] is not None]
    names = sorted(known, key=lambda name: -abs(matrix[name]["within"]["difference"]["value"]))
    blocks: list[Text | Table | Plot] = [Text(moved_sentence(content, words)), Text(_HOW_TO_READ)]
    if names:
        blocks.append(
            Plot(
                _arrows(matrix, names, words, before, after),
                f"substitution_{_file_name(after)}",
                "Correlation of the reward with each attribute within a prompt, before and after.",
                alt="; ".join(
                    f"{words[n]} from {format_number(matrix[n]['within']['before']['value'], 2)} to "
                    f"{format_number(matrix[n]['within']['after']['value'], 2)}"
                    for n in names
                ),
            )
        )
        blocks.append(_table(matrix, names, words))
    blocks.append(_figures(content))
    return Section(f"From {before} to {after}", blocks)


def moved_sentence(content: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """What has clearly fallen and grown within a prompt, in a sentence or two."""
    fallen: list[tuple[float, str]] = []
    grown: list[tuple[float, str]] = []
    for name, cells in content["attributes"].items():
        one = cells["within"]
        was, now = one["before"]["value"], one["after"]["value"]
        low, high = one["difference"].get("low"), one["difference"].get("high")
        if was is None or now is None or low is None or high is None or low <= 0 <= high:
            continue
        part = f"{words[name]} ({format_number(was, 2)} to {format_number(now, 2)})"
        (fallen if abs(now) < abs(was) else grown).append((abs(now - was), part))
    if not fallen and not grown:
        return f"No attribute's correlation with the reward within a prompt has clearly changed to {content['after']}."
    parts = []
    for verb, found in (("has fallen", fallen), ("has grown", grown)):
        if found:
            listed = ", ".join(part for _, part in sorted(found, reverse=True)[:4])
            parts.append(f"What {verb} clearly within a prompt, by size: {listed}.")
    return " ".join(parts)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).strip("_") or "model"


def _arrows(
    matrix: Mapping[str, Any], names: Sequence[str], words: Mapping[str, str], before: str, after: str
) -> Canvas:
    colours = model_colours([before, after])
    place = np.arange(len(names))[::-1].astype(float)
    with styled():
        canvas, (axis,) = new_canvas(width=8.6, height=1.4 + 0.26 * len(names))
        axis.axvspan(-NEAR_ZERO, NEAR_ZERO, color="#e8edf2", zorder=0)
        axis.axvline(0, color=INK, linewidth=1.0, zorder=1)
        for y, name in zip(place, names, strict=True):
            was, now = (Figure.from_json(matrix[name]["within"][side]) for side in ("before", "after"))
            axis.annotate("", (now.value, y), (was.value, y), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.0})
            axis.plot(was.value, y, "o", markeredgecolor=colours[before], markerfacecolor="white", markersize=6)
            axis.plot(now.value, y, "o", color=colours[after], markersize=5.5)
            if now.low is not None and now.high is not None:
                axis.plot([now.low, now.high], [y - 0.22] * 2, color=colours[after], linewidth=1.2)
        axis.plot([], [], "o", markeredgecolor=colours[before], markerfacecolor="white", label=shorten(before))
        axis.plot([], [], "o", color=colours[after], label=shorten(after))
        axis.set_yticks(place, [words[name] for name in names])
        axis.set_ylim(-0.7, len(names) - 0.3)
        axis.set_xlabel("correlation of the reward with the attribute within a prompt")
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.1f}".replace("-", MINUS))
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=8.5)
    return canvas


def _table(matrix: Mapping[str, Any], names: Sequence[str], words: Mapping[str, str]) -> Table:
    rows = []
    for name in names:
        row: list[Any] = [words[name]]
        for cell in ("within", "reward"):
            row += [Figure.from_json(matrix[name][cell][side]) for side in ("before", "after", "difference")]
        rows.append(row)
    columns = ["Attribute", "Within, before", "after", "difference", "Coefficient, before", "after ", "difference "]
    return Table("Substitution matrix: every attribute before and after.", columns, rows, digits=2)


def _figures(content: Mapping[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for name, figure in content["figures"].items():
        one = Figure.from_json(figure)
        words, percent = FIGURES[name]
        rows.append([words, Percent(one) if percent else one])
    caption = f"{content['after']} minus {content['before']}, on the same pairs."
    return Table(caption, ["Figure", "Difference"], rows)
