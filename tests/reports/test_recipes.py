"""The paper's figures from plain records: what is drawn, what is said of it, what cannot be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.blocks import Table
from odin_rm.reports.dominance import draw_dominance
from odin_rm.reports.fronts import legend_columns
from odin_rm.reports.latex import latex_table
from odin_rm.reports.markdown import markdown_table
from odin_rm.reports.recipes import (
    MOST_PANELS,
    RECIPES,
    Band,
    HeadScores,
    draw_main_fronts,
    draw_recipe,
    draw_reward_against_length,
    draw_setting_effect,
)

LABELS = {"length_label": "tokens", "score_label": "score"}
RUNS = [
    RunPoint("vanilla", 30.0, 0.5, "a", "ppo", {"kl_coef": 0.1, "reward_clip": math.inf}),
    RunPoint("vanilla", 40.0, 0.7, "b", "remax", {"kl_coef": 0.2, "reward_clip": 2.0}),
    RunPoint("vanilla", 45.0, 0.6, "c", "ppo", {"kl_coef": 0.1, "reward_clip": 2.0}),
    RunPoint("odin", 25.0, 0.6, "d", "ppo", {"kl_coef": 0.1, "reward_clip": math.inf}, score_low=0.5, score_high=0.7),
]


def steps(axis) -> list:
    return [line for line in axis.get_lines() if line.get_drawstyle() == "steps-post"]


def test_main_fronts_draw_every_run_and_what_each_arm_attains():
    band = Band(np.array([30.0, 40.0]), [Figure(0.5, 0.4, 0.6), Figure(0.7)])
    mark = RunPoint("start", 20.0, 0.1, "start (SFT)")
    drawing = draw_main_fronts(RUNS, bands={"vanilla": band}, marks=[mark], lengths={"optimum": 21.0}, **LABELS)
    axis = drawing.canvas.axes[0]
    vanilla, odin = steps(axis)
    assert (list(vanilla.get_xdata()[:2]), list(vanilla.get_ydata())) == ([30.0, 40.0], [0.5, 0.7, 0.7])
    assert odin.get_xdata()[-1] == vanilla.get_xdata()[-1] == axis.get_xlim()[1]
    markers = [line for line in axis.get_lines() if line.get_marker() not in ("None", "*")]
    assert sorted(float(line.get_xdata()[0]) for line in markers) == [25.0, 30.0, 40.0, 45.0]
    assert [line.get_xdata()[0] for line in markers if line.get_fillstyle() == "none"] == [40.0]  # ReMax
    legend = [text.get_text() for text in drawing.canvas.legends[0].get_texts()]
    assert legend == ["vanilla", "odin", "PPO", "ReMax", "optimum (21)", "95 % interval of the front"]
    assert [text.get_text() for text in axis.texts] == ["start (SFT)"]
    assert drawing.data["fronts"]["vanilla"] == [
        {"name": "a", "length": 30.0, "score": 0.5}, {"name": "b", "length": 40.0, "score": 0.7}
    ]  # fmt: skip
    assert "vanilla: 0.50 at 30, 0.70 at 40" in drawing.alt


def test_order_of_runs_changes_no_front():
    one, other = (draw_main_fronts(runs, **LABELS).data["fronts"] for runs in (RUNS, RUNS[::-1]))
    assert one == other


def test_a_setting_has_a_front_per_value_in_a_panel_per_arm():
    drawing = draw_setting_effect(RUNS, "kl_coef", setting_label="beta", **LABELS)
    first, second = drawing.data["panels"]
    assert (first["arm"], second["arm"]) == ("vanilla", "odin")
    assert {value: [row["name"] for row in rows] for value, rows in first["fronts"].items()} == {
        "0.1": ["a", "c"], "0.2": ["b"]
    }  # fmt: skip
    legend = [text.get_text() for text in drawing.canvas.legends[0].get_texts()]
    assert legend[:2] == ["beta = 0.1", "beta = 0.2"]
    left, right = drawing.canvas.axes
    assert (len(steps(left)), len(steps(right))) == (2, 1)
    assert left.get_xlim() == right.get_xlim()


def test_values_stand_in_their_order_and_no_clip_is_called_none():
    legend = [
        text.get_text()
        for text in draw_recipe("clip", RUNS, **LABELS).canvas.legends[0].get_texts()
    ]  # fmt: skip
    assert legend[:2] == ["reward clip c = 2", "reward clip c = none"]
    texts = [RunPoint("a", 1.0 + k, 1.0, settings={"v": v}) for k, v in enumerate(["10", 9, "x"])]
    data = draw_setting_effect(texts, "v", **LABELS).data
    assert list(data["panels"][0]["fronts"]) == ["9", "10", "x"]


def test_recipes_of_ppo_leave_other_algorithms_out():
    runs = [RunPoint("a", 10.0 + k, 0.1 * k, f"r{k}", "ppo", {"clip_epsilon": 0.1 * k}) for k in (1, 2)]
    runs.append(RunPoint("a", 30.0, 0.9, "remax", "remax", {"clip_epsilon": 0.2}))
    names = [p["name"] for p in draw_recipe("epsilon", runs, **LABELS).data["panels"][0]["points"]]
    assert names == ["r1", "r2"]
    assert set(RECIPES) == {"main", "kl", "epsilon", "experience_size", "clip", "length_penalty"}


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(DataError, match="no run has the setting 'clip_epsilon'"):
        draw_recipe("epsilon", RUNS, **LABELS)
    with pytest.raises(DataError, match=r"all runs have kl_coef 0.1: there is no effect to show"):
        draw_setting_effect([RUNS[0], RUNS[2]], "kl_coef", **LABELS)
    with pytest.raises(DataError, match="no run to draw"):
        draw_main_fronts([], **LABELS)
    with pytest.raises(ConfigError, match="no recipe 'kl2'"):
        draw_recipe("kl2", RUNS, **LABELS)
    many = [RunPoint(f"a{k}", 1.0, 1.0, settings={"v": k % 2}) for k in range(MOST_PANELS + 1)]
    with pytest.raises(DataError, match=f"{MOST_PANELS + 1} panels"):
        draw_setting_effect(many, "v", **LABELS)


def test_heads_show_their_correlation_and_trend():
    rng = np.random.default_rng(0)
    length = rng.integers(5, 60, 200).astype(float)
    heads = [HeadScores("odin", "quality", length, rng.normal(size=200)), HeadScores("odin", "length", length, length)]
    quality, by_length = draw_reward_against_length(heads).data["panels"]
    assert quality["pearson"]["value"] == pytest.approx(np.corrcoef(length, heads[0].value_R)[0, 1])
    assert quality["pearson"]["low"] < quality["pearson"]["value"] < quality["pearson"]["high"]
    assert by_length["pearson"]["value"] == pytest.approx(1.0)
    rising = [row["value"] for row in by_length["trend"]]
    assert rising == sorted(rising)
    assert sum(row["responses"] for row in by_length["trend"]) == 200
    given = HeadScores("m", "quality", np.zeros(0), np.zeros(0), trend=quality["trend"], pearson=Figure(0.3))
    assert draw_reward_against_length([given]).data["panels"][0]["pearson"]["value"] == 0.3


@pytest.mark.parametrize(
    ("length", "value", "said"),
    [([1, 2, 3], [1, 1, 1], "all equal"), ([1, 2], [1, np.nan], "finite"), ([1], [1], "two responses"),
     ([1, 2], [1, 2, 3], "two responses")],
)  # fmt: skip
def test_scores_without_a_trend_are_refused(length, value, said):
    with pytest.raises(DataError, match="m, quality head: ") as error:
        draw_reward_against_length([HeadScores("m", "quality", np.array(length, float), np.array(value, float))])
    assert said.split()[0] in str(error.value)


def test_dominance_is_drawn_of_few_pairs_only():
    pair = {"first": "a", "second": "b", "dominance": [None, 0.5, 1.0]}
    drawing = draw_dominance([1.0, 2.0, 3.0], [pair], length_label="tokens")
    line = drawing.canvas.axes[0].get_lines()[0]
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 0.5, 1.0])
    assert "a above b: 50% to 100%" in drawing.alt
    assert draw_dominance([1.0, 2.0, 3.0], [pair] * 20, length_label="tokens") is None
    assert draw_dominance([1.0, 2.0], [], length_label="tokens") is None


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
