"""The part of an audit's page on two models: what has fallen, and what has grown in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure
from odin_rm.reports.audit_charts import FIGURES, NEAR_ZERO
from odin_rm.reports.blocks import Percent, Table, Text, format_number
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.sections import Charts, Section

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
    blocks: list[Text | Table | Charts] = [Text(moved_sentence(content, words)), Text(_HOW_TO_READ)]
    if names:
        blocks.append(Charts([_moved_chart(matrix, names, words, before, after)]))
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


def _moved_chart(
    matrix: Mapping[str, Any], names: Sequence[str], words: Mapping[str, str], before: str, after: str
) -> Chart:
    categories = [words[name] for name in names]
    series = []
    for model, side, variant in ((before, "before", 1), (after, "after", 0)):
        figures = [Figure.from_json(matrix[name]["within"][side]) for name in names]
        sides: dict[str, Any] = {}
        if side == "after":  # of the model that is looked at; two intervals in a row would hide the move
            sides = {bound: [getattr(f, bound) for f in figures] for bound in ("low", "high")}
        own: dict[str, Any] = {"style": "points", "variant": variant, "group": "moved"}
        series.append(Series(model, categories, [f.value for f in figures], **sides, **own))
    told = "; ".join(
        f"{words[n]} from {format_number(matrix[n]['within']['before']['value'], 2)} to "
        f"{format_number(matrix[n]['within']['after']['value'], 2)}"
        for n in names
    )
    return Chart(
        f"substitution_{_file_name(after)}", "What has moved", "",
        "correlation with the reward", series,
        f"Within a prompt: {before} (hollow) and {after} (filled, with 95 % intervals).", told, digits=2, sideways=True,
        marks=(Mark(-NEAR_ZERO, "", until=NEAR_ZERO), Mark(0.0, "")),
    )  # fmt: skip


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
