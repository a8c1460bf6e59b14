"""What clients can do to ``odin-rm serve``: bad requests, huge bodies, slow senders, no memory, ``kill -9``.

    make bench-serve-faults ARGS="--output FILE.json"

The command itself, with a random 0.2 M classifier, may open 256 descriptors. While all of this is sent, an honest
client goes on asking for new texts, and the server's memory is watched. Then the server is killed under load again and
again, with clients that try again as OpenRLHF's does.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from benchmarks.serve_load import SERVE, make_model, make_texts, say
from benchmarks.shared.bad_requests import bad_requests, good_bodies, takes
from benchmarks.shared.reward_setup import quiet
from benchmarks.shared.serve_rivals import rendered
from odin_rm.core.files import atomic_write_json, environment_record
from odin_rm.model.scoring import load_scorer, score_texts
from odin_rm.serve.reward.dialects.table import DIALECTS

KEY = "key-of-the-faults"
DESCRIPTORS, WORDS = 256, 2000
AUTHORISED = {"Authorization": f"Bearer {KEY}"}


@contextmanager
def command(folder: Path, token: Path, port: int, *flags: str) -> Iterator[psutil.Process]:
    """The server with its descriptors limited, once it answers."""
    arguments = ["serve", "--model", f"rm={folder}", "--port", str(port), "--token_file", str(token), *flags]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments, "--no_log_requests"],
        stdout=subprocess.DEVNULL,
        stderr=sys.stderr,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)),
    )
    try:
        wait_for(port, server)
        yield psutil.Process(server.pid)
    finally:
        server.kill()
        server.wait()


def wait_for(port: int, server: Any = None) -> None:
    """Until the server is healthy."""
    while True:
        if server is not None and server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200:
                return
        time.sleep(0.2)


def quiet_port() -> int:
    """A port that nobody listens at, and that the system gives to no outgoing connection while the server is away."""
    for port in np.random.default_rng().integers(12_000, 32_000, 100).tolist():
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return int(port)
    raise SystemExit("no port is free")


class Honest(threading.Thread):
    """A client that asks for one new text after the other, and a look at the server's memory between."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.port, self.process, self.stopped = port, process, threading.Event()
        self.served, self.failed, self.slowest, self.peak = 0, Counter[str](), 0.0, 0.0

    def run(self) -> None:
        """Until told to stop."""
        rng = np.random.default_rng(5)
        with httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=AUTHORISED, timeout=120) as client:
            while not self.stopped.wait(0.02):
                pair = (f"w{rng.integers(WORDS)} w{rng.integers(WORDS)} ?", f"w{rng.integers(WORDS)} .")
                start = time.perf_counter()
                try:
                    reply = client.post("/get_reward", json={"query": [rendered(pair)]})
                    self.served += reply.status_code == 200
                    if reply.status_code != 200:
                        self.failed[str(reply.status_code)] += 1
                except httpx2.HTTPError as error:
                    self.failed[type(error).__name__] += 1
                self.slowest = max(self.slowest, time.perf_counter() - start)
                self.peak = max(self.peak, self.process.memory_info().rss / 2**20)

    def figures(self) -> dict[str, Any]:
        """What it has seen since it was asked last."""
        found = {"served": self.served, "failed": dict(self.failed), "slowest_seconds": round(self.slowest, 2)}
        found["peak_mib"] = round(self.peak, 1)
        self.served, self.failed, self.slowest, self.peak = 0, Counter(), 0.0, 0.0
        return found


def bad(port: int) -> dict[str, Any]:
    """Every bad request; how many statuses of each protocol, and which were wrong."""
    statuses: dict[str, Counter[int]] = {}
    wrong = []
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=AUTHORISED, timeout=120) as client:
        for path, name, body in bad_requests(rendered(("Why?", "No."))):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
            if takes(path, name):
                continue
            statuses.setdefault(path, Counter())[reply.status_code] += 1
            if not 400 <= reply.status_code < 500 or not isinstance(reply.json(), dict):
                wrong.append(f"{path} {name}: {reply.status_code}")
    return {"statuses": {path: dict(count) for path, count in statuses.items()}, "wrong": wrong}


