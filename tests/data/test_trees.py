"""Forests of token sequences: layouts by hand, and against a naive trie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.data.trees import (
    TreeBatch,
    build_trees,
    common_prefixes,
    prefix_order,
    tree_tensors,
    tree_tokens,
)

# Few token ids, so that prefixes, repeats and sequences that begin another one are common.
sequences_of_ids = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=14)


def layout(sequences, **kwargs) -> TreeBatch:
    return build_trees([np.array(s) for s in sequences], **kwargs)


def as_lists(batch: TreeBatch) -> dict[str, list[int]]:
    return {name: value.tolist() for name, value in vars(batch).items()}


def path(batch: TreeBatch, end: int) -> list[int]:
    """Row indices that the token at ``end`` sees, root first: ancestors whole, its own segment up to itself."""
    starts, stops = batch.segment_start, batch.segment_start + batch.segment_length
    segment = int(np.flatnonzero((starts <= end) & (end < stops))[0])
    indices = list(range(starts[segment], end + 1))
    while (segment := int(batch.segment_parent[segment])) >= 0:
        indices = [*range(starts[segment], stops[segment]), *indices]
    return indices


def trie_nodes(sequences) -> int:
    return len({tuple(s[: n + 1]) for s in sequences for n in range(len(s))})


def test_two_responses_and_their_prompt_by_hand():
    batch = layout([[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3]], min_shared=1)
    assert as_lists(batch) == {
        "input_ids": [1, 2, 3, 4, 5, 6],
        "position_ids": [0, 1, 2, 3, 3, 4],
        "segment_start": [0, 3, 4],
        "segment_length": [3, 1, 2],
        "segment_parent": [-1, 0, 0],
        "response_end": [3, 5, 2],
    }


def test_two_prompts_of_one_conversation_and_a_stranger_by_hand():
    # 7 8 is the first turn; 7 8 1 and 7 8 2 are two prompts that go on from it, the first with two responses.
    batch = layout([[7, 8, 1, 4], [9], [7, 8, 2, 6], [7, 8, 1, 5]], min_shared=1)
    assert as_lists(batch) == {
        "input_ids": [7, 8, 1, 4, 5, 2, 6, 9],
        "position_ids": [0, 1, 2, 3, 3, 2, 3, 0],
        "segment_start": [0, 2, 3, 4, 5, 7],
        "segment_length": [2, 1, 1, 1, 2, 1],
        "segment_parent": [-1, 0, 1, 1, 0, -1],
        "response_end": [3, 7, 6, 4],
    }


def test_runs_that_are_too_short_are_laid_down_for_each_branch():
    # The shared 1 is worth no segment, and neither is the shared 1 2: from the root they are 1 and 2 tokens.
    batch = layout([[1, 2, 3, 3], [1, 2, 4, 4], [1, 5]], min_shared=3)
    assert as_lists(batch) == {
        "input_ids": [1, 2, 3, 3, 1, 2, 4, 4, 1, 5],
        "position_ids": [0, 1, 2, 3, 0, 1, 2, 3, 0, 1],
        "segment_start": [0, 4, 8],
        "segment_length": [4, 4, 2],
        "segment_parent": [-1, -1, -1],
        "response_end": [3, 7, 9],
    }
    # With 2 the pair shares 1 2, laid down from its own root.
    batch = layout([[1, 2, 3, 3], [1, 2, 4, 4], [1, 5]], min_shared=2)
    assert batch.segment_length.tolist() == [2, 2, 2, 2]
    assert batch.segment_parent.tolist() == [-1, 0, 0, -1]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 3, 0, 1]


def test_repeats_beginnings_and_single_tokens():
    batch = layout([[5], [5, 5, 5], [5, 5], [5, 5, 5], [6]], min_shared=1)
    assert as_lists(batch) == {
        "input_ids": [5, 5, 5, 6],
        "position_ids": [0, 1, 2, 0],
        "segment_start": [0, 3],
        "segment_length": [3, 1],
        "segment_parent": [-1, -1],
        "response_end": [0, 2, 1, 2, 3],
    }


def test_packing_shares_nothing_and_keeps_the_order():
    batch = layout([[3, 4], [3, 4], [3]], share=False)
    assert batch.input_ids.tolist() == [3, 4, 3, 4, 3]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 0]
    assert batch.segment_start.tolist() == [0, 2, 4]
    assert batch.segment_parent.tolist() == [-1, -1, -1]
    assert batch.response_end.tolist() == [1, 3, 4]
    assert tree_tokens([[3, 4], [3, 4], [3]], share=False) == 5


@settings(max_examples=300, deadline=None)
@given(sequences=sequences_of_ids, min_shared=st.integers(0, 5), share=st.booleans())
def test_every_path_reproduces_its_sequence(sequences, min_shared, share):
    batch = layout(sequences, min_shared=min_shared, share=share)
    for sequence, end in zip(sequences, batch.response_end, strict=True):
        indices = path(batch, int(end))
        assert batch.input_ids[indices].tolist() == sequence
        assert batch.position_ids[indices].tolist() == list(range(len(sequence)))
    # Segments fill the row, parents come first, and every token is on some sequence's path.
    assert batch.segment_start.tolist() == (np.cumsum(batch.segment_length) - batch.segment_length).tolist()
    assert batch.segment_length.min() > 0
    assert (batch.segment_parent < np.arange(len(batch.segment_parent))).all()
    assert sorted({i for end in batch.response_end for i in path(batch, int(end))}) == list(range(len(batch.input_ids)))
    assert len(batch.input_ids) == batch.segment_length.sum()
    assert tree_tokens([np.array(s) for s in sequences], min_shared=min_shared, share=share) == len(batch.input_ids)


@settings(max_examples=300, deadline=None)
@given(sequences=sequences_of_ids)
def test_tokens_are_the_nodes_of_the_trie(sequences):
    batch = layout(sequences, min_shared=1)
    assert len(batch.input_ids) == tree_tokens(sequences, min_shared=1) == trie_nodes(sequences)


@settings(max_examples=200, deadline=None)
@given(sequences=sequences_of_ids, min_shared=st.integers(1, 5), seed=st.integers(0, 9))
def test_the_order_of_the_sequences_changes_only_the_order_of_the_ends(sequences, min_shared, seed):
    shuffled = np.random.default_rng(seed).permutation(len(sequences))
    one = layout(sequences, min_shared=min_shared)
    other = layout([sequences[i] for i in shuffled], min_shared=min_shared)
    for name in ("input_ids", "position_ids", "segment_start", "segment_length", "segment_parent"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert other.response_end.tolist() == one.response_end[shuffled].tolist()


@settings(max_examples=200, deadline=None)
@given(sequences=sequences_of_ids, min_shared=st.integers(1, 5))
def test_no_shared_segment_is_shorter_than_asked_and_each_has_two_branches(sequences, min_shared):
    batch = layout(sequences, min_shared=min_shared)
    children = np.bincount(batch.segment_parent[batch.segment_parent >= 0], minlength=len(batch.segment_start))
    assert (children != 1).all()
    assert (batch.segment_length[children > 0] >= min_shared).all()


@settings(max_examples=200, deadline=None)
@given(sequences=sequences_of_ids, start=st.integers(0, 13), count=st.integers(1, 14))
def test_common_prefixes_of_neighbours_count_any_run_of_them(sequences, start, count):
    order = prefix_order(sequences)
    ordered = [sequences[i] for i in order]
    assert ordered == sorted(sequences)
    common = common_prefixes(sequences, order)
    part = slice(start, start + count)
    expected = trie_nodes(ordered[part])
    assert sum(map(len, ordered[part])) - int(common[part][1:].sum()) == expected


def test_ids_beyond_one_byte_are_ordered_by_number():
    sequences = [np.array([300]), np.array([2]), np.array([70000, 1]), np.array([256])]
    assert prefix_order(sequences).tolist() == [1, 3, 0, 2]


def test_deep_conversations_do_not_recurse():
    turns = [[*range(n), 5000 + n] for n in range(1, 3000, 2)]
    batch = layout(turns, min_shared=1)
    assert batch.input_ids[path(batch, int(batch.response_end[-1]))].tolist() == turns[-1]
    assert len(batch.input_ids) == trie_nodes(turns[-1:]) + len(turns) - 1


@pytest.mark.parametrize(
    ("sequences", "message"), [([], "at least one sequence"), ([[1], []], "sequence 1 has no token")]
)
def test_nothing_to_lay_down_is_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        layout(sequences)
    with pytest.raises(ValueError, match=message):
        tree_tokens(sequences)


def test_tensors_have_the_shapes_that_a_model_takes():
    tensors = tree_tensors(layout([[1, 2, 3], [1, 2, 4]], min_shared=1))
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "input_ids": (1, 4),
        "position_ids": (1, 4),
        "segment_start": (3,),
        "segment_length": (3,),
        "segment_parent": (3,),
        "response_end": (2,),
    }
    assert {t.dtype for t in tensors.values()} == {torch.int64}
