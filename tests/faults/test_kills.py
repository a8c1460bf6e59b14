"""``kill -9`` at the n-th event of the file system, then the same command line again: the bytes of one run."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.kit import digests, kill, leftovers, run_child

COMMANDS = ("reward", "rl", "score", "audit", "export", "judge", "study")
SEED = os.environ.get("ODIN_RM_SEED", "kills")
SHARE = float(os.environ.get("ODIN_RM_KILLS", "1"))
KILLS = {"reward": 48, "rl": 48, "audit": 40, "export": 40, "score": 40, "judge": 40, "study": 40}
"""Of each command at most, at events drawn by the seed, the first and the last among them; or at all that there are."""


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_command_again_after_a_kill_gives_the_same_bytes(commands, work_of, tmp_path, monkeypatch, command):
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
    expected = digests(whole, same)
    assert expected
    assert leftovers(whole) == []
    rng, tries = random.Random(f"{SEED} {command}"), int(KILLS[command] * SHARE)
    events = range(1, ended.events + 1)
    between = rng.sample(events[1:-1], min(max(tries - 2, 0), len(events) - 2))
    chosen = sorted({1, ended.events, *between})
    wrong, killed_at = [], []
    for at in chosen:
        place = room(f"at{at}")
        killed = run_child(work, place, at, kill)
        if killed.code == 0:  # one event less than in the run that was counted: it was done before
            assert digests(place, same) == expected
            continue
        assert killed.code == -9, killed.said
        killed_at.append(at)
        again = run_child(work, place)
        found = digests(place, same)
        if again.code != 0 or found != expected or leftovers(place):
            differing = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
            wrong.append((at, killed.code, again.code, differing[:3], leftovers(place)[:3], again.said[-300:]))
    print(f"\n{command}: {len(killed_at)} kills at {ended.events} events, {len(wrong)} wrong")
    assert not wrong, wrong[:3]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "export", "reward"])
def test_a_kill_during_an_overwrite_never_loses_the_earlier_result(commands, work_of, tmp_path, monkeypatch, command):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    argv = [*commands[command][0], "--overwrite"]
    if command == "reward":
        argv = [word if word != "auto" else "false" for word in argv]
    work = work_of(argv)
    results = {"audit": "comparison.json", "export": "model.safetensors", "reward": "model/model.safetensors"}
    rng = random.Random(command)
    place = tmp_path / "x" / "room"
    place.mkdir(parents=True)
    assert run_child(work, place).code == 0
    events = run_child(work, place).events
    (place / "out" / "thesis.txt").write_text("mine")
    for at in sorted(rng.sample(range(1, events + 1), min(events, 20))):
        assert run_child(work, place, at, kill).code == -9
        kept = place / "out" / results[command]
        aside = place / "out" / ".replaced" / results[command]
        moving = place / "out" / ".replaced.part" / results[command]
        assert kept.exists() or aside.exists() or moving.exists(), at
        assert (place / "out" / "thesis.txt").read_text() == "mine"
    assert run_child(work, place).code == 0
    assert leftovers(place) == []
    assert (place / "out" / "thesis.txt").read_text() == "mine"
