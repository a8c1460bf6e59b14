"""The part of an audit's page on what else the reward pays for: every attribute, within a prompt first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odin_rm.evaluation.attribute_audit import attribute_order
from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure
from odin_rm.reports.audit_charts import NEAR_ZERO
from odin_rm.reports.blocks import Percent, Table, Text, format_number
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.sections import Charts, Section

_MOST_NAMED = 3
_EXPLANATION = """
Within a prompt, two responses answer the same question, so only there a correlation with an attribute is something
that best-of-N or a policy can collect. Over all responses (hollow points) prompts are mixed: hard questions may have
long answers and low rewards, and the sign can be another one.

Amplification is what the model pays beyond what the people pay: the standardised coefficient of the attribute in a
regression of the reward's margin on the differences of all attributes, minus the same for the label. A label is a yes
or no and therefore noisier than a reward; read the figure beside those of other models rather than against zero.
"""


def attribute_section(results: Sequence[AuditResult]) -> Section | None:
    """A section on the attributes of the audits; ``None`` where none has any.

    Args:
        results: the audits, models side by side.
    """
    held = [result for result in results if result.attributes]
    if not held:
        return None
    names = _order(held)
    blocks: list[Text | Table | Charts] = [
        Text("\n\n".join(f"{result.name} {attribute_sentence(result)}" for result in held)),
        Charts([attribute_chart(held)]),
        Text(_EXPLANATION),
    ]
    return Section("What else the reward pays for", [*blocks, *(_table(result, names) for result in held)])


def attribute_sentence(result: AuditResult) -> str:
    """What the reward goes with most, within a prompt, as the end of a sentence that begins with the model's name."""
    known = [n for n in attribute_order(result.attributes) if _clear(result.attributes[n]["within"]["pearson"])]
    if not known:
        return "goes with none of the attributes clearly within a prompt."
    parts = []
    for name in known[:_MOST_NAMED]:
        one = result.attributes[name]
        parts.append(f"{one.get('words', name)} ({format_number(one['within']['pearson']['value'], 2)})")
    share = result["style_share"].value
    end = "" if share is None else f" All attributes together explain {format_number(share, percent=True)} of it."
    return f"goes most with {_listed(parts)} within a prompt.{end}"


def _clear(content: Mapping[str, Any]) -> bool:
    low, high = content.get("low"), content.get("high")
    return content["value"] is not None and low is not None and high is not None and not low <= 0 <= high


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _order(results: Sequence[AuditResult]) -> list[str]:
    """Attributes of any of the audits: those of the first one by their size, then those that others have besides."""
    names = [name for result in results for name in attribute_order(result.attributes)]
    return [name for name in dict.fromkeys(names) if _defined(results, name)]


def _defined(results: Sequence[AuditResult], name: str) -> bool:
    sides = ("within", "pooled")
    return any(
        result.attributes[name][side]["pearson"]["value"] is not None
        for result in results
        if name in result.attributes
        for side in sides
    )


def _words(results: Sequence[AuditResult], name: str) -> str:
    return next(r.attributes[name].get("words", name) for r in results if name in r.attributes)


def attribute_chart(results: Sequence[AuditResult]) -> Chart:
    """The correlation of the reward with each attribute, within a prompt and over all responses, model by model."""
    names = _order(results)
    words = [_words(results, name) for name in names]
    series = []
    for result in results:
        within, pooled = (
            [Figure.from_json(result.attributes[name][side]["pearson"]) if name in result.attributes else Figure(None)
             for name in names]
            for side in ("within", "pooled")
        )  # fmt: skip
        sides: dict[str, Any] = {side: [getattr(f, side) for f in within] for side in ("low", "high")}
        own: dict[str, Any] = {"group": result.name, "style": "points"}
        series.append(Series(f"{result.name}, within a prompt", words, [f.value for f in within], **sides, **own))
        everywhere = [f.value for f in pooled]
        series.append(Series(f"{result.name}, over all responses", words, everywhere, variant=1, **own))
    return Chart(
        "attributes", "Correlation with each attribute", "", "correlation with the reward", series,
        "Within a prompt (filled, with 95 % intervals) and over all responses (hollow). Within the shaded stretch the "
        "reward pays next to nothing for it.",
        "; ".join(_alt(result, names) for result in results), digits=2, sideways=True,
        marks=(Mark(-NEAR_ZERO, "", until=NEAR_ZERO), Mark(0.0, "")),
    )  # fmt: skip


def _alt(result: AuditResult, names: Sequence[str]) -> str:
    values = [
        f"{result.attributes[name].get('words', name)} "
        f"{format_number(result.attributes[name]['within']['pearson']['value'], 2)}"
        for name in names
        if name in result.attributes
    ]
    return f"{result.name}, within a prompt: {', '.join(values)}"


def _table(result: AuditResult, names: Sequence[str]) -> Table:
    columns = ["Attribute", "Within", "Rank, within", "All responses", "Amplification", "Accuracy for", "Against"]
    rows = []
    for name in names:
        if name not in result.attributes:
            continue
        one = result.attributes[name]
        cells = [one["within"]["pearson"], one["within"]["spearman"], one["pooled"]["pearson"], one["amplification"]]
        shares = [Percent(Figure.from_json(one[f"accuracy_{side}"])) for side in ("for", "against")]
        rows.append([one.get("words", name), *map(Figure.from_json, cells), *shares])
    between, style = result["between_prompt_share"].value, result["style_share"].value
    note = (
        f"Of the reward's variance {format_number(between, percent=True)} lies between prompts. "
        f"Of the rest, all attributes together explain {format_number(style, percent=True)}."
    )
    return Table(f"Attributes: {result.name}", columns, rows, note=note, digits=2)
