"""Figures as data: the still and the live picture show the same numbers, in colours that tell runs apart."""

from __future__ import annotations

import html
import json
import math

import numpy as np
import pytest

from odin_rm.evaluation.records import Figure
from odin_rm.reports.blocks import Percent, Table
from odin_rm.reports.chart import Chart, Mark, Series, numbers_table, palette, thin, thinned, x_words
from odin_rm.reports.chart_live import describe_live
from odin_rm.reports.chart_still import draw_panels, draw_still, still_files
from odin_rm.reports.latex import escape_latex, latex_table


def a_chart(*series: Series, **changes) -> Chart:
    return Chart(**({"file": "c", "title": "C", "x_label": "steps", "y_label": "loss", "series": series,
                     "caption": "A.", "alt": "B."} | changes))  # fmt: skip


LINE = Series("odin", [1.0, 2.0, 3.0], [0.5, None, 0.25], low=[0.25, None, 0.0], high=[0.75, None, 0.5])


def live(chart: Chart):
    return describe_live(chart, *palette([chart]))


def test_still_and_live_show_the_same_points() -> None:
    chart = a_chart(LINE, Series("vanilla", [1.0, 2.0], [1.0, 2.0], style="points"))
    canvas = draw_still(chart, *palette([chart]))
    drawn = [line for line in canvas.axes[0].lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in drawn] == ["odin", "vanilla"]
    assert list(drawn[0].get_ydata()) == pytest.approx([0.5, math.nan, 0.25], nan_ok=True)
    data = live(chart)["data"]
    assert data[0]["y"] == [0.5, None, 0.25]
    assert data[0]["error_y"]["array"] == [0.25, None, 0.25]
    assert data[0]["error_y"]["arrayminus"] == [0.25, None, 0.25]
    assert data[1]["mode"] == "markers"


def test_plotly_takes_what_is_described() -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")
    bars = [Series(name, ["all", "longer"], [0.5, 0.6], low=[0.4, 0.5], high=[0.6, 0.7], style="bars") for name in "ab"]
    band = Series("s", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], low=[0.0] * 3, high=[4.0] * 3, band=True, style="steps")
    several = [a_chart(LINE, band, marks=[Mark(1.0, "x", "x"), Mark(0.5, "y")]), a_chart(*bars, percent=True)]
    several += [a_chart(*bars, sideways=True), a_chart(LINE, x_range=(0.0, 4.0), marks=[Mark(0.0, "", until=1.0)])]
    several += [a_chart(Series("s", [1.0], [1.0], x_low=[0.0], x_high=[2.0], star=True, variant=3))]
    for chart in several:
        spec = live(chart)
        # Plotly refuses what it does not know.
        assert len(graph_objects.Figure(data=spec["data"], layout=spec["layout"]).data) == len(spec["data"])
        assert json.loads(json.dumps(spec, allow_nan=False)) == spec


def test_a_band_is_one_shape_around_its_line_and_steps_turn_at_right_angles() -> None:
    band = Series("s", [1.0, 3.0], [1.0, 2.0], low=[0.0, 1.0], high=[2.0, 3.0], band=True)
    shape, line = live(a_chart(band))["data"]
    assert (shape["x"], shape["y"]) == ([1.0, 3.0, 3.0, 1.0], [0.0, 1.0, 3.0, 2.0])
    assert (shape["meta"]["band"], line["meta"]["band"]) == (True, False)
    stepped = live(a_chart(Series(**{**vars(band), "style": "steps"})))["data"][0]
    assert (stepped["x"], stepped["y"]) == ([1.0, 3.0, 3.0, 3.0, 3.0, 1.0], [0.0, 0.0, 1.0, 3.0, 2.0, 2.0])


