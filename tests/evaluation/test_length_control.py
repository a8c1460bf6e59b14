"""Length-controlled win rates: the reference fit, independent twins, invariances, and gaming."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.length_control import (
    RIDGE,
    deviation_length_term,
    difficulty_given,
    fit_fractional_logistic,
    fit_joint,
    joint,
    length_only,
    length_tells_all,
    relative_length_term,
)
from odin_rm.results.annotations import read_annotations
from tests.evaluation.made import ALPACA_EVAL, MADE, PROMPTS

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_eval_annotations"
# What the public leaderboard says: win rate, length-controlled win rate, and the length-only reference fit.
PUBLISHED = {
    "FuseChat-Gemma-2-9B-Instruct": (70.4971, 70.18, 70.09),
    "alpaca-7b": (2.5915, 5.88, 19.83),
    "claude-2": (17.1882, 28.16, 36.79),
    "gpt-3.5-turbo-1106": (9.1779, 19.30, 37.80),
    "gpt4_gamed": (3.7382, 12.19, 40.23),
    "vicuna-13b": (5.8310, 9.22, 14.07),
}


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Label, candidate and baseline characters of each public file, prompts in one order."""
    if not REAL.is_dir():
        pytest.skip("the AlpacaEval annotation files are not there")
    found = {}
    for name in PUBLISHED:
        content = gzip.decompress((REAL / f"{name}.json.gz").read_bytes())
        rows = sorted(json.loads(content), key=lambda r: r["instruction"])
        columns = [[r["preference"] - 1, len(r["output_2"]), len(r["output_1"])] for r in rows]
        found[name] = tuple(np.array(columns, dtype=np.float64).T)
    return found


def point(statistic, prompts: int):
    return statistic(np.ones((1, prompts)))[0]


def simulate(seed: int, prompts: int = 400, systems: int = 4, slope: float = 1.5, difficulty: float = 0.8):
    """Labels drawn as GPT-4's are, hard ones of a judge that follows the joint model; with the truth."""
    rng = np.random.default_rng(seed)
    baseline = rng.lognormal(7, 0.6, size=prompts)
    ability = np.linspace(-1.5, 1.0, systems)
    factor = np.linspace(0.4, 1.6, systems)[:, None]
    length = baseline * factor * rng.lognormal(0, 0.4, size=(systems, prompts))
    g = difficulty * rng.normal(size=prompts)
    term = relative_length_term(length, baseline)
    label = (rng.random((systems, prompts)) < expit(ability[:, None] + slope * term + g)).astype(float)
    truth = 100 * expit(ability[:, None] + g).mean(axis=1)
    return label, length, baseline, truth, g


# ---- by hand and by twins --------------------------------------------------------------------------------------------


def test_length_terms_by_hand():
    candidate, baseline = np.array([10.0, 20, 60]), np.array([20.0, 20, 20])
    difference = np.array([10.0, 0, -40])
    expected = np.tanh(difference / difference.std(ddof=1))
    assert deviation_length_term(candidate, baseline, np.ones((1, 3)))[0] == pytest.approx(expected)
    assert relative_length_term(candidate, baseline) == pytest.approx(np.tanh([-0.5, 0, 2]))
    assert relative_length_term(np.array([0.0]), np.array([5.0]))[0] == pytest.approx(-np.tanh(1))


def test_a_prompt_of_weight_two_is_that_prompt_twice():
    rng = np.random.default_rng(0)
    label, g = rng.random(30), rng.normal(size=30)
    candidate, baseline = rng.integers(5, 90, size=(2, 30))
    weights = rng.integers(0, 3, size=30)
    take = np.repeat(np.arange(30), weights)
    weighted = weights[None].astype(float)
    for make in (length_only, difficulty_given):
        columns = [label, candidate, baseline, g][: 3 + (make is difficulty_given)]
        again = make(*(column[take] for column in columns))
        assert make(*columns)(weighted)[0] == pytest.approx(point(again, len(take)), abs=1e-6)


