"""The speed benchmark against TRL measures what it says: same pairs, same losses, sequences and padding as counted."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import transformers
from benchmarks import compare_trl as bench
from benchmarks.exactness import make_data

trl = pytest.importorskip("trl", reason="needs TRL (pip install '.[test]')")

OPTIONS = {"layers": 1, "hidden": 64, "max_length": 256, "batch_pairs": 16, "trl_pairs": 8, "max_pairs_per_prompt": 8}
OPTIONS |= {"microbatch_tokens": 512, "single_pass_tokens": 10**6, "warmup": 1, "steps": 2, "data": None}


def test_pairs_without_sharing_are_the_same_pairs() -> None:
    data = make_data()
    apart = bench.without_sharing(data)
    assert apart.num_responses == 2 * data.num_pairs
    for pair in range(data.num_pairs):
        for column in ("pair_chosen", "pair_rejected"):
            before, after = getattr(data, column)[pair], getattr(apart, column)[pair]
            assert np.array_equal(data.input_ids(before), apart.input_ids(after))
            assert data.response_tokens[before] == apart.response_tokens[after]
    assert np.array_equal(data.pair_margin, apart.pair_margin)


def test_sorting_moves_no_pair_to_another_step() -> None:
    data = make_data()
    plan = bench.full_batches(data, Namespace(**{**OPTIONS, "batch_pairs": 24}))
    assert [len(batch) for batch in plan] == [24, 24, 24]
    work = bench.by_length(bench.Work(plan, 1, None), data)
    longest = np.maximum(data.sequence_tokens[data.pair_chosen], data.sequence_tokens[data.pair_rejected])
    for before, after in zip(plan, work.plan, strict=True):
        assert sorted(before) == sorted(after)
        assert (np.diff(longest[after]) >= 0).all()


def test_arms_train_on_the_same_losses_and_count_what_they_compute(tmp_path: Path) -> None:
    transformers.logging.set_verbosity_error()
    arms, data = bench.run_all(Namespace(**OPTIONS), tmp_path)
    assert data.num_pairs > 1000
    assert bench.loss_difference(arms) < 1e-4
    of = {arm.name: arm for arm in arms}
    assert all(arm.pairs == 32 and len(arm.losses) == 3 for arm in arms)
    assert of["TRL, one pass"].sequences == of["TRL, 8 pairs at a time"].sequences == 64
    assert of["ours, graphs kept, nothing shared"].sequences == 64
    assert of["ours, two passes"].sequences == 2 * of["ours, graphs kept"].sequences < 64
    assert of["TRL, one pass"].tokens == of["ours, graphs kept, nothing shared"].tokens
    assert of["TRL, one pass"].computed > of["TRL, one pass"].tokens
    odin, plain = of["ours, ODIN, graphs kept"], of["ours, graphs kept"]
    assert odin.sequences == plain.sequences
    assert odin.losses[0] != pytest.approx(plain.losses[0], abs=1e-4)
    lines = bench.table(arms).splitlines()
    assert len(lines) == len(arms) + 2
    assert " 1.00 | 2.00 |" in "\n".join(lines)
