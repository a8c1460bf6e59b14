"""The order of pairs in an epoch: walks through comparison graphs, and batches filled under the cap per prompt.

Why the batches can be filled. Let ``k`` batches remain and let prompt ``p`` have ``r_p`` pairs left. If
``r_p <= cap * k`` for all prompts, then ``sum_p min(r_p, cap * t) >= (t / k) * sum_p r_p`` for every ``t <= k``, so
there are enough pairs for any ``t`` of the remaining batches. :func:`fill_batches` keeps that invariant by giving each
batch first what a prompt can no longer postpone: ``max(0, r_p - cap * (k - 1))`` pairs.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np


def order_within_prompts(
    chosen: np.ndarray, rejected: np.ndarray, starts: np.ndarray, cap: int, generator: np.random.Generator
) -> np.ndarray:
    """Pair numbers, prompt by prompt, in an order whose chunks of ``cap`` pairs touch few distinct responses.

    Args:
        chosen, rejected: ``(B,)`` response numbers, pairs of a prompt contiguous.
        starts: ``(P + 1,)`` first pair of each prompt.
        cap: size of a chunk.
        generator: source of randomness.

    Returns:
        ``(B,)`` a permutation of the pair numbers that keeps each prompt's range.
    """
    order = np.arange(starts[-1], dtype=np.int64)
    # A prompt with at most `cap` pairs is one chunk; its order does not matter.
    for prompt in np.flatnonzero(np.diff(starts) > cap):
        low, high = int(starts[prompt]), int(starts[prompt + 1])
        walk = _walk(chosen[low:high].tolist(), rejected[low:high].tolist(), cap, generator)
        order[low:high] = low + np.asarray(walk, dtype=np.int64)
    return order


def _walk(chosen: list[int], rejected: list[int], cap: int, generator: np.random.Generator) -> list[int]:
    """Greedy walk: grow a set of responses, taking first all pairs inside it; start anew after ``cap`` pairs."""
    edges: dict[tuple[int, int], list[int]] = defaultdict(list)
    neighbours: dict[int, list[int]] = defaultdict(list)
    for pair in generator.permutation(len(chosen)).tolist():
        a, b = chosen[pair], rejected[pair]
        key = (a, b) if a < b else (b, a)
        if key not in edges:
            neighbours[a].append(b)
            neighbours[b].append(a)
        edges[key].append(pair)
    # Chunks start at responses in random order; a response is left behind once it has no unused pair.
    queue = generator.permutation(np.fromiter(neighbours, dtype=np.int64)).tolist()
    order: list[int] = []
    while len(order) < len(chosen):
        touched: list[int] = []
        room = min(cap, len(chosen) - len(order))
        while room:
            new = _next_response(touched, neighbours, edges, queue)
            touched.append(new)
            for other in touched[:-1]:
                pairs = edges[(other, new) if other < new else (new, other)]
                while pairs and room:
                    order.append(pairs.pop())
                    room -= 1
    return order


def _next_response(
    touched: list[int],
    neighbours: dict[int, list[int]],
    edges: dict[tuple[int, int], list[int]],
    queue: list[int],
) -> int:
    """A response with an unused pair to one of ``touched``, else the next one that has any unused pair."""
    inside = set(touched)
    for response in touched:
        if (other := _open_neighbour(response, neighbours[response], edges, inside)) is not None:
            return other
    while _open_neighbour(queue[-1], neighbours[queue[-1]], edges, inside) is None:
        queue.pop()
    return queue[-1]


def _open_neighbour(
    response: int, candidates: list[int], edges: dict[tuple[int, int], list[int]], inside: set[int]
) -> int | None:
    """The last candidate whose pair with ``response`` is unused; used-up ones are dropped for good."""
    while candidates:
        other = candidates[-1]
        if other not in inside and edges[(response, other) if response < other else (other, response)]:
            return other
        candidates.pop()
    return None


def fill_batches(
    order: np.ndarray,
    starts: np.ndarray,
    batch_pairs: int,
    cap: int,
    number_of_batches: int,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Deal out chunks of prompts to batches of ``batch_pairs`` pairs with at most ``cap`` pairs of a prompt in each.

    Args:
        order: ``(B,)`` pair numbers, prompt by prompt (:func:`order_within_prompts`).
        starts: ``(P + 1,)`` first position of each prompt in ``order``.
        batch_pairs: size of all batches but the last.
        cap: most pairs of a prompt in a batch.
        number_of_batches: how many batches there are; at least ``max_p ceil(B_p / cap)``.
        generator: source of randomness.

    Returns:
        ``number_of_batches`` arrays of pair numbers, shuffled within.
    """
    counts = np.diff(starts)
    phase = generator.random(len(counts))
    if counts.max() <= cap:
        # One chunk per prompt: a shuffle of prompts, cut to size. A chunk cut in two still obeys the cap.
        prompts = np.argsort(phase, kind="stable")
        sizes = counts[prompts]
        offsets = np.repeat(starts[prompts] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        flat = order[np.arange(len(order)) + offsets]
        batches = np.split(flat, np.arange(batch_pairs, len(flat), batch_pairs))
    else:
        batches = _deal(order, starts.tolist(), batch_pairs, cap, number_of_batches, phase.tolist())
    return [generator.permutation(batch) for batch in batches]


def _deal(
    order: np.ndarray, starts: list[int], batch_pairs: int, cap: int, number_of_batches: int, phase: list[float]
) -> list[np.ndarray]:
    """The general case: a prompt with ``c`` chunks is due at ``(j + phase) / c``, so they spread over the epoch."""
    prompts = range(len(phase))
    left = [starts[p + 1] - starts[p] for p in prompts]
    chunks = [-(-n // cap) for n in left]
    due = [(phase[p] / chunks[p], p) for p in prompts if left[p]]
    heapq.heapify(due)
    # Prompts by the number of batches that they still need; the cap binds where that is all the batches left.
    needing: dict[int, set[int]] = defaultdict(set)
    for p in prompts:
        needing[chunks[p]].add(p)
    batches: list[np.ndarray] = []
    for remaining in range(number_of_batches, 0, -1):
        urgent = sorted(needing[remaining], key=lambda p: phase[p])
        taken = {p: left[p] - cap * (remaining - 1) for p in urgent}
        room = _top_up(taken, left, cap, batch_pairs - sum(taken.values()))
        used: list[tuple[float, int]] = []
        while room > 0 and due:
            key, p = heapq.heappop(due)
            if not left[p]:
                continue
            if p not in taken:
                # Up to the end of the current chunk, so that responses shared within a chunk stay together.
                done = starts[p + 1] - starts[p] - left[p]
                taken[p] = min(cap - done % cap, left[p], room)
                room -= taken[p]
                done += taken[p]
                key = key if done % cap else (done // cap + phase[p]) / chunks[p]
            used.append((key, p))
        _top_up(taken, left, cap, room)
        for entry in used:
            heapq.heappush(due, entry)
        pieces = []
        for p, amount in taken.items():
            first = starts[p + 1] - left[p]
            pieces.append(order[first : first + amount])
            needing[-(-left[p] // cap)].discard(p)
            left[p] -= amount
            needing[-(-left[p] // cap)].add(p)
        batches.append(np.concatenate(pieces))
    return batches


def _top_up(taken: dict[int, int], left: list[int], cap: int, room: int) -> int:
    """Take more of the prompts that are in the batch already, up to the cap; returns the room that is left."""
    for p in taken:
        more = min(cap - taken[p], left[p] - taken[p], room)
        taken[p] += more
        room -= more
    return room