def test_a_drawn_prompt_brings_its_difficulty_and_its_penalty_along():
    label, length, baseline, _, _ = simulate(15, prompts=40)
    term = relative_length_term(length, baseline)
    weights = np.random.default_rng(0).integers(0, 3, size=40)
    take = np.repeat(np.arange(40), weights)
    drawn = fit_joint(label, term, weights[None].astype(float))
    copied = fit_joint(label[:, take], term[:, take], np.ones((1, len(take))))
    assert drawn.ability == pytest.approx(copied.ability, abs=1e-5)
    assert drawn.difficulty[0, take] == pytest.approx(copied.difficulty[0], abs=1e-5)
    controlled = drawn.controlled(weights[None].astype(float))
    assert controlled == pytest.approx(copied.controlled(np.ones((1, len(take)))), abs=1e-4)


def test_logistic_against_sklearn_and_several_weightings_at_once():
    rng = np.random.default_rng(1)
    features = np.column_stack([rng.normal(size=(200, 2)), np.ones(200)])
    label = (rng.random(200) < expit(features @ [1.0, -0.5, 0.3])).astype(float)
    weights = rng.integers(0, 4, size=(3, 200)).astype(float)
    ours = fit_fractional_logistic(np.broadcast_to(features, (3, 200, 3)), label, weights)
    for k in range(3):
        peer = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-10, max_iter=1000)
        peer.fit(features, label, sample_weight=weights[k])
        assert ours[k] == pytest.approx(peer.coef_[0], abs=1e-4)


def test_fractional_labels_are_two_weighted_rows():
    rng = np.random.default_rng(2)
    features, label = np.column_stack([rng.normal(size=60), np.ones(60)]), rng.random(60)
    ours = fit_fractional_logistic(features[None], label, np.ones((1, 60)))[0]
    peer = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-10, max_iter=1000)
    peer.fit(np.vstack([features, features]), np.r_[np.ones(60), np.zeros(60)], sample_weight=np.r_[label, 1 - label])
    assert ours == pytest.approx(peer.coef_[0], abs=1e-4)


def naive_joint(label: np.ndarray, term: np.ndarray) -> np.ndarray:
    """The same objective given whole to a general optimiser."""
    systems, prompts = label.shape
    there = np.isfinite(label)

    def loss(x):
        eta = x[:systems, None] + x[systems] * term + x[None, systems + 1 :]
        fit = np.where(there, np.logaddexp(0, eta) - np.nan_to_num(label) * eta, 0).sum()
        return fit + (x[systems + 1 :] ** 2).sum() / 2 + RIDGE / 2 * (x[: systems + 1] ** 2).sum()

    return minimize(loss, np.zeros(systems + 1 + prompts), method="BFGS", options={"gtol": 1e-6, "maxiter": 3000}).x


def test_joint_fit_against_a_general_optimiser_also_with_gaps():
    label, length, baseline, _, _ = simulate(3, prompts=25, systems=3)
    label = 0.1 + 0.8 * label
    label[0, :4] = label[2, 10] = np.nan
    term = relative_length_term(length, baseline)
    fit = fit_joint(label, term, np.ones((1, 25)))
    peer = naive_joint(label, term)
    assert fit.ability[0] == pytest.approx(peer[:3], abs=1e-3)
    assert fit.slope[0] == pytest.approx(peer[3], abs=1e-3)
    assert fit.difficulty[0] == pytest.approx(peer[4:], abs=1e-3)
    controlled = 100 * expit(peer[:3, None] + peer[None, 4:]).mean(axis=1)
    assert fit.controlled(np.ones((1, 25)))[0] == pytest.approx(controlled, abs=1e-2)


def test_joint_fit_refuses_arrays_that_do_not_fit():
    with pytest.raises(ShapeError):
        fit_joint(np.zeros((2, 5)), np.zeros((2, 5)), np.ones((1, 4)))


# ---- known answers and invariances -----------------------------------------------------------------------------------


def test_equal_lengths_leave_the_win_rate():
    label, length = np.random.default_rng(4).random(50), np.random.default_rng(5).integers(3, 90, 50)
    assert point(length_only(label, length, length), 50) == pytest.approx(100 * label.mean(), abs=1e-4)


