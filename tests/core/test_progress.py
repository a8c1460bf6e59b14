"""How far a pass is, in one line: what it says, when, and that it keeps quiet where it should."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from odin_rm.core import console
from odin_rm.core.errors import ConfigError
from odin_rm.core.progress import Progress, duration, progress_line, rate


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def normal_level() -> Iterator[None]:
    yield
    console.set_level(console.NORMAL)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (7, "0:07"), (190, "3:10"), (3599.6, "1:00:00"), (3730, "1:02:10"), (-1, "0:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.254, "0.25"), (0.949, "0.95"), (3.04, "3.0"), (9.94, "9.9"), (9.96, "10"), (45.2, "45"), (999.4, "999"),
     (999.6, "1.0k"), (1234, "1.2k"), (45_600, "46k"), (1_250_000, "1.2M"), (3e9, "3.0G"), (0.0, "0")],
)  # fmt: skip
def test_rates_have_three_digits_at_most(value: float, text: str) -> None:
    assert rate(value, "pairs") == f"{text} pairs/s"


def test_the_line() -> None:
    words = "loss 0.41  acc 0.77  length -0.02"
    line = progress_line("step", 120, 960, words, "1.2k pairs/s", 190)
    assert line == "step 120/960  loss 0.41  acc 0.77  length -0.02  1.2k pairs/s  3:10 left"
    assert progress_line("read", 12_000, None, "", "4.0k rows/s", None) == "read 12,000  4.0k rows/s"


def test_elsewhere_than_on_a_terminal_a_line_comes_every_30_seconds(capsys) -> None:
    clock = Clock()
    with Progress("scoring", 1000, unit="rows", clock=clock, terminal=io.StringIO()) as bar:
        for _ in range(10):  # 100 rows in 10 seconds
            clock.now += 10
            bar.advance(100)
    # After 30, 60 and 90 seconds.
    assert capsys.readouterr().out.splitlines() == [
        "scoring 300/1,000  10 rows/s  1:10 left",
        "scoring 600/1,000  10 rows/s  0:40 left",
        "scoring 900/1,000  10 rows/s  0:10 left",
    ]


def test_what_was_there_before_counts_for_the_place_and_not_for_the_speed(capsys) -> None:
    clock = Clock()
    with Progress("writing", 300, done=200, unit="responses", clock=clock, terminal=io.StringIO()) as bar:
        clock.now += 40
        bar.advance(20)
    assert capsys.readouterr().out == "writing 220/300  0.5 responses/s  2:40 left\n"


def test_a_short_pass_says_nothing_unless_it_is_asked_to(capsys) -> None:
    clock = Clock()
    for always in (False, True):
        with Progress("step", 4, always=always, clock=clock, terminal=io.StringIO()) as bar:
            for _ in range(4):
                clock.now += 5
                bar.advance()
            bar.tell("loss 0.50")
    assert capsys.readouterr().out == "step 4/4  loss 0.50  0:20 in all\n"


def test_a_pass_that_fails_has_no_last_line(capsys) -> None:
    bar = Progress("step", 4, always=True, terminal=io.StringIO())
    bar.advance()
    bar.__exit__(ValueError, ValueError("broken"), None)
    assert capsys.readouterr().out == ""


def test_levels_decide_how_often(capsys) -> None:
    said = {}
    for level in (console.QUIET, console.NORMAL, console.VERBOSE):
        console.set_level(level)
        clock = Clock()
        with Progress("step", 60, always=True, clock=clock, terminal=io.StringIO()) as bar:
            for _ in range(60):
                clock.now += 1
                bar.advance()
        console.remark("a remark")
        said[level] = capsys.readouterr().out.splitlines()
    assert said[console.QUIET] == []
    assert len(said[console.NORMAL]) == 1 + 1 + 1  # at 30 seconds, the last line, the remark
    assert len(said[console.VERBOSE]) == 11 + 1 + 1


def test_on_a_terminal_it_is_a_bar_that_goes_away(capsys) -> None:
    clock, terminal = Clock(), Terminal()
    with Progress("scoring", 100, unit="rows", clock=clock, terminal=terminal) as bar:
        clock.now += 0.5
        bar.advance(10)
        assert terminal.getvalue() == ""  # it may be over before anybody could read it
        clock.now += 9.5
        bar.advance(10)
        assert "scoring 20/100  2.0 rows/s  0:40 left" in terminal.getvalue()
        before = terminal.getvalue()
        clock.now += 0.05
        bar.advance(1)
        assert terminal.getvalue() == before  # drawn at most ten times a second
        clock.now += 30
        bar.advance(1)
        assert "scoring 22/100" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")
    assert capsys.readouterr().out == ""


def test_no_bar_where_none_is_wanted(capsys) -> None:
    clock, terminal = Clock(), Terminal()
    with Progress("step", 2, always=True, bar=False, clock=clock, terminal=terminal) as bar:
        clock.now += 31
        bar.advance(1)
    assert terminal.getvalue() == ""
    assert capsys.readouterr().out == "step 1/2  0:31 left\nstep 1/2  0:31 in all\n"


def test_other_processes_of_a_run_say_nothing(capsys, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with Progress("step", 2, always=True, terminal=io.StringIO()) as bar:
        bar.advance(2)
    assert capsys.readouterr().out == ""


def test_the_level_of_flags() -> None:
    assert console.level_of(["--model", "m"]) == console.NORMAL
    assert console.level_of(["--quiet"]) == console.QUIET
    assert console.level_of(["--verbose", "--model", "m"]) == console.VERBOSE
    with pytest.raises(ConfigError, match=r"--quiet: does not go with --verbose. Give one"):
        console.level_of(["--verbose", "--quiet"])


def test_what_to_do_next_can_be_pasted(capsys) -> None:
    console.next_step("odin-rm", "audit", "--model", "my runs/odin", "--output", "a")
    assert capsys.readouterr().out == "next: odin-rm audit --model 'my runs/odin' --output a\n"
    console.set_level(console.QUIET)
    console.next_step("odin-rm", "audit")
    assert capsys.readouterr().out == ""
