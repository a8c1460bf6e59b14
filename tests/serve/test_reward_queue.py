"""Batching across requests: what is scored together, what is remembered, shared, refused and given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from odin_rm.serve.reward.dialects.records import Problem
from odin_rm.serve.reward.models import Encoded
from odin_rm.serve.reward.queue import Entry, QueueSettings, ScoreQueue, next_batch, score_batch


class Model:
    """A text's score is the sum of its ids; says what it was asked, and waits where it is told to."""

    def __init__(self, name: str = "m") -> None:
        self.name, self.batches = name, []
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def score(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, None]:
        self.began.set()
        assert self.go.wait(60)
        self.batches.append([list(map(int, one)) for one in sequences])
        return np.array([float(one.sum()) for one in sequences]), None


def text(ids: list[int], group: Any = 0) -> Encoded:
    return Encoded(np.array(ids, dtype=np.int32), group, 1)


def entry(ids: list[int], group: Any, model: Any) -> Entry:
    return Entry(model, np.array(ids, dtype=np.int32), group, bytes(ids), None)  # type: ignore[arg-type]


def run(work: Any, **settings: Any) -> ScoreQueue:
    """Run a coroutine function of a queue; the queue, closed."""

    async def main() -> ScoreQueue:
        queue = ScoreQueue(QueueSettings(**({"window": 0.001} | settings)))
        queue.start()
        try:
            await work(queue)
        finally:
            await queue.close()
        return queue

    return asyncio.run(main())


# ---- what is scored together -----------------------------------------------------------------------------------------


def test_a_batch_goes_prompt_by_prompt_in_order_of_arrival():
    model = Model()
    ids = {name: entry([1, 2, number], name[0], model) for number, name in enumerate(("a1", "b1", "a2", "c1", "b2"))}
    order = [name for one in next_batch(list(ids.values()), 100) for name, e in ids.items() if e is one]
    assert order == ["a1", "a2", "b1", "b2", "c1"]


def test_the_common_beginning_counts_once():
    """Eight texts of 10 + 2 tokens: 12 for the first, 2 for each further one, 26 in all."""
    model = Model()
    waiting = [entry([*range(10), 50 + i, 60], "p", model) for i in range(8)]
    assert len(next_batch(waiting, 26)) == 8
    assert len(next_batch(waiting, 25)) == 7
    assert len(next_batch(waiting, 13)) == 1
    assert len(next_batch(waiting, 1)) == 1  # the first one is always taken
    assert next_batch([], 10) == []


def test_only_the_first_prompt_is_cut_in_two():
    """Two prompts of 4 texts, 10 + 1 tokens each: 14 computed tokens a prompt."""
    model = Model()
    waiting = [entry([*range(10 * p, 10 * p + 10), 50 + i], p, model) for i in range(4) for p in range(2)]
    assert [one.group for one in next_batch(waiting, 28)] == [0] * 4 + [1] * 4
    assert [one.group for one in next_batch(waiting, 27)] == [0] * 4
    assert [one.group for one in next_batch(waiting, 13)] == [0] * 3


def test_idle_replicas_share_whole_prompts():
    """Three prompts of 4 texts, 14 computed tokens each: of 42, a half is 21, so the first takes two prompts."""
    model = Model()
    waiting = [entry([*range(10 * p, 10 * p + 10), 50 + i], p, model) for i in range(4) for p in range(3)]
    assert [one.group for one in next_batch(waiting, 1000, 2)] == [0] * 4 + [1] * 4
    assert [one.group for one in next_batch(waiting, 1000, 3)] == [0] * 4
    assert [one.group for one in next_batch(waiting, 1000, 9)] == [0] * 4
    assert [one.group for one in next_batch(waiting, 13, 2)] == [0] * 3


def test_two_lanes_score_at_the_same_time_and_what_waits_twice_is_computed_once():
    model, started, go = Model(), [], threading.Barrier(2)

    def lane(name: str) -> Any:
        def score(model: Any, sequences: Any) -> Any:
            started.append((name, len(sequences)))
            go.wait(60)  # both are under way, or neither goes on
            return np.array([float(one.sum()) for one in sequences]), None

        return score

    async def main() -> ScoreQueue:
        queue = ScoreQueue(QueueSettings(window=0.001), [lane("a"), lane("b")])
        queue.start()
        asked = [queue.scores(model, [text([p, 1], p), text([p, 2], p)]) for p in (10, 20)]
        asked.append(queue.scores(model, [text([10, 1], 10)]))
        found = await asyncio.gather(*asked)
        assert [[value for value, _ in one] for one in found] == [[11, 12], [21, 22], [11]]
        assert queue.idle == 2
        await queue.close()
        return queue

    queue = asyncio.run(main())
    assert sorted(started) == [("a", 2), ("b", 2)]
    assert queue.figures.computed == 4


def test_a_batch_is_of_one_model():
    one, two = Model(), Model()
    waiting = [entry([1], "p", one), entry([2], "p", two), entry([3], "p", one)]
    assert [int(e.ids[0]) for e in next_batch(waiting, 100)] == [1, 3]


def test_texts_of_several_requests_share_a_batch():
    model = Model()

    async def work(queue: ScoreQueue) -> None:
        requests = [queue.scores(model, [text([1, i], "p")]) for i in range(6)]
        found = await asyncio.gather(*requests)
        assert found == [[(1.0 + i, None)] for i in range(6)]

    queue = run(work)
    assert [len(batch) for batch in model.batches] == [6]
    assert (queue.figures.computed, queue.figures.batches) == (6, 1)


