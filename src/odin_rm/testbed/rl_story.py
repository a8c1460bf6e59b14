"""The page's section on policies: what each reward made of the same starting policy."""

from __future__ import annotations

from collections.abc import Mapping

from odin_rm.evaluation.records import RunPoint
from odin_rm.reports import Chart, Charts, Percent, Section, Table, Text
from odin_rm.reports.blocks import format_number
from odin_rm.reports.recipes import main_fronts
from odin_rm.testbed.rl_figures import ArmFigures, Policies

SHOWN_PROMPTS = 2

_HOW = """
One policy, trained to imitate the writers of the world, is the start of every run and the reference of its KL. Each run
then learns from one reward. Gold is rewarded with the true quality itself and shows the ceiling; length only is
rewarded with nothing but tokens. A point is the mean of the held-out prompts' responses; a line is what an arm attains
with responses no longer than that.
"""


def policy_section(policies: Policies, figures: Mapping[str, ArmFigures], prompts: list[str]) -> Section:
    """Figure, tables and sample texts of a sweep.

    Args:
        policies: the sweep.
        figures: of each arm (``arm_figures``).
        prompts: the held-out prompts behind the samples, the first ones suffice.
    """
    low, high = policies.bounds
    explanation = (
        f"The length ratio is the mean length over the {policies.optimum_tokens:.0f} tokens that the optimum needs. "
        f"The area is that under the front and above the start's true quality, from {low:.0f} to {high:.0f} tokens."
    )
    return Section(
        "What policies make of the rewards",
        [
            Text(_HOW),
            Charts([policy_front(policies)]),
            _arms_table(figures, explanation),
            *_samples(policies, prompts),
            _runs(policies),
            *(Text(f"Left out: {name}. {reason}") for name, reason in policies.left_out.items()),
        ],
    )


def policy_headline(figures: Mapping[str, ArmFigures]) -> str:
    """The finding in plain words with its numbers; nothing where one of the two arms is missing."""
    if not {"vanilla", "odin"} <= set(figures):
        return ""
    words = [
        f"{_number(figures[arm].length_ratio.value)} times the optimum's length under {name}, at a mean true quality "
        f"of {_number(figures[arm].true_quality.value)}"
        for arm, name in (("vanilla", "the plain model"), ("odin", "ODIN"))
    ]
    return f"Policies trained on them write {words[0]}, and {words[1]}."


def _number(value: float | None) -> str:
    return format_number(value, 2)


def policy_front(policies: Policies) -> Chart:
    """The figure of true quality against length: every run, the front of each arm, the start and the optimum."""
    (chart,) = main_fronts(
        [result.point() for result in policies.results],
        length_label="mean response tokens",
        score_label="true quality (1 is the best possible)",
        marks=[RunPoint("start", policies.start.mean_tokens, policies.start.true_quality, "start (SFT)")],
        lengths={"optimum": policies.optimum_tokens},
        file="true_quality_against_length",
        title="True quality against length",
        caption="Each policy's responses as a point, and what each arm attains (lines).",
    ).charts
    return chart


def _arms_table(figures: Mapping[str, ArmFigures], explanation: str) -> Table:
    rows = [
        [arm, f.runs, f.mean_tokens, f.length_ratio, f.true_quality, f.win_score, f.area] for arm, f in figures.items()
    ]
    columns = ["Reward", "Runs", "Mean tokens", "Length ratio", "True quality", "Win score", "Area"]
    note = f"{explanation} The intervals resample runs, not prompts."
    return Table("Means over the runs of each arm, and the area under its front.", columns, rows, note, digits=2)


def _samples(policies: Policies, prompts: list[str]) -> list[Text | Table]:
    """The start and the best policy of each arm, side by side on the same prompts."""
    rows: list[list[str]] = [["start (SFT)", *_clean(policies.start.samples)]]
    for arm, results in policies.by_arm().items():
        best = max(results, key=lambda result: result.measured.true_quality)
        rows.append([f"{arm}, {best.run.algorithm}", *_clean(best.measured.samples)])
    columns = ["Policy", *prompts[:SHOWN_PROMPTS]]
    return [Table("What the best policy of each arm writes.", columns, rows, folded=True)]


def _clean(texts: list[str]) -> list[str]:
    return [" ".join(text.split()) or "(nothing)" for text in texts[:SHOWN_PROMPTS]]


def _runs(policies: Policies) -> Table:
    columns = ["Reward", "Algorithm", "beta", "Learning rate", "Seed", "Mean tokens", "True quality", "Win score",
               "Ended"]  # fmt: skip
    rows = [
        [r.run.arm, r.run.algorithm, f"{r.run.kl_coef:g}", f"{r.run.learning_rate:g}", r.run.seed,
         r.measured.mean_tokens, r.measured.true_quality, r.measured.win_score, Percent(r.measured.ended_share)]
        for r in policies.results
    ]  # fmt: skip
    return Table("Every run.", columns, rows, digits=2, folded=True)