def test_no_control_depends_on_the_unit_of_length():
    label, length, baseline, _, g = simulate(6)
    for make in (lambda c, b: length_only(label[1], c, b), lambda c, b: difficulty_given(label[1], c, b, g)):
        assert point(make(length[1], baseline), 400) == pytest.approx(point(make(7 * length[1], 7 * baseline), 400))
    assert relative_length_term(7 * length, 7 * baseline) == pytest.approx(relative_length_term(length, baseline))


def test_the_order_of_systems_does_not_matter():
    label, length, baseline, _, _ = simulate(7)
    term, ones = relative_length_term(length, baseline), np.ones((1, 400))
    forth = fit_joint(label, term, ones).controlled(ones)[0]
    back = fit_joint(label[::-1], term[::-1], ones).controlled(ones)[0]
    assert forth == pytest.approx(back[::-1], abs=1e-6)


def test_the_joint_fit_recovers_the_world_it_describes():
    label, length, baseline, truth, g = simulate(8, prompts=4000, systems=8)
    term, ones = relative_length_term(length, baseline), np.ones((1, 4000))
    fit = fit_joint(label, term, ones)
    assert np.abs(fit.controlled(ones)[0] - truth).max() < 2.5
    assert np.abs(100 * label.mean(axis=1) - truth).max() > 10  # what length is worth there
    assert fit.slope[0] == pytest.approx(1.5, abs=0.1)
    assert np.corrcoef(fit.difficulty[0], g)[0, 1] > 0.6


def test_difficulty_given_recovers_a_win_rate_that_length_only_misses():
    rng = np.random.default_rng(9)
    g = rng.normal(size=6000)
    candidate, baseline = np.exp(7 - 0.8 * g), np.full(6000, 1100.0)  # shorter on the easy prompts
    term = deviation_length_term(candidate, baseline, np.ones((1, 6000)))[0]
    label = expit(-0.5 - 1.0 * term + 2.0 * g)
    truth = 100 * expit(-0.5 + 2.0 * g).mean()
    assert point(difficulty_given(label, candidate, baseline, g), 6000) == pytest.approx(truth, abs=0.1)
    assert abs(point(length_only(label, candidate, baseline), 6000) - truth) > 1


def test_resamples_start_from_the_fit_and_end_where_a_cold_start_ends():
    label, length, baseline, _, _ = simulate(10, prompts=60)
    term, ones = relative_length_term(length, baseline), np.ones((1, 60))
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=5).astype(float)
    warm = joint(label, term, fit_joint(label, term, ones))(weights)
    cold = fit_joint(label, term, weights).controlled(weights)
    assert warm == pytest.approx(cold, abs=1e-5)
    assert len(np.unique(warm[:, 0])) == 5


def test_a_system_that_always_loses_or_always_wins_stays_finite():
    label, length, baseline, _, _ = simulate(11, prompts=80)
    label[0], label[1] = 0.0, 1.0
    term, ones = relative_length_term(length, baseline), np.ones((1, 80))
    controlled = fit_joint(label, term, ones).controlled(ones)[0]
    assert controlled[0] == pytest.approx(0, abs=0.01)
    assert controlled[1] == pytest.approx(100, abs=0.01)
    assert point(length_only(label[0], length[0], baseline), 80) == pytest.approx(0, abs=0.01)


def test_wins_that_length_alone_explains_have_no_fit():
    candidate, baseline = np.array([10.0, 20, 30, 40]), np.full(4, 25.0)
    assert length_tells_all(np.array([0.0, 0, 1, 1]), candidate, baseline)
    assert not length_tells_all(np.array([0.0, 1, 0, 1]), candidate, baseline)
    assert not length_tells_all(np.array([0.0, 0.5, 1, 1]), candidate, baseline)
    assert not length_tells_all(np.zeros(4), candidate, baseline)


# ---- gaming ----------------------------------------------------------------------------------------------------------


