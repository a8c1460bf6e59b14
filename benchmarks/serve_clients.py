"""Real clients at ``odin-rm serve``, unchanged, beside in-process scoring: the same scores, the same kinds of error.

    make bench-serve-clients ARGS="--environments . --output FILE.json"

A random Qwen3-shaped classifier (ChatML, byte-level BPE) scores pairs of AlpacaEval, or of the testbed. Each client
runs in its own environment: OpenRLHF's ``SingleTurnAgentExecutor`` (over HTTP, and with our function from a file),
verl's ``RewardLoopWorker`` (as it asks vLLM and SGLang, with a custom function that asks the server, and with our
function), the openai and cohere packages, and what LLaMA-Factory, slime, TEI's and SGLang's clients send.

``--replay`` sends vLLM's own example requests, good ones and bad, to a vLLM server and to ours instead, and the pairs
by ``/classify``. ``--vllm HOST:PORT`` takes a vLLM server of ``--folder`` that stands already. ``--deviation`` scales
the model's head, so that rewards have that deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from benchmarks.interop.bases import BASES
from benchmarks.interop.serving import own_environment
from benchmarks.interop.texts import as_rows, read_pairs
from benchmarks.serve_load import SERVE, free_ports, say
from benchmarks.shared.reward_setup import quiet
from benchmarks.shared.serve_rivals import python_of, started, vllm
from odin_rm.core.files import atomic_write_json, environment_record
from odin_rm.model.scoring import load_scorer, score_texts

ROOT = Path(__file__).resolve().parents[1]
KEY = "key-of-the-clients"
SCRIPTS = {"openrlhf_client": "openrlhf", "verl_client": "verl", "openai_and_cohere": None}
Row = dict[str, str]


def make_model(folder: Path, rows: list[Row], deviation: float | None = None) -> None:
    """A random classifier whose tokenizer knows the texts; the deviation of their rewards may be given."""
    import torch
    from transformers import Qwen3ForSequenceClassification

    tokenizer = BASES["qwen"].tokenizer([row[side] for row in rows for side in ("prompt", "response")])
    # The two texts of /score and /rerank, as vLLM calls them, are user and assistant.
    tokenizer.chat_template = "{% set names = {'query': 'user', 'document': 'assistant'} %}" + (
        tokenizer.chat_template.replace("message['role']", "names.get(message['role'], message['role'])")
    )
    config = BASES["qwen"].config(tokenizer)
    config.num_labels, config.problem_type = 1, "regression"
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
        model.score.weight.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if deviation is not None:
        values, _, _ = score_texts(load_scorer(folder), *columns(rows))
        with torch.no_grad():
            model.score.weight.mul_(deviation / float(np.std(values)))
        model.save_pretrained(folder)


def columns(rows: list[Row]) -> tuple[list[str], list[str]]:
    """Prompts and responses."""
    return [row["prompt"] for row in rows], [row["response"] for row in rows]


# ---- clients that are a request --------------------------------------------------------------------------------------


def plain_clients(address: str, rows: list[Row], texts: list[str]) -> dict[str, Any]:
    """What clients without a package of their own send, as their sources write it; scores by way."""
    client = httpx2.Client(base_url=address, timeout=120, params={"key": KEY})

    def ask(path: str, body: Any) -> Any:
        reply = client.post(path, json=body)
        reply.raise_for_status()
        return reply.json()

    return {
        "LLaMA-Factory, get_rewards_from_server": ask("/v1/score/evaluation", {"model": "model", "messages": texts})[
            "scores"
        ],
        "slime, remote_rm": [
            ask("/get_reward", {"prompt": row["prompt"], "response": row["response"], "label": None}) for row in rows
        ],
        "TEI, /rerank": [
            ask("/rerank", {"query": row["prompt"], "texts": [row["response"]], "raw_scores": True})[0]["score"]
            for row in rows
        ],
        "TEI, /predict": [
            one[0]["score"]
            for one in ask(
                "/predict", {"inputs": [[row["prompt"], row["response"]] for row in rows], "raw_scores": True}
            )
        ],
        "SGLang, /classify": [one["embedding"][0] for one in ask("/classify", {"text": texts})],
    }


# ---- vLLM's example requests -----------------------------------------------------------------------------------------

CAPITAL = "What is the capital of France?"
PLACES = ["The capital of Brazil is Brasilia.", "The capital of France is Paris.", "Horses and cows are both animals"]
CHAT = [{"role": "user", "content": CAPITAL}, {"role": "assistant", "content": PLACES[1]}]
# vLLM's examples/pooling: what they send, with their own texts.
EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "classify texts": (
        "/classify",
        {"input": ["Hello, my name is", "The president of the United States is", "The future of AI is"]},
    ),
    "classify one text": ("/classify", {"input": "vLLM is great!"}),
    "classify messages": ("/classify", {"messages": CHAT}),
    "classify ids": ("/classify", {"input": [[5, 6, 7, 8], [9, 10]]}),
    "pooling text": ("/pooling", {"input": "vLLM is great!", "task": "classify"}),
    "pooling messages": ("/pooling", {"messages": CHAT, "task": "classify"}),
    "score 1 to 1": ("/score", {"text_1": CAPITAL, "text_2": PLACES[1], "encoding_format": "float"}),
    "score 1 to many": ("/v1/score", {"text_1": CAPITAL, "text_2": PLACES, "encoding_format": "float"}),
    "score many to many": ("/score", {"text_1": [CAPITAL] * 3, "text_2": PLACES, "encoding_format": "float"}),
    "rerank (Jina)": ("/rerank", {"query": CAPITAL, "documents": PLACES}),
    "rerank (Cohere v1)": ("/v1/rerank", {"query": CAPITAL, "documents": PLACES, "top_n": 2}),
    "rerank (Cohere v2)": ("/v2/rerank", {"query": CAPITAL, "documents": PLACES}),
}
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no input": ("/classify", {}),
    "input of a number": ("/classify", {"input": 5}),
    "empty input": ("/classify", {"input": []}),
    "unknown model": ("/classify", {"input": "a", "model": "nobody"}),
    "too long": ("/classify", {"input": "rice " * 6000}),
    "id beyond the vocabulary": ("/classify", {"input": [[10**6]]}),
    "messages of a text": ("/classify", {"messages": "a"}),
    "two queries, three documents": ("/score", {"text_1": [CAPITAL] * 2, "text_2": PLACES}),
    "no documents": ("/rerank", {"query": CAPITAL}),
    "empty documents": ("/rerank", {"query": CAPITAL, "documents": []}),
    "top_n of a text": ("/rerank", {"query": CAPITAL, "documents": PLACES, "top_n": "all"}),
    "no such path": ("/v1/nothing", {}),
}


def shape(value: Any) -> Any:
    """Names and types of a reply, without its values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def missing(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """What a reply of theirs has and ours has not, or has as another type; null may be anything."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict):
            return [where or "the whole"]
        return [
            one for key, value in theirs.items() for one in missing(value, ours.get(key, "absent"), f"{where}.{key}")
        ]
    if isinstance(theirs, list) and isinstance(ours, list):
        return missing(theirs[0], ours[0], f"{where}[]") if theirs and ours else []
    same = theirs == ours or (ours != "absent" and "NoneType" in (theirs, ours))
    return [] if same else [f"{where} ({ours} for {theirs})"]


def numbers(value: Any) -> list[float]:
    """The scores of a reply, in order."""
    if "results" in value:
        return [one["relevance_score"] for one in value["results"]] + [float(one["index"]) for one in value["results"]]
    return [float(np.ravel(one.get("probs", one.get("score", one.get("data"))))[0]) for one in value["data"]]


def replay(ours: str, theirs: str, folder: str, rows: list[Row]) -> dict[str, Any]:
    """vLLM's example requests at both servers, and rows of real texts."""
    apart, lacking, kinds = {}, {}, {}
    scores: list[np.ndarray] = []
    chats = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}] for row in rows
    ]
    examples = EXAMPLES | {f"row {i}": ("/classify", {"messages": chat}) for i, chat in enumerate(chats)}
    with httpx2.Client(base_url=ours, timeout=120, params={"key": KEY}) as own:
        other = httpx2.Client(base_url=f"http://{theirs}", timeout=120)
        for name, (path, body) in examples.items():
            found = [one.post(path, json={"model": folder, **body}) for one in (own, other)]
            if [one.status_code for one in found] != [200, 200]:
                apart[name] = [f"{one.status_code} {one.text[:200]}" for one in found]
                continue
            values = [np.array(numbers(one.json())) for one in found]
            apart[name] = float(np.abs(values[0] - values[1]).max())
            scores.append(np.stack([numbers_of_scores(one.json()) for one in found]))
            lacking[name] = missing(shape(found[1].json()), shape(found[0].json()))
        for name, (path, body) in WRONG.items():
            found = [one.post(path, json={"model": folder, **body}) for one in (own, other)]
            kinds[name] = [_kind(one) for one in found]
    both = np.concatenate(scores, axis=1)
    difference = np.abs(both[0] - both[1])
    summary = {
        "scores": both.shape[1],
        "mean": float(both[1].mean()),
        "deviation": float(both[1].std()),
        "largest difference": float(difference.max()),
        "median difference": float(np.median(difference)),
        "largest difference over the score": float((difference / np.abs(both[1])).max()),
        "largest difference over the largest score": float(difference.max() / np.abs(both[1]).max()),
    }
    return {"summary": summary, "largest difference": apart, "absent in ours": lacking, "errors (ours, vLLM)": kinds}


