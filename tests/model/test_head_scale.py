"""The scale of new normalised heads on encoders: the deviation that rewards begin with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odin_rm.model.head_scale import scale_at, unit_deviation
from odin_rm.model.heads import normalise_head


def test_two_numbers_have_one_direction_without_a_mean() -> None:
    """(1, -1) / sqrt(2) is the only one, so the deviation is that of (h_1 - h_2) / sqrt(2)."""
    rows = np.array([[1.0, 1.0], [3.0, 1.0], [1.0, 5.0]])
    assert unit_deviation(rows) == pytest.approx(np.std([0.0, 2.0, -4.0]) / np.sqrt(2))


def test_it_is_the_root_mean_square_over_drawn_heads() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    torch.manual_seed(0)
    heads = torch.stack([normalise_head(torch.randn(6, dtype=torch.float64)) for _ in range(20_000)]).numpy()
    assert unit_deviation(rows) == pytest.approx(np.sqrt((rows @ heads.T).var(axis=0).mean()), rel=0.02)


def test_a_shift_of_all_features_and_of_all_responses_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9, 5))
    shifted = rows + rng.normal(size=(1, 5)) + rng.normal(size=(9, 1))
    assert unit_deviation(shifted) == pytest.approx(unit_deviation(rows))
    assert unit_deviation(3 * rows) == pytest.approx(3 * unit_deviation(rows))


@pytest.mark.parametrize(("deviation", "scale"), [(0.1, 5.0), (0.109, 4.6), (2.0, 0.25), (0.0, 1.0), (np.nan, 1.0)])
def test_the_scale_has_two_digits_and_is_one_where_features_are_alike(deviation: float, scale: float) -> None:
    assert scale_at(deviation) == scale


def test_one_number_has_no_direction_without_a_mean() -> None:
    assert unit_deviation(np.array([[1.0], [2.0]])) == 0.0
