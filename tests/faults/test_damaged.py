"""Damaged checkpoints, models and results: the newest sound one is taken, or one line says what is damaged."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.kit import digests, leftovers, run_child

SHARE = float(os.environ.get("ODIN_RM_DAMAGED", "1"))


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def noise(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(len(content) - 64, 1))
    return content[:at] + rng.randbytes(64) + content[at + 64 :]


def zeros(content: bytes, rng: random.Random) -> bytes:
    """What a file system may leave of a file that was not flushed."""
    at = rng.randrange(len(content))
    return content[:at] + bytes(len(content) - at)


def longer(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(100)


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [cut, flip, noise, zeros, longer, lambda content, rng: b""]
GONE = "gone"


def damaged(path: Path, rng: random.Random, damages: list[Callable[[bytes, random.Random], bytes]]) -> str:
    """Damage a file in one of the ways, or take it away; the name of the way."""
    choice = rng.choice([*damages, GONE])
    if isinstance(choice, str):
        path.unlink()
        return GONE
    path.write_bytes(choice(path.read_bytes(), rng))
    return choice.__name__


def told_in_one_line(command: str, code: int, errors: str) -> bool:
    return code == 2 and errors.startswith(f"odin-rm {command}: error: ") and errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reward", "rl"])
def test_a_damaged_newest_checkpoint_costs_a_step_and_nothing_else(commands, work_of, tmp_path, monkeypatch, command):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    argv, same = commands[command]
    work, whole = work_of([*argv, "--save_total_limit", "3"]), tmp_path / "whole" / "room"
    whole.mkdir(parents=True)
    ended = run_child(work, whole)
    assert ended.code == 0, ended.said
    expected = digests(whole, same)
    # The state of a run that was stopped after its second step.
    result = whole / "out" / ("model" if command == "reward" else "policy")
    newest = sorted((whole / "out" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(result)
    shutil.rmtree(newest[-1])
    names = sorted(str(path.relative_to(whole)) for path in newest[-2].rglob("*") if path.is_file())
    rng, wrong, tried = random.Random(f"damaged {command}"), [], int(30 * SHARE)
    for number in range(tried):
        place = tmp_path / str(number) / "room"
        shutil.copytree(whole, place)
        name = rng.choice(names)
        how = damaged(place / name, rng, DAMAGES)
        chosen = run_child(work_of([w if w != "auto" else str(newest[-2].relative_to(whole)) for w in argv]), place)
        if not told_in_one_line(command, chosen.code, chosen.errors):
            wrong.append((name, how, "the checkpoint itself", chosen.code, chosen.said[-300:]))
        again = run_child(work, place)
        if again.code != 0 or digests(place, same) != expected or leftovers(place):
            wrong.append((name, how, "auto", again.code, again.said[-300:], leftovers(place)[:3]))
    print(f"\n{command}: {tried} damaged checkpoints, {len(wrong)} wrong")
    assert not wrong, wrong[:4]


SCORED = [  # what other commands read: command line, the folder or file that is damaged
    ("score --model ours --input answers.jsonl --output s.jsonl", "ours"),
    ("export --model ours --output exported", "ours"),
    ("generate --model base --prompts answers.jsonl --output g.json --max_new_tokens 4 --device cpu", "base"),
    ("report --runs run --output r.html", "run"),
    ("pareto --runs judged --output fronts --bootstrap_samples 5", "judged"),
    ("win-rate --annotations judged/annotations.json --output w.json --bootstrap_samples 5", "judged/annotations.json"),
    ("audit --compare audited audited2 --output both", "audited"),
    ("judge --candidate a.json --baseline b.json --judge ours --output judged --device cpu --overwrite", "judged"),
]
STRUCTURE = [cut, noise, zeros, lambda content, rng: b""]
"""Damages after which a text file is none any more."""
HEADER = [cut, lambda content, rng: b"", lambda content, rng: zeros(content[:8], rng) + content[8:]]
"""Damages of the header or the length of weights; a flipped bit of a number in a model's folder is not seen."""


def files_of(folder: Path) -> list[Path]:
    """Files with content that a command may read."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return [path for path in files if not path.name.startswith(".") and path.suffix not in (".md", ".png")]


@pytest.fixture(scope="module")
def results(shop, commands, work_of, tmp_path_factory):
    """A room with a model, and what other commands have made of it."""
    place = tmp_path_factory.mktemp("results") / "room"
    place.mkdir()
    for name in ("ours", "base"):
        shutil.copytree(shop / name, place / name)
    for name in ("answers.jsonl", "pairs.jsonl", "a.json", "b.json"):
        shutil.copy(shop / name, place / name)
    for line in (
        "reward --model base --dataset pairs.jsonl --output run --use_cpu true --max_steps 2 --batch_pairs 8",
        "judge --candidate a.json --baseline b.json --judge ours --output judged --device cpu",
        "audit --model ours --dataset pairs.jsonl --output audited --bootstrap_samples 5",
        "audit --model ours --dataset pairs.jsonl --output audited2 --bootstrap_samples 5",
    ):
        ended = run_child(work_of(line.split()), place)
        assert ended.code == 0, ended.said
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("line", "target"), SCORED, ids=[line.split()[0] for line, _ in SCORED])
def test_a_damaged_file_is_told_in_one_line_or_does_no_harm(results, work_of, tmp_path, monkeypatch, line, target):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    command = line.split()[0]

    def work() -> int:
        from odin_rm.cli.main import main

        return main(line.split())

    whole = tmp_path / "whole" / "room"
    shutil.copytree(results, whole)
    ended = run_child(work, whole)
    assert ended.code == 0, ended.said
    output = [
        word for word in line.split() if word in ("s.jsonl", "g.json", "w.json", "exported", "judged/annotations")
    ]
    expected = digests(whole, tuple(output) or ("none",))
    place_of = results / target
    names = [target] if place_of.is_file() else [str(p.relative_to(results)) for p in files_of(place_of)]
    rng, wrong, harmless, tried = random.Random(f"damaged {line}"), [], 0, int(9 * SHARE)
    for number in range(tried):
        place = tmp_path / str(number) / "room"
        shutil.copytree(results, place)
        name = rng.choice(names)
        how = damaged(place / name, rng, HEADER if name.endswith(".safetensors") else STRUCTURE)
        before = sorted(str(path) for path in place.rglob("*"))
        told = run_child(work, place)
        if told.code == 0 and "Traceback" not in told.said and digests(place, tuple(output) or ("none",)) == expected:
            harmless += 1
        elif not told_in_one_line(command, told.code, told.errors):
            wrong.append((name, how, told.code, told.said[-300:]))
        elif sorted(str(path) for path in place.rglob("*")) != before and command != "judge":
            wrong.append((name, how, "left something"))
    print(f"\n{command}: {tried} damaged files ({harmless} without harm), {len(wrong)} wrong")
    assert not wrong, wrong[:4]
