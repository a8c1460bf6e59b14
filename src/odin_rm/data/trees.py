"""Token sequences as a forest in one row: what several sequences begin with is laid down once.

Responses to one prompt share the prompt, turns of one conversation share what came before, and repeated responses share
all of it. The forest is found from the token ids alone, as the trie of their prefixes cut into *segments*: runs of
tokens that belong to the same sequences. A causal model that lets each token attend to its segment's ancestors and,
causally, to its own segment gives every token the state that it has in its own sequence, for it sees the same tokens at
the same positions.

Example: ``[1 2 3 4]``, ``[1 2 3 5 6]`` and ``[1 2 3]`` become the row ``1 2 3 4 5 6`` with the segments ``1 2 3``,
``4`` (parent 0) and ``5 6`` (parent 0), positions ``0 1 2 3 3 4`` and ends ``3``, ``5`` and ``2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

MIN_SHARED = 8
"""Shorter runs are laid down again for each branch: another ancestor costs an attention layer more than they do."""


@dataclass(frozen=True)
class TreeBatch:
    """A row of ``T`` tokens that holds a forest of ``S`` segments and ``r`` sequences.

    Attributes:
        input_ids: ``(T,)`` int64 token ids.
        position_ids: ``(T,)`` int64 position of each token in its sequence, from 0 at the root.
        segment_start: ``(S,)`` int64 first index of each segment in the row; segments fill the row without gaps.
        segment_length: ``(S,)`` int64 tokens of each segment, at least 1.
        segment_parent: ``(S,)`` int64 parent segment, -1 for a root; parents come before their children.
        response_end: ``(r,)`` int64 index in the row of each sequence's last token, in the order they were given in.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    segment_start: np.ndarray
    segment_length: np.ndarray
    segment_parent: np.ndarray
    response_end: np.ndarray


