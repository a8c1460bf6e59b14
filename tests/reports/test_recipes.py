"""The paper's figures from plain records: what is drawn, what is said of it, what cannot be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.blocks import Table
from odin_rm.reports.chart_still import FILLS, draw_panels, legend_columns
from odin_rm.reports.dominance import dominance_figure
from odin_rm.reports.fronts import BANDS_NOTE
from odin_rm.reports.latex import latex_table
from odin_rm.reports.markdown import markdown_table
from odin_rm.reports.recipes import (
    MOST_PANELS,
    RECIPES,
    Band,
    HeadScores,
    main_fronts,
    recipe_figure,
    reward_against_length,
    setting_effect,
)

LABELS = {"length_label": "tokens", "score_label": "score"}
RUNS = [
    RunPoint("vanilla", 30.0, 0.5, "a", "ppo", {"kl_coef": 0.1, "reward_clip": math.inf}),
    RunPoint("vanilla", 40.0, 0.7, "b", "remax", {"kl_coef": 0.2, "reward_clip": 2.0}),
    RunPoint("vanilla", 45.0, 0.6, "c", "ppo", {"kl_coef": 0.1, "reward_clip": 2.0}),
    RunPoint("odin", 25.0, 0.6, "d", "ppo", {"kl_coef": 0.1, "reward_clip": math.inf}, score_low=0.5, score_high=0.7),
]


def test_main_fronts_show_every_run_and_what_each_arm_attains():
    band = Band(np.array([30.0, 40.0]), [Figure(0.5, 0.4, 0.6), Figure(0.7)])
    mark = RunPoint("start", 20.0, 0.1, "start (SFT)")
    figure = main_fronts(RUNS, bands={"vanilla": band}, marks=[mark], lengths={"optimum": 21.0}, **LABELS)
    (chart,) = figure.charts
    vanilla, odin = (one for one in chart.series if one.style == "steps")
    right = chart.x_range[1]
    assert (list(vanilla.x), list(vanilla.y)) == ([30.0, 40.0, right], [0.5, 0.7, 0.7])
    assert (list(vanilla.low), list(vanilla.high)) == ([0.4, None, None], [0.6, None, None])
    assert (list(odin.x), list(odin.y), len(odin.low)) == ([25.0, right], [0.6, 0.6], 0)
    clouds = {one.name: (list(one.x), one.variant) for one in chart.series if one.style == "points" and not one.star}
    assert clouds == {
        "vanilla, PPO": ([30.0, 45.0], 0), "vanilla, ReMax": ([40.0], 1), "odin, PPO": ([25.0], 0)
    }  # fmt: skip
    assert {one.owner for one in chart.series} == {"vanilla", "odin", "start (SFT)"}
    (cloud,) = (one for one in chart.series if one.name == "odin, PPO")
    assert cloud.figure(0) == Figure(0.6, 0.5, 0.7)
    assert [(m.at, m.label, m.axis) for m in chart.marks] == [(21.0, "optimum (21)", "x")]
    assert figure.data["fronts"]["vanilla"] == [
        {"name": "a", "length": 30.0, "score": 0.5}, {"name": "b", "length": 40.0, "score": 0.7}
    ]  # fmt: skip
    assert "vanilla: 0.50 at 30, 0.70 at 40" in figure.alt


def test_the_picture_says_why_a_band_lies_under_its_line():
    band = Band(np.array([30.0, 40.0]), [Figure(0.5, 0.4, 0.5), Figure(0.7, 0.5, 0.7)])
    (with_band,) = main_fronts(RUNS, bands={"vanilla": band}, **LABELS).charts
    (without,) = main_fronts(RUNS, **LABELS).charts
    said = [" ".join(text.get_text().split()) for text in draw_panels([with_band]).texts]
    assert BANDS_NOTE in said
    assert "band lies under its line" in BANDS_NOTE
    assert without.note == ""
    assert BANDS_NOTE not in [" ".join(text.get_text().split()) for text in draw_panels([without]).texts]


def test_the_still_fills_markers_by_algorithm_and_names_stars_beside_them():
    mark = RunPoint("start", 20.0, 0.1, "start (SFT)")
    canvas = draw_panels(main_fronts(RUNS, marks=[mark], **LABELS).charts)
    (axis,) = canvas.axes
    markers = [line for line in axis.get_lines() if line.get_marker() not in ("None", "*", "")]
    fills = {tuple(line.get_xdata()): line.get_fillstyle() for line in markers}
    assert fills == {(30.0, 45.0): FILLS[0], (40.0,): FILLS[1], (25.0,): FILLS[0]}
    assert [text.get_text() for text in axis.texts] == ["start (SFT)"]
    legend = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert legend == ["vanilla, PPO", "vanilla, ReMax", "odin, PPO"]


def test_order_of_runs_changes_no_front():
    one, other = (main_fronts(runs, **LABELS).data["fronts"] for runs in (RUNS, RUNS[::-1]))
    assert one == other


def test_a_setting_has_a_front_per_value_in_a_panel_per_arm():
    figure = setting_effect(RUNS, "kl_coef", setting_label="beta", file="kl", **LABELS)
    first, second = figure.data["panels"]
    assert (first["arm"], second["arm"]) == ("vanilla", "odin")
    assert {value: [row["name"] for row in rows] for value, rows in first["fronts"].items()} == {
        "0.1": ["a", "c"], "0.2": ["b"]
    }  # fmt: skip
    left, right = figure.charts
    assert (left.file, left.title, right.file, right.title) == ("kl_1", "vanilla", "kl_2", "odin")
    fronts = [[one.group for one in chart.series if one.style == "steps"] for chart in figure.charts]
    assert fronts == [["beta = 0.1", "beta = 0.2"], ["beta = 0.1"]]
    assert (left.x_range, left.y_range) == (right.x_range, right.y_range)
    assert {one.group: one.place for one in left.series} == {"beta = 0.1": 0.0, "beta = 0.2": 1.0}
    canvas = draw_panels(figure.charts)
    assert [axis.get_title(loc="left") for axis in canvas.axes] == ["vanilla", "odin"]
    assert canvas.axes[0].get_xlim() == canvas.axes[1].get_xlim() == pytest.approx(left.x_range)
    assert len(canvas.legends) == 1


def test_values_stand_in_their_order_and_no_clip_is_called_none():
    shown = recipe_figure("clip", RUNS, **LABELS).charts[0].series
    assert list(dict.fromkeys(one.group for one in shown)) == ["reward clip c = 2", "reward clip c = none"]
    texts = [RunPoint("a", 1.0 + k, 1.0, settings={"v": v}) for k, v in enumerate(["10", 9, "x"])]
    data = setting_effect(texts, "v", **LABELS).data
    assert list(data["panels"][0]["fronts"]) == ["9", "10", "x"]


def test_recipes_of_ppo_leave_other_algorithms_out():
    runs = [RunPoint("a", 10.0 + k, 0.1 * k, f"r{k}", "ppo", {"clip_epsilon": 0.1 * k}) for k in (1, 2)]
    runs.append(RunPoint("a", 30.0, 0.9, "remax", "remax", {"clip_epsilon": 0.2}))
    names = [p["name"] for p in recipe_figure("epsilon", runs, **LABELS).data["panels"][0]["points"]]
    assert names == ["r1", "r2"]
    assert set(RECIPES) == {"main", "kl", "epsilon", "experience_size", "clip", "length_penalty"}


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(DataError, match="no run has the setting 'clip_epsilon'"):
        recipe_figure("epsilon", RUNS, **LABELS)
    with pytest.raises(DataError, match=r"all runs have kl_coef 0.1: there is no effect to show"):
        setting_effect([RUNS[0], RUNS[2]], "kl_coef", **LABELS)
    with pytest.raises(DataError, match="no run to draw"):
        main_fronts([], **LABELS)
    with pytest.raises(ConfigError, match="no recipe 'kl2'"):
        recipe_figure("kl2", RUNS, **LABELS)
    many = [RunPoint(f"a{k}", 1.0, 1.0, settings={"v": k % 2}) for k in range(MOST_PANELS + 1)]
    with pytest.raises(DataError, match=f"{MOST_PANELS + 1} panels"):
        setting_effect(many, "v", **LABELS)


def test_heads_show_their_correlation_and_trend():
    rng = np.random.default_rng(0)
    length = rng.integers(5, 60, 200).astype(float)
    heads = [HeadScores("odin", "quality", length, rng.normal(size=200)), HeadScores("odin", "length", length, length)]
    quality, by_length = reward_against_length(heads).data["panels"]
    assert quality["pearson"]["value"] == pytest.approx(np.corrcoef(length, heads[0].value_R)[0, 1])
    assert quality["pearson"]["low"] < quality["pearson"]["value"] < quality["pearson"]["high"]
    assert by_length["pearson"]["value"] == pytest.approx(1.0)
    rising = [row["value"] for row in by_length["trend"]]
    assert rising == sorted(rising)
    assert sum(row["responses"] for row in by_length["trend"]) == 200
    cloud, trend = reward_against_length(heads).charts[0].series
    assert (list(cloud.x), cloud.style) == (length.tolist(), "points")
    assert list(trend.y) == [row["value"] for row in quality["trend"]]
    given = HeadScores("m", "quality", np.zeros(0), np.zeros(0), trend=quality["trend"], pearson=Figure(0.3))
    assert reward_against_length([given]).data["panels"][0]["pearson"]["value"] == 0.3


@pytest.mark.parametrize(
    ("length", "value", "said"),
    [([1, 2, 3], [1, 1, 1], "all equal"), ([1, 2], [1, np.nan], "finite"), ([1], [1], "two responses"),
     ([1, 2], [1, 2, 3], "two responses")],
)  # fmt: skip
def test_scores_without_a_trend_are_refused(length, value, said):
    with pytest.raises(DataError, match="m, quality head: ") as error:
        reward_against_length([HeadScores("m", "quality", np.array(length, float), np.array(value, float))])
    assert said.split()[0] in str(error.value)


def test_dominance_is_shown_of_few_pairs_only():
    pair = {"first": "a", "second": "b", "dominance": [None, 0.5, 1.0]}
    figure = dominance_figure([1.0, 2.0, 3.0], [pair], length_label="tokens")
    (line,) = figure.charts[0].series
    assert (line.name, list(line.x), list(line.y)) == ("a above b", [1.0, 2.0, 3.0], [None, 0.5, 1.0])
    assert "a above b: 50% to 100%" in figure.alt
    assert dominance_figure([1.0, 2.0, 3.0], [pair] * 20, length_label="tokens") is None
    assert dominance_figure([1.0, 2.0], [], length_label="tokens") is None


def test_legends_take_as_many_columns_as_fit():
    assert legend_columns(["a", "b", "c"], 8.6) == 3
    assert legend_columns(["a" * 90, "b", "c" * 90, "d"], 8.6) == 1
    assert legend_columns(["a" * 90, "b" * 90, "c"], 8.6) == 2  # the short one stands alone in its column
    assert legend_columns(["a" * 30] * 6, 8.6) == 2


def test_tables_as_markdown_and_latex():
    table = Table("What is\nshown.", ["Arm", "a|b"], [["x_1", Figure(0.5, 0.4, 0.6)], ["y", None]], digits=2)
    assert markdown_table(table).splitlines() == [
        "What is shown.", "", "| Arm | a\\|b |", "| --- | ---: |", "| x_1 | 0.50 (0.40 to 0.60) |", "| y | \u2013 |"
    ]  # fmt: skip
    assert r"x\_1 & 0.50 (0.40 to 0.60) \\" in latex_table(table)
