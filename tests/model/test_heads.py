"""The heads: normalisation by hand, invariances, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import ModelError
from odin_rm.model.heads import RewardHeads, effective_head, normalise_head

VECTOR_D = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)


def test_normalise_by_hand():
    # mean 3, centred (-2, -1, 3), squares 4 + 1 + 9 = 14
    expected = torch.tensor([-2.0, -1.0, 3.0], dtype=torch.float64) / math.sqrt(14)
    torch.testing.assert_close(normalise_head(VECTOR_D), expected)


def test_a_constant_vector_has_no_direction_and_no_nan():
    for value in (0.5, 0.1, -300.3, 0.0):
        for size in (3, 5, 768):
            vector = torch.full((size,), value, requires_grad=True)
            normalise_head(vector)[0].backward()
            assert normalise_head(vector).tolist() == [0.0] * size
            assert bool(torch.isfinite(vector.grad).all())


def test_a_diverged_vector_stays_visible():
    assert normalise_head(torch.tensor([1.0, math.nan, 2.0])).isnan().all()
    assert not normalise_head(torch.tensor([1.0, math.inf, 2.0])).isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=12).filter(lambda v: max(v) - min(v) > 0.1),
    st.floats(0.01, 100),
    st.floats(-50, 50),
)
def test_scale_and_shift_of_the_raw_vector_change_nothing(values, factor, shift):
    vector = torch.tensor(values, dtype=torch.float64)
    n = normalise_head(vector)
    torch.testing.assert_close(normalise_head(factor * vector + shift), n, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(normalise_head(-vector), -n)
    assert abs(float(n.sum())) < 1e-9
    assert float(n @ n) == pytest.approx(1, abs=1e-12)


def test_gradient_of_the_normalisation():
    vector = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(normalise_head, (vector,))


def test_effective_head_scales_only_what_is_normalised():
    torch.testing.assert_close(
        effective_head(VECTOR_D, normalise=True, scale=7.0), 7 * normalise_head(VECTOR_D.float())
    )
    torch.testing.assert_close(effective_head(VECTOR_D, normalise=False, scale=7.0), VECTOR_D.float())


def heads(**options) -> RewardHeads:
    made = RewardHeads(3, ("quality", "length"), **{"normalise": True, **options})
    with torch.no_grad():
        made.vectors["quality"].copy_(torch.tensor([1.0, 2.0, 6.0]))
        made.vectors["length"].copy_(torch.tensor([1.0, 0.0, 2.0]))
    return made


def test_forward_by_hand():
    # quality (-2, -1, 3) / sqrt 14, length (0, -1, 1) / sqrt 2; feature (1, 1, 2) gives 3 / sqrt 14 and 1 / sqrt 2.
    rewards_RH = heads()(torch.tensor([[1.0, 1.0, 2.0]]))
    torch.testing.assert_close(rewards_RH, torch.tensor([[3 / math.sqrt(14), 1 / math.sqrt(2)]]))
    raw_RH = heads(normalise=False)(torch.tensor([[1.0, 1.0, 2.0]]))
    torch.testing.assert_close(raw_RH, torch.tensor([[15.0, 5.0]]))


def test_cosine_by_hand_with_and_without_normalisation():
    # (-2, -1, 3) . (0, -1, 1) = 4
    for normalise in (True, False):
        cosine = heads(normalise=normalise).cosine("quality", "length")
        assert float(cosine.detach()) == pytest.approx(4 / math.sqrt(28), abs=1e-6)


def test_rewards_are_float32_whatever_comes_in():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rewards_RH = heads()(torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.bfloat16))
    assert rewards_RH.dtype == torch.float32
    assert float(rewards_RH[0, 0].detach()) == pytest.approx(3 / math.sqrt(14), abs=1e-6)


def test_the_quality_draw_does_not_depend_on_other_heads():
    drawn = []
    for names in (("quality",), ("quality", "length"), ("length", "quality")):
        torch.manual_seed(0)
        drawn.append(RewardHeads(8, names, normalise=True).vectors["quality"])
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize("names", [("length",), ("quality", "quality"), ()])
def test_heads_need_quality_once(names):
    with pytest.raises(ModelError, match="quality"):
        RewardHeads(3, names, normalise=True)
