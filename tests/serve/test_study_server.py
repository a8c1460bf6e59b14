"""A study under a real server: eight raters at a time, and ``kill -9`` in the middle."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from odin_rm.serve.study.design import turns
from odin_rm.serve.study.store import StudyStore, rater_key
from tests.serve.conftest import serving, write_policies
from tests.waiting import wait_until

RATERS = 8
ROOT = Path(__file__).resolve().parents[2]
SIDES = ("left", "tie", "right")

# The command without its flags, whose reading imports much more.
SERVE = """
import sys
from odin_rm.core.signals import interruptible
from odin_rm.serve.study.config import StudyConfig
from odin_rm.serve.study.run import serve
config = StudyConfig(a="a.json", b="b.json", output="out", port=int(sys.argv[1]), match_mean_length=False)
with interruptible():
    serve(config, lambda store, address: print(address, flush=True))
print("ended", flush=True)
"""


def post(address: str, path: str, **body: str) -> dict:
    request = urllib.request.Request(
        f"{address}/api/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def rate_everything(address: str, name: str, given: dict[str, str]) -> None:
    """Rate what is left, noting what the server has confirmed; every third rating is undone and given again."""
    state = post(address, "start", rater=name)
    while (pair := state["pair"]) is not None:
        side = SIDES[(state["done"] + len(name)) % 3]
        state = post(address, "rate", rater=name, item=pair["item"], side=side)
        if state["done"] % 3 == 0:
            assert post(address, "undo", rater=name)["pair"]["item"] == pair["item"]
            state = post(address, "rate", rater=name, item=pair["item"], side=side)
        given[pair["item"]] = side


def stored(store: StudyStore, name: str) -> dict[str, str]:
    """What the study holds of a rater: item to the side that was chosen."""
    by_pair = {turn.pair: turn for turn in turns(store.study, str(rater_key(name)))}
    ratings = [rating for rating in store.ratings() if rating.rater == name]
    return {
        (turn := by_pair[rating.pair]).item: next(side for side in SIDES if turn.choice(side) == rating.choice)
        for rating in ratings
    }


def test_eight_raters_at_a_time_lose_no_rating(make_store):
    store = make_store()
    names = [f"rater{'x' * k}" for k in range(RATERS)]
    given: dict[str, dict[str, str]] = {name: {} for name in names}
    with serving(store) as address:
        threads = [threading.Thread(target=rate_everything, args=(address, name, given[name])) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(store.ratings()) == RATERS * 12
    assert {name: stored(store, name) for name in names} == given
    assert {len(sides) for sides in given.values()} == {12}


def start(port: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")

    def answers() -> bool:
        with suppress(urllib.error.URLError):
            post(f"http://127.0.0.1:{port}", "start", rater="Nobody")
            return True
        return False

    wait_until(answers, alive=[process])
    return process


def test_killed_in_the_middle_and_resumed_no_confirmed_rating_is_lost_or_doubled(room):
    write_policies(room, 24)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    names = ["Ann", "Bob"]
    given: dict[str, dict[str, str]] = {name: {} for name in names}

    def rate(name: str) -> None:
        # Once the server is gone, what it confirmed is noted.
        with suppress(urllib.error.URLError, ConnectionError, HTTPException, json.JSONDecodeError):
            rate_everything(address, name, given[name])

    process = start(port)
    threads = [threading.Thread(target=rate, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(map(len, given.values())) >= 16)
    process.kill()
    process.wait()
    for thread in threads:
        thread.join()
    confirmed = {name: dict(sides) for name, sides in given.items()}
    assert 16 <= sum(map(len, confirmed.values())) < 48
    store = StudyStore("out")
    for name in names:
        held = stored(store, name)
        # The call under way at the kill may have been an undo, whose pair is the only one that can be without rating,
        # or a rating that was saved but not confirmed.
        assert {item: held[item] for item in confirmed[name]} == confirmed[name]
        assert len(held.keys() - confirmed[name].keys()) <= 1
    process = start(port)
    try:
        for name in names:
            rate(name)
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.read() == "ended\n"
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert {name: len(stored(store, name)) for name in names} == dict.fromkeys(names, 24)
    with sqlite3.connect("out/study.sqlite") as connection:
        counted = connection.execute("SELECT count(*), count(DISTINCT rater || pair) FROM ratings").fetchone()
    assert counted == (48, 48)
    for name in names:
        assert {item: stored(store, name)[item] for item in confirmed[name]} == confirmed[name]
