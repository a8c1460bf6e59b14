"""The ablation benchmark's wrong objective is the one that it says it is."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.ablation import COLUMNS, VARIANTS, Ablated, slot_groups, table

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import COMPLETE
from odin_rm.objectives.registry import OdinSettings


def batch(pairs: int = 8) -> Any:
    rng = np.random.default_rng(0)
    responses = 2 * pairs
    order = torch.as_tensor(rng.permutation(responses))
    tokens_R = torch.as_tensor(rng.integers(5, 60, responses), dtype=torch.float64)
    return SimpleNamespace(
        tokens_R=tokens_R,
        attributes={"response_tokens": tokens_R},
        prompt_R=torch.arange(responses),
        chosen_B=order[:pairs],
        rejected_B=order[pairs:],
        margin_B=torch.zeros(pairs, dtype=torch.float64),
        quality=torch.as_tensor(rng.normal(size=responses)),
        length=torch.as_tensor(rng.normal(size=responses)),
    )


def objective(group: int | None, length_weight: float = 1.0) -> Ablated:
    return Ablated(OdinSettings(length_weight=length_weight), group)


@pytest.mark.parametrize("pairs", [1, 2, 3, 8])
def test_length_term_is_the_mean_over_groups_of_pairs(pairs: int) -> None:
    b = batch()
    expected = []
    for first in range(0, 8, pairs):
        slots = torch.cat([b.chosen_B[first : first + pairs], b.rejected_B[first : first + pairs]]).numpy()
        tokens = b.tokens_R.numpy()[slots]
        quality = np.corrcoef(b.quality.numpy()[slots], tokens)[0, 1]
        expected.append(abs(quality) - np.corrcoef(b.length.numpy()[slots], tokens)[0, 1])
    groups = slot_groups(b, 2 * pairs, by_length=False)
    got = Ablated.length_term(b.quality, b.length, b.tokens_R, groups)
    assert float(got) == pytest.approx(np.mean(expected), abs=1e-12)


def test_one_group_is_the_exact_batch_and_small_groups_are_not() -> None:
    b = batch()
    scores = RewardScores(b.quality, b.length)
    exact = objective(None).value(scores, b, COMPLETE)
    assert float(objective(16).value(scores, b, COMPLETE).total) == pytest.approx(float(exact.total), abs=1e-12)
    small = objective(4).value(scores, b, COMPLETE)
    assert abs(float(small.total) - float(exact.total)) > 1e-3
    ranking = small.metrics["ranking_loss"]
    assert float(ranking) == float(exact.metrics["ranking_loss"])
    halved = objective(4, length_weight=0.5).value(scores, b, COMPLETE)
    assert float(halved.total - ranking) == pytest.approx(0.5 * float(small.total - ranking))


def test_groups_by_length_hold_each_slot_once_and_do_not_overlap_in_length() -> None:
    b = batch()
    groups = slot_groups(b, 4, by_length=True)
    assert [len(group) for group in groups] == [4, 4, 4, 4]
    assert sorted(torch.cat(groups).tolist()) == list(range(16))
    lengths = [b.tokens_R[group] for group in groups]
    assert all(float(low.max()) <= float(high.min()) for low, high in itertools.pairwise(lengths))
    mixed = slot_groups(b, 4, by_length=False)
    assert sorted(torch.cat(mixed).tolist()) == list(range(16))
    assert set(mixed[0].tolist()) == {*b.chosen_B[:2].tolist(), *b.rejected_B[:2].tolist()}


def test_table_shows_mean_and_spread_per_variant() -> None:
    variant = next(iter(VARIANTS))
    runs = [{"variant": variant, "seed": s, **dict.fromkeys(COLUMNS, v)} for s, v in ((0, 0.1), (1, 0.3))]
    row = table(runs).splitlines()[-1]
    assert row.startswith(f"| {variant} | 2 | 0.200 ± 0.141 |")
    assert len(table(runs).splitlines()) == 3
