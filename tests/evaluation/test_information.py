"""Information beyond length: what it must be where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from odin_rm.evaluation import information
from odin_rm.evaluation.audit import audit_preferences
from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.information import (
    FOLDS,
    attribute_curve,
    fit_pair_logistic,
    heldout_gain,
    length_curve,
    undefined_information,
)


def world(pairs: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and length differences, chosen minus rejected, and prompts; labels follow sigmoid(1.5 t + 0.8 l)."""
    rng = np.random.default_rng(seed)
    truth, length = rng.normal(size=pairs), rng.normal(size=pairs)
    flip = np.where(rng.random(pairs) < 1 / (1 + np.exp(-(1.5 * truth + 0.8 * length))), 1.0, -1.0)
    return truth * flip, length * flip, np.arange(pairs) // 3


def test_newton_against_sklearn_on_mirrored_data() -> None:
    truth, length, _ = world(400)
    features = np.stack([truth, length], axis=1)
    mirrored, labels = np.concatenate([features, -features]), np.r_[np.ones(400), np.zeros(400)]
    # sklearn minimises sum of losses + |b|^2 / (2 C); mirrored data count each pair twice, so C = 1 / (2 ridge).
    peer = LogisticRegression(C=1 / (2 * 3.0), fit_intercept=False, tol=1e-10, max_iter=1000).fit(mirrored, labels)
    assert fit_pair_logistic(features, ridge=3.0) == pytest.approx(peer.coef_[0], abs=1e-5)


def test_newton_stays_finite_on_separable_data() -> None:
    b = fit_pair_logistic(np.abs(np.random.default_rng(0).normal(size=(50, 2))))
    assert np.isfinite(b).all()


def test_quality_that_is_length_carries_nothing() -> None:
    _, length, prompt = world()
    assert abs(heldout_gain(7 * length, length, prompt, 0).mean()) < 1e-4


def test_noise_carries_nothing() -> None:
    _, length, prompt = world()
    gains = [
        heldout_gain(np.random.default_rng(s).normal(size=len(length)), length, prompt, 0).mean() for s in range(9)
    ]
    # The price of a useless coefficient is about 1 / (2 ln 2 * 2400) bits = 0.0003.
    assert -0.001 < np.mean(gains) < 0.0005


def test_truth_carries_the_gain_that_the_world_has() -> None:
    truth, length, prompt = world(20000)
    # Bits of the two true models, by numerical integration over the world itself.
    rng = np.random.default_rng(1)
    t, d = rng.normal(size=(2, 400000))
    p = 1 / (1 + np.exp(-(1.5 * t + 0.8 * d)))
    full = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()
    slopes = np.linspace(0.2, 1.0, 81)
    short = min((p * np.logaddexp(0, -b * d) + (1 - p) * np.logaddexp(0, b * d)).mean() for b in slopes) / np.log(2)
    assert heldout_gain(truth, length, prompt, 0).mean() == pytest.approx(short - full, abs=0.012)
    # A reward that pays for length on top of the truth knows just as much.
    assert heldout_gain(truth + 2 * length, length, prompt, 0).mean() == pytest.approx(short - full, abs=0.012)


def test_no_change_under_affine_change_of_quality_and_unit_of_length() -> None:
    truth, length, prompt = world(600)
    gain = heldout_gain(truth, length, prompt, 0)
    assert heldout_gain(-40 * truth, length, prompt, 0) == pytest.approx(gain, abs=1e-6)
    assert heldout_gain(truth, 1000 * length, prompt, 0) == pytest.approx(gain, abs=1e-6)


def test_pairs_of_a_prompt_are_never_split_over_train_and_test(monkeypatch) -> None:
    trained = []

    def spy(difference_BK: np.ndarray) -> np.ndarray:
        trained.append(difference_BK)
        return fit_pair_logistic(difference_BK)

    monkeypatch.setattr(information, "fit_pair_logistic", spy)
    # The quality difference names the prompt, so the training rows tell which prompts were held out.
    prompt = np.tile(np.arange(1, 41), 5)
    heldout_gain(prompt.astype(float), np.random.default_rng(0).normal(size=200), prompt, 0)
    with_quality = [rows for rows in trained if rows.shape[1] == 2]
    assert len(with_quality) == FOLDS == 5
    for rows in with_quality:
        _, counts = np.unique(rows[:, 1], return_counts=True)
        assert counts.tolist() == [5] * 32


