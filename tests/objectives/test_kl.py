"""KL estimators: by hand, their expectations and those of their gradients in full, and the adaptive coefficient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from odin_rm.core.errors import NumericalError, ShapeError
from odin_rm.objectives.kl import adapt_kl_coef, kl_estimate

KINDS = ("k1", "k2", "k3")


def double(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_by_hand() -> None:
    policy, reference = double(-1.0, -1.0, -2.0), double(-1.0, -3.0, -1.5)  # differences 0, 2, -0.5
    assert kl_estimate(policy, reference, "k1")[0].tolist() == [0, 2, -0.5]
    assert kl_estimate(policy, reference, "k2")[0].tolist() == [0, 2, 0.125]
    expected = [0, math.exp(-2) + 1, math.exp(0.5) - 1.5]
    assert kl_estimate(policy, reference, "k3")[0].tolist() == pytest.approx(expected, abs=1e-15)


def test_k3_keeps_the_digits_of_a_small_difference() -> None:
    # exp(-d) - 1 + d in float32 would be rounding alone; its series starts with d^2 / 2.
    found = kl_estimate(torch.tensor([[1e-3]]), torch.tensor([[0.0]]), "k3")
    assert float(found) == pytest.approx(5e-7, rel=0.05)


def distributions() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(logits.detach() + 0.5 * torch.randn(1, 6, dtype=torch.float64), -1)
    return logits, reference


def expectation(logits: Tensor, reference: Tensor, kind: str) -> Tensor:
    """Over the policy's own tokens, which are drawn without gradient."""
    policy = torch.log_softmax(logits, -1)
    return (policy.detach().exp() * kl_estimate(policy, reference, kind)).sum()


def test_k1_and_k3_are_unbiased_and_k2_is_close() -> None:
    logits, reference = distributions()
    policy = torch.log_softmax(logits, -1)
    kl = float((policy.exp() * (policy - reference)).sum().detach())
    found = {kind: float(expectation(logits, reference, kind).detach()) for kind in KINDS}
    assert found["k1"] == pytest.approx(kl, abs=1e-14)
    assert found["k3"] == pytest.approx(kl, abs=1e-14)
    assert found["k2"] == pytest.approx(kl, rel=0.1)
    assert kl > 0.01


def test_expected_gradients_are_those_that_the_module_states() -> None:
    logits, reference = distributions()
    policy = torch.log_softmax(logits, -1)
    (reverse,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)
    (forward,) = torch.autograd.grad(
        (reference.exp() * (reference - torch.log_softmax(logits, -1))).sum(),
        logits,
    )
    found = {kind: torch.autograd.grad(expectation(logits, reference, kind), logits)[0] for kind in KINDS}
    assert torch.allclose(found["k1"], torch.zeros_like(reverse), atol=1e-15)
    assert torch.allclose(found["k2"], reverse, atol=1e-14)
    assert torch.allclose(found["k3"], forward, atol=1e-14)
    assert float((reverse - forward).abs().max()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    torch.manual_seed(1)
    policy = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x_BT: kl_estimate(x_BT, reference, kind), (policy,))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=10))
def test_k2_and_k3_are_never_negative_and_equal_distributions_have_none(rows: list[tuple[float, float]]) -> None:
    policy, reference = double(*[r[0] for r in rows]), double(*[r[1] for r in rows])
    for kind in ("k2", "k3"):
        assert float(kl_estimate(policy, reference, kind).min()) >= 0
    for kind in KINDS:
        assert float(kl_estimate(policy, policy, kind).abs().max()) == 0


def test_controller_by_hand() -> None:
    def adapt(observed: float, responses: int = 64) -> float:
        return adapt_kl_coef(0.1, observed, target=6.0, horizon=10_000, responses=responses)

    assert adapt(6.0) == 0.1
    assert adapt(6.6) == pytest.approx(0.1 * (1 + 0.1 * 64 / 10_000), abs=1e-15)
    assert adapt(60.0) == pytest.approx(0.1 * (1 + 0.2 * 64 / 10_000), abs=1e-15)
    assert adapt(-1.0) == pytest.approx(0.1 * (1 - 0.2 * 64 / 10_000), abs=1e-15)
    assert adapt(60.0, responses=128) == pytest.approx(0.1 * (1 + 0.2 * 128 / 10_000), abs=1e-15)


def test_controller_finds_the_coefficient_that_the_target_needs() -> None:
    """A policy whose KL is 1 / beta: the coefficient goes to 1 / target."""
    kl_coef = 1.0
    for _ in range(400):
        kl_coef = adapt_kl_coef(kl_coef, 1 / kl_coef, target=4.0, horizon=100, responses=20)
    assert kl_coef == pytest.approx(0.25, rel=0.01)


def test_what_cannot_be_is_refused() -> None:
    table = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match="k4"):
        kl_estimate(table, table, "k4")
    with pytest.raises(ShapeError, match="reference_log_probs_BT"):
        kl_estimate(table, table[:1], "k1")
    with pytest.raises(ShapeError, match="horizon"):
        adapt_kl_coef(0.1, 1.0, target=1.0, horizon=10, responses=50)
    with pytest.raises(ShapeError, match="target"):
        adapt_kl_coef(0.1, 1.0, target=0.0, horizon=100, responses=5)
    with pytest.raises(NumericalError, match="nan"):
        adapt_kl_coef(0.1, math.nan, target=1.0, horizon=100, responses=5)
