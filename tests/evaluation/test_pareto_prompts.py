"""Fronts under resampling of prompts: by hand, against brute force, coverage, and what is said of several fronts."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.pareto import (
    FrontBootstrap,
    RunPoints,
    areas,
    attained_score,
    front_area,
    matched_score,
    pareto_front,
)
from odin_rm.evaluation.pareto_prompts import PromptColumns, PromptFrontBootstrap
from odin_rm.evaluation.pareto_summary import length_grid, matched_lengths, reference_point, summarise_fronts
from odin_rm.evaluation.records import RunPoint
from odin_rm.evaluation.win_score import interval_levels


def columns(seed: int, runs: int = 4, prompts: int = 30) -> PromptColumns:
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 20, prompts)
    means = rng.uniform(20, 40, runs)
    return PromptColumns(
        means[:, None] + rng.normal(0, 8, (runs, prompts)),
        40 + means[:, None] / 2 + shared + rng.normal(0, 20, (runs, prompts)),
    )


def draws_by_hand(arm: PromptColumns, samples: int, seed: int) -> list[RunPoints]:
    """Each resample as a list of prompts that were drawn, one mean at a time."""
    prompts = arm.length_NP.shape[1]
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(samples):
        drawn = rng.integers(0, prompts, size=prompts)
        out.append(RunPoints(*([row[drawn].mean() for row in table] for table in (arm.length_NP, arm.score_NP))))
    return out


def area_at_worth(points: RunPoints, worth: np.ndarray, bounds: tuple[float, float], reference: float) -> float:
    """The area of a front whose runs count with another score, run by run along the front."""
    front = pareto_front(points)
    ends = [*points.length_N[front][1:], bounds[1]]
    widths = [min(end, bounds[1]) - min(points.length_N[k], bounds[1]) for k, end in zip(front, ends, strict=True)]
    return sum(max(worth[k] - reference, 0) * width for k, width in zip(front, widths, strict=True))


def test_every_figure_is_that_of_the_fronts_of_the_resamples():
    arms = {"a": columns(0), "b": columns(1, runs=3)}
    bootstrap = PromptFrontBootstrap(arms, samples=50, seed=5)
    by_hand = {name: draws_by_hand(arm, 50, 5) for name, arm in arms.items()}
    at, bounds, levels = np.linspace(18, 45, 12), (0.0, 42.0), interval_levels(30)
    for name, drawn in by_hand.items():
        for reading, read in (("attained", attained_score), ("matched", matched_score)):
            np.testing.assert_allclose(bootstrap.scores(name, at, reading), [read(points, at) for points in drawn])
        worth = bootstrap.arms[name].score_N
        values = [front_area(points, bounds, 45.0) for points in drawn]
        excess = np.mean(values) - np.mean([area_at_worth(points, worth, bounds, 45.0) for points in drawn])
        low, high = np.quantile(values - excess, levels)
        figure = bootstrap.area(name, bounds, 45.0)
        assert figure.value == pytest.approx(front_area(bootstrap.arms[name], bounds, 45.0))
        assert figure.low == pytest.approx(max(0, min(low, figure.value)))
        assert figure.high == pytest.approx(max(high, figure.value))
    gaps = [front_area(a, bounds, 45.0) - front_area(b, bounds, 45.0) for a, b in zip(*by_hand.values(), strict=True)]
    figure = bootstrap.area_difference("a", "b", bounds, 45.0)
    assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(gaps, levels)))
    ours, theirs = (np.array([attained_score(p, at[-3:]) for p in drawn]) for drawn in by_hand.values())
    wins = (ours > theirs) + 0.5 * (ours == theirs)
    assert bootstrap.dominance("a", "b", at[-3:]) == pytest.approx(wins.mean(axis=0))


def test_bands_take_off_what_the_chosen_run_scores_beyond_its_worth():
    arm = columns(6)
    bootstrap, drawn = PromptFrontBootstrap({"a": arm}, samples=80, seed=3), draws_by_hand(arm, 80, 3)
    worth, at = bootstrap.arms["a"].score_N, 33.0
    scores, chosen, matched = [], [], []
    for points in drawn:
        best = max((k for k in range(4) if points.length_N[k] <= at), key=lambda k: points.score_N[k])
        scores.append(points.score_N[best])
        chosen.append(worth[best])
        front = pareto_front(points)
        matched.append(matched_score(points, [at])[0] - np.interp(at, points.length_N[front], worth[front]))
    low, high = np.quantile(np.array(scores) - np.mean(scores) + np.mean(chosen), interval_levels(30))
    (figure,) = bootstrap.band("a", np.array([at]))
    assert (figure.low, figure.high) == pytest.approx((min(low, figure.value), max(high, figure.value)))
    draws = np.array([matched_score(points, [at])[0] for points in drawn]) - np.mean(matched)
    low, high = np.quantile(draws, interval_levels(30))
    (figure,) = bootstrap.band("a", np.array([at]), "matched")
    assert (figure.low, figure.high) == pytest.approx((min(low, figure.value), max(high, figure.value)))
    assert np.mean(scores) > np.mean(chosen)


def test_prompts_are_paired_over_arms():
    """A run and itself with a point more on every prompt: the gap is that point in each resample."""
    arm = columns(2)
    better = PromptColumns(arm.length_NP, arm.score_NP + 1.0)
    bootstrap = PromptFrontBootstrap({"a": better, "b": arm}, samples=60, seed=0)
    at = np.array([45.0])
    (gap,) = bootstrap.score_difference("a", "b", at, "attained")
    assert (gap.value, gap.low, gap.high) == pytest.approx((1.0, 1.0, 1.0))
    assert bootstrap.dominance("a", "b", at).tolist() == [1.0]
    level = bootstrap.band("a", at)[0]
    assert level.high - level.low > 3


def test_order_of_runs_arms_and_prompts_changes_nothing_but_the_resamples():
    arm, other = columns(3), columns(4)
    turned = PromptColumns(arm.length_NP[::-1], arm.score_NP[::-1])
    one = PromptFrontBootstrap({"a": arm, "b": other}, samples=40, seed=1)
    two = PromptFrontBootstrap({"b": other, "a": turned}, samples=40, seed=1)
    at = np.linspace(20, 45, 9)
    bands = [[(f.value, f.low, f.high) for f in each.band("a", at, "matched")] for each in (one, two)]
    ours, theirs = np.array(bands, dtype=float)  # None is NaN
    assert ours == pytest.approx(theirs, rel=1e-12, nan_ok=True)
    assert np.isfinite(ours).any()
    ours, theirs = (each.area_difference("a", "b", (0, 50), 30.0) for each in (one, two))
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))
    flipped = PromptFrontBootstrap({"a": PromptColumns(arm.length_NP[:, ::-1], arm.score_NP[:, ::-1])}, samples=40)
    assert flipped.area("a", (0, 50), 30.0).value == pytest.approx(one.area("a", (0, 50), 30.0).value)


def test_intervals_of_single_runs_are_percentiles_of_their_means():
    arm = columns(5)
    bootstrap = PromptFrontBootstrap({"a": arm}, samples=300, seed=2)
    lengths, scores = bootstrap.point_intervals("a")
    weights = np.concatenate(list(PromptBootstrap(np.arange(30), 300, 2).blocks())) / 30
    assert scores[1] == pytest.approx(np.quantile(weights @ arm.score_NP[1], interval_levels(30)))
    assert lengths[3] == pytest.approx(np.quantile(weights @ arm.length_NP[3], interval_levels(30)))


def test_intervals_of_a_front_cover_the_true_one_although_it_picks_the_luckiest_run():
    """Twelve runs of nearly equal worth: plain percentiles cover the area in about 86 of 100 worlds."""
    held, plain, worlds = np.zeros(3), 0, 300
    for world in range(worlds):
        rng = np.random.default_rng(world)
        length = np.sort(rng.uniform(100, 200, 12))
        score = 55 + 0.1 * (length - 100) + 3 * rng.normal(size=12)
        truth, bounds, at = RunPoints(length, score), (0.0, 210.0), np.array([rng.uniform(length[1], 200)])
        score_NP = score[:, None] + rng.normal(0, 60, 120) + rng.normal(0, 70, (12, 120))
        length_NP = length[:, None] + rng.normal(0, 30, (12, 120))
        bootstrap = PromptFrontBootstrap({"a": PromptColumns(length_NP, score_NP)}, samples=150, seed=world)
        figures = [bootstrap.area("a", bounds, 20.0)]
        figures += [bootstrap.band("a", at, reading)[0] for reading in ("attained", "matched")]
        true = [front_area(truth, bounds, 20.0), attained_score(truth, at)[0], matched_score(truth, at)[0]]
        held += [f.low is not None and f.low <= value <= f.high for f, value in zip(figures, true, strict=True)]
        low, high = np.quantile(areas(*bootstrap.draws("a"), bounds, 20.0), interval_levels(120))
        plain += low <= true[0] <= high
    assert ((held / worlds > 0.92) & (held / worlds < 0.98)).all(), held / worlds
    assert plain / worlds < 0.9


def test_one_prompt_has_a_front_but_no_interval():
    arm = PromptColumns([[10.0], [20.0]], [[1.0], [2.0]])
    figure = PromptFrontBootstrap({"a": arm}, samples=20).area("a", (0, 30), 0.0)
    assert (figure.value, figure.low) == (pytest.approx(10 + 20), None)
    assert "needs two" in figure.why


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="shapes"):
        PromptColumns(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(DataError, match="different numbers of prompts: 30, 31"):
        PromptFrontBootstrap({"a": columns(0), "b": columns(0, prompts=31)})


# ---- what is said of several fronts ----------------------------------------------------------------------------------

POINTS = {
    "short": [RunPoint("short", 10.0, 40.0, "s1"), RunPoint("short", 20.0, 50.0, "s2")],
    "long": [RunPoint("long", 30.0, 70.0, "l1"), RunPoint("long", 40.0, 60.0, "l2")],
}
EVERY = [point for runs in POINTS.values() for point in runs]


def over_runs(points: dict[str, list[RunPoint]], samples: int = 60) -> FrontBootstrap:
    arms = {name: RunPoints([p.mean_length for p in runs], [p.score for p in runs]) for name, runs in points.items()}
    return FrontBootstrap(arms, samples=samples)


def summary(points: dict[str, list[RunPoint]], **reference: float) -> dict:
    every = [point for runs in points.values() for point in runs]
    bootstrap = over_runs(points)
    return summarise_fronts(
        bootstrap,
        points,
        grid_M=length_grid(every, 4, 40.0),
        matched_K=matched_lengths(list(bootstrap.arms.values())),
        reference=reference_point(every, **reference),
    )


def test_a_summary_by_hand():
    content = summary(POINTS)
    assert content["grid"] == [10.0, 20.0, 30.0, 40.0]
    # A tenth of both ranges beyond the runs: below 43 tokens, above 37 points.
    assert content["arms"]["short"]["hypervolume"].value == pytest.approx(10 * 3 + 23 * 13)
    assert content["arms"]["long"]["hypervolume"].value == pytest.approx(13 * 33)
    assert [row["name"] for row in content["arms"]["short"]["front"]] == ["s1", "s2"]
    assert [row["name"] for row in content["arms"]["long"]["front"]] == ["l1"]
    (pair,) = content["comparisons"]
    assert (pair["first"], pair["second"]) == ("short", "long")
    assert pair["hypervolume_difference"].value == pytest.approx(329 - 429)
    # No longer than 30, the first length that both attain, is any run on a front; beyond it the short arm keeps its 50.
    assert [figure.value for figure in pair["matched"]] == [-20.0]
    # Nobody but the short arm is as short as 20; at 40 the long one is ahead in every resample that has l1 or l2.
    assert pair["dominance"][1] == 1.0
    assert pair["dominance"][3] == 0.0
    # At 31.5 it is so only where l1 was drawn, in three resamples of four.
    assert pair["matched_dominance"] == pytest.approx([0.25], abs=0.1)
    assert content["not_computed"] == []
    moved = summary(POINTS, length=50.0, score=45.0)
    assert moved["arms"]["short"]["hypervolume"].value == pytest.approx(30 * 5)


def test_a_front_of_one_run_says_what_it_lacks():
    content = summary({"only": [RunPoint("only", 10.0, 40.0, "x")]})
    words = " ".join(content["not_computed"])
    for part in ("hypervolume: all runs have the same length", "a front of one run", "needs two", "there is one arm"):
        assert part in words
    assert content["arms"]["only"]["hypervolume"].value is None
    assert content["arms"]["only"]["band"][0].value == 40.0
    with_reference = summary({"only": [RunPoint("only", 10.0, 40.0, "x")]}, length=30.0, score=0.0)
    # Not 20 * 40 either: the area of one run rises without end as the run gets shorter.
    assert with_reference["arms"]["only"]["hypervolume"].value is None
    assert "an arm of one run has none" in " ".join(with_reference["not_computed"])


def test_an_arm_of_one_run_has_no_hypervolume_and_no_difference_of_it():
    """The others keep theirs; the score at matched length still compares all of them."""
    alone = RunPoint("alone", 15.0, 45.0, "x")
    content = summary(POINTS | {"alone": [alone]}, length=43.0, score=37.0)
    areas = {name: arm["hypervolume"].value for name, arm in content["arms"].items()}
    assert areas["alone"] is None
    assert areas["short"] == pytest.approx(10 * 3 + 23 * 13)
    gaps = {(p["first"], p["second"]): p["hypervolume_difference"].value for p in content["comparisons"]}
    assert gaps["short", "long"] == pytest.approx(329 - 429)
    assert gaps["short", "alone"] is None
    assert gaps["long", "alone"] is None
    assert all(pair["matched"][0].value is not None for pair in content["comparisons"])


def test_default_lengths_are_where_every_arm_has_a_score():
    arms = [RunPoints([10.0, 30.0], [1.0, 2.0]), RunPoints([20.0, 40.0, 60.0], [1.0, 2.0, 0.0])]
    assert matched_lengths(arms) == [22.5, 25.0, 27.5]  # the run of 60 is not on its front
    assert matched_lengths([RunPoints([10.0], [1.0]), RunPoints([50.0], [1.0])]) == [52.5]
    assert matched_lengths([RunPoints([10.0], [1.0]), RunPoints([50.0, 60.0], [1.0, 2.0])]) == [55.0]
    assert length_grid(EVERY, 3, 50.0).tolist() == [10.0, 30.0, 50.0]


def test_equal_scores_and_lengths_of_zero_have_no_hypervolume():
    level = [RunPoint("a", 10.0, 40.0), RunPoint("a", 20.0, 40.0)]
    assert "same score" in reference_point(level).why_not
    assert reference_point(level, score=0.0).why_not == ""
    assert "not above 0" in reference_point([RunPoint("a", 0.0, 1.0), RunPoint("a", -0.0, 2.0)], length=0.0).why_not
