"""The command itself: ends when told to, comes back after ``kill -9``, keeps to its descriptors, needs its key."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from odin_rm.cli.main import main
from odin_rm.model.scoring import Scorer
from tests.serve.reward_kit import KEY, assert_close, make_scorer, quality, rendered
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["rice", "wash", "it", "well", "then", "boil", "for", "ten", "minutes", "red", "house", "hill", "cats", "sleep"]
COMMAND = "import sys; from odin_rm.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return make_scorer(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folder(scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a run's folder holds it."""
    from dataclasses import asdict, replace

    place = tmp_path_factory.mktemp("run") / "odin" / "model"
    model: Any = scorer.model
    model.info = replace(model.info, encoding=asdict(scorer.settings), reward_mean=0.25, reward_std=1.5)
    model.save_pretrained(place, tokenizer=scorer.tokenizer)
    return place


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def command(
    *arguments: str, descriptors: int | None = None, stderr: Any = subprocess.DEVNULL, **environment: str
) -> Iterator[tuple[Any, str]]:
    """The command in a process of its own, and its address."""
    limit = None if descriptors is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors,) * 2)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
        | environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=limit,
    )
    try:
        assert process.stdout is not None
        lines = []
        while not (lines and lines[-1].startswith("Serving at ")):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        address = lines[-1].split()[2].rstrip("/")
        wait_until(lambda: answers(address), alive=[process])
        yield process, address
    finally:
        process.kill()
        process.wait()


