"""The audit's page: a headline in plain words, the sections, and the function that writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.reports.attribute_section import attribute_section, attribute_sentence
from odin_rm.reports.audit_charts import FIGURES, NEAR_ZERO, audit_charts
from odin_rm.reports.audit_rows import rows_table, shared_line, shared_pairs, subtitle
from odin_rm.reports.blocks import Percent, Table, Text, format_number
from odin_rm.reports.page import write_report
from odin_rm.reports.sections import Charts, Section
from odin_rm.reports.substitution import substitution_section

_EXPLANATION = """
Pearson, Spearman and Kendall are over all distinct responses; "within a prompt" compares only responses to the same
prompt, which is what reinforcement learning exploits. Length-balanced accuracy weighs the pairs in which the longer and
in which the shorter response was chosen alike: a model that only reads length gets 50 % there.

Information beyond length is the fall of the held-out log loss, in bits per pair, when the quality difference joins the
length difference in predicting the human choice. It is 0 for a reward that knows nothing but length, however accurate
that makes it. A reward that is a curved function of length beats that straight line without knowing anything else; the
next figure lets the length side bend too (length, log length and hinges at its nine deciles).

Length-balanced accuracy moves with the correlation: a model that likes length less gets more of it, whatever it knows.
It does not compare content; information beyond a curve of length does.
"""


def audit_headline(results: Sequence[AuditResult]) -> str:
    """The finding in a few plain sentences with its numbers, one paragraph per model."""
    return "\n\n".join(_headline_of(result) for result in results)


def _headline_of(result: AuditResult) -> str:
    pearson, accuracy = result["pearson"], result["accuracy"]
    parts = [_length_sentence(result, pearson), *_within_sentence(result)]
    longer, shorter = result["accuracy_chosen_longer"], result["accuracy_chosen_shorter"]
    if accuracy.value is not None:
        sentence = f"It orders {_percent(accuracy)} of pairs as the annotators do"
        if longer.value is not None and shorter.value is not None:
            sentence += f": {_percent(longer)} where the longer response was chosen"
            sentence += f", {_percent(shorter)} where the shorter"
        parts.append(sentence + ".")
    information = result["information_beyond_length"]
    if information.value is not None:
        parts.append(f"Beyond length it carries {format_number(information.value, 3)} bits per pair.")
    agreement = result["true_quality_agreement"]
    if agreement.value is not None:
        parts.append(f"It orders {_percent(agreement)} of pairs by their true quality.")
    twins = result["verbosity_twins_longer_wins"]
    if twins.value is not None:
        parts.append(f"Of two twins that say the same, the wordier one wins {_percent(twins)}.")
    if result.attributes:
        parts.append(f"The reward {attribute_sentence(result)}")
    return " ".join(parts)


def _length_sentence(result: AuditResult, pearson: Figure) -> str:
    name = result.name
    if pearson.value is None:
        return f"{name}: the correlation with length is undefined ({pearson.why})."
    interval = ""
    if pearson.low is not None and pearson.high is not None:
        interval = f" ({format_number(pearson.low, 2)} to {format_number(pearson.high, 2)})"
    unit = result.length_unit.removeprefix("response ")
    spread = result.moments.get("length_deviation")
    step = f"{spread:,.0f} {unit}" if spread is not None and spread >= 2 else f"one deviation of length, in {unit}"
    amount = format_number(abs(pearson.value), 2)
    signed = format_number(pearson.value, 2)
    if abs(pearson.value) <= NEAR_ZERO:
        return f"{name} pays next to nothing for length: {signed}{interval} reward deviations per {step} more."
    if pearson.low is not None and pearson.high is not None and pearson.low <= 0 <= pearson.high:
        return f"{name} shows no clear price of length: {signed}{interval} reward deviations per {step} more."
    if pearson.value > 0:
        return f"{name} pays {amount}{interval} reward deviations for every {step} more."
    return f"{name} takes off {amount} reward deviations for every {step} more{interval}."


def _within_sentence(result: AuditResult) -> list[str]:
    """What the correlation is where two responses answer the same prompt: it can have the other sign."""
    within = result["pearson_within_prompt"]
    if within.value is None:
        return []
    interval = ""
    if within.low is not None and within.high is not None:
        interval = f" ({format_number(within.low, 2)} to {format_number(within.high, 2)})"
    return [f"Within a prompt the correlation is {format_number(within.value, 2)}{interval}."]


def _percent(figure: Figure) -> str:
    return format_number(figure.value, percent=True)


def audit_sections(
    results: Sequence[AuditResult],
    scored: Sequence[ScoredPreferences | None] | None = None,
    differences: Sequence[Mapping[str, Any]] = (),
) -> list[Section]:
    """The sections of an audit's page, for one model or several side by side.

    Args:
        results: the audits, each with its own ``name``.
        scored: the scored sets behind them for the clouds of responses (``None`` where only the figures are at hand).
        differences: of each further model against the first (:mod:`odin_rm.evaluation.paired_audit`).
    """
    lengths, accuracies = audit_charts(results, scored)
    sections = [
        Section("Reward and length", [Charts(lengths)]),
        Section("Where the accuracy comes from", [Charts(accuracies), Text(_baseline_sentence(results))]),
        Section("All figures", [Text(_EXPLANATION), figures_table(results), *_details(results)]),
    ]
    attributes = attribute_section(results)
    if attributes is not None:
        sections.insert(1, attributes)
    sections[1:1] = [substitution_section(one, results) for one in differences]
    table = rows_table(results)
    return sections if table is None else [*sections, Section("The pairs behind the figures", [table])]


def _baseline_sentence(results: Sequence[AuditResult]) -> str:
    baselines = {_percent(result["longer_response_baseline_accuracy"]) for result in results}
    return f"Always picking the longer response gets {' or '.join(sorted(baselines))}."


def figures_table(results: Sequence[AuditResult]) -> Table:
    """Every figure that at least one of the audits has, models side by side.

    Args:
        results: the audits.
    """
    rows: list[list[Any]] = []
    for name, (words, percent) in FIGURES.items():
        figures = [result[name] for result in results]
        if any(name in result.figures for result in results):
            rows.append([words, *(Percent(figure) if percent else figure for figure in figures)])
    head = [r.length_head["pearson"] if r.length_head else None for r in results]
    if any(head):
        rows.append(["Length head: Pearson with length", *head])
    for label, attribute in (("Pairs", "pairs"), ("Distinct responses", "responses"), ("Prompts", "prompts")):
        rows.append([label, *(getattr(result, attribute) for result in results)])
    if len({result.dataset for result in results}) > 1:
        rows.append(["Data", *(result.dataset for result in results)])
    columns = ["Figure", *(result.name for result in results)]
    note = "" if shared_pairs(results) is not None else shared_line(results)
    return Table("Figures with their 95 % bootstrap intervals.", columns, rows, note=note)


def _details(results: Sequence[AuditResult]) -> list[Table]:
    tables = []
    columns = ["Chosen against rejected", "Pairs", "Accuracy", "Picking the longer"]
    shown = ("accuracy", "longer_response_baseline_accuracy")
    for result in results:
        rows = [
            [row["label"], row["pairs"], *(Figure.from_json(row[name]) for name in shown)] for row in result.length_bins
        ]
        caption = f"Accuracy by length difference: {result.name}"
        tables.append(Table(caption, columns, rows, percent=columns[2:], folded=True))
    return tables


def write_audit_report(
    results: Sequence[AuditResult],
    output_dir: str | Path,
    scored: Sequence[ScoredPreferences | None] | None = None,
    *,
    title: str = "Reward model audit",
    differences: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write ``report.html`` and its figures (PNG, SVG).

    Args:
        results: the audits to show.
        output_dir: where to write.
        scored: as for :func:`audit_sections`.
        title: of the page.
        differences: as for :func:`audit_sections`.

    Returns:
        The path of the page.
    """
    sections = audit_sections(results, scored, differences)
    return write_report(title, audit_headline(results), sections, output_dir, subtitle=subtitle(results))
