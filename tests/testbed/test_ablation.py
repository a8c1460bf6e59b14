"""The ablation benchmark's wrong objective is the one that it says it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.ablation import COLUMNS, VARIANTS, AblationTrainer, table

from odin_rm.core.types import RewardScores


def batch(pairs: int = 8) -> Any:
    rng = np.random.default_rng(0)
    responses = 2 * pairs
    order = torch.as_tensor(rng.permutation(responses))
    return SimpleNamespace(
        tokens_R=torch.as_tensor(rng.integers(5, 60, responses), dtype=torch.float64),
        prompt_R=torch.arange(responses),
        chosen_B=order[:pairs],
        rejected_B=order[pairs:],
        margin_B=torch.zeros(pairs, dtype=torch.float64),
        quality=torch.as_tensor(rng.normal(size=responses)),
        length=torch.as_tensor(rng.normal(size=responses)),
    )


def trainer(group: int | None, length_weight: float = 1.0) -> AblationTrainer:
    made = AblationTrainer.__new__(AblationTrainer)
    made.group = group
    made.config = SimpleNamespace(length_weight=length_weight, length_scope="batch")  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("pairs", [1, 2, 3, 8])
def test_length_term_is_the_mean_over_groups_of_pairs(pairs: int) -> None:
    b = batch()
    expected = []
    for first in range(0, 8, pairs):
        slots = torch.cat([b.chosen_B[first : first + pairs], b.rejected_B[first : first + pairs]]).numpy()
        tokens = b.tokens_R.numpy()[slots]
        quality = np.corrcoef(b.quality.numpy()[slots], tokens)[0, 1]
        expected.append(abs(quality) - np.corrcoef(b.length.numpy()[slots], tokens)[0, 1])
    got = AblationTrainer.length_term(b.quality, b.length, b, pairs)
    assert float(got) == pytest.approx(np.mean(expected), abs=1e-12)


def test_one_group_is_the_exact_batch_and_small_groups_are_not() -> None:
    b = batch()
    scores = RewardScores(b.quality, b.length)
    exact = trainer(None).objective(scores, b)
    assert float(trainer(16).objective(scores, b).total) == pytest.approx(float(exact.total), abs=1e-12)
    small = trainer(4).objective(scores, b)
    assert abs(float(small.total) - float(exact.total)) > 1e-3
    assert float(small.ranking) == float(exact.ranking)
    halved = trainer(4, length_weight=0.5).objective(scores, b)
    assert float(halved.total - halved.ranking) == pytest.approx(0.5 * float(small.total - small.ranking))


def test_table_shows_mean_and_spread_per_variant() -> None:
    variant = next(iter(VARIANTS))
    runs = [{"variant": variant, "seed": s, **dict.fromkeys(COLUMNS, v)} for s, v in ((0, 0.1), (1, 0.3))]
    row = table(runs).splitlines()[-1]
    assert row.startswith(f"| {variant} | 2 | 0.200 ± 0.141 |")
    assert len(table(runs).splitlines()) == 3