def test_a_follower_shares_the_entry_of_its_leader() -> None:
    chart = a_chart(LINE, Series("odin: front", [1.0], [1.0], group="odin", follows=True), Series("b", [1.0], [1.0]))
    spec = live(chart)
    assert spec["names"] == ["odin", "b"]
    assert [trace["meta"]["entry"] for trace in spec["data"]] == [0, 0, 1]
    assert spec["data"][0]["meta"]["light"] == spec["data"][1]["meta"]["light"]


@pytest.mark.parametrize("text", ["<b>x</b>", "</script>", "a & b", '"q"', "%{y}"])
def test_names_reach_plotly_escaped(text) -> None:
    spec = live(a_chart(Series(text, [1.0], [1.0], words=[text]), x_label=text, marks=[Mark(0.0, text)]))
    assert spec["data"][0]["name"] == html.escape(text)
    assert spec["layout"]["xaxis"]["title"]["text"] == html.escape(text)
    assert html.escape(text) in spec["data"][0]["text"][0]
    assert "<b>" not in spec["data"][0]["text"][0]
    assert spec["names"] == [text]  # the page writes it as text


def test_points_are_told_in_words() -> None:
    chart = a_chart(LINE, percent=True)
    assert chart.point_words(LINE, 0) == "odin: 50.0 % (25.0 % to 75.0 %) at 1 (steps)"
    assert chart.point_words(LINE, 1).startswith("odin: \N{EN DASH} at 2")
    assert x_words(1500.0) == "1,500"
    assert x_words(0.25) == "0.2"


def test_thinning_keeps_the_ends_and_the_order() -> None:
    assert thin(range(100), 4) == [0, 33, 66, 99]
    assert thin([1, 2], 5) == [1, 2]
    assert thin([1, 2], 1) == [1]
    long = Series("s", list(range(5000)), list(range(5000)), words=[str(k) for k in range(5000)], style="points")
    short = thinned(long, 100)
    assert (len(short.x), short.x[0], short.x[-1], short.words[-1]) == (100, 0, 4999, "4999")
    assert short.style == "points"
    assert len(short.low) == 0


def test_the_table_of_numbers_has_every_point_of_short_series() -> None:
    table = numbers_table(a_chart(LINE, Series("dots", [1.0], [2.0], words=["seed 3"])))
    assert list(table.columns) == ["Series", "steps", "loss", "Point"]
    assert table.rows[0] == ["odin", "1", Figure(0.5, 0.25, 0.75), ""]
    assert table.rows[1][2] == Figure(None)
    assert table.rows[3] == ["dots", "1", Figure(2.0), "seed 3"]
    long = Series("s", list(range(500)), list(np.arange(500.0)))
    assert len(numbers_table(a_chart(long)).rows) == 40


def test_runs_of_one_chart_differ_in_colour_or_marker_and_keep_theirs() -> None:
    many = a_chart(*[Series(f"run {k}", [1.0], [1.0]) for k in range(12)])
    other = a_chart(Series("run 3", [1.0], [1.0]), Series("odin", [1.0], [1.0]))
    colours, markers = palette([many, other])
    assert len({(colours[f"run {k}"], markers[f"run {k}"]) for k in range(12)}) == 12
    assert len({colours[f"run {k}"] for k in range(8)}) == 8
    assert colours["run 3"] != colours["odin"]