def keys(port: int) -> dict[str, Any]:
    """Every path with wrong keys."""
    statuses: Counter[int] = Counter()
    shown: list[dict[str, Any]] = [{}, *({"Authorization": value} for value in ("Bearer wrong", f"Bearer {KEY}x", KEY))]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        for headers in shown:
            for path in [*DIALECTS, "/api/score"]:
                statuses[client.post(path, json={}, headers=headers).status_code] += 1
            for path in ("/", "/v1/models", "/metrics", "/info"):
                statuses[client.get(path, headers=headers).status_code] += 1
    return {"statuses": dict(statuses)}


def huge(port: int, mebibytes: int = 600) -> dict[str, Any]:
    """Bodies of 600 MiB, four at a time: announced, and in chunks of no announced size; with the key and without."""
    statuses: Counter[str] = Counter()
    piece = b"x" * 2**20

    def send(announced: bool, authorised: bool) -> None:
        shown = f"Authorization: Bearer {KEY}" if authorised else "X-Nothing: here"
        head = f"POST /get_reward HTTP/1.1\r\nHost: 127.0.0.1\r\n{shown}\r\n"
        size = f"Content-Length: {mebibytes * 2**20}" if announced else "Transfer-Encoding: chunked"
        with socket.create_connection(("127.0.0.1", port), timeout=300) as one:
            one.sendall(f"{head}{size}\r\n\r\n".encode())
            with suppress(OSError):  # the server may have heard enough
                for _ in range(mebibytes):
                    one.sendall(piece if announced else b"100000\r\n" + piece + b"\r\n")
                one.sendall(b"" if announced else b"0\r\n\r\n")
            try:
                status = one.recv(12).decode().rpartition(" ")[2] or "closed"
            except OSError:
                status = "closed"
        statuses[f"{'with' if authorised else 'without'} key: {status}"] += 1

    kinds = [(announced, authorised) for announced in (True, False) for authorised in (True, True, False, False)]
    for start in range(0, len(kinds), 4):
        threads = [threading.Thread(target=send, args=kind) for kind in kinds[start : start + 4]]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    return {"statuses": dict(statuses)}


def slow(port: int, connections: int = 400) -> dict[str, Any]:
    """More connections than descriptors, that send nothing, half a head, half a body, or a byte now and then."""
    body = b"POST /get_reward HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + KEY.encode()
    starts = [b"", b"POST /get", body + b"\r\nContent-Length: 99\r\n\r\n{", b"POST /get_reward HTTP/1.1\r\nX: "]
    held = []
    for i in range(connections):
        with suppress(OSError):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            held.append(one)
            one.sendall(starts[i % 4])
    for _ in range(20):
        time.sleep(0.5)
        for one in held[3::4]:
            with suppress(OSError):
                one.sendall(b"x")
    for one in held:
        one.close()
    return {"connections": len(held)}


