"""Which responses of an optimiser batch are computed together: rows of a forest, packed rows or padded rectangles.

A micro-batch holds at most ``microbatch_tokens`` tokens *as they are computed*, and what those are depends on the
layout:

- ``tree``: tokens that sequences begin with alike are computed once per row (:mod:`odin_rm.data.trees`), so a row
  costs its distinct tokens. Sequences with a common beginning stay together; a group that is larger than a row is
  split where the fewest tokens have to be repeated for what they fill;
- ``packed``: a row costs the sum of its sequences' tokens;
- ``padded``: a rectangle costs its longest sequence times their number;
- ``single``: one sequence at a time, for models whose scores depend on what is in the batch beside them.

Rows are filled by bin packing over the whole batch and shared out so that the ranks have equal work, counted in
floating-point operations: tokens, and pairs of a query and a key that it sees. The plan is a function of its arguments
alone, so every rank and every loader worker makes the same one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.data.batching import collate, plan_microbatches
from odin_rm.data.trees import MIN_SHARED, build_trees, common_prefixes, prefix_order, tree_tensors, tree_tokens

if TYPE_CHECKING:
    import torch

LAYOUTS = ("tree", "packed", "padded", "single")
_ON_DEVICE = ("input_ids", "position_ids", "attention_mask")
# Searching for equal shares tries row sizes of this many times the mean; more than this many pieces need no search.
_SLACKS = (1.02, 1.15, 1.4)
_MOST_PIECES_TO_BALANCE = 4096


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a forward pass.

    Attributes:
        token: per token (twice the number of weights that it meets).
        pair: per pair of a query and a key that it sees.
    """

    token: float = 1.0
    pair: float = 0.0


@dataclass(frozen=True)
class BatchPlan:
    """Micro-batches of each rank; every rank has the same number of them.

    Attributes:
        layout: one of :data:`LAYOUTS`.
        ranks: ``ranks[rank][i]`` int64 positions in the sequences planned; empty where a rank has less to do.
        tokens: ``tokens[rank][i]`` tokens that the micro-batch computes, padding included.
        real_tokens: tokens of all micro-batches without padding.
    """

    layout: str
    ranks: list[list[np.ndarray]]
    tokens: list[list[int]]
    real_tokens: int

    @property
    def computed_tokens(self) -> int:
        """Tokens over all ranks, padding included."""
        return sum(map(sum, self.tokens))

    @property
    def largest(self) -> int:
        """Tokens of the largest micro-batch of any rank."""
        return max((count for rank in self.tokens for count in rank), default=0)

    @property
    def largest_sequences(self) -> int:
        """Sequences in the largest micro-batch of any rank."""
        return max(((count, len(rows)) for count, rows in _flat(self.tokens, self.ranks)), default=(0, 0))[1]


