"""Who sees whom in a row that holds a forest of token sequences, in the forms that attention kernels want.

Segments lie depth first, so a segment with all its descendants is one run of the row. Three facts follow:

* A first child follows its parent directly. Segments strung together so form a *chain*: a run of the row that is causal
  as if it were one sequence, from the chain's head to a leaf. The row is one chain after the other.
* Everything that hangs off a segment (its later children with their descendants) is one run of queries that sees one
  whole run of keys: from the head of that segment's chain to the segment's end. Such a pair of runs is a *link*. Chains
  and links together hold every visible pair of tokens exactly once.
* Token ``i`` sees token ``j`` iff ``j <= i`` and ``i`` lies before the end of the descendants of ``j``'s segment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


@dataclass(frozen=True)
class Chain:
    """A run of the row that attends like one sequence, and the runs that it sees before itself.

    Attributes:
        start, stop: its run.
        before: runs of its ancestors from the root on; empty for a chain that starts at a root.
    """

    start: int
    stop: int
    before: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Link:
    """A run of queries that sees a whole run of keys."""

    query_start: int
    query_stop: int
    key_start: int
    key_stop: int


@dataclass(frozen=True, eq=False)
class TreeLayout:
    """The attention of one row; made once per forward pass and handed to every layer.

    Attributes:
        tokens: ``T``.
        causal: whether tokens see only what comes before them; without it each root sees all of itself.
        kernel: the kernel asked for (see :mod:`odin_rm.fast.tree_attention`).
        chains: in the order of the row, which they fill.
        links: pairs of runs beside the chains.
        position_T, end_T, root_T: int64 on the CPU: position in the sequence; where the descendants of the token's
            segment end; first index of the token's tree.
        longest: positions of the deepest path.
        read: ``(R,)`` int64 on the CPU: tokens that a last layer may confine itself to
            (:mod:`odin_rm.fast.last_layer`), or ``None`` for all.
    """

    tokens: int
    causal: bool
    kernel: str
    chains: tuple[Chain, ...]
    links: tuple[Link, ...]
    position_T: Tensor
    end_T: Tensor
    root_T: Tensor
    longest: int
    read: Tensor | None = None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, made by the first layer that asks for it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def window(self, size: int | None) -> int | None:
        """A sliding window of ``size`` positions, or ``None`` where no path is long enough to leave it."""
        return None if size is None or self.longest <= size else size

    def dense_mask(self, device: torch.device, window: int | None) -> Tensor:
        """``(T, T)`` bool: whether a token (row) sees another (column)."""
        return self.once(("dense", device, window), lambda: self._dense_mask(window).to(device))

    def _dense_mask(self, window: int | None) -> Tensor:
        return self._seen_by(torch.arange(self.tokens), window)

    def read_on(self, device: torch.device) -> Tensor | None:
        """``read`` on a device."""
        read = self.read
        return None if read is None else self.once(("read", device), lambda: read.to(device))

    def read_mask(self, device: torch.device, window: int | None) -> Tensor:
        """``(R, T)`` bool: what the tokens that are read see."""
        read = self.read
        assert read is not None
        return self.once(("read mask", device, window), lambda: self._seen_by(read, window).to(device))

    def _seen_by(self, index_Q: Tensor, window: int | None) -> Tensor:
        index_T = torch.arange(self.tokens)
        if self.causal:
            seen_QT = (index_T <= index_Q[:, None]) & (index_Q[:, None] < self.end_T)
        else:
            seen_QT = self.root_T[index_Q][:, None] == self.root_T
        if window is not None:
            seen_QT &= (self.position_T[index_Q][:, None] - self.position_T).abs() < window
        return seen_QT

    def path_index(self, chain: Chain, device: torch.device) -> Tensor:
        """``(K,)`` row indices of the keys that a chain sees, root first."""
        runs = [*chain.before, (chain.start, chain.stop)]
        make = lambda: torch.cat([torch.arange(a, b) for a, b in runs]).to(device)  # noqa: E731
        return self.once(("path", chain.start, device), make)

    def path_mask(self, chain: Chain, device: torch.device, window: int | None) -> Tensor:
        """``(Q, K)`` bool: what the queries of a chain see of its path."""

        def make() -> Tensor:
            index_K = self.path_index(chain, torch.device("cpu"))
            distance_QK = self.position_T[chain.start : chain.stop, None] - self.position_T[index_K]
            seen_QK = distance_QK >= 0 if self.causal else torch.ones_like(distance_QK, dtype=torch.bool)
            return (seen_QK if window is None else seen_QK & (distance_QK.abs() < window)).to(device)

        return self.once(("mask", chain.start, device, window), make)

    def blocks(self, most: int, whole: int) -> tuple[list[tuple[int, int]], list[Link]]:
        """Squares and links of kernels that compute all of a causal square: chains cut into pieces of about ``most``.

        A piece is a square, and sees what precedes it in its chain by one more link, of which nothing is in vain.
        Chains of ``whole`` tokens and more are not cut.
        """

        def make() -> tuple[list[tuple[int, int]], list[Link]]:
            squares, links = [], list(self.links)
            for chain in self.chains:
                length = chain.stop - chain.start
                count = max(1, round(length / most)) if self.causal and length < whole else 1
                cuts = [chain.start + length * i // count for i in range(count + 1)]
                squares += list(pairwise(cuts))
                links += [Link(a, b, chain.start, a) for a, b in pairwise(cuts[1:])]
            return squares, links

        return self.once(("blocks", most, whole), make)

    def packed_paths(self, device: torch.device) -> PackedPaths:
        """All chains with their paths one after the other, for kernels of variable length."""

        def make() -> PackedPaths:
            cpu = torch.device("cpu")
            queries = torch.tensor([c.stop - c.start for c in self.chains])
            keys = queries + torch.tensor([sum(b - a for a, b in c.before) for c in self.chains])
            index = torch.cat([self.path_index(c, cpu) for c in self.chains]).to(device) if self.links else None
            return PackedPaths(
                index, _offsets(queries, device), _offsets(keys, device), int(queries.max()), int(keys.max())
            )

        return self.once(("packed", device), make)


@dataclass(frozen=True)
class PackedPaths:
    """Chains as sequences of queries and keys.

    Attributes:
        key_index: ``(K,)`` row index of each key, or ``None`` where the keys are the row itself.
        query_offsets, key_offsets: ``(chains + 1,)`` int32.
        most_queries, most_keys: of one chain.
    """

    key_index: Tensor | None
    query_offsets: Tensor
    key_offsets: Tensor
    most_queries: int
    most_keys: int


def make_layout(
    segment_start: Tensor, segment_length: Tensor, segment_parent: Tensor, *, causal: bool = True, kernel: str = "auto"
) -> TreeLayout:
    """The layout of a row of segments.

    Args:
        segment_start, segment_length, segment_parent: ``(S,)`` int64 as in :class:`odin_rm.data.trees.TreeBatch`; on an
            accelerator they are copied back, which waits for it.
        causal: see :class:`TreeLayout`; without it every segment must be a root.
        kernel: see :class:`TreeLayout`.

    Raises:
        ValueError: the segments do not lie depth first without gaps, or are not roots where they must be.
    """
    starts, lengths, parents = (column.tolist() for column in (segment_start, segment_length, segment_parent))
    _check(starts, lengths, parents, causal)
    count = len(starts)
    stops = [a + n for a, n in zip(starts, lengths, strict=True)]
    ends = stops.copy()  # of the descendants
    for s in range(count - 1, 0, -1):
        if parents[s] >= 0:
            ends[parents[s]] = max(ends[parents[s]], ends[s])
    heads, roots, depths = [0] * count, [0] * count, [0] * count
    for s, p in enumerate(parents):
        heads[s] = heads[p] if s and p == s - 1 else s
        roots[s] = roots[p] if p >= 0 else s
        depths[s] = depths[p] + lengths[p] if p >= 0 else 0
    befores: dict[int, tuple[tuple[int, int], ...]] = {}
    first_hanging: dict[int, int] = {}
    for s in sorted(set(heads)):
        p = parents[s]
        befores[s] = () if p < 0 else (*befores[heads[p]], (starts[heads[p]], stops[p]))
        if p >= 0:
            first_hanging.setdefault(p, s)
    order = sorted(befores)
    limits = [*(starts[s] for s in order[1:]), stops[-1]]
    length_S = torch.tensor(lengths)
    return TreeLayout(
        tokens=stops[-1],
        causal=causal,
        kernel=kernel,
        chains=tuple(Chain(starts[s], stop, befores[s]) for s, stop in zip(order, limits, strict=True)),
        links=tuple(Link(starts[s], ends[p], starts[heads[p]], stops[p]) for p, s in first_hanging.items()),
        position_T=torch.arange(stops[-1]) + _spread([d - a for d, a in zip(depths, starts, strict=True)], length_S),
        end_T=_spread(ends, length_S),
        root_T=_spread([starts[r] for r in roots], length_S),
        longest=max(d + n for d, n in zip(depths, lengths, strict=True)),
    )


def _check(starts: list[int], lengths: list[int], parents: list[int], causal: bool) -> None:
    path: list[int] = []
    expected = 0
    for s, (start, length, parent) in enumerate(zip(starts, lengths, parents, strict=True)):
        while path and path[-1] != parent:
            path.pop()
        if start != expected or length < 1 or (parent >= 0 and not path):
            raise ValueError(f"segment {s} of the row does not follow depth first and without a gap")
        if parent >= 0 and not causal:
            raise ValueError(f"segment {s} has a parent, which only a causal model can have")
        path.append(s)
        expected = start + length
    if not starts:
        raise ValueError("the row has no segment")


def _spread(values: list[int], lengths: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.tensor(values), lengths)


def _offsets(lengths: Tensor, device: torch.device) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(device, torch.int32)