def build_trees(sequences: Sequence[np.ndarray], *, share: bool = True, min_shared: int = MIN_SHARED) -> TreeBatch:
    """Lay sequences down as a forest, the same one in whatever order they are given.

    Args:
        sequences: ``r`` arrays of token ids, each with at least one token; they may repeat and begin one another.
        share: lay shared beginnings down once; without it every sequence is a root of its own (packing).
        min_shared: fewest tokens that branches share to make a segment of their own.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    arrays = _checked(sequences)
    if not share:
        return _assemble(arrays, [(i, 0, len(a), -1) for i, a in enumerate(arrays)], list(range(len(arrays))))
    order = prefix_order(arrays)
    common = common_prefixes(arrays, order)
    carriers = _carriers(arrays, order, common)
    leaves, runs = _cut(arrays, order, common, min_shared)
    return _assemble(arrays, runs, [leaves[int(carriers[i])] for i in range(len(arrays))])


def tree_tokens(sequences: Sequence[np.ndarray], *, share: bool = True, min_shared: int = MIN_SHARED) -> int:
    """Tokens of the row that :func:`build_trees` would make, without making it (milliseconds for 1,000 sequences)."""
    arrays = _checked(sequences)
    if not share:
        return sum(map(len, arrays))
    order = prefix_order(arrays)
    _, runs = _cut(arrays, order, common_prefixes(arrays, order), min_shared)
    return sum(stop - start for _, start, stop, _ in runs)


def prefix_order(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """``(r,)`` int64 order by token ids, a beginning before what it begins; shared prefixes become neighbours."""
    keys = [np.asarray(sequence).astype(">u4").tobytes() for sequence in sequences]  # bytes compare as the ids do
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def common_prefixes(sequences: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """``(r,)`` int64 tokens that each sequence of the order shares with the one before it; 0 for the first.

    For the sequences ``i .. j-1`` of a :func:`prefix_order`, ``sum(lengths) - sum(common[i+1:j])`` is the number of
    distinct tokens (nodes of their trie).
    """
    common = np.zeros(len(order), dtype=np.int64)
    for i in range(1, len(order)):
        first, second = np.asarray(sequences[order[i - 1]]), np.asarray(sequences[order[i]])
        shorter = min(len(first), len(second))
        differs = first[:shorter] != second[:shorter]
        at = int(differs.argmax()) if shorter else 0
        common[i] = at if shorter and differs[at] else shorter
    return common


def tree_tensors(batch: TreeBatch) -> dict[str, torch.Tensor]:
    """A row as a model takes it: int64 tensors, ``input_ids`` and ``position_ids`` of shape ``(1, T)``.

    ``segment_start``, ``segment_length``, ``segment_parent`` ``(S,)`` and ``response_end`` ``(r,)`` may stay on the CPU
    where the model is elsewhere: the layout of attention is computed there.
    """
    import torch

    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in vars(batch).items()}
    return {**tensors, **{name: tensors[name][None] for name in ("input_ids", "position_ids")}}


Run = tuple[int, int, int, int]
"""A segment: a sequence that has its tokens, first and last (exclusive) position there, number of the parent."""


def _checked(sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise ValueError("a forest needs at least one sequence")
    empty = [i for i, array in enumerate(arrays) if not len(array)]
    if empty:
        raise ValueError(f"sequence {empty[0]} has no token")
    return arrays


def _carriers(arrays: Sequence[np.ndarray], order: np.ndarray, common: np.ndarray) -> np.ndarray:
    """``(r,)`` for each sequence the one whose path holds it: itself, or the next in order that it does not begin."""
    carriers = np.empty(len(order), dtype=np.int64)
    carrier = -1
    for i in range(len(order) - 1, -1, -1):
        begins_next = i + 1 < len(order) and common[i + 1] == len(arrays[order[i]])
        carrier = carrier if begins_next else int(order[i])
        carriers[order[i]] = carrier
    return carriers


def _cut(
    arrays: Sequence[np.ndarray], order: np.ndarray, common: np.ndarray, min_shared: int
) -> tuple[dict[int, int], list[Run]]:
    """The segments, depth first, and for each sequence that begins no other its last segment."""
    # A sequence that begins its successor lies on that one's path, so it is left out; the shared prefix of two
    # neighbours that remain is the smallest of those between them.
    kept: list[int] = []
    shared: list[int] = []
    smallest = 0
    for i, sequence in enumerate(order):
        smallest = (
            int(common[i]) if not i or _ends_path(arrays, order, common, i - 1) else min(smallest, int(common[i]))
        )
        if _ends_path(arrays, order, common, i):
            kept.append(int(sequence))
            shared.append(smallest)
    shared_K = np.array(shared, dtype=np.int64)
    runs: list[Run] = []
    leaves: dict[int, int] = {}
    # (first, last, depth, parent): neighbours that share the path down to parent, which ends at depth.
    stack = [(0, len(kept), 0, -1)]
    while stack:
        first, last, depth, parent = stack.pop()
        if last - first == 1:
            leaves[kept[first]] = len(runs)
            runs.append((kept[first], depth, len(arrays[kept[first]]), parent))
            continue
        between = shared_K[first + 1 : last]
        split = int(between.min())
        if split - depth >= max(1, min_shared):
            runs.append((kept[first], depth, split, parent))
            depth, parent = split, len(runs) - 1
        bounds = [first, *(np.flatnonzero(between == split) + first + 1).tolist(), last]
        # Popped in the order of the sequences: a first child follows its parent in the row.
        stack.extend((a, b, depth, parent) for a, b in reversed(list(pairwise(bounds))))
    return leaves, runs


def _ends_path(arrays: Sequence[np.ndarray], order: np.ndarray, common: np.ndarray, i: int) -> bool:
    return i + 1 == len(order) or common[i + 1] < len(arrays[order[i]])


def _assemble(arrays: Sequence[np.ndarray], runs: Sequence[Run], last_segments: Sequence[int]) -> TreeBatch:
    sources, begins, stops, parents = (np.array(column, dtype=np.int64) for column in zip(*runs, strict=True))
    lengths = stops - begins
    starts = np.cumsum(lengths) - lengths
    ends = np.empty(len(arrays), dtype=np.int64)
    for i, array in enumerate(arrays):
        segment, last = last_segments[i], len(array) - 1
        while begins[segment] > last:
            segment = int(parents[segment])
        ends[i] = starts[segment] + last - begins[segment]
    return TreeBatch(
        input_ids=np.concatenate([arrays[source][a:b] for source, a, b, _ in runs]).astype(np.int64),
        position_ids=np.concatenate([np.arange(a, b) for _, a, b, _ in runs]).astype(np.int64),
        segment_start=starts,
        segment_length=lengths,
        segment_parent=parents,
        response_end=ends,
    )
