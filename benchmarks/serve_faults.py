"""What clients can do to ``odin-rm serve``: bad requests, huge bodies, slow senders, no memory, ``kill -9``.

    make bench-serve-faults ARGS="--output FILE.json"

The command itself, with a random 0.2 M classifier, may open 256 descriptors. While all of this is sent, an honest
client goes on asking for new texts, and the server's memory is watched. Then the server is killed under load again and
again, with clients that try again as OpenRLHF's does.
"""

from __future__ import annotations

import argparse
import itertools
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
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=30, verify=False).status_code == 200:
                return
        time.sleep(0.2)


def quiet_port() -> int:
    """A port that nobody listens at, and that the system gives to no outgoing connection while the server is away."""
    for port in np.random.default_rng().integers(12_000, 32_000, 100).tolist():
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return int(port)
    raise SystemExit("no port is free")


class Honest(threading.Thread):
    """A client that asks for one new text after the other, and a look at the server's memory between.

    Every other request has a connection of its own, as OpenRLHF's; the others share one that is kept.
    """

    def __init__(self, port: int, process: psutil.Process, words: int = 1) -> None:
        super().__init__(daemon=True)
        self.port, self.process, self.words, self.stopped = port, process, words, threading.Event()
        self.lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.served, self.failed, self.peak = 0, Counter[str](), 0.0
        self.seconds: dict[str, list[float]] = {"kept": [], "new": []}

    def run(self) -> None:
        """Until told to stop."""
        rng = np.random.default_rng(5)
        with httpx2.Client(headers=AUTHORISED, timeout=120) as client:
            for number in itertools.count():
                if self.stopped.wait(0.02):
                    return
                asked = " ".join(f"w{i}" for i in rng.integers(0, WORDS, 2 * self.words))
                self.ask((f"{asked} ?", f"w{rng.integers(WORDS)} ."), client if number % 2 else None)

    def ask(self, pair: tuple[str, str], client: httpx2.Client | None) -> None:
        """One request, over the connection that is kept or over a new one."""
        body, address = {"query": [rendered(pair)]}, f"http://127.0.0.1:{self.port}/get_reward"
        start, status = time.perf_counter(), "200"
        try:
            if client is not None:
                status = str(client.post(address, json=body).status_code)
            else:
                status = str(httpx2.post(address, json=body, headers=AUTHORISED, timeout=120, verify=False).status_code)
        except httpx2.HTTPError as error:
            status = type(error).__name__
        with self.lock:
            self.seconds["new" if client is None else "kept"].append(time.perf_counter() - start)
            self.served += status == "200"
            self.failed.update([] if status == "200" else [status])
            with suppress(psutil.Error):
                self.peak = max(self.peak, self.process.memory_info().rss / 2**20)

    def take(self) -> dict[str, Any]:
        """What it has seen since it was asked last."""
        with self.lock:
            found: dict[str, Any] = {"served": self.served, "failed": dict(self.failed), "seconds": self.seconds}
            found["peak_mib"] = round(self.peak, 1)
            self._begin()
        return found

    def figures(self) -> dict[str, Any]:
        """:meth:`take` with quantiles of a request's seconds."""
        return with_quantiles([self.take()])