def plan_batch(
    sequences: Sequence[np.ndarray],
    microbatch_tokens: int,
    world_size: int = 1,
    *,
    layout: str = "padded",
    cost: Cost | None = None,
) -> BatchPlan:
    """Group sequences into micro-batches of at most ``microbatch_tokens`` computed tokens.

    A single sequence longer than the budget gets a micro-batch of its own. There are as few rounds (micro-batches per
    rank) as the packing needs; within that, the largest share of a rank and then the largest micro-batch are made
    small. The largest micro-batch of a rank comes first.

    Args:
        sequences: token ids of each sequence.
        microbatch_tokens: most computed tokens of a micro-batch.
        world_size: number of ranks.
        layout: one of :data:`LAYOUTS`.
        cost: what a token and a pair of query and key cost; default: a token 1, a pair nothing.

    Raises:
        ConfigError: ``microbatch_tokens`` or ``world_size`` is below 1, or there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"there is no layout {layout!r}", fix=f"Use one of {', '.join(LAYOUTS)}.")
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    if layout in ("padded", "single") or not len(lengths) or microbatch_tokens < 1 or world_size < 1:
        # A micro-batch always holds one sequence, whatever its length.
        return _padded_plan(
            lengths, min(microbatch_tokens, 1) if layout == "single" else microbatch_tokens, world_size, layout
        )
    cost = cost or Cost()
    share = layout == "tree"
    order = prefix_order(sequences) if share else np.argsort(-lengths, kind="stable")
    common = common_prefixes(sequences, order) if share else np.zeros(len(lengths), dtype=np.int64)
    # A beginning that is too short to be laid down once is not shared; one that branches off within such a distance
    # below another may lose as much, which only the second attempt allows for.
    for spared in (np.where(common < MIN_SHARED, 0, common), np.maximum(common - MIN_SHARED + 1, 0)):
        packing = _Packing(lengths[order], spared, cost)
        rows = packing.best(microbatch_tokens, world_size)
        positions = [[np.sort(np.concatenate([np.arange(*packing.ends[p]) for p in row])) for row in r] for r in rows]
        ranks = [[order[at] if len(at) else at for at in rank] for rank in positions]
        tokens = [[_row_tokens(sequences, lengths, row, share) for row in rank] for rank in ranks]
        if all(count <= microbatch_tokens or len(row) == 1 for count, row in _flat(tokens, ranks)):
            break
    rounds = max(map(len, ranks))
    for rank, counts in zip(ranks, tokens, strict=True):
        by_size = sorted(range(len(rank)), key=lambda i: -counts[i])
        rank[:], counts[:] = [rank[i] for i in by_size], [counts[i] for i in by_size]
        rank.extend(np.empty(0, dtype=np.int64) for _ in range(rounds - len(rank)))
        counts.extend([0] * (rounds - len(counts)))
    return BatchPlan(layout, ranks, tokens, sum(map(sum, tokens)))


def row_inputs(
    sequences: Sequence[np.ndarray], layout: str, pad_token_id: int, padding_side: str = "right"
) -> dict[str, torch.Tensor]:
    """What a reward model takes for one micro-batch of these sequences; its scores come in their order."""
    if layout in ("tree", "packed"):
        return tree_tensors(build_trees(sequences, share=layout == "tree"))
    inputs = collate(sequences, pad_token_id, padding_side)
    inputs.pop("position_ids", None)  # the model counts positions itself, from the mask
    return inputs


def to_device(inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Inputs with the tokens on a device; the layout of a forest stays on the CPU, where it is read."""
    return {k: v.to(device, non_blocking=True) if k in _ON_DEVICE else v for k, v in inputs.items()}


def _padded_plan(lengths: np.ndarray, microbatch_tokens: int, world_size: int, layout: str) -> BatchPlan:
    ranks = plan_microbatches(lengths, microbatch_tokens, world_size)
    tokens = [[int(lengths[rows].max()) * len(rows) if len(rows) else 0 for rows in rank] for rank in ranks]
    return BatchPlan(layout, ranks, tokens, int(lengths.sum()))


def _row_tokens(sequences: Sequence[np.ndarray], lengths: np.ndarray, row: np.ndarray, share: bool) -> int:
    return tree_tokens([sequences[int(p)] for p in row]) if share else int(lengths[row].sum())