def test_undefined_says_why() -> None:
    length = np.array([1.0, -1] * 20)
    assert "fewer than 10 prompts" in undefined_information(length, np.arange(40) // 8)
    assert "always the longer" in undefined_information(np.abs(length), np.arange(40))
    assert "always the shorter" in undefined_information(-np.abs(length), np.arange(40))
    assert undefined_information(length, np.arange(40)) is None


def test_the_audit_reports_it(scored) -> None:
    figure = audit_preferences(scored, bootstrap_samples=100)["information_beyond_length"]
    assert figure.low < figure.value < figure.high
    assert figure.value > 0.05


def test_curved_length_beats_the_straight_line_but_not_the_curve() -> None:
    """A judge whose liking of length saturates, and a reward that is that very curve and knows nothing else."""
    rng = np.random.default_rng(5)
    first, second = np.exp(rng.uniform(1, 7, (2, 4000)))
    first_wins = rng.random(4000) < 1 / (1 + np.exp(-1.5 * (np.log(first) - np.log(second))))
    chosen, rejected = np.where(first_wins, first, second), np.where(first_wins, second, first)
    log_length, prompt = np.log(chosen) - np.log(rejected), np.arange(4000) // 4
    assert heldout_gain(log_length, chosen - rejected, prompt, 0).mean() > 0.1
    assert abs(heldout_gain(log_length, length_curve(chosen, rejected), prompt, 0).mean()) < 0.002


def test_length_curve_by_hand() -> None:
    """Logs 0 to 10 in steps of one, so that the deciles are 1 to 9."""
    lengths = np.expm1(np.arange(11.0))
    found = length_curve(lengths[[10, 3]], lengths[[2, 9]])
    knots = np.quantile([10, 3, 2, 9], np.linspace(0.1, 0.9, 9))
    assert found.shape == (2, 11)
    assert found[0, :2] == pytest.approx([lengths[10] - lengths[2], 8.0])
    assert found[0, 2:] == pytest.approx([max(10 - k, 0) - max(2 - k, 0) for k in knots])
    assert found[1, 2:] == pytest.approx([max(3 - k, 0) - max(9 - k, 0) for k in knots])


def test_length_curve_of_few_lengths_has_fewer_columns() -> None:
    assert length_curve(np.array([5.0, 5]), np.array([2.0, 2])).shape[1] < 11
    assert np.linalg.matrix_rank(length_curve(np.array([5.0, 2]), np.array([2.0, 5]))) == 1
    assert length_curve(np.zeros(0), np.zeros(0)).shape == (0, 2)


def judged_by_a_bent_curve(pairs: int = 3000, seed: int = 3):
    """Lengths like real ones; the judge likes length up to about 300 tokens and then no more."""
    rng = np.random.default_rng(seed)
    lengths = np.round(np.exp(rng.normal(5, 0.8, (2, pairs)))) + 1
    liking = np.minimum(lengths, 300) / 80
    first = rng.random(pairs) < 1 / (1 + np.exp(-(liking[0] - liking[1])))
    chosen, rejected = np.where(first, lengths[0], lengths[1]), np.where(first, lengths[1], lengths[0])
    return chosen, rejected, np.arange(pairs) // 3


CURVES = {
    "length itself": lambda length: length,
    "the judge's own bend": lambda length: np.minimum(length, 300),
    "another bend": lambda length: np.minimum(length, 120),
    "a step that is nearly sharp": lambda length: 1 / (1 + np.exp(-3 * (np.log(length) - 5))),
    "a hill": lambda length: -((np.log(length) - 5.5) ** 2),
    "root": np.sqrt,
    "the reverse": lambda length: -np.log(length),
}


@pytest.mark.parametrize("name", CURVES)
def test_no_curve_of_length_knows_anything_beyond_length(name) -> None:
    chosen, rejected, prompt = judged_by_a_bent_curve()
    quality = CURVES[name](chosen) - CURVES[name](rejected)
    gain = heldout_gain(quality, length_curve(chosen, rejected), prompt, 0)
    figure = bootstrap_mean(gain, prompt, samples=300)
    assert figure.low <= 0.0005
    assert abs(figure.value) < 0.002


def test_the_old_curve_of_three_columns_paid_for_length() -> None:
    """Why there are hinges: length, root and logarithm alone leave a bend to be found."""
    chosen, rejected, prompt = judged_by_a_bent_curve()
    bends = (lambda length: length, np.sqrt, np.log1p)
    three = np.stack([bend(chosen) - bend(rejected) for bend in bends], axis=1)
    quality = np.minimum(chosen, 300) - np.minimum(rejected, 300)
    assert heldout_gain(quality, three, prompt, 0).mean() > 0.004


def test_two_attributes_together() -> None:
    """A reward made of curves of length and of bullets knows nothing beyond both, and something beyond each alone."""
    rng = np.random.default_rng(0)
    chosen, rejected, prompt = judged_by_a_bent_curve()
    bullets = rng.poisson(3, (2, len(prompt))).astype(float)
    both = np.column_stack([length_curve(chosen, rejected), attribute_curve(*bullets)])
    quality = np.sqrt(chosen) - np.sqrt(rejected) + np.minimum(bullets[0], 4) - np.minimum(bullets[1], 4)
    assert abs(heldout_gain(quality, both, prompt, 0).mean()) < 0.002


def test_content_beside_length_keeps_its_bits() -> None:
    """The hinges cost next to nothing: what a content reward gains over them is what it gains over the judge's own."""
    rng = np.random.default_rng(1)
    lengths, truth = np.exp(rng.normal(5, 0.8, (2, 6000))), rng.normal(size=(2, 6000))
    utility = truth + np.minimum(lengths, 300) / 150
    first = rng.random(6000) < 1 / (1 + np.exp(-(utility[0] - utility[1])))
    (chosen, rejected), (good, bad) = (
        (np.where(first, v[0], v[1]), np.where(first, v[1], v[0])) for v in (lengths, truth)
    )
    prompt = np.arange(6000) // 3
    own = (np.minimum(chosen, 300) - np.minimum(rejected, 300))[:, None]
    exact = heldout_gain(good - bad, own, prompt, 0).mean()
    assert heldout_gain(good - bad, length_curve(chosen, rejected), prompt, 0).mean() == pytest.approx(exact, abs=0.003)
    assert exact > 0.1
