"""Optimiser batches, micro-batches and padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.data.batching import (
    batches_per_epoch,
    build_optimiser_batch,
    collate,
    plan_epoch,
    plan_microbatches,
)
from odin_rm.data.epoch import fill_batches, order_within_prompts
from odin_rm.data.schema import TokenisedPreferences


def preferences(pairs_by_prompt, responses_per_prompt=5):
    """A data set from lists of (chosen, rejected) positions within each prompt."""
    chosen, rejected = [], []
    for prompt, pairs in enumerate(pairs_by_prompt):
        for c, r in pairs:
            chosen.append(prompt * responses_per_prompt + c)
            rejected.append(prompt * responses_per_prompt + r)
    total = len(pairs_by_prompt) * responses_per_prompt
    return TokenisedPreferences(
        input_ids_flat=np.zeros(total, dtype=np.int32),
        offsets=np.arange(total + 1),
        response_tokens=np.ones(total, dtype=np.int32),
        response_prompt=np.repeat(np.arange(len(pairs_by_prompt)), responses_per_prompt).astype(np.int32),
        pair_chosen=np.asarray(chosen, dtype=np.int32),
        pair_rejected=np.asarray(rejected, dtype=np.int32),
        pair_margin=np.arange(len(chosen), dtype=np.float32),
        pair_row=np.arange(1, len(chosen) + 1),
    )


ALL_PAIRS = list(itertools.combinations(range(5), 2))
pair_lists = st.lists(st.lists(st.sampled_from(ALL_PAIRS), min_size=1, max_size=25), min_size=1, max_size=15)


def can_be_filled(counts, batch_pairs, cap, batches):
    """Full batches are possible exactly if the caps leave enough pairs for any number of them (Hall's condition)."""
    return all(np.minimum(counts, cap * t).sum() >= t * batch_pairs for t in range(1, batches)) and (
        np.minimum(counts, cap * batches).sum() == counts.sum()
    )


@settings(max_examples=300, deadline=None)
@given(pairs=pair_lists, batch_pairs=st.integers(1, 30), cap=st.integers(1, 8), seed=st.integers(0, 5))
def test_plan_epoch_properties(pairs, batch_pairs, cap, seed):
    data = preferences(pairs)
    plan = plan_epoch(data, batch_pairs, cap, seed, epoch=1)
    assert sorted(np.concatenate(plan).tolist()) == list(range(data.num_pairs))
    assert len(plan) == batches_per_epoch(data, batch_pairs, cap)
    counts = np.asarray([len(p) for p in pairs])
    for batch in plan:
        assert 1 <= len(batch) <= batch_pairs
        assert np.bincount(data.response_prompt[data.pair_chosen[batch]]).max() <= cap
    fewest = -(-data.num_pairs // batch_pairs)
    if counts.max() <= cap:
        assert [len(b) for b in plan[:-1]] == [batch_pairs] * (fewest - 1)
    if counts.max() <= cap * fewest:
        assert len(plan) == fewest
        # A last batch that is short may leave too little room for the cap; elsewhere every batch is full.
        if data.num_pairs % batch_pairs == 0:
            assert can_be_filled(counts, batch_pairs, cap, fewest)
            assert {len(b) for b in plan} == {batch_pairs}


def test_plan_epoch_is_decided_by_seed_and_epoch():
    data = preferences([ALL_PAIRS] * 10)
    for cap in (3, 20):
        plans = [plan_epoch(data, 16, cap, seed, epoch) for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]]
        texts = [[batch.tolist() for batch in plan] for plan in plans]
        assert texts[0] == texts[1]
        assert texts[0] != texts[2]
        assert texts[0] != texts[3]
        assert texts[2] != texts[3]


def test_a_dominating_prompt_makes_batches_smaller_and_keeps_the_cap():
    data = preferences([ALL_PAIRS])
    assert [len(b) for b in plan_epoch(data, 8, 4, 0, 0)] == [4, 4, 2]
    # 10 pairs of one prompt need 5 batches; the 5 other pairs are shared out, 3 pairs each.
    data = preferences([ALL_PAIRS] + [[(0, 1)]] * 5)
    assert [len(b) for b in plan_epoch(data, 15, 2, 0, 0)] == [3] * 5


def test_what_cannot_wait_goes_first():
    # Three pairs each, two in a batch, two batches: each prompt must give one now, however full the batch is.
    data = preferences([[(0, 1), (0, 2), (1, 2)]] * 4)
    for epoch in range(20):
        plan = plan_epoch(data, 6, 2, 0, epoch)
        assert [len(batch) for batch in plan] == [6, 6]
        assert sorted(np.concatenate(plan).tolist()) == list(range(12))


def test_chunks_of_a_walk_stay_together():
    prompts, pairs, cap = 40, 10, 3
    starts = np.arange(prompts + 1) * pairs
    plan = fill_batches(np.arange(prompts * pairs), starts, 10, cap, 40, np.random.default_rng(0))
    pieces = [
        np.unique(batch[batch // pairs == prompt] % pairs // cap)
        for batch in plan
        for prompt in np.unique(batch // pairs)
    ]
    assert np.mean([len(chunks) == 1 for chunks in pieces]) > 0.95


def test_pairs_put_together_share_responses():
    # The ten pairs of five responses in chunks of three: a triangle touches three responses, unrelated pairs up to six.
    data = preferences([ALL_PAIRS] * 40)
    plan = plan_epoch(data, 12, 3, 0, 0)
    scored = np.mean([len(build_optimiser_batch(data, batch).responses) for batch in plan])
    shuffled = np.array_split(np.random.default_rng(0).permutation(data.num_pairs), len(plan))
    unrelated = np.mean([len(build_optimiser_batch(data, batch).responses) for batch in shuffled])
    assert scored < 0.7 * unrelated
    # One chunk that is all pairs of a prompt scores each response once.
    assert len(build_optimiser_batch(data, plan_epoch(preferences([ALL_PAIRS]), 10, 10, 0, 0)[0]).responses) == 5


@given(st.lists(st.sampled_from(ALL_PAIRS), min_size=2, max_size=40), st.integers(1, 6))
def test_the_walk_visits_every_pair_once(pairs, cap):
    data = preferences([pairs])
    starts = np.asarray([0, len(pairs)])
    order = order_within_prompts(data.pair_chosen, data.pair_rejected, starts, cap, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(len(pairs)))


def test_plan_epoch_refuses_nonsense():
    data = preferences([ALL_PAIRS])
    with pytest.raises(ConfigError, match="batch_pairs is 0"):
        plan_epoch(data, 0, 1, 0, 0)
    with pytest.raises(ConfigError, match="max_pairs_per_prompt is 0"):
        plan_epoch(data, 1, 0, 0, 0)
    with pytest.raises(DataError, match="has no pair"):
        plan_epoch(preferences([[]]), 1, 1, 0, 0)


def test_a_million_single_pairs_are_planned_without_a_loop_over_them():
    pairs = 1_000_000
    data = TokenisedPreferences(
        input_ids_flat=np.zeros(1, dtype=np.int32),
        offsets=np.arange(2 * pairs + 1),
        response_tokens=np.ones(2 * pairs, dtype=np.int32),
        response_prompt=np.repeat(np.arange(pairs), 2).astype(np.int32),
        pair_chosen=np.arange(0, 2 * pairs, 2, dtype=np.int32),
        pair_rejected=np.arange(1, 2 * pairs, 2, dtype=np.int32),
        pair_margin=np.zeros(pairs, dtype=np.float32),
        pair_row=np.arange(pairs),
    )
    plan = plan_epoch(data, 128, 4, 0, 0)
    assert (np.bincount(np.concatenate(plan)) == 1).all()
    assert [len(plan), len(plan[0]), len(plan[-1])] == [7813, 128, pairs - 7812 * 128]


def test_optimiser_batch_by_hand():
    data = preferences([[(0, 1), (2, 1), (0, 1)], [(4, 3)]])
    batch = build_optimiser_batch(data, np.asarray([3, 0, 2, 1]))
    assert batch.responses.tolist() == [0, 1, 2, 8, 9]
    assert batch.responses[batch.chosen].tolist() == [9, 0, 0, 2]
    assert batch.responses[batch.rejected].tolist() == [8, 1, 1, 1]
    assert batch.margin.tolist() == [3, 0, 2, 1]
    assert batch.rows.tolist() == [4, 1, 3, 2]


def test_microbatches_by_hand():
    # Longest first under 20 padded tokens: 9+9 (2 x 9), 5 5 4 (3 x 5), 3; 30 alone because it is over the budget.
    plan = plan_microbatches(np.asarray([5, 9, 30, 3, 5, 8, 4, 5]), 20)
    lengths = [[5, 9, 30, 3, 5, 8, 4, 5][i] for i in np.concatenate(plan[0])]
    assert sorted(lengths) == sorted([5, 9, 30, 3, 5, 8, 4, 5])
    groups = sorted([sorted(np.asarray([5, 9, 30, 3, 5, 8, 4, 5])[m].tolist()) for m in plan[0]])
    assert groups == [[3], [4, 5, 5, 5], [8, 9], [30]]


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(1, 100), min_size=0, max_size=60),
    budget=st.integers(1, 400),
    ranks=st.integers(1, 5),
)
def test_microbatch_properties(tokens, budget, ranks):
    tokens = np.asarray(tokens, dtype=np.int64)
    plan = plan_microbatches(tokens, budget, ranks)
    assert len(plan) == ranks
    assert len({len(micro_batches) for micro_batches in plan}) == 1
    used = [micro for micro_batches in plan for micro in micro_batches if len(micro)]
    assert sorted(np.concatenate([np.empty(0, dtype=np.int64), *used]).tolist()) == list(range(len(tokens)))
    for micro in used:
        assert len(micro) == 1 or tokens[micro].max() * len(micro) <= budget
    # No more rounds than greedy filling on one rank needs.
    alone = len(plan_microbatches(tokens, budget)[0])
    assert len(plan[0]) == -(-alone // ranks)


def test_microbatches_share_the_work_between_ranks():
    generator = np.random.default_rng(0)
    tokens = generator.integers(20, 500, size=256)
    plan = plan_microbatches(tokens, 4096, 4)
    load = [sum(int(tokens[m].max()) * len(m) for m in rank if len(m)) for rank in plan]
    assert max(load) < 1.1 * min(load)
    assert sum(load) < 1.1 * tokens.sum()


def test_microbatches_refuse_nonsense():
    with pytest.raises(ConfigError, match="microbatch_tokens is 0"):
        plan_microbatches(np.asarray([1]), 0)
    with pytest.raises(ConfigError, match="world_size is 0"):
        plan_microbatches(np.asarray([1]), 1, 0)


def test_collate_by_hand():
    sequences = [np.asarray([5, 6, 7], dtype=np.int32), np.asarray([8], dtype=np.int32)]
    right = collate(sequences, pad_token_id=0)
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert set(right) == {"input_ids", "attention_mask"}
    left = collate(sequences, pad_token_id=0, padding_side="left")
    assert left["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in (*right.values(), *left.values()))


def test_collate_does_not_take_a_real_token_for_padding():
    batch = collate([np.asarray([0, 3, 0]), np.asarray([0])], pad_token_id=0)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_collate_refuses_nonsense():
    with pytest.raises(ConfigError, match="padding_side is 'middle'"):
        collate([np.asarray([1])], 0, "middle")
    with pytest.raises(ValueError, match="at least one sequence"):
        collate([], 0)
