"""Fronts by hand, against brute force, and under resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import DataError
from odin_rm.evaluation.pareto import (
    FrontBootstrap,
    RunPoints,
    attained_score,
    front_area,
    matched_score,
    pareto_front,
    shared_bounds,
)

# Runs 1, 0 and 4 are the front: 2 is dominated by 0, 3 ties with 1 in length, 5 equals 0.
LENGTHS = [20.0, 10.0, 25.0, 10.0, 40.0, 20.0]
SCORES = [0.6, 0.2, 0.5, 0.1, 0.9, 0.6]
HAND = RunPoints(np.array(LENGTHS), np.array(SCORES))

small_floats = st.integers(-6, 6).map(lambda k: k / 2)
runs = st.lists(st.tuples(st.integers(0, 8).map(float), small_floats), min_size=1, max_size=9)


def points_of(rows: list[tuple[float, float]], cluster: np.ndarray | None = None) -> RunPoints:
    lengths, scores = np.array(rows).T
    return RunPoints(lengths, scores, cluster)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def test_front_by_hand() -> None:
    assert pareto_front(HAND).tolist() == [1, 0, 4]


def test_attained_and_matched_scores_by_hand() -> None:
    at = np.array([9.0, 10.0, 15.0, 20.0, 30.0, 40.0, 99.0])
    assert attained_score(HAND, at) == pytest.approx([np.nan, 0.2, 0.2, 0.6, 0.6, 0.9, 0.9], nan_ok=True)
    assert matched_score(HAND, at) == pytest.approx([np.nan, 0.2, 0.4, 0.6, 0.75, 0.9, 0.9], nan_ok=True)


def test_area_by_hand() -> None:
    # From 10 to 20 at 0.2, from 20 to 40 at 0.6, from 40 to 50 at 0.9, all above the reference 0.1.
    assert front_area(HAND, (0, 50), 0.1) == pytest.approx(10 * 0.1 + 20 * 0.5 + 10 * 0.8)
    assert front_area(HAND, (15, 30), 0.1) == pytest.approx(5 * 0.1 + 10 * 0.5)
    # Steps below the reference earn nothing, they take nothing off.
    assert front_area(HAND, (0, 50), 0.5) == pytest.approx(20 * 0.1 + 10 * 0.4)
    assert front_area(HAND, (0, 10), 0.0) == 0
    assert shared_bounds([HAND, RunPoints([5.0], [0.0])]) == (5.0, 40.0)


@given(runs)
def test_front_is_what_brute_force_finds(rows: list[tuple[float, float]]) -> None:
    front = {rows[k] for k in pareto_front(points_of(rows))}
    assert front == {a for a in rows if not any(dominates(b, a) for b in rows)}
    assert len(front) == len(pareto_front(points_of(rows)))


@given(runs, small_floats)
def test_area_is_the_union_of_boxes(rows: list[tuple[float, float]], reference: float) -> None:
    # Whole lengths, halves of scores: the area is a count of cells of 1 by 0.5 inside any run's box.
    low, high = 1, 11
    cells = [(x + 0.5, reference + y / 2 + 0.25) for x in range(low, high) for y in range(26)]
    covered = sum(any(length <= x and score >= y for length, score in rows) for x, y in cells)
    assert front_area(points_of(rows), (low, high), reference) == pytest.approx(covered / 2)


@given(runs, runs)
def test_another_run_never_lowers_a_front(rows: list[tuple[float, float]], more: list[tuple[float, float]]) -> None:
    at = np.arange(12.0)
    before, after = (attained_score(points_of(r), at) for r in (rows, rows + more))
    assert (np.isnan(before) | (after >= before)).all()
    assert front_area(points_of(rows + more), (0, 12), -3) >= front_area(points_of(rows), (0, 12), -3) - 1e-12


@given(runs)
def test_order_and_copies_of_runs_change_nothing(rows: list[tuple[float, float]]) -> None:
    at = np.arange(12.0)
    one, other = points_of(rows), points_of([*reversed(rows), rows[0]])
    for read in (attained_score, matched_score):
        np.testing.assert_array_equal(read(one, at), read(other, at))
    assert front_area(one, (0, 9), -3) == pytest.approx(front_area(other, (0, 9), -3))


@given(runs)
def test_a_matched_score_lies_between_the_steps(rows: list[tuple[float, float]]) -> None:
    points = points_of(rows)
    at = np.arange(0, 12, 0.25)
    attained, matched = attained_score(points, at), matched_score(points, at)
    assert (np.isnan(attained) == np.isnan(matched)).all()
    assert (np.nan_to_num(matched - attained) >= -1e-12).all()
    own = points.length_N[pareto_front(points)]
    assert matched_score(points, own) == pytest.approx(attained_score(points, own))


def cloud(seed: int, size: int = 9, cluster: bool = False) -> RunPoints:
    rng = np.random.default_rng(seed)
    clusters = np.arange(size) % 3 if cluster else None
    return RunPoints(rng.integers(10, 40, size).astype(float), rng.integers(0, 20, size) / 20, clusters)


def test_resamples_are_fronts_of_the_drawn_runs() -> None:
    arms = {"a": cloud(0), "b": cloud(1, cluster=True)}
    bootstrap = FrontBootstrap(arms, samples=40, seed=3)
    at, bounds = np.arange(8.0, 44.0), (12.0, 38.0)
    for name, points in arms.items():
        present = bootstrap._present[name]
        drawn = [RunPoints(points.length_N[row], points.score_N[row]) for row in present]
        for reading, read in (("attained", attained_score), ("matched", matched_score)):
            np.testing.assert_allclose(bootstrap.scores(name, at, reading), [read(p, at) for p in drawn])
        areas = [front_area(p, bounds, 0.2) for p in drawn]
        figure = bootstrap.area(name, bounds, 0.2)
        assert figure.value == pytest.approx(front_area(points, bounds, 0.2))
        low, high = np.quantile(areas, [0.025, 0.975])
        assert (figure.low, figure.high) == pytest.approx((low, max(high, figure.value)))


def test_runs_of_a_cluster_come_and_go_together() -> None:
    points = cloud(0, cluster=True)
    present = FrontBootstrap({"a": points}, samples=200, seed=0)._present["a"]
    for seed in range(3):
        members = present[:, points.clusters == seed]
        assert (members == members[:, :1]).all()
    assert 0 < present.mean() < 1
    # A run is absent from a resample of n with probability (1 - 1/n)^n.
    alone = FrontBootstrap({"a": cloud(0)}, samples=4000, seed=0)._present["a"]
    assert 1 - alone.mean() == pytest.approx((8 / 9) ** 9, abs=0.01)


def test_difference_of_an_arm_and_itself_is_zero_where_seeds_are_shared() -> None:
    points = cloud(0, cluster=True)
    paired = FrontBootstrap({"a": points, "b": points}, samples=100, seed=0)
    figure = paired.area_difference("a", "b", (10, 40), 0.0)
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)
    apart = FrontBootstrap({"a": cloud(0), "b": cloud(0)}, samples=100, seed=0)
    figure = apart.area_difference("a", "b", (10, 40), 0.0)
    assert figure.low < 0 == figure.value < figure.high


def test_dominance_and_differences_by_hand() -> None:
    arms = {
        "short": RunPoints([10.0, 10.0], [0.4, 0.4]),
        "good": RunPoints([20.0, 20.0], [0.9, 0.9]),
        "twin": RunPoints([20.0, 20.0], [0.9, 0.9]),
    }
    bootstrap = FrontBootstrap(arms, samples=50, seed=0)
    at = np.array([5.0, 15.0, 25.0])
    assert bootstrap.dominance("short", "good", at) == pytest.approx([np.nan, 1.0, 0.0], nan_ok=True)
    assert bootstrap.dominance("good", "short", at) == pytest.approx([np.nan, 0.0, 1.0], nan_ok=True)
    assert bootstrap.dominance("good", "twin", at) == pytest.approx([np.nan, np.nan, 0.5], nan_ok=True)
    gaps = bootstrap.score_difference("good", "short", at)
    assert [gap.value for gap in gaps[:2]] == [None, None]
    assert gaps[0].why
    assert (gaps[2].value, gaps[2].low, gaps[2].high) == pytest.approx((0.5, 0.5, 0.5))
    # 15 tokens at 0.4; 5 tokens at 0.9.
    assert bootstrap.area_difference("good", "short", (10, 25), 0.0).value == pytest.approx(5 * 0.9 - 15 * 0.4)


@given(runs, runs, st.integers(0, 5))
def test_probabilities_of_both_directions_add_up(
    rows: list[tuple[float, float]], others: list[tuple[float, float]], seed: int
) -> None:
    bootstrap = FrontBootstrap({"a": points_of(rows), "b": points_of(others)}, samples=20, seed=seed)
    at = np.arange(-1.0, 10.0)
    total = bootstrap.dominance("a", "b", at) + bootstrap.dominance("b", "a", at)
    known = ~np.isnan(total)
    assert total[known] == pytest.approx(np.ones(known.sum()))
    assert not known[0]


def test_bands_hold_the_front_and_are_the_same_by_seed() -> None:
    at = np.arange(8.0, 44.0)
    one, same, other = (FrontBootstrap({"a": cloud(0)}, samples=100, seed=s).band("a", at) for s in (0, 0, 1))
    assert one == same
    assert one != other
    assert one[0].value is None
    for figure, value in zip(one[5:], attained_score(cloud(0), at)[5:], strict=True):
        assert figure.value == pytest.approx(value)
        assert figure.low is None or figure.low <= figure.high == figure.value


def test_interval_of_a_difference_finds_a_real_gap_and_no_gap() -> None:
    def sweep(seed: int, gain: float) -> RunPoints:
        rng = np.random.default_rng(seed)
        length = rng.uniform(20, 40, 24)
        return RunPoints(length, 0.4 + 0.01 * (length - 20) + gain + rng.normal(0, 0.03, 24))

    found = {0.0: 0, 0.2: 0}
    for gain in found:
        for world in range(20):
            arms = {"a": sweep(2 * world, gain), "b": sweep(2 * world + 1, 0.0)}
            figure = FrontBootstrap(arms, samples=200, seed=world).area_difference("a", "b", (22, 40), 0.0)
            found[gain] += figure.low > 0
    assert found[0.2] == 20
    assert found[0.0] <= 2


def test_one_run_has_a_front_but_no_interval() -> None:
    alone = FrontBootstrap({"a": RunPoints([10.0], [0.5]), "b": cloud(0)}, samples=20)
    figure = alone.area("a", (5, 20), 0.0)
    assert figure.value == pytest.approx(5.0)
    assert figure.low is None
    assert "needs two" in figure.why
    assert "(a)" in alone.area_difference("a", "b", (5, 20), 0.0).why


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([], []), "at least one run"),
        (([1.0, 2.0], [1.0]), "equal length"),
        (([1.0, np.nan], [1.0, 2.0]), "not finite"),
        (([1.0], [np.inf]), "not finite"),
        (([1.0, 2.0], [1.0, 2.0], [0]), "equal length"),
    ],
)
def test_bad_runs_are_refused(columns: tuple, words: str) -> None:
    with pytest.raises(DataError, match=words):
        RunPoints(*columns)


def test_empty_bounds_are_refused() -> None:
    with pytest.raises(DataError, match="lower bound"):
        front_area(HAND, (20, 20), 0.0)
