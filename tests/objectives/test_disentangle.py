"""The ODIN objective: hand-computed terms, a numpy twin, switches, identities, gradcheck, mutated signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.disentangle import DisentangledLoss, disentangled_loss, orthogonality, slot_multiplicity
from odin_rm.objectives.preference import bradley_terry

CHOSEN, REJECTED = torch.tensor([0, 2]), torch.tensor([1, 3])


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hand_loss(**options: Any) -> DisentangledLoss:
    # Two pairs: quality differences 1 and -1, length differences 1 and 2, so totals 2 and 1.
    arguments: dict[str, Any] = {
        "quality_R": double(2, 1, 0, 1),
        "length_R": double(3, 2, 3, 1),
        "tokens_R": double(30, 20, 30, 10),
        "chosen_B": CHOSEN,
        "rejected_B": REJECTED,
        "head_cosine": double(-0.25)[0],
        **options,
    }
    return disentangled_loss(**arguments)


# rho(r_Q, L): centred quality (1, 0, -1, 0), centred tokens (7.5, -2.5, 7.5, -12.5): covariance 0.
# rho(r_L, L): centred (0.75, -0.25, 0.75, -1.25) is the tokens' vector / 10: exactly 1.
RANKING = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2


def test_hand_computed_terms() -> None:
    found = hand_loss()
    assert float(found.ranking) == pytest.approx(RANKING, abs=1e-15)
    assert float(found.quality_length_correlation) == pytest.approx(0.0, abs=1e-15)
    assert float(found.length_length_correlation) == pytest.approx(1.0, abs=1e-15)
    assert float(found.length) == pytest.approx(-1.0, abs=1e-15)
    assert float(found.orthogonality) == 0.25
    assert float(found.total) == pytest.approx(RANKING - 1.0 + 0.25, abs=1e-15)
    assert float(found.accuracy) == 0.5
    assert float(found.total_accuracy) == 1.0
    assert int(found.degenerate) == 0


def test_each_weight_scales_its_term_only() -> None:
    assert float(hand_loss(length_weight=3.0).total) == pytest.approx(RANKING - 3.0 + 0.25, abs=1e-14)
    assert float(hand_loss(orthogonality_weight=2.0).total) == pytest.approx(RANKING - 1.0 + 0.5, abs=1e-14)
    off = hand_loss(length_weight=0.0, orthogonality_weight=0.0)
    assert float(off.total) == pytest.approx(RANKING, abs=1e-15)


def length_term_slope(quality: torch.Tensor, length: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Gradient of the length term alone: with lambda_L = 1 less with lambda_L = 0."""
    with_term = hand_loss(quality_R=quality, length_R=length, length_weight=1.0).total
    without = hand_loss(quality_R=quality, length_R=length, length_weight=0.0).total
    return torch.autograd.grad(with_term - without, wanted)[0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_quality_correlation_is_pushed_to_zero_from_both_sides(sign: float) -> None:
    quality = (sign * double(3, 2, 2.5, 1)).requires_grad_(True)
    length = double(1, 2, 0, 1)
    before = hand_loss(quality_R=quality, length_R=length)
    moved = (quality - 0.1 * length_term_slope(quality, length, quality)).detach()
    after = hand_loss(quality_R=moved, length_R=length)
    assert float(before.quality_length_correlation) * sign > 0.9
    assert abs(float(after.quality_length_correlation)) < abs(float(before.quality_length_correlation))


def test_length_correlation_of_the_length_head_is_pushed_up() -> None:
    length = double(1, 2, 0, 1).requires_grad_(True)
    quality = double(3, 2, 2.5, 1)
    moved = (length - 0.1 * length_term_slope(quality, length, length)).detach()
    before, after = hand_loss(length_R=length), hand_loss(length_R=moved)
    assert float(after.length_length_correlation) > float(before.length_length_correlation) + 0.01


def test_one_log_sigmoid_per_pair_not_of_the_sum() -> None:
    # A public implementation adds a whole micro-batch up before one log-sigmoid: -log sigmoid(3) here.
    assert float(hand_loss().ranking) != pytest.approx(math.log1p(math.exp(-3)), abs=0.05)


def test_no_term_on_the_sum_of_the_heads() -> None:
    # rho(r_Q + r_L, L) is not in the paper: scaling r_L leaves all correlations and L_L alone.
    first = hand_loss(length_weight=1.0)
    second = hand_loss(length_R=double(3, 2, 3, 1) * 5)
    assert float(first.length) == pytest.approx(float(second.length), abs=1e-14)


def test_duplicated_responses_count_by_slots() -> None:
    rng = np.random.default_rng(0)
    quality, length, tokens = rng.normal(size=5), rng.normal(size=5), rng.integers(1, 90, 5).astype(float)
    chosen, rejected = np.array([0, 0, 1, 3, 0]), np.array([1, 2, 2, 4, 1])
    slots = np.concatenate([chosen, rejected])
    found = disentangled_loss(
        torch.tensor(quality),
        torch.tensor(length),
        torch.tensor(tokens),
        torch.tensor(chosen),
        torch.tensor(rejected),
    )
    rho_quality = np.corrcoef(quality[slots], tokens[slots])[0, 1]
    rho_length = np.corrcoef(length[slots], tokens[slots])[0, 1]
    total = quality + length
    ranking = np.log1p(np.exp(-(total[chosen] - total[rejected]))).mean()
    assert float(found.total) == pytest.approx(ranking + abs(rho_quality) - rho_length, abs=1e-12)
    assert slot_multiplicity(torch.tensor(chosen), torch.tensor(rejected), 5).tolist() == [3, 3, 2, 1, 1]


def test_gradient_equals_that_of_expanded_slots() -> None:
    torch.manual_seed(0)
    quality = torch.randn(4, dtype=torch.float64, requires_grad=True)
    length = torch.randn(4, dtype=torch.float64, requires_grad=True)
    tokens = double(5, 9, 2, 30)
    chosen, rejected = torch.tensor([0, 0, 2, 3]), torch.tensor([1, 1, 3, 0])
    disentangled_loss(quality, length, tokens, chosen, rejected).total.backward()
    expected_quality, expected_length = quality.grad, length.grad
    slots = torch.cat([chosen, rejected])
    twin_quality = quality.detach().clone().requires_grad_(True)
    twin_length = length.detach().clone().requires_grad_(True)
    rows = torch.arange(4)
    expanded = disentangled_loss(twin_quality[slots], twin_length[slots], tokens[slots], rows, rows + 4)
    expanded.total.backward()
    assert expected_quality is not None
    assert expected_length is not None
    assert torch.allclose(expected_quality, twin_quality.grad, atol=1e-14)  # type: ignore[arg-type]
    assert torch.allclose(expected_length, twin_length.grad, atol=1e-14)  # type: ignore[arg-type]


def test_gradcheck() -> None:
    torch.manual_seed(1)
    quality = torch.randn(6, dtype=torch.float64, requires_grad=True)
    length = torch.randn(6, dtype=torch.float64, requires_grad=True)
    cosine = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    tokens = torch.rand(6, dtype=torch.float64) * 50
    chosen, rejected = torch.tensor([0, 1, 2, 0]), torch.tensor([3, 4, 5, 5])
    prompt = torch.tensor([0, 0, 1, 0, 0, 1])
    for scope in (None, prompt):

        def total(q: torch.Tensor, r: torch.Tensor, c: torch.Tensor, scope: Any = scope) -> torch.Tensor:
            return disentangled_loss(q, r, tokens, chosen, rejected, head_cosine=c, prompt_R=scope).total

        assert torch.autograd.gradcheck(total, (quality, length, cosine))


def test_plain_bradley_terry_is_the_vanilla_arm() -> None:
    found = disentangled_loss(
        double(2, 1, 0, 1), None, double(3, 3, 3, 3), CHOSEN, REJECTED, length_weight=0.0, orthogonality_weight=0.0
    )
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    assert float(found.total) == pytest.approx(expected, abs=1e-15)
    assert math.isnan(float(found.length_length_correlation))


def test_equal_lengths_give_zero_terms_and_are_counted() -> None:
    quality = double(2, 1, 0, 1).requires_grad_(True)
    found = hand_loss(quality_R=quality, tokens_R=double(7, 7, 7, 7))
    found.total.backward()
    assert float(found.length) == 0.0
    assert int(found.degenerate) == 2
    assert quality.grad is not None
    assert bool(torch.isfinite(quality.grad).all())


def test_margin_lowers_the_difference() -> None:
    found = hand_loss(margin_B=double(2, 1), length_weight=0.0, orthogonality_weight=0.0)
    assert float(found.total) == pytest.approx(math.log(2), abs=1e-15)


def test_soft_labels_and_ties() -> None:
    # At a tie the loss is least where both scores are equal: log 2.
    assert float(bradley_terry(double(1), double(1), preference_B=double(0.5))) == pytest.approx(math.log(2))
    mixed = bradley_terry(double(2), double(0), preference_B=double(0.75))
    expected = 0.75 * math.log1p(math.exp(-2)) + 0.25 * math.log1p(math.exp(2))
    assert float(mixed) == pytest.approx(expected, abs=1e-14)


def test_orthogonality_is_the_absolute_cosine() -> None:
    assert float(orthogonality(torch.tensor(-0.5))) == 0.5


def test_large_differences_do_not_overflow() -> None:
    losses = bradley_terry(double(-1e4, 1e4), double(1e4, -1e4))
    assert losses.tolist() == [2e4, 0.0]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ShapeError, match="length_R"):
        hand_loss(length_R=double(1, 2))
    with pytest.raises(ShapeError, match="chosen_B"):
        hand_loss(chosen_B=torch.tensor([0, 9]))
    with pytest.raises(ShapeError, match="as many chosen as rejected"):
        hand_loss(chosen_B=torch.tensor([], dtype=torch.long), rejected_B=torch.tensor([], dtype=torch.long))
    with pytest.raises(ShapeError, match="tokens_R"):
        hand_loss(tokens_R=double(1, float("nan"), 2, 3))
