"""Batches that a thread builds ahead are those of the plan, in every order they may be asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from benchmarks.shared.reward_data import generated

from odin_rm.reward.loader import BuiltAhead, PlannedBatches, make_loader


@pytest.fixture
def batches():
    data = generated(10, 4, prompt_tokens=12, response_tokens=(2, 9), seed=1)
    return PlannedBatches(
        data, batch_pairs=8, max_pairs_per_prompt=4, microbatch_tokens=64, pad_token_id=0, seed=3, layout="tree"
    )


def rows(batch):
    return batch.batch.rows.tolist()


def test_batches_come_in_the_order_of_the_plan_each_built_once(batches, monkeypatch):
    expected = [batches[i] for i in range(len(batches))]
    built = []
    build = batches.build

    def noted(pairs):
        built.append((rows(result := build(pairs)), threading.current_thread() is threading.main_thread()))
        return result

    monkeypatch.setattr(batches, "build", noted)
    found = list(make_loader(batches))
    assert [rows(b) for b in found] == [rows(b) for b in expected] == [r for r, _ in built]
    assert [here for _, here in built] == [True] + [False] * (len(batches) - 1)
    for one, other in zip(found, expected, strict=True):
        assert one.sizes == other.sizes
        for mine, theirs in zip(one.micro_batches, other.micro_batches, strict=True):
            assert torch.equal(mine.inputs["input_ids"], theirs.inputs["input_ids"])
            assert torch.equal(mine.positions, theirs.positions)


def test_another_epoch_and_a_run_that_is_wound_on_get_their_own_batches(batches):
    loader = make_loader(batches)
    first = [rows(b) for b in loader]
    iterator = iter(loader)
    assert [rows(next(iterator)) for _ in range(2)] == first[:2]
    batches.set_epoch(1)  # the third batch of the epoch before is built already
    second = [rows(b) for b in loader]
    assert second == [rows(batches[i]) for i in range(len(batches))]
    assert second != first
    assert [rows(b) for b in skip_first_batches(loader, 3)] == second[3:]
    ahead = BuiltAhead(batches)
    for index in (4, 0, 1, 1, 5):
        assert rows(ahead[index]) == second[index]


def test_what_goes_wrong_ahead_is_raised_when_the_batch_is_wanted(batches, monkeypatch):
    build = batches.build

    def broken(pairs):
        if np.array_equal(pairs, batches.plan[1]):
            raise OSError("the disk is gone")
        return build(pairs)

    monkeypatch.setattr(batches, "build", broken)
    iterator = iter(make_loader(batches))
    assert rows(next(iterator))
    with pytest.raises(OSError, match="the disk is gone"):
        next(iterator)
