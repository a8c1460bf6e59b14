"""Load on ``odin-rm serve``: clients that send one text a request, beside in-process scoring and others' servers.

    make bench-serve ARGS="--clients 16 64 --repeats 3 --rivals pipeline serve_rm vllm infinity --output FILE.json"
    python -m benchmarks.serve_load --many 10000 --hidden 64 --layers 2 --lengths 40 20

A random Qwen3-shaped classifier (512 x 8 by default), prompts x responses of the lengths that reward models meet in
RL (313 and 115 tokens), float32. All arms run in turns, in the same minutes, and the median of the repeats counts;
each repeat has texts of its own, so nobody's memory of earlier texts helps. A second workload (``--singles``) has one
response a prompt. The clients are threads with a connection each; each takes the next text when it has its reward.
Our score memory is off. Scores of every arm that can give ours are compared with ours.

``--many N`` asks our server N times instead, and watches its memory.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import torch

from benchmarks.interop.serving import ServerFailed
from benchmarks.shared.reward_setup import quiet
from benchmarks.shared.serve_rivals import CLASSIFY, OPENRLHF, RIVALS, Pair, Running, started
from odin_rm.core.files import atomic_write_json, environment_record
from odin_rm.model.scoring import Scorer, load_scorer, score_texts
from odin_rm.model.stock_config import complete_tokenizer

SERVE = "import sys; from odin_rm.cli.main import main; sys.exit(main(sys.argv[1:]))"
# vLLM calls the two texts of /score and /rerank query and document.
TEMPLATE = (
    "{% set names = {'query': 'user', 'document': 'assistant'} %}"
    "{% for m in messages %}<|im_start|>{{ names.get(m['role'], m['role']) }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}"
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
    complete_tokenizer(folder, model)  # Infinity has transformers 4


def make_texts(prompts: int, responses: int, lengths: tuple[int, int], words: int, seed: int = 0) -> list[Pair]:
    """Prompts with responses, prompt by prompt."""
    rng = np.random.default_rng(seed)

    def write(count: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(0, words, count))

    return [
        (asked, write(lengths[1])) for asked in (write(lengths[0]) for _ in range(prompts)) for _ in range(responses)
    ]


def load(server: Running, texts: list[Pair], clients: int) -> dict[str, Any]:
    """Ask for every text once; texts a second, quantiles of a request's seconds, and the rewards."""
    bodies = [server.speech.body(pair, server.model) for pair in texts]
    todo, lock = iter(range(len(bodies))), threading.Lock()
    found: dict[int, float] = {}
    seconds: list[float] = []
    failed: list[str] = []

    def ask() -> None:
        with httpx2.Client(base_url=server.address, timeout=600) as client:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                start = time.perf_counter()
                try:
                    reply = client.post(server.speech.path, json=bodies[number])
                    reply.raise_for_status()
                    found[number] = float(server.speech.read(reply.json()))
                except httpx2.HTTPError as error:
                    failed.append(str(error)[:200])
                seconds.append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    start, cpu = time.perf_counter(), server.cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - start
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    cpu_ms = 1000 * (server.cpu_seconds() - cpu) / len(bodies)
    if failed:
        say(f"{len(failed)} failed, the first: {failed[0]}")
    rates = {"texts_per_second": len(bodies) / spent, "p50": float(p50), "p95": float(p95), "failed": len(failed)}
    return {**rates, "cpu_ms_per_text": cpu_ms, "rewards": [found.get(i, float("nan")) for i in range(len(bodies))]}


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
def ours(folder: Path, port: int, flags: list[str]):
    """``odin-rm serve``."""
    arguments = ["serve", "--model", str(folder), "--port", str(port), "--cache_size", "0", "--no_log_requests", *flags]
    address = f"http://127.0.0.1:{port}"
    with started([SERVE, *arguments], address) as server:
        yield Running(address, OPENRLHF, "", server.pid)


def batches(address: str) -> tuple[float, float]:
    """Texts and batches so far, by the server's own figures."""
    figures = dict(line.rsplit(" ", 1) for line in httpx2.get(f"{address}/metrics").text.splitlines() if line[0] != "#")
    return float(figures["odin_rm_batch_texts_sum"]), float(figures["odin_rm_batch_texts_count"])


def loaded(server: Running, texts: list[Pair], clients: int) -> dict[str, Any]:
    """:func:`load` on our server, with its batches and its memory."""
    before = batches(server.address)
    found = load(server, texts, clients)
    done, count = (after - start for after, start in zip(batches(server.address), before, strict=True))
    return {**found, "texts_per_batch": done / count, "resident_mib": server.resident()}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def listener_of(address: str) -> int:
    """The process that listens at an address of this machine."""
    port = int(address.rpartition(":")[2])
    return next(
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--words", type=int, default=20000)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs=2, default=(313, 115))
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--singles", type=int, default=64, help="prompts with one response each, 16 clients; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=["pipeline"])
    parser.add_argument("--environments", default=".", help="folder that holds .venv-interop-*")
    parser.add_argument("--rival_prompts", type=int, help="of the prompts, how many rivals are asked about")
    parser.add_argument("--folder", help="of a model made before, or to be made there; default a fresh one")
    parser.add_argument("--standing_vllm", help="HOST:PORT of a vLLM server of --folder, which takes minutes to start")
    parser.add_argument("--many", type=int, default=0, help="ask ours so often instead, and watch its memory")
    parser.add_argument("--serve_flags", default="")
    parser.add_argument("--output")
    return parser.parse_args()