def with_quantiles(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What an honest client has seen in several turns."""
    found = {
        "served": sum(part["served"] for part in parts),
        "failed": dict(sum((Counter(part["failed"]) for part in parts), Counter())),
        "peak_mib": max(part["peak_mib"] for part in parts),
    }
    for kind in ("kept", "new"):
        seconds = [one for part in parts for one in part["seconds"][kind]]
        if seconds:
            p50, p95 = np.quantile(seconds, [0.5, 0.95])
            found[f"{kind} connection, p50 p95 max"] = [round(float(x), 3) for x in (p50, p95, max(seconds))]
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


def slow(port: int, honest: Honest, turns: int, seconds: float = 8.0, connections: int = 400) -> dict[str, Any]:
    """More connections than descriptors, that send nothing, half a head, half a body, or a byte now and then.

    In turns with the same time without them, so that their effect is not that of what else the machine does.
    """
    body = b"POST /get_reward HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + KEY.encode()
    starts = [b"", b"POST /get", body + b"\r\nContent-Length: 99\r\n\r\n{", b"POST /get_reward HTTP/1.1\r\nX: "]
    without, beside, opened = [], [], 0
    for _ in range(turns):
        honest.take()
        time.sleep(seconds)
        without.append(honest.take())
        held = []
        for i in range(connections):
            with suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), timeout=30)
                held.append(one)
                one.sendall(starts[i % 4])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.5)
            for one in held[3::4]:
                with suppress(OSError):
                    one.sendall(b"x")
        beside.append(honest.take())
        opened += len(held)
        for one in held:
            one.close()
    slowest = {"without": [part["seconds"] for part in without], "beside": [part["seconds"] for part in beside]}
    by_turn = {
        name: [round(max((x for kind in one.values() for x in kind), default=float("nan")), 3) for one in parts]
        for name, parts in slowest.items()
    }
    found = {"turns": turns, "connections": opened, "slowest by turn": by_turn}
    return {**found, "without them": with_quantiles(without), "beside them": with_quantiles(beside)}


def make_wide_model(folder: Path) -> None:
    """A model whose forward pass takes 0.5 MiB of each token for each of a few tensors, so that memory does run out."""
    import torch
    from transformers import AutoConfig, Qwen3ForSequenceClassification

    make_model(folder, 64, 1, WORDS)
    config = AutoConfig.from_pretrained(folder)
    config.intermediate_size, config.num_labels = 2**17, 1
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(folder)


def no_memory(folder: Path, token: Path, port: int, rooms_mib: list[int]) -> dict[str, Any]:
    """A process that may have little more memory than it has: what is too large, and what is not; then without limit.

    The limit is one of addresses, so the system refuses memory as it does where there is none, and kills nobody.
    """
    one_large = [rendered(pair) for pair in make_texts(1, 1, (600, 300), WORDS, 77)]
    together = [rendered(pair) for pair in make_texts(16, 1, (30, 20), WORDS, 78)]
    small = [rendered(("w1 w2", "w3"))]
    wanted = {}
    found: dict[str, Any] = {"statuses by MiB of room": {}}
    with (
        command(folder, token, port, "--cache_size", "0") as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=AUTHORISED, timeout=600) as client,
    ):

        def ask(texts: list[str]) -> tuple[str, list[float]]:
            reply = client.post("/get_reward", json={"query": texts})
            after = reply.headers.get("retry-after")
            said = f"{reply.status_code}" + ("" if after is None else f", Retry-After {after}")
            return said, reply.json()["rewards"] if reply.status_code == 200 else []

        kinds = {"one text of 900 words": one_large, "16 texts of 50 words": together, "one text of 3 words": small}
        honest = Honest(port, process)
        honest.start()
        for name, texts in kinds.items():
            wanted[name] = ask(texts)[1]
        found["without limit"] = honest.figures()
        apart = 0.0
        for room in rooms_mib:
            limit = process.memory_info().vms + room * 2**20
            process.rlimit(psutil.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            row: dict[str, Any] = {}
            for name, texts in kinds.items():
                row[name], values = ask(texts)
                apart = max([apart, *(abs(x - y) for x, y in zip(values, wanted[name], strict=False))])
            row["bodies of 30 MiB, six at a time"] = crowd_of_bodies(port)
            process.rlimit(psutil.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            found["statuses by MiB of room"][str(room)] = {**row, "honest client": honest.figures()}
            say(f"room {room}: {json.dumps(found['statuses by MiB of room'][str(room)])}")
        found["limit gone"] = {name: ask(texts)[0] for name, texts in kinds.items()}
        values = {name: ask(texts)[1] for name, texts in kinds.items()}
        apart = max([apart, *(abs(x - y) for name in kinds for x, y in zip(values[name], wanted[name], strict=True))])
        honest.stopped.set()
        honest.join()
        found["largest difference of a reward"] = apart
        found["still the same process"] = process.is_running()
    return found


def crowd_of_bodies(port: int, count: int = 6, mebibytes: int = 30) -> dict[str, int]:
    """Bodies of one long text each, at a time; how they were answered."""
    content = b'{"query": ["' + b"w1 " * (mebibytes * 2**20 // 3) + b'"]}'
    statuses: Counter[str] = Counter()

    def send() -> None:
        try:
            reply = httpx2.post(f"http://127.0.0.1:{port}/get_reward", content=content, headers=AUTHORISED, timeout=600)
            statuses[str(reply.status_code)] += 1
        except httpx2.HTTPError as error:
            statuses[type(error).__name__] += 1

    threads = [threading.Thread(target=send) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return dict(statuses)


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
                    with httpx2.Client(headers=AUTHORISED, timeout=180, verify=False) as client:
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


def at_one_server(folder: Path, token: Path, port: int, phases: list[str], turns: int) -> dict[str, Any]:
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
            "slow": lambda port: slow(port, honest, turns),
            "huge": huge,
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
    parser.add_argument("--turns", type=int, default=5, help="without slow senders and beside them")
    parser.add_argument("--rooms", type=int, nargs="+", default=[1024, 256, 64, 16], help="MiB, where memory is short")
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
        if set(options.phases) - {"killed", "no memory"}:
            found |= at_one_server(folder, token, port, options.phases, options.turns)
        if "no memory" in options.phases:
            make_wide_model(Path(place) / "wide")
            found["no memory"] = no_memory(Path(place) / "wide", token, port, options.rooms)
            say(f"no memory: {json.dumps(found['no memory'])}")
        if "killed" in options.phases:
            found["killed"] = killed(folder, token, port, options.kills, options.texts)
            say(f"killed: {json.dumps(found['killed'])}")
    print(json.dumps(found, indent=1))
    if options.output:
        atomic_write_json(options.output, {**found, "machine": environment_record()})


if __name__ == "__main__":
    main()
