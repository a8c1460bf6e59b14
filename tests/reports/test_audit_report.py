"""The audit's page and figures, seen through what is drawn and written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from odin_rm.evaluation.audit import audit_preferences
from odin_rm.evaluation.records import Figure
from odin_rm.reports import audit_headline, audit_sections, figures_table, write_audit_report
from odin_rm.reports.audit_charts import audit_charts
from odin_rm.reports.chart import Chart, palette
from odin_rm.reports.chart_still import draw_still
from odin_rm.reports.sections import Charts
from tests.evaluation.simulate import simulated
from tests.reports.test_page import Page, assert_self_contained

FIGURES = (
    "correlations", "reward_against_length", "length_head_against_length", "accuracy_decomposition",
    "accuracy_by_length_difference",
)  # fmt: skip


@pytest.fixture(scope="module")
def two():
    vanilla = replace(simulated(pay_for_length=1.0), name="vanilla", length_reward=None)
    odin = replace(simulated(pay_for_length=0.0), name="odin")
    return [audit_preferences(s, bootstrap_samples=60) for s in (vanilla, odin)], [vanilla, odin]


def test_page_holds_every_figure_with_words_for_it(two, tmp_path) -> None:
    path = write_audit_report(two[0], tmp_path, two[1])
    text = path.read_text(encoding="utf-8")
    assert_self_contained(text)
    images = Page(text).all("img")
    assert len(images) == len(FIGURES)
    assert all(len(image["alt"]) > 60 for image in images)
    assert sorted(p.stem for p in tmp_path.glob("*.png")) == sorted(FIGURES)


def test_headline_says_what_each_model_pays(two) -> None:
    vanilla, odin = audit_headline(two[0]).split("\n\n")
    pearson = two[0][0]["pearson"]
    assert vanilla.startswith(f"vanilla pays {pearson.value:.2f} ({pearson.low:.2f} to {pearson.high:.2f}) reward")
    assert f"{100 * two[0][0]['accuracy_chosen_longer'].value:.1f} %" in vanilla
    assert odin.startswith(("odin pays next to nothing", "odin shows no clear price"))
    assert "true quality" in odin


def test_headline_of_a_model_that_dislikes_length(two) -> None:
    result = two[0][0].with_figure("pearson", Figure(-0.4, -0.5, -0.3))
    assert audit_headline([result]).startswith("vanilla takes off 0.40 reward deviations")
    nothing = two[0][0].with_figure("pearson", Figure(None, why="the reward is the same for every response"))
    assert "undefined (the reward is the same" in audit_headline([nothing])


def charts_of(results, scored=None) -> dict[str, Chart]:
    lengths, accuracies = audit_charts(results, scored)
    return {chart.file: chart for chart in (*lengths, *accuracies)}


def test_correlations_are_drawn_where_they_are(two) -> None:
    chart = charts_of(two[0])["correlations"]
    names = ("pearson", "spearman", "kendall", "pearson_within_prompt")
    for series, result in zip(chart.series, two[0], strict=True):
        assert list(series.y) == [result[n].value for n in names]
        assert list(series.low) == [result[n].low for n in names]
        assert list(series.high) == [result[n].high for n in names]


def test_each_head_has_its_trend_over_the_cloud_of_its_responses(two) -> None:
    charts = charts_of(*two)
    quality, length = charts["reward_against_length"], charts["length_head_against_length"]
    assert [one.name for one in quality.series] == ["vanilla", "vanilla, mean", "odin", "odin, mean"]
    assert [one.name for one in length.series] == ["odin", "odin, mean"]
    cloud, trend = quality.series[:2]
    assert list(trend.y) == [row["value"] for row in two[0][0].trend["quality"]]
    scored = two[1][0]
    shown = scored.response_tokens <= np.quantile(scored.response_tokens, 0.995)
    deviation = (scored.quality - scored.quality.mean()) / scored.quality.std()
    assert list(cloud.x) == scored.response_tokens[shown].tolist()
    assert list(cloud.y) == pytest.approx(deviation[shown].tolist())
    (axis,) = draw_still(quality, *palette([quality])).axes
    assert len(axis.lines[0].get_xdata()) == shown.sum()


def test_many_models_share_a_chart_of_trends(two) -> None:
    results = [replace(two[0][1], name=f"m{k}") for k in range(4)]
    charts = charts_of(results, [two[1][1]] * 4)
    assert [one.name for one in charts["reward_against_length"].series] == ["m0", "m1", "m2", "m3"]
    (axis,) = draw_still(charts["accuracy_decomposition"], *palette(list(charts.values()))).axes
    assert len(axis.containers) == 8


def test_accuracy_by_bin_shows_baseline_and_counts(two) -> None:
    chart = charts_of(two[0])["accuracy_by_length_difference"]
    *models, baseline = chart.series
    for series, result in zip(models, two[0], strict=True):
        assert list(series.words) == [f"{row['pairs']:,} pairs" for row in result.length_bins]
        assert list(series.y) == [row["accuracy"]["value"] for row in result.length_bins]
    assert baseline.name == "pick the longer response"
    assert (baseline.y[0], baseline.y[-1]) == (0.0, 1.0)


def test_table_has_a_row_for_each_figure_and_a_column_for_each_model(two) -> None:
    table = figures_table(two[0])
    assert list(table.columns) == ["Figure", "vanilla", "odin"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Pearson with length"][1] == two[0][1]["pearson"]
    assert rows["Length head: Pearson with length"][0] is None
    assert rows["Pairs"] == [100, 100]
    assert "Verbosity twins won by the wordier one" not in rows


def test_undefined_figures_leave_the_page_whole(tmp_path) -> None:
    scored = replace(simulated(4), quality=np.ones(12), true_quality=None, name="flat")
    result = audit_preferences(scored, bootstrap_samples=20)
    text = write_audit_report([result], tmp_path, [scored]).read_text(encoding="utf-8")
    assert "the reward is the same for every response" in text
    assert "nan" not in Page(text).text.lower().split()


def test_figures_are_named_apart(two) -> None:
    blocks = [block for section in audit_sections(*two) for block in section.blocks if isinstance(block, Charts)]
    assert [chart.file for block in blocks for chart in block.charts] == list(FIGURES)
