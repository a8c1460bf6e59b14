"""When calls may go out, by hand."""

from __future__ import annotations

import asyncio
import email.utils
import time

import pytest

from odin_rm.judging.pacing import FIRST_PAUSE, LONGEST_PAUSE, Pacer, pause_before


def test_calls_are_spaced_by_the_tighter_of_both_limits():
    pacer = Pacer(requests_per_minute=60, tokens_per_minute=600)
    assert [pacer.reserve(tokens, 100.0) for tokens in (5, 20, 5)] == [0.0, 1.0, 3.0]
    assert pacer.reserve(5, 110.0) == 0.0


def test_without_limits_nothing_waits():
    pacer = Pacer()
    assert [pacer.reserve(10**9, 5.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_hold_moves_later_slots_and_the_longest_one_counts():
    pacer = Pacer(requests_per_minute=60)
    pacer.hold(10.0, 100.0)
    pacer.hold(2.0, 101.0)
    assert [pacer.reserve(1, 102.0) for _ in range(2)] == [8.0, 9.0]


def test_a_worker_that_has_its_slot_waits_for_a_hold_that_comes_meanwhile():
    async def run() -> float:
        pacer = Pacer(requests_per_minute=600)
        await pacer.turn(1)
        start = time.monotonic()
        waiting = asyncio.create_task(pacer.turn(1))
        await asyncio.sleep(0.01)
        pacer.hold(0.3, time.monotonic())
        await waiting
        return time.monotonic() - start

    assert asyncio.run(run()) >= 0.3


def test_stopping_wakes_everybody_and_lets_nobody_go():
    async def run() -> list[bool]:
        pacer = Pacer(requests_per_minute=1)
        first = await pacer.turn(1)
        waiting = [asyncio.create_task(task) for task in (pacer.turn(1), pacer.turn(1), pacer.sleep(1000.0))]
        await asyncio.sleep(0.01)
        pacer.stop()
        return [first, *await asyncio.gather(*waiting)]

    assert asyncio.run(asyncio.wait_for(run(), 10)) == [True, False, False, False]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5), ({"retry-after": "-3"}, 0.0)],
)
def test_the_servers_wish_is_obeyed(headers, seconds):
    assert pause_before(5, headers) == seconds


def test_a_date_to_retry_after():
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 95 < pause_before(1, {"retry-after": date}) <= 100


@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}, {"retry-after": "nan"}])
def test_otherwise_pauses_double_up_to_a_minute(headers):
    for attempt, longest in ((1, FIRST_PAUSE), (2, 2 * FIRST_PAUSE), (4, 8 * FIRST_PAUSE), (99, LONGEST_PAUSE)):
        assert 0.75 * longest <= pause_before(attempt, headers) <= longest
