"""The page of ``odin-rm certify``: the verdict on every attribute and the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odin_rm.evaluation.certificate import UNDECIDED
from odin_rm.evaluation.records import Figure
from odin_rm.reports.blocks import Table, Text, format_number
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.page import Report
from odin_rm.reports.sections import Charts, Section

_OVERALL = {
    "unbiased": "pays for none of the attributes that were looked at",
    "biased": "pays for attributes that are worth nothing",
    "mitigated": "no longer pays for what its baseline paid for, and for nothing else instead",
    "substituted": "no longer pays for what its baseline paid for, but pays for something else instead",
    "over-corrected": "was corrected too far: the price has turned its sign",
    "no-op": "still pays for what its baseline paid for",
    "audit-sensitive": "pays otherwise where it chooses than on the audit's responses",
    "undecided": "could not be decided on",
}
_HOW_TO_READ = """
An effect is what the reward pays for a usual difference of an attribute, all others equal: one deviation of it among
the responses to a prompt, and at least one where it counts things. It is in deviations of the reward among the
responses to a prompt, and comes from edits that change nothing that matters. So zero is right, whatever quality and the
attribute have to do with each other in the data.

A correlation on the audit set stands beside it and decides nothing: it cannot tell a mended reward from one whose bias
has moved or was overdone.
"""


def certificate_report(content: Mapping[str, Any]) -> Report:
    """The page.

    Args:
        content: of ``certificate.json``.
    """
    attributes = content["attributes"]
    decided = [name for name, one in attributes.items() if "effect" in one["measured"]]
    others = [name for name in attributes if name not in decided]
    subtitle = content["model"] if content["baseline"] is None else f"{content['model']} beside {content['baseline']}"
    blocks: list[Any] = [Text(_HOW_TO_READ)]
    if decided:
        blocks = [_verdicts(attributes, decided), Charts([_chart(content, decided)]), *blocks]
    parts = [Section("The verdict on each attribute", blocks), Section("Evidence", [*_evidence(attributes, decided)])]
    if others:
        parts.append(Section("Not decided", [_undecided(attributes, others)]))
    parts.append(Section("How often it is wrong", [Text(error_sentence(content["error_rates"], content["tolerance"]))]))
    return Report(
        title="Certificate of a reward model",
        subtitle=subtitle,
        headline=[_headline(content)],
        sections=parts,
        notes=content["missing"],
    )


def _headline(content: Mapping[str, Any]) -> str:
    text = f"{content['overall'].capitalize()}: {content['model']} {_OVERALL[content['overall']]}."
    by_verdict: dict[str, list[str]] = {}
    for one in content["attributes"].values():
        if one["verdict"] != UNDECIDED:
            by_verdict.setdefault(one["verdict"], []).append(one["words"])
    listed = "; ".join(f"{verdict}: {', '.join(words)}" for verdict, words in by_verdict.items())
    listed = listed[:1].upper() + listed[1:]
    return f"{text} {listed}." if listed else text


def _verdicts(attributes: Mapping[str, Any], names: Sequence[str]) -> Table:
    rows = [[attributes[name]["words"], attributes[name]["verdict"], attributes[name]["why"]] for name in names]
    return Table("Verdicts.", ["Attribute", "Verdict", "Why"], rows)


def _evidence(attributes: Mapping[str, Any], names: Sequence[str]) -> list[Table]:
    rows = []
    for name in names:
        one = attributes[name]
        before = one["baseline"] or {}
        cells = [before.get("effect"), one["measured"].get("effect"), one["measured"].get("chosen")]
        cells += [one["measured"].get("excess"), before.get("within"), one["measured"].get("within")]
        rows.append([one["words"], *(None if cell is None else Figure.from_json(cell) for cell in cells)])
    columns = ["Attribute", "Effect before", "Effect", "Where it chooses", "Drift beyond gold",
               "Correlation before", "Correlation"]  # fmt: skip
    found = [0, *(k for k in range(1, len(columns)) if any(row[k] is not None for row in rows))]
    columns, rows = [columns[k] for k in found], [[row[k] for k in found] for row in rows]
    note = "Effects and drift in deviations, correlations within a prompt on the audit set; 95 % intervals."
    prices = [[a["words"], Figure.from_json(a["price"]), f"per {a['unit']}", a["usual"]]
              for a in (attributes[name] for name in names) if "price" in a]  # fmt: skip
    return [
        Table("The figures behind the verdicts.", columns, rows, note=note, digits=2),
        Table(
            "Prices, others equal, and the usual difference that makes an effect of them.",
            ["Attribute", "Price", "Unit", "Usual difference, in units"],
            prices,
            folded=True,
        ),
    ]


def _undecided(attributes: Mapping[str, Any], names: Sequence[str]) -> Table:
    rows = []
    for name in names:
        measured, before = attributes[name]["measured"], attributes[name]["baseline"] or {}
        cells = [before.get("within"), measured.get("within"), measured.get("amplification")]
        rows.append([attributes[name]["words"], *(None if cell is None else Figure.from_json(cell) for cell in cells)])
    columns = ["Attribute", "Correlation before", "Correlation", "Amplification"]
    note = "No edit changes these, so they have the audit's figures only."
    return Table("Attributes that were only audited.", columns, rows, note=note, digits=2, folded=True)


def _chart(content: Mapping[str, Any], names: Sequence[str]) -> Chart:
    attributes = content["attributes"]
    series = []
    sides = [(content["model"], "measured", "effect"), (f"{content['model']}, where it chooses", "measured", "chosen")]
    if content["baseline"] is not None:
        sides.insert(0, (content["baseline"], "baseline", "effect"))
    for label, side, figure in sides:
        held = [n for n in names if ((attributes[n][side] or {}).get(figure) or {}).get("value") is not None]
        if not held:
            continue
        figures = [attributes[name][side][figure] for name in held]
        series.append(
            Series(
                label,
                [attributes[name]["words"] for name in held],
                [one["value"] for one in figures],
                [one.get("low") for one in figures],
                [one.get("high") for one in figures],
                [attributes[name]["verdict"] for name in held],
                style="points",
            )
        )
    values = "; ".join(
        f"{attributes[n]['words']} {format_number(attributes[n]['measured']['effect']['value'], 2)}" for n in names
    )
    tolerance = content["tolerance"]
    return Chart(
        file="effects",
        title="Effect of each attribute",
        x_label="",
        y_label="effect, in deviations",
        series=series,
        caption="What a usual difference of each attribute brings, others equal, with 95 % intervals. Between the "
        f"dashed lines, {tolerance:g} on either side of 0, an effect counts as none.",
        alt=f"Points by attribute: {values}.",
        digits=2,
        marks=[Mark(tolerance, "tolerance"), Mark(-tolerance, "")],
    )


def error_sentence(study: Mapping[str, Any], tolerance: float) -> str:
    """What is known of wrong verdicts.

    Args:
        study: :data:`odin_rm.evaluation.certificate.STUDY`.
        tolerance: the certificate's.
    """
    right = format_number(study["right"] / study["verdicts"], percent=True)
    false = format_number(study["false_mitigated"] / study["not_mitigated"], percent=True)
    return (
        f"By its intervals, an effect beyond {tolerance:g} is called none in at most one attribute out of 40. On the "
        f"testbed, where the truth is known, {study['models']} reward models got {study['verdicts']} verdicts; "
        f"{study['right']} ({right}) were right. Of {study['not_mitigated']} attributes that were not mitigated, "
        f"{study['false_mitigated']} ({false}) were called mitigated. The same rule on the audit set's correlations "
        f"alone was right in {format_number(study['audit_only_right'] / study['verdicts'], percent=True)}."
    )