def answers(address: str) -> bool:
    with suppress(httpx2.HTTPError), httpx2.Client(verify=False) as client:
        return client.get(f"{address}/health").status_code == 200
    return False


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Different prompts and responses."""
    rng = random.Random(seed)
    return [(f"{' '.join(rng.choices(WORDS, k=6))}?", " ".join(rng.choices(WORDS, k=12))) for _ in range(count)]


def ask_as_openrlhf(client: httpx2.Client, prompt: str, response: str) -> float:
    """OpenRLHF's client: any error is tried again. A second between tries is what it has; here the server's return."""
    body = {"query": [rendered(prompt, response)], "prompts": [rendered(prompt, "", "")], "labels": [None]}
    while True:
        try:
            reply = client.post("/get_reward", json=body, timeout=180)
            reply.raise_for_status()
            (found,) = reply.json()["rewards"]
            return float(found)
        except httpx2.HTTPError:
            wait_until(lambda: answers(str(client.base_url).rstrip("/")))


def test_sigterm_answers_what_is_under_way_and_ends_with_0(folder, scorer):
    pairs = texts(8, 0)
    with command("--model", str(folder), "--port", "0", "--window_ms", "1000") as (process, address):
        found: list[httpx2.Response] = []
        body = {"query": [rendered(*pair) for pair in pairs]}
        thread = threading.Thread(
            target=lambda: found.append(httpx2.post(f"{address}/get_reward", json=body, timeout=120))
        )
        thread.start()
        wait_until(lambda: "waiting_texts 8.0" in httpx2.get(f"{address}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not answers(address))  # 503 first, so that a balancer sends no more, then nothing
        thread.join()
        assert process.wait(120) == 0
        assert "All requests are answered" in process.stdout.read()
    assert_close(found[0].json()["rewards"], quality(scorer, *map(list, zip(*pairs, strict=True))))


def test_killed_under_load_and_started_again_no_reward_is_lost_doubled_or_wrong(folder, scorer):
    port = free_port()
    pairs = texts(120, 1)
    found: dict[int, list[float]] = {}
    todo = iter(range(len(pairs)))
    lock = threading.Lock()

    def ask(address: str) -> None:
        with httpx2.Client(base_url=address) as client:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                found.setdefault(number, []).append(ask_as_openrlhf(client, *pairs[number]))

    with command("--model", str(folder), "--port", str(port)) as (process, address):
        threads = [threading.Thread(target=ask, args=(address,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(found) >= 20)
        process.kill()
        process.wait()
        assert len(found) < len(pairs)
    with command("--model", str(folder), "--port", str(port)):
        for thread in threads:
            thread.join()
    assert {number: len(values) for number, values in found.items()} == dict.fromkeys(range(len(pairs)), 1)
    assert_close([found[i][0] for i in range(len(pairs))], quality(scorer, *map(list, zip(*pairs, strict=True))))


@pytest.mark.slow
def test_two_workers_give_the_same_scores_and_one_that_is_killed_comes_back(folder, scorer):
    """Kill the second one under load; clients that ask again lose nothing."""
    pairs = texts(200, 3)
    wanted = quality(scorer, *map(list, zip(*pairs, strict=True)))
    with command("--model", str(folder), "--port", "0", "--workers", "2", "--cache_size", "0") as (process, address):
        assert httpx2.get(f"{address}/info").json()["workers"] == 2
        (child,) = [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]
        found: dict[int, float] = {}

        def ask(numbers: range) -> None:
            with httpx2.Client(base_url=address) as client:
                for number in numbers:
                    found[number] = ask_as_openrlhf(client, *pairs[number])

        threads = [threading.Thread(target=ask, args=(range(k, len(pairs), 8),)) for k in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(found) >= 20)
        child.kill()
        for thread in threads:
            thread.join()
        assert process.poll() is None
        assert_close([found[i] for i in range(len(pairs))], wanted)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


@pytest.mark.slow
def test_slow_senders_at_256_descriptors_keep_nobody_out(folder, tmp_path):
    """And never take the last descriptor, after which nobody would be accepted for a second."""
    flags = ("--model", str(folder), "--port", "0", "--no_log_requests")
    said = tmp_path / "said"
    with said.open("w") as stderr, command(*flags, descriptors=256, stderr=stderr) as (process, address):
        port = int(address.rpartition(":")[2])
        starts = [b"", b"POST /get", b"POST /get_reward HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{"]
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
        for i, one in enumerate(held):
            with suppress(OSError):  # those of the first that made room
                one.sendall(starts[i % 3])
        with httpx2.Client(base_url=address) as client:
            for prompt, response in texts(5, 2):
                assert isinstance(ask_as_openrlhf(client, prompt, response), float)
        assert process.poll() is None
        for one in held:
            one.close()
    assert said.read_text() == ""


@pytest.mark.slow
def test_tls_and_the_token_of_a_file_and_of_the_environment(folder, tmp_path):
    certificate = make_certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text(f"{KEY}\n")
    token.chmod(0o600)
    flags = ("--model", f"judge={folder}", "--port", "0")
    with command(*flags, "--token_file", str(token), *certificate) as (_, address):
        assert address.startswith("https://")
        context = ssl.create_default_context(cafile=certificate[1])
        context.check_hostname = False
        with httpx2.Client(base_url=address, verify=context) as client:
            assert client.get("/v1/models").status_code == 401
            (model,) = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
            assert model["id"] == "judge"
    with command(*flags, "--host", "0.0.0.0", ODIN_RM_TOKEN=KEY) as (_, address):
        there = address.replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{there}/metrics").status_code == 401
        assert httpx2.get(f"{there}/metrics", params={"key": KEY}).status_code == 200


def make_certificate(folder: Path) -> tuple[str, str, str, str]:
    """A certificate of ours, as flags."""
    names = ("cert.pem", "key.pem")
    made = subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {names[0]} -keyout {names[1]} "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1",
        shell=True,
        cwd=folder,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("openssl, which makes a certificate, is not installed")
    return ("--tls_cert", str(folder / names[0]), "--tls_key", str(folder / names[1]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by others"),
        (["--token_file", "none"], "no such file"),
        (["--token_file", "short"], "shorter than 8"),
        (["--tls_key", "short"], "without a certificate"),
        (["--tls_cert", "short"], "certificate or key cannot be used"),
        (["--port", "70000"], "--port"),
        (["--window_ms", "nan"], "--window_ms"),
        (["--model", "none/there"], "none/there"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ODIN_RM_TOKEN", raising=False)
    (tmp_path / "short").write_text("short")
    flags = flags if "--model" in flags else ["--model", str(folder), *flags]
    assert main(["serve", *flags]) == 2
    found = capsys.readouterr().err.strip()
    assert message in found
    assert len(found.splitlines()) == 1


def test_a_port_in_use_is_refused_before_a_model_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(tmp_path / "none"), "--port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1 port {port}" in capsys.readouterr().err


def test_models_are_named_by_flag_run_or_folder(tmp_path):
    from odin_rm.serve.reward.config import ServeConfig

    config = ServeConfig(model=["a=runs/x/model", "runs/odin/model", "org/name", "exported/"])
    assert config.models() == [
        ("a", "runs/x/model"),
        ("odin", "runs/odin/model"),
        ("name", "org/name"),
        ("exported", "exported/"),
    ]
