"""Load on ``odin-rm serve``: clients that send one text a request, beside in-process scoring and FastAPI + pipeline.

    make bench-serve ARGS="--clients 16 64 --repeats 3 --output FILE.json"

A random Qwen3-shaped classifier (512 x 8 by default, 27 million parameters with its vocabulary), prompts x responses of
the lengths that interop.md measured (313 and 115 tokens), float32. All arms run in turns, in the same minutes, and the
median of the repeats counts. The clients are threads with a connection each; each takes the next text when it has its
reward. Score memory is off. Scores of every arm are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from benchmarks.shared.reward_setup import quiet
from odin_rm.core.files import atomic_write_json, environment_record
from odin_rm.model.scoring import Scorer, load_scorer, score_texts

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
SERVE = "import sys; from odin_rm.cli.main import main; sys.exit(main(sys.argv[1:]))"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def make_model(folder: Path, hidden: int, layers: int, words: int) -> None:
    """A random one-label classifier with a word-level ChatML tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, "user", "assistant", *(f"w{i}" for i in range(words))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["<|im_start|>"], model_max_length=1024, **names
    )
    tokenizer.chat_template = TEMPLATE
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=hidden // 8,
        max_position_embeddings=1024,
        pad_token_id=0,
        num_labels=1,
        problem_type="regression",
    )
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.normal_()
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_texts(prompts: int, responses: int, lengths: tuple[int, int], words: int) -> list[tuple[str, str]]:
    """Prompts with responses, prompt by prompt."""
    rng = np.random.default_rng(0)

    def write(count: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(0, words, count))

    return [
        (asked, write(lengths[1])) for asked in (write(lengths[0]) for _ in range(prompts)) for _ in range(responses)
    ]


def load(address: str, texts: list[tuple[str, str]], clients: int) -> dict[str, Any]:
    """Ask for every text once; texts a second, quantiles of a request's seconds, and the rewards."""
    bodies = [
        {"query": [f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n{r}<|im_end|>"], "labels": [None]}
        for p, r in texts
    ]
    todo, lock = iter(range(len(bodies))), threading.Lock()
    found: dict[int, float] = {}
    seconds: list[float] = []
    failed: list[str] = []

    def ask() -> None:
        with httpx2.Client(base_url=address, timeout=600) as client:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                start = time.perf_counter()
                reply = client.post("/get_reward", json=bodies[number])
                seconds.append(time.perf_counter() - start)
                if reply.status_code == 200:
                    found[number] = float(reply.json()["rewards"][0])
                else:
                    failed.append(reply.text[:100])

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - start
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    rates = {"texts_per_second": len(bodies) / spent, "p50": float(p50), "p95": float(p95), "failed": len(failed)}
    return {**rates, "rewards": [found.get(i, float("nan")) for i in range(len(bodies))]}


def in_process(scorer: Scorer, texts: list[tuple[str, str]], group: int) -> dict[str, Any]:
    """``score_texts``, one prompt's responses at a time."""
    values: list[float] = []
    start, cpu = time.perf_counter(), time.process_time()
    for i in range(0, len(texts), group):
        part = texts[i : i + group]
        values += score_texts(scorer, [p for p, _ in part], [r for _, r in part])[0].tolist()
    spent = time.perf_counter() - start
    cpu_ms = 1000 * (time.process_time() - cpu) / len(texts)
    return {"texts_per_second": len(texts) / spent, "cpu_ms_per_text": cpu_ms, "rewards": values}


@contextmanager
def process(arguments: list[str], address: str):
    """A server in a process of its own, once it answers."""
    server = subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"a server ended with {server.returncode}: {arguments[1:]}")
            try:
                if httpx2.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.5)
        yield server
    finally:
        server.terminate()
        server.wait()


def cpu_seconds(process_id: int) -> float:
    """Processor time of a process so far; says more than wall-clock time on a machine that others use."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def batches(address: str) -> tuple[float, float]:
    """Texts and batches so far, by the server's own figures."""
    figures = dict(line.rsplit(" ", 1) for line in httpx2.get(f"{address}/metrics").text.splitlines() if line[0] != "#")
    return float(figures["odin_rm_batch_texts_sum"]), float(figures["odin_rm_batch_texts_count"])


def loaded(address: str, texts: list[tuple[str, str]], clients: int, process_id: int) -> dict[str, Any]:
    """:func:`load` on our server, with its processor time a text, its batches and its memory."""
    cpu, before = cpu_seconds(process_id), batches(address)
    found = load(address, texts, clients)
    done, count = (after - start for after, start in zip(batches(address), before, strict=True))
    found["cpu_ms_per_text"] = 1000 * (cpu_seconds(process_id) - cpu) / len(texts)
    return {**found, "texts_per_batch": done / count, "resident_mib": resident(process_id)}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def resident(process_id: int) -> float:
    """Resident memory in MiB."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--words", type=int, default=20000)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs=2, default=(313, 115))
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without_pipeline", action="store_true")
    parser.add_argument("--serve_flags", default="")
    parser.add_argument("--output")
    options = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        make_model(folder, options.hidden, options.layers, options.words)
        texts = make_texts(options.prompts, options.responses, tuple(options.lengths), options.words)
        scorer = load_scorer(folder)
        in_process(scorer, texts[: options.responses], options.responses)
        ours, theirs = free_ports(2)
        flags = ["serve", "--model", str(folder), "--port", str(ours), "--cache_size", "0", "--no_log_requests"]
        flags += options.serve_flags.split()
        rows: dict[str, list[dict[str, Any]]] = {}
        with process([SERVE, *flags], f"http://127.0.0.1:{ours}") as server:
            load(f"http://127.0.0.1:{ours}", texts[: options.responses], options.responses)
            for _ in range(options.repeats):
                rows.setdefault("in process", []).append(in_process(scorer, texts, options.responses))
                for clients in options.clients:
                    name = f"serve, {clients} clients"
                    rows.setdefault(name, []).append(loaded(f"http://127.0.0.1:{ours}", texts, clients, server.pid))
                if not options.without_pipeline:
                    arguments = [PIPELINE, str(folder), str(theirs)]
                    with process(arguments, f"http://127.0.0.1:{theirs}"):
                        load(f"http://127.0.0.1:{theirs}", texts[:2], 1)
                        found = load(f"http://127.0.0.1:{theirs}", texts, options.clients[0])
                    rows.setdefault(f"FastAPI + pipeline, {options.clients[0]} clients", []).append(found)
                for name, found_rows in rows.items():
                    say(f"{name}: {found_rows[-1]['texts_per_second']:.2f} texts/s")
    report(options, rows)


def report(options: argparse.Namespace, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The table of medians, ratios to in-process scoring, and the largest difference of a score."""
    base = statistics.median(row["texts_per_second"] for row in rows["in process"])
    reference = np.array(rows["in process"][0]["rewards"])
    table = {}
    for name, found in rows.items():
        middle = {key: statistics.median(row[key] for row in found) for key in found[0] if key != "rewards"}
        ratio = middle["texts_per_second"] / base
        apart = max(float(np.abs(np.array(row["rewards"]) - reference).max()) for row in found)
        table[name] = {**middle, "ratio_to_in_process": ratio, "largest_difference": apart}
        print(f"{name:32} " + "  ".join(f"{key} {value:.4g}" for key, value in table[name].items()))
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        atomic_write_json(options.output, {"settings": settings, "table": table, "machine": environment_record()})
        print(json.dumps({"written": options.output}))


if __name__ == "__main__":
    main()