def test_what_comes_during_a_batch_is_the_next_one():
    model = Model()
    model.go.clear()

    async def work(queue: ScoreQueue) -> None:
        first = asyncio.ensure_future(queue.scores(model, [text([9])]))
        await asyncio.to_thread(model.began.wait, 60)
        later = [asyncio.ensure_future(queue.scores(model, [text([i])])) for i in range(3)]
        await asyncio.sleep(0)
        model.go.set()
        assert [(await one)[0][0] for one in (first, *later)] == [9.0, 0.0, 1.0, 2.0]

    run(work)
    assert [len(batch) for batch in model.batches] == [1, 3]


# ---- remembered and shared -------------------------------------------------------------------------------------------


def test_a_score_is_computed_once():
    model, other = Model(), Model("other")

    async def work(queue: ScoreQueue) -> None:
        twice = await queue.scores(model, [text([1, 2]), text([3]), text([1, 2])])
        assert [pair[0] for pair in twice] == [3.0, 3.0, 3.0]
        assert (await queue.scores(model, [text([1, 2])]))[0][0] == 3.0
        assert (await queue.scores(other, [text([1, 2])]))[0][0] == 3.0  # another model's score is another score

    queue = run(work)
    assert model.batches == [[[1, 2], [3]]]
    assert other.batches == [[[1, 2]]]
    assert (queue.figures.computed, queue.figures.shared, queue.figures.cached) == (3, 1, 1)


@pytest.mark.parametrize(("size", "batches"), [(0, 4), (1, 4), (2, 3)])
def test_the_memory_is_bounded_and_forgets_what_was_asked_longest_ago(size, batches):
    model = Model()

    async def work(queue: ScoreQueue) -> None:
        for ids in ([1], [2], [1], [3]):
            await queue.scores(model, [text(ids)])
        assert len(queue._known) <= size

    run(work, cache_size=size)
    assert len(model.batches) == batches


# ---- refused, given up, ended ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"most_texts": 2}, {"most_tokens": 5}])
def test_more_than_may_wait_is_refused_with_a_time(limit):
    model = Model()
    model.go.clear()

    async def work(queue: ScoreQueue) -> None:
        running = asyncio.ensure_future(queue.scores(model, [text([0])]))
        await asyncio.to_thread(model.began.wait, 60)
        waiting = asyncio.ensure_future(queue.scores(model, [text([1, 1]), text([2, 2])]))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await queue.scores(model, [text([3, 3])])
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        assert await asyncio.wait_for(asyncio.shield(waiting), None if model.go.set() else 60)
        await running
        assert (await queue.scores(model, [text([3, 3])]))[0][0] == 6.0
        assert len(await queue.scores(model, [text([i, i, i]) for i in range(9)])) == 9  # alone it may be larger

    run(work, **limit)


def test_what_nobody_waits_for_is_not_computed():
    model = Model()
    model.go.clear()

    async def work(queue: ScoreQueue) -> None:
        running = asyncio.ensure_future(queue.scores(model, [text([0])]))
        await asyncio.to_thread(model.began.wait, 60)
        gone = asyncio.ensure_future(queue.scores(model, [text([1]), text([2])]))
        stays = asyncio.ensure_future(queue.scores(model, [text([2])]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        model.go.set()
        assert (await stays)[0][0] == 2.0
        await running
        assert queue.waiting_tokens == 0

    run(work)
    assert model.batches == [[[0]], [[2]]]


def test_who_waits_when_the_queue_ends_is_told():
    model = Model()
    model.go.clear()
    found: list[Any] = []

    async def work(queue: ScoreQueue) -> None:
        async def ask() -> None:
            try:
                await queue.scores(model, [text([0])])
            except Problem as problem:
                found.append(problem.status)

        found.append(asyncio.ensure_future(ask()))
        await asyncio.to_thread(model.began.wait, 60)
        await queue.close()
        await found.pop(0)
        model.go.set()

    run(work)
    assert found == [503]


# ---- failures --------------------------------------------------------------------------------------------------------


class Fragile(Model):
    """Runs out of memory at ids of 7, is broken at 8, and has no finite score for 9."""

    def score(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, None]:
        ids = [int(one[0]) for one in sequences]
        if 7 in ids:
            raise RuntimeError("CUDA out of memory")
        if 8 in ids:
            raise ValueError("broken")
        return np.array([np.nan if one == 9 else float(one) for one in ids]), None


def test_one_text_spoils_no_other():
    model = Fragile()
    results = score_batch([entry([number], "p", model) for number in (1, 7, 8, 9, 2)])
    assert results[0] == (1.0, None)
    assert results[4] == (2.0, None)
    assert [one.status for one in results[1:4]] == [503, 500, 422]
    assert "broken" not in results[2].message


def test_a_failure_is_not_remembered():
    model = Fragile()

    async def work(queue: ScoreQueue) -> None:
        for _ in range(2):
            with pytest.raises(Problem) as caught:
                await queue.scores(model, [text([9]), text([1])])
            assert caught.value.status == 422
        assert (await queue.scores(model, [text([1])]))[0][0] == 1.0
        assert len(queue._known) == 1

    run(work)