# Judges that are not the model, by logarithm, difference and square root of length, up to a limit; and the most points
# that a system may gain there. The last judge goes on paying where the term is flat, so part of the padding pays.
JUDGES = {
    "logarithm": (lambda length, baseline: 1.5 * np.clip(np.log(length / baseline), -1.2, 1.2), 6),
    "characters": (lambda length, baseline: 1.5 * np.tanh((length - baseline) / 1000), 6),
    "square root": (lambda length, baseline: 2.0 * np.clip(np.sqrt(length / baseline) - 1, -1, 1), 18),
}


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("factor", [0.02, 5.0], ids=["cut", "padded"])
def test_extreme_length_pays_little_in_the_joint_fit(factor, judge):
    """A system and its equally good copy of extreme length, which the judge rates very differently."""
    pays, most = JUDGES[judge]
    _, length, baseline, _, g = simulate(12, prompts=1500)
    rng = np.random.default_rng(13)
    copies = baseline * np.array([[1.0], [factor]]) * rng.lognormal(0, 0.3, size=(2, 1500))
    length = np.vstack([length, copies])
    ability = np.array([-1.5, -0.7, 0.2, 1.0, -0.2, -0.2])[:, None]
    label = expit(ability + pays(length, baseline) + g)
    term, ones = relative_length_term(length, baseline), np.ones((1, 1500))
    controlled = fit_joint(label, term, ones).controlled(ones)[0]
    raw = 100 * label.mean(axis=1)
    assert abs(raw[-1] - raw[-2]) > 19
    assert controlled[-1] - controlled[-2] < most
    assert abs(controlled[-1] - controlled[-2]) < 0.6 * abs(raw[-1] - raw[-2])


def test_one_gamed_system_cannot_move_the_others_far(real):
    table = list(real.values())
    names = list(real)
    label, length = np.stack([t[0] for t in table]), np.stack([t[1] for t in table])
    term, ones = relative_length_term(length, table[0][2]), np.ones((1, 805))
    honest = [k for k, name in enumerate(names) if name != "gpt4_gamed"]
    whole = fit_joint(label, term, ones).controlled(ones)[0][honest]
    without = fit_joint(label[honest], term[honest], ones).controlled(ones)[0]
    assert np.abs(whole - without).max() < 4
    assert np.argsort(whole).tolist() == np.argsort(without).tolist()


# ---- AlpacaEval's own code -------------------------------------------------------------------------------------------


def test_the_length_term_alone_is_alpaca_evals_fit_on_annotations_of_our_own():
    systems = read_annotations([MADE]).systems
    assert [system.candidate for system in systems] == list(ALPACA_EVAL)
    for system in systems:
        win_rate, controlled, wins, losses = ALPACA_EVAL[system.candidate]
        label = system.preference - 1
        assert (100 * label.mean(), (label > 0.5).sum(), (label < 0.5).sum()) == pytest.approx((win_rate, wins, losses))
        candidate, baseline = (
            np.array([len(text) for text in texts]) for texts in (system.candidate_outputs, system.baseline_outputs)
        )
        assert point(length_only(label, candidate, baseline), PROMPTS) == pytest.approx(controlled, abs=1e-3)


# ---- the public files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_win_rate_and_the_reference_fit(real, name):
    label, candidate, baseline = real[name]
    win_rate, _, reference = PUBLISHED[name]
    assert 100 * label.mean() == pytest.approx(win_rate, abs=0.01)
    assert point(length_only(label, candidate, baseline), len(label)) == pytest.approx(reference, abs=0.1)


def test_the_joint_fit_ranks_the_public_files_as_the_leaderboard_does(real):
    table = list(real.values())
    label, length = np.stack([t[0] for t in table]), np.stack([t[1] for t in table])
    ones = np.ones((1, 805))
    controlled = fit_joint(label, relative_length_term(length, table[0][2]), ones).controlled(ones)[0]
    published = np.array([lc for _, lc, _ in PUBLISHED.values()])
    assert spearmanr(controlled, published).statistic == pytest.approx(1.0)
    assert np.abs(controlled - published).mean() < 2
    gamed = list(PUBLISHED).index("gpt4_gamed")
    assert controlled[gamed] < 15  # cut GPT-4: 40 by its own length term, 12 on the leaderboard, 4 raw
