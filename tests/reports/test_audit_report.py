"""The audit's page and figures, seen through what is drawn and written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from odin_rm.evaluation.audit import audit_preferences
from odin_rm.evaluation.records import Figure
from odin_rm.reports import audit_headline, audit_sections, figures_table, plots, write_audit_report
from odin_rm.reports.page import Plot
from tests.evaluation.simulate import simulated
from tests.reports.test_page import Page, assert_self_contained

FIGURES = ("correlations", "reward_against_length", "accuracy_decomposition", "accuracy_by_length_difference")


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


def test_correlations_are_drawn_where_they_are(two) -> None:
    axis = plots.correlations_side_by_side(two[0]).axes[0]
    drawn = sorted(x for container in axis.containers for x in container.lines[0].get_xdata())
    names = ("pearson", "spearman", "kendall", "pearson_within_prompt")
    assert drawn == pytest.approx(sorted(r[n].value for r in two[0] for n in names))
    lows = [segment[0][0] for container in axis.containers for segment in container.lines[2][0].get_segments()]
    assert sorted(lows) == pytest.approx(sorted(r[n].low for r in two[0] for n in names))


def test_scatter_has_a_panel_per_head_and_its_trend(two) -> None:
    canvas = plots.reward_against_length(*two)
    titles = [axis.get_title(loc="left").partition(", r = ")[0] for axis in canvas.axes]
    assert titles == ["vanilla\nquality head", "odin\nquality head", "odin\nlength head"]
    line = next(line for line in canvas.axes[0].lines if len(line.get_xdata()) > 2)
    assert list(line.get_ydata()) == [row["value"] for row in two[0][0].trend["quality"]]
    assert len(canvas.axes[0].collections[0].get_offsets()) == 300


def test_many_models_share_a_grid_without_scores(two) -> None:
    results = [replace(two[0][1], name=f"m{k}") for k in range(4)]
    canvas = plots.reward_against_length(results)
    shown = [axis for axis in canvas.axes if axis.axison]
    assert len(shown) == 8
    assert len(plots.accuracy_decomposition(results).axes[0].containers) == 8


def test_accuracy_by_bin_shows_baseline_and_counts(two) -> None:
    axis = plots.accuracy_by_length_difference(two[0]).axes[0]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert [int(t.rpartition("n = ")[2]) for t in labels] == [row["pairs"] for row in two[0][0].length_bins]
    baseline = axis.lines[0].get_ydata()
    assert (baseline[0], baseline[-1]) == (0.0, 1.0)


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


def test_plots_are_named_apart(two) -> None:
    blocks = [block for section in audit_sections(*two) for block in section.blocks if isinstance(block, Plot)]
    assert [block.file for block in blocks] == list(FIGURES)