def test_a_sideways_chart_stands_on_its_side_in_both_pictures() -> None:
    names = ["words", "lists"]
    within = Series("m, within", names, [0.5, -0.25], low=[0.25, -0.5], high=[0.75, 0.0], group="m", style="points")
    pooled = Series("m, all", names, [0.125, 0.25], group="m", style="points", variant=1)
    chart = a_chart(within, pooled, sideways=True, marks=[Mark(-0.05, "", until=0.05), Mark(0.0, "none")])
    (axis,) = draw_still(chart, *palette([chart])).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == names
    filled, hollow = (line for line in axis.lines if line.get_label() in ("m, within", "m, all"))
    assert (list(filled.get_xdata()), list(filled.get_ydata())) == ([0.5, -0.25], [0.0, 1.0])
    assert list(hollow.get_ydata()) == [0.0, 1.0]  # on the row of its owner
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first on top
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("loss", "steps")
    spec = live(chart)
    first, second = spec["data"]
    assert (first["x"], first["y"], first["orientation"]) == ([0.5, -0.25], names, "h")
    assert first["error_x"]["array"] == [0.25, 0.25]
    assert first["offsetgroup"] == second["offsetgroup"] == "m"
    assert second["marker"]["symbol"].endswith("-open")
    assert spec["layout"]["yaxis"]["autorange"] == "reversed"
    stretch, line = spec["layout"]["shapes"]
    assert (stretch["type"], stretch["x0"], stretch["x1"], stretch["yref"]) == ("rect", -0.05, 0.05, "paper")
    assert (line["type"], line["x0"], line["x1"]) == ("line", 0.0, 0.0)


def test_a_star_stands_apart_from_the_rivals_and_ordered_series_go_from_dark_to_light() -> None:
    series = [
        Series(f"beta = {k}", [float(k)], [1.0], place=k / 2, x_low=[k - 0.5], x_high=[k + 1.0]) for k in range(3)
    ]
    chart = a_chart(*series, Series("start", [2.0], [0.5], style="points", star=True))
    colours, markers = palette([chart])
    light = [sum(int(colours[one.name][k : k + 2], 16) for k in (1, 3, 5)) for one in series]
    assert light == sorted(light)
    assert len({markers[one.name] for one in series}) == 3
    assert markers["start"] == "*"
    assert "*" not in {markers[one.name] for one in series}
    spec = live(chart)
    assert (spec["data"][1]["error_x"]["array"], spec["data"][1]["error_x"]["arrayminus"]) == ([1.0], [0.5])
    assert spec["data"][0]["meta"]["light"] != spec["data"][0]["meta"]["dark"]
    (name,) = spec["layout"]["annotations"]
    assert (name["text"], name["x"], name["y"]) == ("start", 2.0, 0.5)


def test_panels_share_their_axes_and_one_legend() -> None:
    charts = [a_chart(LINE, title=f"panel {k}", x_range=(0.0, 5.0), y_range=(-1.0, 1.0)) for k in range(3)]
    canvas = draw_panels(charts)
    assert [axis.get_title(loc="left") for axis in canvas.axes] == ["panel 0", "panel 1", "panel 2"]
    assert {axis.get_xlim() for axis in canvas.axes} == {(0.0, 5.0)}
    assert {axis.get_ylim() for axis in canvas.axes} == {(-1.0, 1.0)}
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == ["odin"]


def test_still_files_are_the_same_each_time() -> None:
    chart = a_chart(LINE)
    one, two = (still_files(draw_still(chart, *palette([chart]))) for _ in range(2))
    assert one == two
    assert one[0].startswith(b"\x89PNG")
    assert b"<svg" in one[1]


def test_latex_escapes_every_special_character() -> None:
    assert escape_latex("a_b & 5 % \\x {y} ~^ #1 $2") == (
        r"a\_b \& 5 \% \textbackslash{}x \{y\} \textasciitilde{}\textasciicircum{} \#1 \$2"
    )
    assert escape_latex("\N{MINUS SIGN}1\n\x00 2") == "$-$1 2"


def test_latex_table_by_hand() -> None:
    table = Table("A 5 % caption\nin two lines", ["Run", "Score"], [["o_1", Figure(-0.5, -1.0, 0.0)],
                                                                    ["b", Percent(0.25)]], digits=1)  # fmt: skip
    assert latex_table(table).splitlines() == [
        "% A 5 % caption in two lines",
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"Run & Score \\",
        r"\midrule",
        r"o\_1 & $-$0.5 ($-$1.0 to 0.0) \\",
        r"b & 25.0 \% \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