class _Packing:
    """Sequences in prefix order, cut into pieces of neighbours, and pieces put into rows.

    Args:
        lengths: ``(R,)`` tokens of each sequence in order.
        common: ``(R,)`` tokens that it does not add when it follows its predecessor in a row.
        cost: of tokens and pairs.
    """

    def __init__(self, lengths: np.ndarray, common: np.ndarray, cost: Cost) -> None:
        self.lengths, self.common = lengths, common
        new = lengths - common
        whole = cost.token * lengths + cost.pair * lengths * (lengths + 1) / 2
        added = cost.token * new + cost.pair * (new * common + new * (new + 1) / 2)
        # Tokens (and cost) of a range [a, b) laid down together: that of a whole, and what each further one adds.
        self._tokens, self._cost = _prefix_sums(new), _prefix_sums(added)
        self._whole_cost = whole
        self.ends: list[tuple[int, int]] = []

    def tokens(self, first: int, last: int) -> int:
        """Distinct tokens of the sequences ``first .. last - 1``."""
        return int(self._tokens[last] - self._tokens[first + 1] + self.lengths[first])

    def cost(self, first: int, last: int) -> float:
        """Cost of the sequences ``first .. last - 1`` in one row."""
        return float(self._cost[last] - self._cost[first + 1] + self._whole_cost[first])

    def pieces(self, limit: int) -> list[tuple[int, int]]:
        """Ranges of neighbours that share tokens, each of at most ``limit`` distinct tokens (or a single sequence)."""
        borders = [*np.flatnonzero(self.common == 0).tolist(), len(self.lengths)]
        if borders[0] != 0:
            borders.insert(0, 0)
        found = []
        for first, last in pairwise(borders):
            if last - first == 1:
                found.append((first, last))
                continue
            while first < last:
                # Tokens of [first, b) for b = first + 1 .. grow with b.
                sums = self._tokens[first + 1 : last + 1] - self._tokens[first + 1] + self.lengths[first]
                fitting = max(1, int(np.searchsorted(sums, limit, side="right")))
                cut = first + fitting
                if cut < last:
                    # Where the fewest tokens are repeated for what is filled; the last of equal ones.
                    waste = self.common[first + 1 : cut + 1] / sums[:fitting]
                    cut = first + fitting - int(np.argmin(waste[::-1]))
                found.append((first, cut))
                first = cut
        return found

    def best(self, budget: int, world_size: int) -> list[list[list[int]]]:
        """Rows of piece numbers per rank: fewest rounds, then equal work, then small rows."""
        whole = self._try(budget, budget, world_size, None)
        chosen, found = whole, self.ends
        rounds = max(map(len, whole))
        if len(self.ends) <= _MOST_PIECES_TO_BALANCE and (world_size > 1 or rounds > 1):
            mean = sum(self.tokens(*piece) for piece in self.ends) / (rounds * world_size)
            best = self._score(whole)
            for slack in _SLACKS:
                limit = int(min(budget, max(1, mean * slack)))
                rows = self._try(limit, budget, world_size, rounds)
                if max(map(len, rows)) <= rounds and (score := self._score(rows)) < best:
                    chosen, found, best = rows, self.ends, score
        self.ends = found
        return chosen

    def _try(self, limit: int, budget: int, world_size: int, rounds: int | None) -> list[list[list[int]]]:
        self.ends = self.pieces(limit)
        sizes = [self.tokens(*piece) for piece in self.ends]
        costs = [self.cost(*piece) for piece in self.ends]
        rows = _best_fit(sizes, budget)
        rounds = rounds or -(-len(rows) // world_size)
        if len(sizes) <= _MOST_PIECES_TO_BALANCE:
            rows = _balanced(sizes, costs, budget, rounds * world_size) or rows
        return _share_out(rows, [sum(costs[p] for p in row) for row in rows], world_size)

    def _score(self, ranks: list[list[list[int]]]) -> tuple[int, float, int]:
        """What is to be small; work of ranks counts as equal within 1 %."""
        work = max(sum(self.cost(*self.ends[p]) for row in rank for p in row) for rank in ranks)
        mean = self.cost(0, len(self.lengths)) / len(ranks)
        largest = max(sum(self.tokens(*self.ends[p]) for p in row) for rank in ranks for row in rank)
        return max(map(len, ranks)), round(100 * work / mean), largest


def _flat(tokens: list[list[int]], ranks: list[list[np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Tokens and positions of every micro-batch of every rank."""
    return zip(chain.from_iterable(tokens), chain.from_iterable(ranks), strict=True)


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values)])


def _best_fit(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Largest first, each into the fullest row that has room; a piece over the budget has a row of its own."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for piece in sorted(range(len(sizes)), key=lambda p: (-sizes[p], p)):
        at = bisect_left(room, (sizes[piece], -1))
        if at < len(room):
            free, row = room.pop(at)
            rows[row].append(piece)
            insort(room, (free - sizes[piece], row))
        else:
            rows.append([piece])
            insort(room, (budget - sizes[piece], len(rows) - 1))
    return rows


def _balanced(sizes: Sequence[int], costs: Sequence[float], budget: int, count: int) -> list[list[int]] | None:
    """Dearest first, each into the cheapest of ``count`` rows that has room; ``None`` where one has none."""
    heap: list[tuple[float, int, int]] = [(0.0, row, 0) for row in range(count)]
    rows: list[list[int]] = [[] for _ in range(count)]
    for piece in sorted(range(len(sizes)), key=lambda p: (-costs[p], p)):
        full = []
        while heap and heap[0][2] and heap[0][2] + sizes[piece] > budget:
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        load, row, used = heapq.heappop(heap)
        rows[row].append(piece)
        for entry in (*full, (load + costs[piece], row, used + sizes[piece])):
            heapq.heappush(heap, entry)
    return [row for row in rows if row]


def _share_out(rows: list[list[int]], costs: Sequence[float], world_size: int) -> list[list[list[int]]]:
    """Rows to ranks, dearest first, each to the rank with the least work that has fewer rows than the rounds allow."""
    rounds = -(-len(rows) // world_size)
    ranks: list[list[list[int]]] = [[] for _ in range(world_size)]
    load = [0.0] * world_size
    for row in sorted(range(len(rows)), key=lambda r: (-costs[r], r)):
        rank = min((r for r in range(world_size) if len(ranks[r]) < rounds), key=lambda r: (load[r], r))
        ranks[rank].append(rows[row])
        load[rank] += costs[row]
    return ranks
