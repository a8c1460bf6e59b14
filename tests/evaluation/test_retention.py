"""Benchmarks before and after: intervals and paired differences by hand, by scipy, and by a second way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from odin_rm.evaluation.retention import Measure, compare_models, difference, task_weights, with_interval


def measure(*tasks: list[float], value: float | None = None, error: float | None = None, **fields) -> Measure:
    """Of a group of tasks; the value is the mean over questions unless it is given."""
    answers = {f"t{t}": {f"q{k}": value for k, value in enumerate(values)} for t, values in enumerate(tasks)}
    every = [value for values in tasks for value in values]
    given = sum(every) / len(every) if value is None else value
    return Measure("task", "acc", "none", given, error, True, answers, **fields)


def test_a_difference_worked_out_by_hand():
    # Questions 1 and 2 are lost, question 4 is gained.
    before, after = measure([1, 1, 1, 0, 0]), measure([0, 0, 1, 1, 0])
    change = difference(before, after)
    assert change["value"] == pytest.approx(-0.2)
    assert (change["paired"], change["changed"]) == (True, 3)
    # Differences -1, -1, 0, 1, 0: mean -0.2, sum of squares 3, variance (3 - 5 * 0.04) / 4.
    error = math.sqrt((3 - 0.2) / 4 / 5)
    assert change["standard_error"] == pytest.approx(error)
    assert change["low"] == pytest.approx(-0.2 - 1.959964 * error, abs=1e-6)
    # Of the 8 ways to give 3 changes a sign, 6 have a sum of 1 or -1 and 2 one of 3 or -3: all are as far from zero.
    assert change["p_value"] == 1.0


def test_the_p_value_is_that_of_the_sign_test_for_right_and_wrong():
    before, after = measure([1] * 9 + [0] * 3), measure([0] * 8 + [1] * 3 + [0])
    gained, lost = 2, 8
    assert difference(before, after)["p_value"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)


def test_pairing_narrows_the_interval_where_the_models_agree():
    rng = np.random.default_rng(0)
    old = rng.integers(0, 2, 400).astype(float)
    new = np.where(rng.random(400) < 0.05, 1 - old, old)
    paired = difference(measure(list(old)), measure(list(new)))
    other = Measure("task", "acc", "none", float(new.mean()), None, True, {"t0": dict(enumerate(new))})  # type: ignore[arg-type]
    apart = difference(measure(list(old)), other)
    assert paired["value"] == pytest.approx(apart["value"])
    assert paired["standard_error"] == pytest.approx(np.std(new - old, ddof=1) / 20)
    assert apart["standard_error"] == pytest.approx(math.hypot(*(np.std(x, ddof=1) / 20 for x in (old, new))))
    assert paired["standard_error"] < 0.4 * apart["standard_error"]
    assert not apart["paired"]
    assert apart["why"] == "not paired: measured on different questions"
    assert "p_value" not in apart


def test_wilsons_interval_for_right_and_wrong_and_the_normal_one_for_degrees():
    figure = with_interval(measure([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
    # (p + z^2/2n -+ z sqrt(p q / n + z^2/4n^2)) / (1 + z^2/n), p = 0.1, n = 10
    assert (figure.low, figure.high) == pytest.approx((0.01787621, 0.40415003), abs=1e-6)
    none_right = with_interval(measure([0.0] * 20))
    assert none_right.low == pytest.approx(0.0, abs=1e-12)
    assert none_right.high == pytest.approx(1.959964**2 / (20 + 1.959964**2), abs=1e-6)
    degrees = with_interval(measure([0.5, 0.0, 1.0, 0.5]))
    assert degrees.standard_error == pytest.approx(math.sqrt(1 / 6 / 4))
    assert degrees.high == pytest.approx(0.5 + 1.959964 * math.sqrt(1 / 24), abs=1e-6)


def test_a_group_is_weighted_as_its_own_value_says():
    tasks = ([1, 1, 1, 1, 0, 0], [1, 0])
    assert task_weights(measure(*tasks, value=5 / 8)) == pytest.approx({"t0": 0.75, "t1": 0.25})
    assert task_weights(measure(*tasks, value=(4 / 6 + 1 / 2) / 2)) == pytest.approx({"t0": 0.5, "t1": 0.5})
    assert task_weights(measure(*tasks, value=0.3)) is None
    by_task = with_interval(measure(*tasks, value=7 / 12))
    # Variances of the tasks' means: (4/6)(2/6)(6/5)/6 and 1/4; each weight is a half.
    assert by_task.standard_error == pytest.approx(math.sqrt((4 / 6 * 2 / 6 * 6 / 5 / 6 + 0.25) / 4))


def test_equal_weights_per_task_reach_the_p_value():
    """Ten questions of a large task go one way, one of a small task the other: by tasks they cancel."""
    before = measure([0.0] * 10, [1.0], value=0.5)
    after = measure([1.0] + [0.0] * 9, [0.9], value=0.5)
    change = difference(before, after)
    assert change["value"] == 0
    assert change["p_value"] == 1.0
    assert change["why"] == "no interval: a task has one question"


def test_a_figure_that_is_no_mean_keeps_the_harness_error_and_is_not_paired():
    before = measure([0.1, 0.2], value=31.0, error=3.0)
    after = measure([0.1, 0.2], value=35.0, error=4.0)
    assert with_interval(before).high == pytest.approx(31 + 3 * 1.959964, abs=1e-5)
    change = difference(before, after)
    assert (change["value"], change["standard_error"], change["paired"]) == (4.0, 5.0, False)
    assert change["why"] == "not paired: the figure is no mean over questions"
    bare = with_interval(Measure("task", "f1", "none", 0.4))
    assert (bare.low, bare.why) == (None, "no interval: neither a standard error nor a value for each question")
    unknown = difference(before, measure([0.1, 0.2], value=35.0))
    assert (unknown["low"], unknown["standard_error"]) == (None, None)


def test_a_measure_survives_its_file():
    one = measure([1, 0], [1], error=0.1, part=True)
    assert Measure.from_json(one.to_json()) == one


def test_rows_follow_the_metrics_and_the_first_model_is_the_one_before():
    other = Measure("other", "f1", "none", 0.2, 0.1)
    rows = compare_models(["a", "b", "c"], [[measure([1, 0])], [measure([1, 1]), other], [measure([0, 0])]])
    assert [(row["metric"], row["questions"]) for row in rows] == [("acc", 2), ("f1", None)]
    assert [(change["model"], change["value"]) for change in rows[0]["differences"]] == [("b", 0.5), ("c", -0.5)]
    assert [figure["model"] for figure in rows[1]["models"]] == ["b"]
    assert rows[1]["differences"] == []
