"""When calls may go out, by hand."""

from __future__ import annotations

import asyncio
import email.utils

import pytest

from odin_rm.judging.pacing import FIRST_PAUSE, LONGEST_PAUSE, Clock, Pacer, pause_before
from tests.judging.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_calls_are_spaced_by_the_tighter_of_both_limits(clock):
    pacer = Pacer(requests_per_minute=60, tokens_per_minute=600, clock=clock)
    clock.advance(100.0)
    assert [pacer.reserve(tokens) for tokens in (5, 20, 5)] == [0.0, 1.0, 3.0]
    clock.advance(10.0)
    assert pacer.reserve(5) == 0.0


def test_without_limits_nothing_waits(clock):
    pacer = Pacer(clock=clock)
    assert [pacer.reserve(10**9) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_hold_moves_later_slots_and_the_longest_one_counts(clock):
    pacer = Pacer(requests_per_minute=60, clock=clock)
    pacer.hold(10.0)
    clock.advance(1.0)
    pacer.hold(2.0)
    clock.advance(1.0)
    assert [pacer.reserve(1) for _ in range(2)] == [8.0, 9.0]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_worker_that_has_its_slot_waits_for_a_hold_that_comes_meanwhile(clock):
    async def run() -> list[bool]:
        pacer = Pacer(requests_per_minute=600, clock=clock)
        assert await pacer.turn(1)
        waiting = asyncio.create_task(pacer.turn(1))
        await settle()
        pacer.hold(0.25)
        done = []
        for seconds in (0.125, 0.0625, 0.0625):  # its slot is at 0.1, the hold ends at 0.25
            clock.advance(seconds)
            await settle()
            done.append(waiting.done())
        return done

    assert asyncio.run(run()) == [False, False, True]
    assert clock.pauses == pytest.approx([0.1, 0.125])


def test_stopping_wakes_everybody_and_lets_nobody_go(clock):
    async def run() -> list[bool]:
        pacer = Pacer(requests_per_minute=1, clock=clock)
        first = await pacer.turn(1)
        waiting = [asyncio.create_task(task) for task in (pacer.turn(1), pacer.turn(1), pacer.sleep(1000.0))]
        await settle()
        assert clock.pauses == [60.0, 120.0, 1000.0]
        pacer.stop()
        return [first, *await asyncio.gather(*waiting)]

    assert asyncio.run(run()) == [True, False, False, False]


def test_the_clock_of_the_machine():
    async def run() -> None:
        clock, stopped = Clock(), asyncio.Event()
        before = clock.now()
        await clock.pause(0.01, stopped)
        assert clock.now() > before
        stopped.set()
        await asyncio.wait_for(clock.pause(1e6, stopped), 60)
        with pytest.raises(TimeoutError):
            async with clock.limit(0.01):
                await asyncio.Event().wait()
        async with clock.limit(1e6):
            pass

    asyncio.run(run())
    assert Clock().date() > 1_700_000_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5), ({"retry-after": "-3"}, 0.0)],
)
def test_the_servers_wish_is_obeyed(headers, seconds):
    assert pause_before(5, headers) == seconds


def test_a_date_to_retry_after(clock):
    date = email.utils.formatdate(clock.date() + 100, usegmt=True)
    clock.advance(25.0)
    assert pause_before(1, {"retry-after": date}, clock) == 75.0
    clock.advance(100.0)
    assert pause_before(1, {"retry-after": date}, clock) == 0.0


@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}, {"retry-after": "nan"}])
def test_otherwise_pauses_double_up_to_a_minute(headers):
    for attempt, longest in ((1, FIRST_PAUSE), (2, 2 * FIRST_PAUSE), (4, 8 * FIRST_PAUSE), (99, LONGEST_PAUSE)):
        assert 0.75 * longest <= pause_before(attempt, headers) <= longest
