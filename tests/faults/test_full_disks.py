"""A disk that is full at some point: exit code 1, one line that says what is kept, and the same command again works."""

from __future__ import annotations

import random

import pytest

from tests.faults.kit import digests, disk_full, leftovers, limited, run_child

POINTS = 5
"""Of each kind for each command."""


def fault_of(said: str, code: int) -> str | None:
    """What is wrong with how a command told of a full disk."""
    lines = [line for line in said.splitlines() if line.startswith("odin-rm ") and ": error: " in line]
    if code != 1:
        return f"exit code {code}"
    if "Traceback" in said or "this is a bug" in said:
        return "a traceback"
    if len(lines) != 1:
        return f"{len(lines)} lines"
    return None if "again" in lines[0] or "resume_from_checkpoint" in lines[0] else "not what is kept"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reward", "rl", "score", "audit", "export", "judge"])
@pytest.mark.parametrize("kind", ["n-th write", "largest file"])
def test_a_full_disk_is_told_in_one_line(commands, work_of, tmp_path, monkeypatch, command, kind):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    argv, same = commands[command]
    work = work_of(argv)

    def room(name: str):
        place = tmp_path / name / "room"
        place.mkdir(parents=True)
        return place

    whole = room("whole")
    ended = run_child(work, whole)
    assert ended.code == 0, ended.said
    expected, rng, wrong, tried = digests(whole, same), random.Random(f"full {command}"), [], 0
    sizes = sorted({path.stat().st_size for path in whole.rglob("*") if path.is_file() and path.stat().st_size > 200})
    for number in range(POINTS):
        place = room(str(number))
        if kind == "n-th write":
            failed = run_child(work, place, rng.randrange(1, ended.events + 1), disk_full)
        else:
            most = rng.randrange(4096, max(sizes[-1], 8192))  # what it says must fit
            failed = run_child(limited(work, most), place)
        if failed.code == 0:  # the write was one that may fail, as a lock's name
            continue
        tried += 1
        fault = fault_of(failed.said, failed.code)
        if fault is None and (again := run_child(work, place)).code != 0:
            fault = f"the command again: {again.said[-300:]}"
        if fault is None and (digests(place, same) != expected or leftovers(place)):
            fault = f"other content, or left: {leftovers(place)[:3]}"
        if fault is not None:
            wrong.append((number, fault, failed.said[-400:]))
    print(f"\n{command}, {kind}: {tried} points, {len(wrong)} wrong")
    assert not wrong, wrong[:2]
