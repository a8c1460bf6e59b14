"""The page of ``odin-rm rivals``: what each arm keeps, what it pays for, and its differences to the first one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.rivals import BITS
from odin_rm.reports.blocks import Table, format_number
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.latex import latex_table
from odin_rm.reports.markdown import markdown_table
from odin_rm.reports.page import Report
from odin_rm.reports.sections import Block, Charts, Section

COLUMNS = {
    "accuracy": "accuracy",
    "accuracy_length_balanced": "balanced",
    "accuracy_length_matched": "within 10 %",
    BITS: "bits beyond a curve",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "pearson_within_prompt": "Pearson within",
    "best_of_n_gold": "gold of best-of-n",
}
"""Figures of the main table, in their order, with their headings."""


def rivals_report(content: Mapping[str, Any]) -> Report:
    """The page.

    Args:
        content: of ``rivals.json``.
    """
    sets = content["datasets"]
    sections = [Section(name if len(sets) > 1 else "Results", _blocks(content, name)) for name in sets]
    settings = Table(
        "Settings of the arms.",
        ["arm", "objective", "options"],
        [[name, arm["objective"], _options(arm)] for name, arm in content["arms"].items()],
        folded=True,
    )
    sections.append(Section("Settings", [settings]))
    some = content["settings"]
    return Report(
        title="Objectives beside each other",
        subtitle=f"Heads on frozen features of {content['model']}: {len(content['arms'])} arms, "
        f"{len(some['seeds'])} seeds, {some['folds']} parts of the prompts, each scored by heads trained on the others",
        headline=[_headline(content, name) for name in sets],
        sections=sections,
    )


def tables_of(content: Mapping[str, Any], name: str) -> list[Table]:
    """The tables of one data set: figures, differences, what is paid for, other attributes."""
    one = content["datasets"][name]
    tables = [_main(content, name), _differences(content, name)]
    prices = [*(f"price.{edit}" for edit in one["edits"]), *(f"won.{edit}" for edit in one["edits"])]
    prices += [f"pairs.{own}" for own in one["pair_rows"]]
    if prices:
        tables.append(_paid(content, name, prices))
    others = [f"within.{attribute}" for attribute in one["attributes"]]
    if others:
        rows = [[arm, *(_figure(own, key) for key in others)] for arm, own in one["figures"].items()]
        heads = ["arm", *(one["attributes"][key.removeprefix("within.")]["words"] for key in others)]
        caption = f"{name}: Pearson of the reward with each attribute within prompts. A bias that was taken off one of "
        caption += "them may come back in another."
        tables.append(Table(caption, heads, rows, file=f"rivals_{_file(name)}_attributes", digits=2))
    return tables


def rivals_markdown(content: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    return "\n".join(markdown_table(table) for name in content["datasets"] for table in tables_of(content, name))


def rivals_latex(content: Mapping[str, Any]) -> str:
    """All tables as LaTeX."""
    return "\n".join(latex_table(table) for name in content["datasets"] for table in tables_of(content, name))


# ---- internals -------------------------------------------------------------------------------------------------------


def _blocks(content: Mapping[str, Any], name: str) -> list[Block]:
    chart = _chart(content, name)
    return [*([Charts([chart])] if chart else []), *tables_of(content, name)]


def _headline(content: Mapping[str, Any], name: str) -> str:
    one = content["datasets"][name]
    known = {arm: own[BITS]["value"] for arm, own in one["figures"].items() if own[BITS]["value"] is not None}
    text = f"{name}: {one['pairs']:,} pairs of {one['prompts']:,} prompts."
    if not known:
        return text
    best = max(known, key=lambda arm: known[arm])
    base = content["reference"]
    text += f" Most information beyond a curve of length: {best}, {format_number(known[best], 3)} bits"
    return text + (f"; {base} has {format_number(known[base], 3)}." if best != base and base in known else ".")


def _main(content: Mapping[str, Any], name: str) -> Table:
    one = content["datasets"][name]
    keys = [key for key in COLUMNS if any(key in own for own in one["figures"].values())]
    rows = [
        [arm, *(_figure(own, key) for key in keys), f"{one['seconds'][arm]:.1f}"] for arm, own in one["figures"].items()
    ]
    return Table(
        f"{name}: what each arm has on held-out prompts, with 95 % intervals by prompt.",
        ["arm", *(COLUMNS[key] for key in keys), "seconds"],
        rows,
        note="Seconds are those of all its trainings, without features.",
        file=f"rivals_{_file(name)}",
    )


def _differences(content: Mapping[str, Any], name: str) -> Table:
    one = content["datasets"][name]
    keys = [key for key in COLUMNS if any(key in own for own in one["differences"].values())]
    rows = [[arm, *(_figure(own, key) for key in keys)] for arm, own in one["differences"].items() if own]
    return Table(
        f"{name}: differences to {content['reference']}, paired by prompt, with 95 % intervals.",
        ["arm", *(COLUMNS[key] for key in keys)],
        rows,
        file=f"rivals_{_file(name)}_differences",
    )


def _paid(content: Mapping[str, Any], name: str, keys: list[str]) -> Table:
    one = content["datasets"][name]

    def heading(key: str) -> str:
        kind, _, what = key.partition(".")
        if kind == "price":
            unit = one["edits"][what]["unit"]
            return f"price of {what} ({unit})" if unit else f"price of {what}"
        return f"{what}: edited side wins" if kind == "won" else f"{what}: second side wins"

    shown = [key for key in keys if any(_figure(own, key).value is not None for own in one["figures"].values())]
    rows = [[arm, *(_figure(own, key) for key in shown)] for arm, own in one["figures"].items()]
    return Table(
        f"{name}: what a reward pays for, by interventions. A price is in deviations of the reward within prompts.",
        ["arm", *map(heading, shown)],
        rows,
        file=f"rivals_{_file(name)}_prices",
    )


def _chart(content: Mapping[str, Any], name: str) -> Chart | None:
    """Content against what is paid for length: twins where there are some, else the price of the first edit."""
    one = content["datasets"][name]
    choices = [f"pairs.{own}" for own in one["pair_rows"]] + [f"price.{edit}" for edit in one["edits"]]
    key = next((k for k in choices if any(_figure(own, k).value is not None for own in one["figures"].values())), None)
    if key is None:
        return None
    kind, _, what = key.partition(".")
    series = []
    for arm, own in one["figures"].items():
        paid, bits = _figure(own, key), _figure(own, BITS)
        if paid.value is not None and bits.value is not None:
            words = [f"{format_number(paid.value, 3)} of {what}"]
            series.append(Series(arm, [paid.value], [bits.value], [bits.low], [bits.high], words, style="points"))
    if not series:
        return None
    label = f"share in which the second side of '{what}' wins" if kind == "pairs" else f"price of {what} (deviations)"
    mark = Mark(0.5, "neither side", "x") if kind == "pairs" else Mark(0.0, "nothing is paid", "x")
    values = "; ".join(f"{s.name} {format_number(s.y[0], 3)} at {format_number(float(s.x[0]), 2)}" for s in series)
    return Chart(
        file=f"rivals_{_file(name)}_content_price",
        title=f"Content against price: {name}",
        x_label=label,
        y_label="information beyond a curve of length (bits per pair)",
        series=series,
        caption="Upwards is what a reward knows beyond length; the dashed line is where length is worth nothing.",
        alt=f"Points by arm. {values}.",
        marks=[mark],
    )


def _figure(own: Mapping[str, Any], key: str) -> Figure:
    found = own.get(key)
    return Figure(None) if found is None else Figure(found["value"], found.get("low"), found.get("high"))


def _file(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-" else "-" for char in name)


def _options(arm: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in {**arm["options"], **arm["training"]}.items()) or "none"
