"""Arms of a benchmark that take turns step by step, so that a busy minute hits all of them alike.

Each arm runs in a thread of its own (:class:`Relay`: one accelerator for all) or in a process of its own
(:func:`run_in_processes`: memory of its own), and only one runs at a time: an arm hands the baton on after each of its
steps and sleeps until it comes round again. So the training loops stay those of their own libraries.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class OutOfTime(Exception):
    """The time that the benchmark was given is over."""


class Turns(Protocol):
    """An arm's place among others that take turns."""

    def wait(self) -> None:
        """Sleep until it is this arm's turn."""

    def hand_over(self) -> None:
        """End this turn and sleep until the next one."""


class Baton:
    """One arm's place in a relay.

    Args:
        relay: the relay.
        place: of the arm in the order of turns.
    """

    def __init__(self, relay: Relay, place: int) -> None:
        self._relay, self._place = relay, place

    def wait(self) -> None:
        """Sleep until it is this arm's turn.

        Raises:
            OutOfTime: the relay is over.
        """
        relay = self._relay
        with relay.changed:
            relay.changed.wait_for(lambda: relay.turn == self._place)
        if relay.deadline is not None and time.monotonic() > relay.deadline:
            raise OutOfTime

    def hand_over(self) -> None:
        """End this turn and sleep until the next one."""
        self._relay.pass_on(self._place)
        self.wait()


class Relay:
    """Runs arms in turns.

    Args:
        deadline: on the monotonic clock; an arm whose turn comes later gives up, and what it has measured counts.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.changed = threading.Condition()
        self.turn = 0
        self.deadline = deadline
        self._running: list[int] = []

    def pass_on(self, place: int, *, leave: bool = False) -> None:
        """Give the turn to the next arm that still runs; with ``leave`` this one takes no more turns."""
        with self.changed:
            at = self._running.index(place)
            after = self._running[at + 1 :] + self._running[:at]
            if leave:
                self._running.remove(place)
            if after:
                self.turn = after[0]
            self.changed.notify_all()

    def run(self, jobs: Mapping[str, Callable[[Baton], None]]) -> dict[str, str]:
        """Run all arms to their ends.

        Args:
            jobs: name -> what the arm does; it calls :meth:`Baton.hand_over` after each step.

        Returns:
            What went wrong, by the name of the arm; the others are not disturbed by it.
        """
        errors: dict[str, str] = {}
        self._running = list(range(len(jobs)))

        def live(name: str, job: Callable[[Baton], None], place: int) -> None:
            baton = Baton(self, place)
            try:
                baton.wait()
                job(baton)
            except OutOfTime:
                errors[name] = "out of time"
            except BaseException as error:
                errors[name] = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
            finally:
                self.pass_on(place, leave=True)

        threads = [
            threading.Thread(target=live, args=(name, job, place), daemon=True)
            for place, (name, job) in enumerate(jobs.items())
        ]
        for thread in threads:
            thread.start()
        for (name, _), thread in zip(jobs.items(), threads, strict=True):
            # A call that does not come back (a compiler, say) must not eat the time of the rest.
            patience = None if self.deadline is None else max(1.0, self.deadline + 30 - time.monotonic())
            thread.join(patience)
            if thread.is_alive():
                errors.setdefault(name, "did not come back in time")
        return errors


class PipeBaton:
    """The place of an arm in a process of its own.

    Args:
        pipe: to the process that gives the turns.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def wait(self) -> None:
        """Sleep until it is this arm's turn."""
        self._pipe.recv()

    def hand_over(self) -> None:
        """End this turn and sleep until the next one."""
        self._pipe.send(None)
        self.wait()


def run_in_processes(jobs: Mapping[str, tuple[Callable[[Any, Turns], None], Any]]) -> dict[str, tuple[Any, str]]:
    """Run all arms to their ends, each in a fresh process, in turns.

    Args:
        jobs: name -> what the arm does and what it fills in; both are sent there, and the latter back.

    Returns:
        What was filled in, and what went wrong, by name.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, {}
    for name, (job, figures) in jobs.items():
        pipes[name], there = context.Pipe()
        processes[name] = context.Process(target=_live, args=(there, job, figures), daemon=True)
        processes[name].start()
        there.close()
    found: dict[str, tuple[Any, str]] = {}
    running = list(jobs)
    while running:
        for name in tuple(running):
            try:
                pipes[name].send(None)
                answer = pipes[name].recv()
            except (EOFError, BrokenPipeError):
                processes[name].join()
                answer = jobs[name][1], f"its process ended with {processes[name].exitcode}"
            if answer is not None:
                found[name] = answer
                running.remove(name)
    return found


def _live(pipe: Any, job: Callable[[Any, Turns], None], figures: Any) -> None:
    baton = PipeBaton(pipe)
    baton.wait()
    error = ""
    try:
        job(figures, baton)
    except BaseException as reason:
        error = f"{type(reason).__name__}: {reason}\n{traceback.format_exc(limit=-4)}"
    pipe.send((figures, error))
    pipe.close()
    os._exit(0)  # whatever threads the libraries have left