def numbers_of_scores(value: Any) -> np.ndarray:
    """The scores of a reply without its indices."""
    found = numbers(value)
    return np.array(found[: len(found) // 2] if "results" in value else found)


def _kind(reply: Any) -> str:
    try:
        error = reply.json().get("error", reply.json())
    except ValueError:
        return f"{reply.status_code}"
    name = error.get("type") if isinstance(error, dict) else None
    return f"{reply.status_code} {name or sorted(reply.json())}"


# ---- all of it -------------------------------------------------------------------------------------------------------


def run_script(name: str, python: Path | str, request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The answer of a script in ``clients/`` in its own environment."""
    source, target = scratch / f"{name}.json", scratch / f"{name}_answer.json"
    source.write_text(json.dumps(request))
    script = Path(__file__).parent / "clients" / f"{name}.py"
    variables = own_environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run([python, script, source, target], env=variables, capture_output=True, text=True)
    if not target.exists():
        return {"scores": {}, "errors": {}, "failed": {"script": done.stderr.strip()[-600:]}}
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--clients", nargs="*", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--environments", default=".", help="folder that holds .venv-interop-*")
    parser.add_argument("--clients_python", default=sys.executable, help="an interpreter with openai and cohere")
    parser.add_argument("--folder", help="of a model that is there already, or is written there")
    parser.add_argument("--deviation", type=float, help="of the rewards of a model that is written; else as it comes")
    parser.add_argument("--replay", action="store_true", help="vLLM's example requests instead of clients")
    parser.add_argument("--vllm", help="HOST:PORT of a vLLM server of --folder; without it --replay starts one")
    parser.add_argument("--output")
    options = parser.parse_args()
    quiet()
    rows = as_rows(read_pairs(None, options.pairs, 0)[0])
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        folder = Path(options.folder) if options.folder else scratch / "model"
        if not (folder / "config.json").exists():
            make_model(folder, rows, options.deviation)
        replays = options.replay or options.vllm
        found = beside_vllm(options, folder, rows) if replays else measure(options, folder, rows, scratch)
    for name, one in found["clients"].items():
        print(f"{name:60} {one}")
    print(json.dumps(found.get("vllm"), indent=1))
    print(json.dumps(found["errors"], indent=1))
    if options.output:
        atomic_write_json(options.output, {**found, "machine": environment_record()})


def measure(options: argparse.Namespace, folder: Path, rows: list[Row], scratch: Path) -> dict[str, Any]:
    """Every client once."""
    scorer = load_scorer(folder)
    wanted, _, _ = score_texts(scorer, *columns(rows))
    chats = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}] for row in rows
    ]
    texts = [scorer.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    (port,) = free_ports(1)
    address, token = f"http://127.0.0.1:{port}", scratch / "token"
    token.write_text(KEY)
    token.chmod(0o600)
    flags = ["serve", "--model", str(folder), "--port", str(port), "--token_file", str(token), "--no_log_requests"]
    found: dict[str, Any] = {"clients": {}, "errors": {}}
    # verl can send no key, so it has a server of its own, open on this machine.
    (second,) = free_ports(1)
    open_address = f"http://127.0.0.1:{second}"
    open_flags = ["serve", "--model", str(folder), "--port", str(second), "--no_log_requests"]
    with started([SERVE, *flags], address), started([SERVE, *open_flags], open_address, env=without_token()):
        answers = {"request": {"scores": plain_clients(address, rows, texts), "errors": {}, "failed": {}}}
        request = {"address": address, "open": open_address, "key": KEY, "folder": str(folder), "rows": rows}
        request |= {"texts": texts, "scratch": str(scratch)}
        for name in options.clients:
            environment = SCRIPTS[name]
            say(name)
            try:
                python = (
                    python_of(Path(options.environments).absolute(), environment)
                    if environment
                    else (options.clients_python)
                )
                answers[name] = run_script(name, python, request, scratch)
            except FileNotFoundError as error:
                found["clients"][name] = f"left out: {error}"
    for answer in answers.values():
        found["errors"] |= answer["errors"]
        for way, scores in answer["scores"].items():
            found["clients"][way] = float(np.abs(np.array(scores) - wanted).max())
        found["clients"] |= {way: f"failed: {why}" for way, why in answer["failed"].items()}
    return {**found, "rows": len(rows), "deviation": float(np.std(wanted))}


def beside_vllm(options: argparse.Namespace, folder: Path, rows: list[Row]) -> dict[str, Any]:
    """vLLM's example requests at both servers."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    flags = ["serve", "--model", str(folder), "--port", str(port), "--no_log_requests"]
    with ExitStack() as stack:
        theirs = options.vllm
        if theirs is None:
            environments = Path(options.environments).absolute()
            theirs = stack.enter_context(vllm(folder, 0, environments)).address.removeprefix("http://")
        stack.enter_context(started([SERVE, *flags], address, env=without_token()))
        return {"clients": {}, "errors": {}, "vllm": replay(address, theirs, str(folder), rows)}


def without_token() -> dict[str, str]:
    """The environment without a token of somebody's."""
    return {name: value for name, value in os.environ.items() if name != "ODIN_RM_TOKEN"}


if __name__ == "__main__":
    main()
