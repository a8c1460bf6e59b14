"""What is said of a sweep: figures by hand, the section of the page, the benchmark's verdicts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks.rl_testbed import pooled, table, verdicts

from odin_rm.evaluation.records import Figure
from odin_rm.reports import write_report
from odin_rm.testbed.rl_figures import Measured, Policies, PolicyResult, arm_figures, best_penalty, compare_policies
from odin_rm.testbed.rl_story import policy_front, policy_headline, policy_section
from odin_rm.testbed.sweep import PolicyRun


def measured(tokens: float, quality: float, win: float = 60.0) -> Measured:
    return Measured(tokens, quality, win, 1.0, ["Drink water.", "Sleep well."])


def result(
    tokens: float, quality: float, reward_model: str = "vanilla", algorithm: str = "ppo", **knobs
) -> PolicyResult:
    return PolicyResult(PolicyRun(reward_model, algorithm, **knobs), measured(tokens, quality))


SWEEP = Policies(
    measured(20.0, 0.2, 50.0),
    [
        result(32.0, 0.8),
        result(40.0, 0.9, algorithm="remax"),
        result(22.0, 0.7, "odin"),
        result(28.0, 0.95, "odin", "remax"),
        result(24.0, 0.5, length_penalty=0.01),
        result(26.0, 0.6, length_penalty=0.01, seed=1),
        result(30.0, 0.6, length_penalty=0.02),
        result(60.0, 0.1, "length_only"),
    ],
    optimum_tokens=20.0,
)


def test_figures_by_hand() -> None:
    figures = arm_figures(SWEEP, samples=200, seed=0)
    assert list(figures) == ["vanilla", "odin", "vanilla + penalty 0.01", "vanilla + penalty 0.02", "length_only"]
    vanilla, odin = figures["vanilla"], figures["odin"]
    assert (vanilla.runs, vanilla.mean_tokens.value, vanilla.length_ratio.value) == (2, 36.0, pytest.approx(1.8))
    assert (vanilla.length_ratio.low, vanilla.length_ratio.high) == pytest.approx((1.6, 2.0))
    assert odin.true_quality.value == pytest.approx(0.825)
    assert odin.win_score.value == 60
    # Above 0.2 between 20 and 40 tokens: vanilla 0.6 from 32 on; ODIN 0.5 from 22, 0.75 from 28 on.
    assert vanilla.area.value == pytest.approx(8 * 0.6)
    assert odin.area.value == pytest.approx(6 * 0.5 + 12 * 0.75)
    assert figures["length_only"].area.value == 0
    assert figures["length_only"].length_ratio.low is None
    assert figures["length_only"].area.why == figures["length_only"].length_ratio.why == "no interval: one run"


def test_comparisons_by_hand() -> None:
    found = compare_policies(SWEEP, samples=100)
    assert found["best_penalty"] == "vanilla + penalty 0.01"
    assert [versus["second"] for versus in found["comparisons"]] == [
        "vanilla", "vanilla + penalty 0.01", "vanilla + penalty 0.02"
    ]  # fmt: skip
    versus = found["comparisons"][0]
    assert versus["area_difference"].value == pytest.approx(12.0 - 4.8)
    at = {row["tokens"]: row for row in versus["at_length"]}
    assert at[20.0]["difference"].value is None
    assert np.isnan(at[20.0]["dominance"])
    # At 36 tokens: ODIN stays at 0.95, vanilla is half way between 0.8 and 0.9.
    assert at[36.0]["difference"].value == pytest.approx(0.95 - 0.85)
    assert at[24.0]["dominance"] == 1.0


def test_best_penalty_is_the_largest_area_among_penalties_only() -> None:
    areas = {"vanilla": 9.0, "vanilla + penalty 0.01": 2.0, "vanilla + penalty 0.04": 3.0, "odin": 8.0}
    assert best_penalty(areas) == "vanilla + penalty 0.04"
    assert best_penalty({"vanilla": 1.0}) is None


def test_verdicts_are_those_of_the_intervals() -> None:
    sweep = Policies(
        SWEEP.start,
        [
            *(result(tokens, 0.6) for tokens in (33.0, 34.0, 36.0)),
            *(result(tokens, 0.9, "odin") for tokens in (22.0, 23.0, 24.0)),
            *(
                result(tokens, quality, length_penalty=0.01)
                for tokens, quality in ((22.0, 0.9), (24.0, 0.2), (39.0, 1.0))
            ),
        ],
        20.0,
    )
    assert verdicts(compare_policies(sweep, samples=200)) == {
        "vanilla beyond 1.6 times the optimum": "yes",
        "odin within 1.4 times the optimum": "yes",
        "front of odin above vanilla": "yes",
        "front of odin above vanilla with clip": None,
        "front of odin above vanilla with the best penalty": "open",
    }
    swapped = [
        *(result(tokens, 0.9) for tokens in (22.0, 23.0, 24.0)),
        *(result(tokens, 0.9, "odin") for tokens in (40.0, 41.0, 42.0)),
    ]
    found = verdicts(compare_policies(Policies(SWEEP.start, swapped, 20.0), samples=200))
    assert set(found.values()) == {"no", None}


def test_table_and_pooling() -> None:
    both = pooled([SWEEP, Policies(measured(22.0, 0.4, 50.0), SWEEP.results, 20.0)])
    assert len(both.results) == 16
    assert both.start.mean_tokens == 21.0
    assert both.start.true_quality == pytest.approx(0.3)
    text = table(compare_policies(SWEEP, samples=20))
    assert "| vanilla + penalty 0.01 (best penalty) | 2 | 1.25" in text
    assert "quality at 36 tokens" in text
    assert "undefined" in text


def test_summary_entry_has_the_promised_names() -> None:
    entry = SWEEP.results[3].to_json()
    assert {"reward_model", "algorithm", "settings", "mean_tokens", "true_quality", "win_score"} <= set(entry)
    assert (entry["reward_model"], entry["algorithm"], entry["mean_tokens"]) == ("odin", "remax", 28.0)


def test_section_shows_every_arm_and_run(tmp_path: Path) -> None:
    figures = arm_figures(SWEEP, samples=20, seed=0)
    section = policy_section(SWEEP, figures, ["How do I sleep <well>?", "And run?"])
    page = write_report("t", policy_headline(figures), [section], tmp_path).read_text()
    assert (tmp_path / "true_quality_against_length.png").stat().st_size > 10_000
    for words in ("1.80 times the optimum", "1.25 times", "vanilla + penalty 0.02", "length_only", "start (SFT)"):
        assert words in page
    assert "sleep &lt;well&gt;?" in page
    assert len(re.findall(r'<th scope="row">odin</th>', page)) == 3  # once among the arms, twice among the runs
    assert policy_headline({"odin": figures["odin"]}) == ""


def test_figure_shows_each_front_as_steps() -> None:
    chart = policy_front(SWEEP)
    fronts = {one.group: one for one in chart.series if one.style == "steps"}
    assert set(fronts) == set(SWEEP.by_arm())
    odin = fronts["odin"]
    assert list(odin.x[:2]) == [22.0, 28.0]
    assert list(odin.y) == [0.7, 0.95, 0.95]
    assert odin.x[-1] == chart.x_range[1]
    hollow = [one for one in chart.series if one.variant == 1]
    assert sorted(float(x) for one in hollow for x in one.x) == [28.0, 40.0]  # the ReMax runs
    assert {one.name for one in hollow} == {"vanilla, ReMax", "odin, ReMax"}
    assert [one.name for one in chart.series if one.star] == ["start (SFT)"]
    assert [(mark.at, mark.label) for mark in chart.marks] == [(20.0, "optimum (20)")]


def test_undefined_figures_are_words_in_the_table() -> None:
    alone = Policies(SWEEP.start, [result(32.0, 0.8), result(30.0, 0.9, "odin")], 20.0)
    figures = arm_figures(alone, samples=20, seed=0)
    assert isinstance(figures["odin"].area, Figure)
    assert figures["odin"].area.low is None
    assert "one run" in figures["odin"].mean_tokens.why
    assert "one run" in figures["odin"].area.why