def no_memory(port: int, process: psutil.Process, room_mib: int = 64) -> dict[str, Any]:
    """Texts that need more memory than the process may have; then a small one; then with the limit gone."""
    texts = make_texts(8, 8, (600, 300), WORDS, 77)
    body = {"query": [rendered(pair) for pair in texts]}
    small = {"query": [rendered(("w1 w2", "w3"))]}
    limit = process.memory_info().vms + room_mib * 2**20
    found = {}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=AUTHORISED, timeout=600) as client:
        process.rlimit(psutil.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        found["large, limited"] = client.post("/get_reward", json=body).status_code
        found["small, limited"] = client.post("/get_reward", json=small).status_code
        process.rlimit(psutil.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found["large, limit gone"] = client.post("/get_reward", json=body).status_code
    return {"room_mib": room_mib, "statuses": found}


def killed(folder: Path, token: Path, port: int, kills: int, texts: int, clients: int = 16) -> dict[str, Any]:
    """``kill -9`` under load and a new start, again and again; rewards that were lost, doubled or wrong."""
    pairs = make_texts(texts // 8, 8, (60, 40), WORDS, 9)
    wanted, _, _ = score_texts(load_scorer(folder), [p for p, _ in pairs], [r for _, r in pairs])
    found: dict[int, list[float]] = {}
    tries: Counter[str] = Counter()
    todo, lock = iter(range(len(pairs))), threading.Lock()

    def ask() -> None:
        while True:
            with lock:
                number = next(todo, None)
            if number is None:
                return
            while True:  # as OpenRLHF: a session a request, any error tried again after a second
                try:
                    with httpx2.Client(headers=AUTHORISED, timeout=180) as client:
                        body = {"query": [rendered(pairs[number])], "labels": [None]}
                        reply = client.post(f"http://127.0.0.1:{port}/get_reward", json=body)
                        reply.raise_for_status()
                        (value,) = reply.json()["rewards"]
                        break
                except httpx2.HTTPStatusError as error:
                    if error.response.status_code < 500:  # a request that is wrong would be tried again for ever
                        raise
                    tries[str(error.response.status_code)] += 1
                except httpx2.HTTPError as error:
                    tries[type(error).__name__] += 1
                time.sleep(1)
            with lock:
                found.setdefault(number, []).append(value)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    started = False
    for kill in range(kills + 1):
        with command(folder, token, port, "--cache_size", "0"):
            if not started:
                for one in threads:
                    one.start()
                started = True
            goal = len(pairs) * (kill + 1) / (kills + 1)
            while any(one.is_alive() for one in threads) and (kill == kills or len(found) < goal):
                time.sleep(0.02)
    values = [found.get(i, []) for i in range(len(pairs))]
    apart = [abs(one[0] - w) for one, w in zip(values, wanted, strict=True) if one]
    return {
        "texts": len(pairs),
        "kills": kills,
        "lost": sum(not one for one in values),
        "doubled": sum(len(one) > 1 for one in values),
        "largest_difference": float(max(apart)),
        "tries_again": dict(tries),
    }


def at_one_server(folder: Path, token: Path, port: int, phases: list[str]) -> dict[str, Any]:
    """Everything that a server must survive, one after the other."""
    found: dict[str, Any] = {}
    with command(folder, token, port, "--header_seconds", "5", "--body_seconds", "10") as process:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=AUTHORISED, timeout=120) as client:
            for path, body in good_bodies(rendered(("Why?", "No."))).items():
                assert client.post(path, json=body).status_code == 200, path
        honest = Honest(port, process)
        found["memory at the start, MiB"] = round(process.memory_info().rss / 2**20, 1)
        honest.start()
        todo = {
            "bad": bad,
            "keys": keys,
            "slow": slow,
            "huge": huge,
            "no memory": lambda port: no_memory(port, process),
        }
        for name, phase in todo.items():
            if name in phases:
                found[name] = {**phase(port), "honest client": honest.figures()}
                say(f"{name}: {json.dumps(found[name])}")
        honest.stopped.set()
        honest.join()
    return found


PHASES = ("bad", "keys", "slow", "huge", "no memory", "killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--texts", type=int, default=1000, help="that are asked for while the server is killed")
    parser.add_argument("--phases", nargs="*", choices=PHASES, default=list(PHASES))
    parser.add_argument("--output")
    options = parser.parse_args()
    quiet()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, token = Path(place) / "model", Path(place) / "token"
        make_model(folder, 64, 2, WORDS)
        token.write_text(KEY)
        token.chmod(0o600)
        port = quiet_port()
        if set(options.phases) != {"killed"}:
            found |= at_one_server(folder, token, port, options.phases)
        if "killed" in options.phases:
            found["killed"] = killed(folder, token, port, options.kills, options.texts)
            say(f"killed: {json.dumps(found['killed'])}")
    print(json.dumps(found, indent=1))
    if options.output:
        atomic_write_json(options.output, {**found, "machine": environment_record()})


if __name__ == "__main__":
    main()
