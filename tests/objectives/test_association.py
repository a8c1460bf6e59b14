"""Pearson of a weighted batch: by hand, against numpy, in its invariances and where it does not exist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.association import pearson, pearson_within


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hand_computed() -> None:
    # x - 2 = (-1, 0, 1), y - 3 = (-2, 1, 1): cov 3, |x|^2 2, |y|^2 6, rho = 3 / sqrt(12) = sqrt(3) / 2.
    found = pearson(double(1, 2, 3), double(1, 4, 4))
    assert float(found.value) == pytest.approx(3**0.5 / 2, abs=1e-15)
    assert not bool(found.degenerate)


def test_means_are_subtracted() -> None:
    # The published sketch forgets the means: it would give sum(xy) / sqrt(sum(xx) sum(yy)) = 0.9 and more here.
    assert float(pearson(double(101, 102, 103), double(12, 11, 10)).value) == pytest.approx(-1.0, abs=1e-12)


def test_weights_are_multiplicity() -> None:
    rng = np.random.default_rng(0)
    x, y, times = rng.normal(size=20), rng.normal(size=20), rng.integers(1, 5, 20)
    repeated = np.corrcoef(np.repeat(x, times), np.repeat(y, times))[0, 1]
    found = pearson(torch.tensor(x), torch.tensor(y), torch.tensor(times, dtype=torch.float64))
    assert float(found.value) == pytest.approx(repeated, abs=1e-13)


def test_weight_zero_leaves_out() -> None:
    found = pearson(double(1, 2, 3, 50), double(1, 4, 4, -9), double(1, 1, 1, 0))
    assert float(found.value) == pytest.approx(3**0.5 / 2, abs=1e-14)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (double(1, 2, 3), double(7, 7, 7)),
        (double(0.1, 0.1, 0.1), double(1, 2, 3)),
        (double(5), double(3)),
        (double(1e9 + 0.1, 1e9 + 0.1), double(1, 2)),
        (double(0, 0, 0), double(0, 0, 0)),
    ],
)
def test_degenerate_is_zero_without_gradient_never_nan(x: torch.Tensor, y: torch.Tensor) -> None:
    x.requires_grad_(True)
    found = pearson(x, y)
    assert bool(found.degenerate)
    assert float(found.value.detach()) == 0.0
    found.value.backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_within_prompt_by_hand() -> None:
    # Two prompts; centred rewards (-1, 1) and (-2, 2), centred lengths (-1, 1) and (3, -3): (2 - 12) / sqrt(10 * 20).
    x, y = double(0, 2, 10, 14), double(4, 6, 9, 3)
    found = pearson_within(x, y, torch.tensor([0, 0, 1, 1]))
    assert float(found.value) == pytest.approx(-10 / 200**0.5, abs=1e-14)


def test_within_prompt_ignores_prompt_levels() -> None:
    rng = np.random.default_rng(1)
    x, y, group = rng.normal(size=30), rng.normal(size=30), np.repeat(np.arange(10), 3)
    shift = rng.normal(size=10)[group] * 100
    first = pearson_within(torch.tensor(x), torch.tensor(y), torch.tensor(group))
    second = pearson_within(torch.tensor(x + shift), torch.tensor(y - shift), torch.tensor(group))
    assert float(first.value) == pytest.approx(float(second.value), abs=1e-10)


def test_within_prompt_degenerate_with_one_response_each() -> None:
    found = pearson_within(double(1, 2, 3), double(1, 2, 3), torch.tensor([0, 1, 2]))
    assert bool(found.degenerate)
    assert float(found.value) == 0.0


@pytest.mark.parametrize("within", [False, True])
def test_gradcheck(within: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, dtype=torch.float64, requires_grad=True)
    y = torch.rand(9, dtype=torch.float64) * 100
    weight = torch.tensor([1, 2, 1, 1, 3, 1, 1, 2, 1], dtype=torch.float64)
    group = torch.arange(9) // 3

    def value(x_R: torch.Tensor) -> torch.Tensor:
        return (pearson_within(x_R, y, group, weight) if within else pearson(x_R, y, weight)).value

    assert torch.autograd.gradcheck(value, (x,))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 1000)), min_size=3, max_size=40),
    st.floats(0.01, 100),
    st.floats(-1000, 1000),
)
def test_affine_and_order_invariance(rows: list[tuple[float, int]], scale: float, shift: float) -> None:
    x = torch.tensor([r[0] for r in rows], dtype=torch.float64)
    y = torch.tensor([float(r[1]) for r in rows], dtype=torch.float64)
    if float(x.std()) < 1e-3:
        return
    found = pearson(x, y)
    assert -1 - 1e-9 <= float(found.value) <= 1 + 1e-9
    assert float(pearson(x * scale + shift, y).value) == pytest.approx(float(found.value), abs=1e-6)
    assert float(pearson(-x, y).value) == pytest.approx(-float(found.value), abs=1e-9)
    order = torch.randperm(len(x))
    assert float(pearson(x[order], y[order]).value) == pytest.approx(float(found.value), abs=1e-9)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match="y_R"):
        pearson(double(1, 2), double(1, 2, 3))
    with pytest.raises(ShapeError, match="x_R"):
        pearson(torch.tensor([1, 2]), double(1, 2))
    with pytest.raises(ShapeError, match="group_R"):
        pearson_within(double(1, 2), double(1, 2), torch.tensor([0.0, 1.0]))