def main() -> None:
    options = parse()
    quiet()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(options.folder or Path(scratch) / "model")
        if not (folder / "config.json").exists():
            make_model(folder, options.hidden, options.layers, options.words)
        ports = free_ports(1 + len(options.rivals))
        server = stack.enter_context(ours(folder, ports[0], options.serve_flags.split()))
        if options.many:
            many(options, server)
            return
        rivals = {}
        for name, port in zip(options.rivals, ports[1:], strict=True):
            try:
                rivals[name] = stack.enter_context(RIVALS[name](folder, port, Path(options.environments).absolute()))
            except (FileNotFoundError, SystemExit, ServerFailed) as error:
                say(f"{name} is left out: {error}")
        if options.standing_vllm:
            process_id = listener_of(options.standing_vllm)
            rivals["vllm"] = Running(f"http://{options.standing_vllm}", CLASSIFY, str(folder), process_id)
        scorer = load_scorer(folder)
        rows: dict[str, list[dict[str, Any]]] = {}
        for repeat in range(-1, options.repeats):  # the first turn is small and warms everybody up
            turn(options, scorer, server, rivals, repeat, rows)
    report(options, rows)


def turn(
    options: argparse.Namespace,
    scorer: Scorer,
    server: Running,
    rivals: dict[str, Running],
    repeat: int,
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    """Every arm once, on texts of this repeat."""
    prompts = options.prompts if repeat >= 0 else 2
    texts = make_texts(prompts, options.responses, tuple(options.lengths), options.words, repeat + 1)
    found: dict[str, dict[str, Any]] = {"in process": in_process(scorer, texts, options.responses)}
    for clients in options.clients:
        found[f"serve, {clients} clients"] = loaded(server, texts, clients)
    first = options.clients[0]
    asked = texts[: (options.rival_prompts or options.prompts) * options.responses]
    for name, rival in rivals.items():
        found[f"{name}, {first} clients"] = load(rival, asked, first)
    if options.singles and repeat >= 0:
        alone = make_texts(options.singles, 1, tuple(options.lengths), options.words, 1000 + repeat)
        found["singles: in process"] = in_process(scorer, alone, 8)
        found[f"singles: serve, {first} clients"] = loaded(server, alone, first)
        for name, rival in rivals.items():
            found[f"singles: {name}, {first} clients"] = load(rival, alone, first)
    given = {name: np.array(row.pop("rewards")) for name, row in found.items()}
    for name, row in found.items():
        reference = given["singles: in process" if name.startswith("singles") else "in process"]
        row["largest_difference"] = float(np.abs(given[name] - reference[: len(given[name])]).max(initial=0))
        if repeat >= 0:
            rows.setdefault(name, []).append(row)
        say(f"{name}: {row['texts_per_second']:.2f} texts/s, {row['cpu_ms_per_text']:.1f} ms of processor time a text")


def many(options: argparse.Namespace, server: Running) -> None:
    """So many requests, all different texts, and the server's memory after each tenth of them."""
    clients, part = options.clients[-1], options.many // 10
    rows = []
    for tenth in range(10):
        texts = make_texts(part // options.responses, options.responses, tuple(options.lengths), options.words, tenth)
        found = loaded(server, texts, clients)
        found.pop("rewards")
        rows.append({"requests": len(texts), **found})
        say(f"{tenth + 1}/10: {json.dumps({key: round(value, 2) for key, value in rows[-1].items()})}")
    total = {key: sum(row[key] for row in rows) for key in ("requests", "failed")}
    memory = [round(row["resident_mib"], 1) for row in rows]
    print(json.dumps({**total, "clients": clients, "resident_mib_after_each_tenth": memory}))
    write(options, {"many": rows})


def report(options: argparse.Namespace, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The table of medians and of ratios to in-process scoring, turn by turn."""
    table = {}
    for name, found in rows.items():
        middle = {key: statistics.median(row[key] for row in found) for key in found[0]}
        base = rows["singles: in process" if name.startswith("singles") else "in process"]
        ratios = {
            f"{key}_ratio": statistics.median(row[key] / other[key] for row, other in zip(found, base, strict=True))
            for key in ("texts_per_second", "cpu_ms_per_text")
        }
        middle["p95_over_p50"] = middle["p95"] / middle["p50"] if "p50" in middle else float("nan")
        middle["failed"] = sum(row.get("failed", 0) for row in found)
        table[name] = {**middle, **ratios}
        print(f"{name:32} " + "  ".join(f"{key} {value:.4g}" for key, value in table[name].items()))
    write(options, {"table": table, "turns": rows})


def write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """The figures as a file, where one is asked for."""
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        atomic_write_json(options.output, {"settings": settings, **found, "machine": environment_record()})
        print(json.dumps({"written": options.output}))


if __name__ == "__main__":
    main()
