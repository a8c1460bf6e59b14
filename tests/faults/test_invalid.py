"""Invalid invocations of every command: exit code 2 (1 where it is the machine), one line, nothing written or lost."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS
from tests.cli.conftest import contents
from tests.faults import invalid
from tests.faults.kit import Ended, room_like, run_child

COUNT = int(os.environ.get("ODIN_RM_INVALID", "600"))
SEED = os.environ.get("ODIN_RM_SEED", "invalid 0")
SECONDS = 120


@pytest.fixture(scope="module")
def stocked(commands, shop):
    """The shop with a file for each command's good line."""
    invalid.stock(shop)
    return shop


def ended(argv: list[str], room: Path) -> Ended:
    """Run a command line in a child that is ended where it hangs."""

    def work() -> int:
        signal.alarm(SECONDS)
        from odin_rm.cli.main import main

        return main(argv)

    return run_child(work, room)


def fault_of(
    command: str, told: Ended, before: dict[str, str], after: dict[str, str], *, may_work: bool = False
) -> str | None:
    """What is wrong with how an invalid invocation ended."""
    if may_work and told.code == 0:
        return "control characters" if "\x1b" in told.said else None
    lines = told.errors.splitlines()
    if told.code == -signal.SIGALRM:
        return "hangs"
    if told.code == 0:
        return "accepted in silence"
    if "Traceback" in told.said or "this is a bug" in told.said:
        return "a traceback"
    if told.code not in (1, 2):
        return f"exit code {told.code}"
    if [line.startswith(f"odin-rm {command}: error: ") for line in lines] != [True]:
        return f"{len(lines)} lines"
    if len(lines[0]) > 1200:
        return "a line of more than 1,200 characters"
    if any(not (c.isprintable() or c in "\n\t") for c in told.said):
        return "control characters"
    if after != before:
        return f"left or changed {sorted(set(after.items()) ^ set(before.items()))[:3]}"
    return None


@pytest.mark.slow
def test_invalid_invocations_end_in_one_line(stocked, tmp_path, monkeypatch):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    wrong, tried = [], Counter()
    (tmp_path / "none").mkdir()
    for one in invalid.draw(stocked, COUNT, SEED):
        with room_like(tmp_path / "none", tmp_path / "x" / "room") as room:
            one.prepare(room)
            before = contents(room)
            told = ended([one.command, *one.argv], room)
            tried[one.command, one.kind] += 1
            fault = fault_of(one.command, told, before, contents(room), may_work=one.may_work)
        if fault is not None:
            wrong.append(f"{one.command}, {one.what}: {fault}: {told.said[-500:]!r}")
            print(f"\n{sum(tried.values())}: {wrong[-1]}", flush=True)
    kinds = Counter({kind: 0 for _, kind in tried})
    for (_, kind), count in tried.items():
        kinds[kind] += count
    of = f"{len({command for command, _ in tried})} commands ({dict(kinds)})"
    print(f"\n{sum(tried.values())} invocations of {of}, {len(wrong)} wrong")
    assert {command for command, _ in tried} == set(COMMANDS)
    assert not wrong, f"{len(wrong)} wrong"


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(set(invalid.GOOD) - set(invalid.LASTS)))
def test_what_is_spoilt_would_work(stocked, tmp_path, monkeypatch, command):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x" / "room").mkdir(parents=True)
    told = ended([command, *invalid.good_argv(command, stocked)], tmp_path / "x" / "room")
    assert told.code == 0, told.said
