"""The quickstart's page: what the world is, what both reward models learnt of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from odin_rm.core.files import read_rows
from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.reports import Section, Table, Text, audit_sections, write_report
from odin_rm.testbed.annotator import Annotator, Row
from odin_rm.testbed.rl_figures import ArmFigures, Policies
from odin_rm.testbed.rl_story import policy_headline, policy_section
from odin_rm.testbed.world import count_tokens
from odin_rm.testbed.world_story import WorldFigures, longer_is_better_section, longer_is_better_words

SHOWN_PAIRS = 2

Facts = Mapping[str, Mapping[str, float]]

_FACTS = {
    "prefers_longer": "Share of pairs in which the longer response was chosen",
    "prefers_better": "Share of pairs in which the truly better response was chosen",
    "quality_length_pearson": "Pearson of true quality with length",
    "mean_tokens": "Mean response length in tokens",
    "mean_true_quality": "Mean true quality (1 is the best possible)",
}


def write_story(
    audits: Sequence[AuditResult],
    scored: Sequence[ScoredPreferences],
    annotator: Annotator,
    facts: Facts,
    examples: Iterable[Row],
    folder: Path,
    policies: Policies | None = None,
    figures: Mapping[str, ArmFigures] | None = None,
    longer_is_better: WorldFigures | None = None,
) -> Path:
    """Writes the figures and ``report.html``; returns the page.

    Args:
        audits: vanilla first, then ODIN.
        scored: the scores behind them, in the same order.
        annotator: who judged the pairs.
        facts: of each preference set, by its name (``describe_preferences``).
        examples: pairs, of which the first that show the bias are told.
        folder: where to write, and where the data are.
        policies: the sweep of policies, where there was one.
        figures: of each arm of policies.
        longer_is_better: of linear reward models in the world where good answers are longer.
    """
    sections = [Section("The world", world_blocks(annotator, facts, examples)), *audit_sections(audits, scored)]
    words = headline(*audits)
    if longer_is_better is not None:
        sections.insert(-1, longer_is_better_section(longer_is_better))
        words = f"{words}\n\n{longer_is_better_words(longer_is_better)}"
    if policies is not None and figures:
        prompts = [str(row["prompt"]) for _, row in read_rows(folder / "data" / "prompts.jsonl")]
        sections.insert(-1, policy_section(policies, figures, prompts))
        words = f"{words}\n\n{policy_headline(figures)}"
    first = audits[0]
    subtitle = (
        f"The embedded testbed: {first.pairs:,} held-out pairs, {first.responses:,} distinct responses. "
        "Both models start from the same weights and see the same pairs."
    )
    return write_report("Reward models that do not pay for length", words, sections, folder, subtitle=subtitle)


def headline(vanilla: AuditResult, odin: AuditResult) -> str:
    """The finding in plain words with its numbers."""
    sentences = [
        f"Trained on the same pairs, the plain reward model's reward correlates {_number(vanilla['pearson'])} with "
        f"length, ODIN's {_number(odin['pearson'])}.",
        f"ODIN orders {_percent(odin['true_quality_agreement'])} of the held-out pairs as their true quality does, the "
        f"plain model {_percent(vanilla['true_quality_agreement'])}.",
        f"The annotator, who likes length, agrees with the plain model on {_percent(vanilla['accuracy'])} of pairs "
        f"and with ODIN on {_percent(odin['accuracy'])}.",
    ]
    if _above(vanilla, odin, "accuracy") and _above(odin, vanilla, "true_quality_agreement"):
        sentences.append("What the plain model wins there is the bias: on the truth it is the worse one.")
    return " ".join(sentences)


def _above(one: AuditResult, other: AuditResult, figure: str) -> bool:
    high, low = one[figure].value, other[figure].value
    return high is not None and low is not None and high > low


def world_blocks(annotator: Annotator, facts: Facts, examples: Iterable[Row]) -> list[Text | Table]:
    """What a reader must know of the world: its rules, facts of the data, a few pairs."""
    knobs, world = annotator.settings, annotator.world.settings
    rules = f"""
    A prompt names a topic; a response is a list of helpful steps, harmful steps and fillers. True quality is the number
    of distinct helpful steps, up to {world.saturation}, minus {world.harm_weight:g} for each harmful one, divided by
    {world.saturation}. Fillers count nothing. The best possible response needs about
    {annotator.world.optimum_tokens():.0f} tokens.

    The annotator chooses a over b with probability sigmoid of ({knobs.quality_scale:g} times the difference in quality
    plus {knobs.length_bias:g} times the difference in tokens), divided by {knobs.temperature:g}. So
    {_tokens_per_step(annotator):.0f} more tokens of filler are worth one helpful step to the annotator.
    """
    names = list(facts)
    rows = [[label, *(facts[name][key] for name in names)] for key, label in _FACTS.items()]
    table = Table(
        "Facts of the preference data.", ["Fact", *(name.replace("_", "-") for name in names)], rows, digits=3
    )
    return [Text(rules), table, *_biased_pairs(examples)]


def _biased_pairs(rows: Iterable[Row]) -> list[Text | Table]:
    """The first pairs in which length won over quality, as text."""
    paragraphs = ["Pairs in which the annotator preferred the longer response although it is truly the worse one:"]
    for row in rows:
        longer = count_tokens(row["chosen"]) > count_tokens(row["rejected"])
        if longer and row["chosen_true_quality"] < row["rejected_true_quality"]:
            paragraphs.append(f"{row['prompt']} Preferred: {_told(row, 'chosen')} Rejected: {_told(row, 'rejected')}")
        if len(paragraphs) > SHOWN_PAIRS:
            break
    return [Text("\n\n".join(paragraphs))] if len(paragraphs) > 1 else []


def _told(row: Row, kind: str) -> str:
    text = " ".join(row[kind].split())
    return f'"{text}" ({count_tokens(row[kind])} tokens, true quality {row[f"{kind}_true_quality"]:.2f}).'


def _tokens_per_step(annotator: Annotator) -> float:
    knobs = annotator.settings
    per_step = knobs.quality_scale / annotator.world.settings.saturation
    return per_step / knobs.length_bias if knobs.length_bias > 0 else float("inf")


def _number(figure: Figure) -> str:
    return "an undefined amount" if figure.value is None else f"{figure.value:.3f}"


def _percent(figure: Figure) -> str:
    return "an unknown share" if figure.value is None else f"{100 * figure.value:.1f} %"
