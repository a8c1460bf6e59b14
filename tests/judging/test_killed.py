"""2,000 judgements through ``kill -9``, of the judging process and of the server: none lost, none doubled."""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.judging.conftest import write_outputs
from tests.judging.server import KEY
from tests.waiting import wait_until

PROMPTS, CONCURRENCY = 1000, 8
ROOT = Path(__file__).resolve().parents[2]


def start(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    return subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=subprocess.DEVNULL)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_two_thousand_judgements_survive_kills_of_judge_and_server(room):
    rng = random.Random(0)
    worths = [[rng.randint(1, 10) for _ in range(PROMPTS)] for _ in range(2)]
    write_outputs(room / "candidate.json", worths[0], "new")
    write_outputs(room / "baseline.json", worths[1], "old")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = room / "answered.log"
    log.touch()

    def answered() -> list[str]:
        return log.read_text().split()

    def cached() -> int:
        with sqlite3.connect("out/cache.sqlite") as connection:
            ((rows, keys),) = connection.execute("SELECT count(*), count(DISTINCT key) FROM replies").fetchall()
        assert rows == keys
        return rows

    serve = ("tests.judging.server", str(port), str(log), "0.01")
    words = (
        f"--candidate candidate.json --baseline baseline.json --judge openai:m --output out --concurrency {CONCURRENCY}"
    )
    judge = ("odin_rm.cli.main", "judge", *words.split(), "--base_url", f"http://127.0.0.1:{port}/v1")
    server = start(*serve)
    wait_until(lambda: listens(port), alive=[server])
    kept = []
    for share in (0.25, 0.5):
        process = start(*judge)
        wait_until(lambda: len(answered()) >= share * 2 * PROMPTS, alive=[process, server])  # noqa: B023
        process.kill()
        process.wait()
        kept.append(cached())
    process = start(*judge)
    wait_until(lambda: len(answered()) >= 0.75 * 2 * PROMPTS, alive=[process, server])
    server.kill()
    server.wait()
    time.sleep(1.0)
    server = start(*serve)
    try:
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        server.kill()
    calls = Counter(answered())
    twice = sum(calls.values()) - len(calls)
    report = json.loads(Path("out/judge.json").read_text())
    print(f"\nkept after kill -9: {kept}; calls answered {sum(calls.values())}, of these asked twice {twice}")
    print(f"calls made again in the last run: {report['judgements']['calls_made_again']}")
    assert cached() == len(calls) == 2 * PROMPTS
    # A call that was under way at a kill has no other end than to be made again.
    assert twice <= 3 * CONCURRENCY
    expected = [1.5 + 0.5 * ((new > old) - (new < old)) for new, old in zip(*worths, strict=True)]
    assert [row["preference"] for row in json.loads(Path("out/annotations.json").read_text())] == expected
