"""The whole page from what was read: its title, its findings in words, its parts in order."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure
from odin_rm.reports.audit_charts import audit_charts
from odin_rm.reports.audit_report import audit_headline, figures_table
from odin_rm.reports.blocks import Table, Text, format_number
from odin_rm.reports.chart import Chart
from odin_rm.reports.comparison import tables
from odin_rm.reports.comparison.curves import MOST_RUNS, learning_charts
from odin_rm.reports.comparison.lengths import cloud_charts
from odin_rm.reports.comparison.points import dominance_chart, front_chart, front_tables, sweep_chart
from odin_rm.reports.comparison.texts import judged_block, sample_block
from odin_rm.reports.page import Report
from odin_rm.reports.sections import Block, Charts, Section
from odin_rm.results.records import Material, TrainingRun

KINDS = {"reward": "Training of reward models", "rl": "Training of policies", "policy": "Fine-tuning"}


def build_report(material: Material, *, title: str = "", samples: int = 8) -> Report:
    """The page on everything that was read.

    Args:
        material: what was read.
        title: of the page; empty makes one.
        samples: prompts whose answers are shown.
    """
    audits = all_audits(material)
    parts = [
        Section("Overview", _overview(material)),
        *(_training(kind, [run for run in material.runs if run.kind == kind]) for kind in KINDS),
        Section("Reward and length", _figures(cloud_charts(material))),
        Section("Audits", _audits(audits)),
        Section("Score against length", _fronts(material)),
        Section("Judgements", _judgements(material)),
        Section("Sample texts", _texts(material, samples)),
        Section("Settings and environment", _settings(material)),
    ]
    return Report(title or _title(material), _subtitle(material), _headline(material, audits), parts, material.notes)


def all_audits(material: Material) -> list[AuditResult]:
    """The audits that were given, and those of reward runs that none of them is of."""
    given = {audit.name for audit in material.audits}
    return [*material.audits, *(run.audit for run in material.runs if run.audit and run.audit.name not in given)]


def _title(material: Material) -> str:
    names = [*(one.name for one in material.runs), *(one.name for one in material.files)]
    names += [*(one.name for one in material.judged), *(one.name for one in material.win_rates)]
    names += [*(one.name for one in material.sweeps), *(one.name for one in material.fronts)]
    names = names or [audit.name for audit in material.audits]
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return f"Report on {names[0]}"
    return f"Comparison of {', '.join(names)}" if len(names) <= 4 else f"Comparison of {len(names)} runs and results"


def _subtitle(material: Material) -> str:
    counts = {
        "training run": len(material.runs),
        "audit": len(material.audits),
        "file of responses": len(material.files),
        "judged comparison": len(material.judged),
        "file of win rates": len(material.win_rates),
        "sweep": len(material.sweeps),
        "set of points": len(material.fronts),
    }
    named = [f"{n} {_plural(words) if n > 1 else words}" for words, n in counts.items() if n]
    return ", ".join(named)


def _plural(words: str) -> str:
    first, *rest = words.split(" of ", 1)
    return " of ".join([f"{first}s", *rest])


def _headline(material: Material, audits: Sequence[AuditResult]) -> list[str]:
    lines = [_rl_sentence(run) for run in material.runs if run.kind == "rl"]
    lines += audit_headline(audits).split("\n\n") if audits else []
    return [line for line in lines if line][:8]


def _rl_sentence(run: TrainingRun) -> str:
    first, last = run.look("first"), run.look("last")
    if not last or not first or first[0].step == last[0].step:
        tokens, quality = run.last("mean_response_tokens"), run.last("mean_quality_reward")
        if tokens is None or quality is None:
            return ""
        return f"{run.name} writes {tokens:.1f} tokens at a quality reward of {format_number(quality, 2)} at its end."
    before, after = (tables.mean_figure([text.tokens for text in look]).value or 0.0 for look in (first, last))
    change = tables.mean_change(first, last, "quality")
    longer = f"{after:.1f} tokens after {last[0].step:,} steps, {before:.1f} before"
    if before > 0:
        change_of_length = 100 * (after / before - 1)
        longer += f" ({'+' if change_of_length > 0 else ''}{format_number(change_of_length, 0)} %)"
    sentence = f"{run.name} writes {longer}; its quality reward changed by {_interval(change)}"
    held_out = tables.mean_change(first, last, "held_out")
    if held_out.value is not None:
        sentence += f", the held-out reward by {_interval(held_out)}"
    return sentence + "."


def _interval(figure: Figure) -> str:
    text = format_number(figure.value, 2)
    if figure.low is not None and figure.high is not None:
        text += f" ({format_number(figure.low, 2)} to {format_number(figure.high, 2)})"
    return text


def _overview(material: Material) -> list[Block]:
    blocks: list[Block] = []
    makers = {"reward": tables.reward_table, "rl": tables.rl_table, "policy": tables.policy_table}
    for kind, table in makers.items():
        runs = [run for run in material.runs if run.kind == kind]
        blocks += [table(runs)] if runs else []
    if material.files:
        blocks.append(tables.texts_table(material))
    if material.judged:
        blocks.append(tables.judged_table(material.judged))
    if material.win_rates:
        blocks += tables.win_rate_tables(material.win_rates)
    return [*blocks, *(tables.sweep_table(sweep) for sweep in material.sweeps)]


def _training(kind: str, runs: Sequence[TrainingRun]) -> Section:
    left_out = len(runs) - MOST_RUNS
    blocks: list[Block] = [*_figures(learning_charts(runs, kind))]
    if left_out > 0:
        blocks.insert(0, Text(f"Drawn are the first {MOST_RUNS} runs of {len(runs)}."))
    return Section(KINDS[kind], blocks)


def _audits(audits: Sequence[AuditResult]) -> list[Block]:
    if not audits:
        return []
    table = figures_table(audits)
    lengths, accuracies = audit_charts(audits)
    return [*_figures([*lengths, *accuracies]), Table(**{**vars(table), "file": "audits"})]


def _fronts(material: Material) -> list[Block]:
    charts: list[Chart | None] = []
    shown: list[Block] = []
    for number, one in enumerate(material.fronts, start=1):
        charts += [front_chart(one, f"front_{number}"), dominance_chart(one, f"dominance_{number}")]
        shown += front_tables(one, number)
    charts += [sweep_chart(one, f"sweep_{number}") for number, one in enumerate(material.sweeps, start=1)]
    return [*_figures([chart for chart in charts if chart]), *shown]


def _judgements(material: Material) -> list[Block]:
    blocks: list[Block] = []
    for number, one in enumerate(material.judged, start=1):
        block = judged_block(one, 4, f"judged{number}")
        if block is not None:
            blocks += [Text(f"{one.candidate} against {one.baseline}, judged by {one.judge}:"), block]
    return blocks


def _texts(material: Material, samples: int) -> list[Block]:
    block = sample_block(material, samples) if samples else None
    return [] if block is None else [block]


def _settings(material: Material) -> list[Block]:
    blocks: list[Block] = []
    groups = tables.by_kind(material)
    for title, held in groups:
        found = tables.settings_tables(held)
        if found and len(groups) > 1:
            found = [Table(**{**vars(t), "caption": f"{title}: {t.caption[0].lower()}{t.caption[1:]}"}) for t in found]
        blocks += found
    environment = tables.environment_table(material.described)
    return blocks if environment is None else [*blocks, environment]


def _figures(charts: Sequence[Chart]) -> list[Block]:
    return [Charts(charts)] if charts else []
