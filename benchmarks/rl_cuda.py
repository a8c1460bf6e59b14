"""PPO and ReMax in bf16 on a CUDA GPU, with policy and reward model of about 0.3 B parameters: breakdown, peak memory.

    make bench-rl-cuda
    python -m benchmarks.rl_cuda --use_cpu --hidden 32 --layers 1 --vocabulary 0 --batch 8 --response_length 8

Policy and reward model (two heads, quality as the reward) are random Llamas built from a config; nothing is downloaded.
A random policy hardly ever ends, so each response is as long as it may be: the most that these settings can cost. Both
algorithms make as many responses with as many optimiser steps, and the first collection is not counted. Weights are
float32, passes bf16 by autocast. Peak memory is what torch's allocator held at most.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from benchmarks.shared.rl_speed import PeakMemory, Turn, run_ours, table
from odin_rm.core.files import atomic_write_json, environment_record, json_safe
from odin_rm.model.reward_model import RewardModel
from odin_rm.rl.config import RLConfig
from odin_rm.testbed.annotator import make_prompts
from odin_rm.testbed.tiny import build_model, build_tokenizer
from odin_rm.testbed.world import World


def prepare(options: argparse.Namespace, folder: Path) -> int:
    """Policy, reward model and prompts; returns the parameters of the policy."""
    tokenizer = build_tokenizer(max_length=128 + options.response_length)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(options.vocabulary - len(tokenizer))])
    heads = max(2, options.hidden // 64)
    model = build_model(tokenizer, options.seed, hidden=options.hidden, layers=options.layers, heads=heads)
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    torch.manual_seed(options.seed)
    judge = RewardModel.from_backbone(folder / "policy")
    judge.info = judge.info.with_(reward_mean=0.0, reward_std=1.0)
    judge.save_pretrained(folder / "reward", tokenizer=tokenizer)
    rows = make_prompts(World(), 4 * options.batch, options.seed)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return sum(p.numel() for p in model.parameters())


def run(options: argparse.Namespace, folder: Path, algorithm: str) -> Turn:
    """Some collections of one algorithm: for PPO two minibatches each, for ReMax twice as many of one."""
    size = 2 * options.batch if algorithm == "ppo" else options.batch
    per_ppo = 1 if algorithm == "ppo" else 2
    config = RLConfig(
        algorithm=algorithm,
        model=str(folder / "policy"),
        reward=str(folder / "reward"),
        prompts=str(folder / "prompts.jsonl"),
        output_dir=str(folder / algorithm),
        max_steps=2 * (1 + options.collections),
        experience_size=size,
        minibatch_size=options.batch,
        microbatch_tokens=options.microbatch_tokens,
        max_new_tokens=options.response_length,
        learning_rate=1e-6,
        bf16=True,
        gradient_checkpointing=options.gradient_checkpointing,
        watch_steps=0,
        sample_steps=0,
        save_steps=0,
        seed=options.seed,
        use_cpu=options.use_cpu,
    )
    turn = Turn()
    with PeakMemory() as memory:
        run_ours(config, turn, warmup=per_ppo)
    turn.peak_mib = memory.mib
    return turn


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write all figures there, as JSON")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocabulary", type=int, default=32768, help="pad the testbed's vocabulary with unused words")
    parser.add_argument("--batch", type=int, default=64, help="responses of an optimiser step")
    parser.add_argument("--response_length", type=int, default=256)
    parser.add_argument("--microbatch_tokens", type=int, default=16384)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--collections", type=int, default=4, help="counted collections of PPO")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--use_cpu", action="store_true", help="to try the script with tiny sizes")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if not torch.cuda.is_available() and not options.use_cpu:
        print("rl_cuda: there is no CUDA GPU here; --use_cpu with tiny sizes tries the script", file=sys.stderr)
        sys.exit(2)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    turns: dict[str, list[Turn]] = {}
    with tempfile.TemporaryDirectory() as folder:
        parameters = prepare(options, Path(folder))
        for algorithm in ("ppo", "remax"):
            gc.collect()
            turns[algorithm] = [run(options, Path(folder), algorithm)]
    place = "the CPU" if options.use_cpu else torch.cuda.get_device_name()
    print(f"policy and reward model of {parameters / 1e6:.1f} M parameters each, bf16, {place}\n\n{table(turns)}")
    if options.output:
        found = {"turns": {name: [asdict(turn) for turn in own] for name, own in turns.items()}, "device": place}
        found |= {"settings": vars(options) | {"output": None}, "environment": environment_record()}
        atomic_write_json(options.output, json_safe(found))


if __name__ == "__main__":
    main()
