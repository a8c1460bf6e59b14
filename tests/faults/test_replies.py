"""What servers may answer, on the wire: reward sources, judges and models behind endpoints take none of it wrongly.

The server hears one request and says bytes of our own. Each client must end with one line within its time, or leave the
question without an answer; whatever it takes must be what was said.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from odin_rm.core.errors import OdinError
from odin_rm.judging import pacing
from odin_rm.rl.records import RewardRequest
from odin_rm.rl.sources.http import HttpSource
from odin_rm.workflows.generate.config import GenerateConfig
from odin_rm.workflows.generate.run import run_generate
from odin_rm.workflows.judge.config import JudgeConfig
from odin_rm.workflows.judge.run import run_judge
from tests.judging.test_odd_replies import completion

SECONDS = 1.0
"""Given to each call; a server that drips takes longer."""


def http(body: bytes, *headers: str, status: str = "200 OK", length: object = None) -> bytes:
    """A reply."""
    size = len(body) if length is None else length
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {size}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def wire(good: bytes) -> dict[str, bytes | list[bytes]]:
    """Replies around a body that would be taken; lists come in parts, a tenth of a second apart, until the end."""
    elsewhere = "Location: http://127.0.0.1:9/other"
    return {
        "nothing": b"",
        "no HTTP": b"hello\r\n\r\n",
        "a body alone": good,
        "half a status": b"HTTP/1.1",
        "status 99": http(good, status="99 Odd"),
        "status 700": http(good, status="700 Odd"),
        "status 204": http(b"", status="204 No Content"),
        "status 206": http(good[: len(good) // 2], status="206 Partial Content"),
        "status 401": http(b'{"error": "\\u001b[2Jno key"}', status="401 Unauthorized"),
        "status 404": http(b"<html>\x1b[2J</html>", status="404 Not Found"),
        "status 500": http(b"", status="500 Oops"),
        "redirect 301": http(b"", elsewhere, status="301 Moved"),
        "redirect 302": http(b"", elsewhere, status="302 Found"),
        "redirect 303": http(b"", elsewhere, status="303 See Other"),
        "redirect 307": http(b"", elsewhere, status="307 Temporary Redirect"),
        "redirect 308": http(b"", elsewhere, status="308 Permanent Redirect"),
        "redirect without place": http(b"", status="302 Found"),
        "a length too long": http(good, length=len(good) + 10),
        "a length too short": http(good, length=len(good) - 3),
        "a length below 0": http(good, length=-5),
        "a length of words": http(good, length="many"),
        "a length of digits": http(good, length="9" * 4000),
        "two lengths": http(good, "Content-Length: 3"),
        "compressed in name": http(good, "Content-Encoding: gzip"),
        "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        "chunks without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "a long header": http(good, "X: " + "x" * 200_000),
        "many headers": http(good, *[f"X-{k}: {k}" for k in range(3000)]),
        "a header of controls": http(good, "X: \x1b]0;title\x07"),
        "headers that drip": [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 100],
        "a body that drips": [http(b"", length=1000)] + [b" "] * 100,
        "silence": [b""] * 100,
        "continue without end": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100,
        "an empty body": http(b""),
        "null": http(b"null"),
        "a word": http(b'"rewards"'),
        "a list": http(b"[1, 2]"),
        "a number": http(b"7"),
        "an empty object": http(b"{}"),
        "html": http(b"<html>gateway</html>"),
        "half of it": http(good[: len(good) // 2]),
        "not UTF-8": http(good[:-2] + b"\xff" + good[-2:]),
        "UTF-16": http(good.decode().encode("utf-16")),
        "deep": http(b"[" * 100_000 + b"]" * 100_000),
        "many digits": http(b'{"rewards": ' + b"9" * 6000 + b"}"),
        "something behind it": http(good + b"{}"),
    }


REWARDS = {
    "text": '["1", "2"]',
    "NaN": "[NaN, 1]",
    "infinite": "[Infinity, 1]",
    "beyond floats": "[1e999, 1]",
    "a whole number beyond floats": "[1" + "0" * 400 + ", 1]",
    "null": "[null, 1]",
    "true": "[true, 1]",
    "lists": "[[1], [2]]",
    "objects": '[{"score": 1}, 2]',
    "too few": "[1]",
    "too many": "[1, 2, 3]",
    "none": "[]",
    "a number": "1",
    "an object": '{"0": 1, "1": 2}',
    "words": '"1 2"',
}
GOOD_REWARDS = b'{"rewards": [0.5, -1.5]}'
GOOD_WORDS = json.dumps(completion("8 2\nbecause")).encode()


@contextmanager
def server(said: bytes | list[bytes]) -> Iterator[str]:
    """A server that hears each request and says this; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    over = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(0.5)
            try:
                heard = b""
                while b"\r\n\r\n" not in heard:
                    heard += connection.recv(65536)
                head, _, body = heard.partition(b"\r\n\r\n")
                length = int(next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")).split()[1])
                while len(body) < length:
                    body += connection.recv(65536)
                for part in [said] if isinstance(said, bytes) else said:
                    connection.sendall(part)
                    if not isinstance(said, bytes) and over.wait(0.1):
                        return
            except (OSError, StopIteration):
                return

    def listen() -> None:
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        thread.join()
        listening.close()


def request() -> RewardRequest:
    return RewardRequest(["p", "q"], ["a", "b"], [[1], [2]], np.array([1, 1]), {}, 0, np.array([True, True]))


def error_of(work: Callable[[], object]) -> OdinError | None:
    try:
        work()
    except OdinError as error:
        return error
    return None


def one_line(error: OdinError) -> bool:
    """Of bounded length, and without the keys; controls in it are made harmless where it is shown."""
    text = str(error)
    return len(text) < 1200 and "\n" not in text and "secret" not in text


TAKEN = ("many headers", "two lengths", "a header of controls", "status 206", "a length too long", "UTF-16")
"""Replies that a client may take: what it reads is what was said."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*wire(b""), *(f"rewards: {name}" for name in REWARDS)])
def test_a_reward_source_takes_no_wrong_number(name):
    which = name.removeprefix("rewards: ")
    said = http(b'{"rewards": %s}' % REWARDS[which].encode()) if which != name else wire(GOOD_REWARDS)[name]
    told: OdinError | None
    began = time.monotonic()
    with server(said) as address:
        source = HttpSource(f"{address}/get_reward?key=secret", timeout=SECONDS, retries=1, pause=0.01)
        try:
            judged = source.judge(request())
        except OdinError as error:
            told = error
        else:
            told = None
    if told is not None:
        assert one_line(told)
    else:
        assert name in TAKEN, judged
        assert judged.quality.tolist() == [0.5, -1.5]
    assert time.monotonic() - began < 30


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr(pacing, "FIRST_PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)
    for name in ("new", "old"):
        rows = [{"instruction": f"q {k}", "output": f"{name} {k}", "generator": name} for k in range(2)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", wire(b""))
def test_a_judge_takes_no_wrong_verdict(room, name):
    settings = {"candidate": "new.json", "baseline": "old.json", "judge": "openai:m", "output": "out"}
    with server(wire(GOOD_WORDS)[name]) as address:
        config = JudgeConfig(**settings, base_url=f"{address}/v1", timeout=SECONDS, retries=1)
        told = error_of(lambda: run_judge(config))
    if told is not None:
        assert one_line(told)
        return
    found = {row["preference"] for row in json.loads((room / "out" / "annotations.json").read_text())}
    assert found <= {None, 1.5}  # 8 to 2 for whoever is first: a tie of both orders
    assert found == {None} or name in TAKEN


@pytest.mark.slow
@pytest.mark.parametrize("name", wire(b""))
def test_a_model_behind_an_endpoint_gives_no_wrong_words(room, name):
    (room / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with server(wire(GOOD_WORDS)[name]) as address:
        config = GenerateConfig(
            model="openai:m", prompts="p.jsonl", output="g.json", base_url=f"{address}/v1", timeout=SECONDS, retries=1
        )
        told = error_of(lambda: run_generate(config))
    if told is not None:
        assert one_line(told)
        assert not (room / "g.json").exists()
        return
    found = {row["output"] for row in json.loads((room / "g.json").read_text())}
    assert found == {""} or (name in TAKEN and found == {"8 2\nbecause"})


def test_there_are_more_than_sixty_of_them():
    assert len(wire(b"")) + len(REWARDS) >= 60
