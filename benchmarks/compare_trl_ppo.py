"""Speed side by side with the PPOTrainer of TRL 1.12.0, the last release that has one; and ReMax against PPO in ours.

    make bench-trl-ppo                    # in an environment of its own, .venv-trl112
    make bench-trl-ppo ARGS="--hidden 384 --layers 8 --vocabulary 8192"

One process. The arms get the same policy (fine-tuned on the testbed's demonstrations, so that its
responses end at different lengths), the same prompts as the same ids, the same reward model (a one-label classifier),
a critic that starts from the policy with values of 0, as many responses per collection, response tokens at most, passes
over them, optimiser steps, rows of a generation batch, tokens of a micro-batch and threads. They take turns, in
changing order; each turn starts anew and its first collection is not counted. Learning rates are so small that all arms
write with the same policy throughout.

Printed: responses per second with their parts (in CPU time of the process, which other programs disturb less; in wall
clock on a GPU), how far an arm drove the peak of memory, and the ratios as geometric means over turns with 95 % t
intervals: by that clock, by wall clock, and of the four parts alone.

What is not equal: TRL cuts its old log-probs from the scores of generation where we read the responses once more (and
so have them in the numerics of training); the reward model gets texts from us and ids from TRL; TRL reads without
gradient in batches as large as those of generation, we in micro-batches; we clip the gradient's norm, sort by length,
and write rows that have ended no further; TRL's AdamW is the fused one.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers

from benchmarks.shared.rl_speed import PARTS, PeakMemory, Stopwatch, Turn, clock, run_ours, table
from odin_rm.core.files import atomic_write_json, environment_record, json_safe
from odin_rm.data.prompts import encode_prompts, load_prompts
from odin_rm.model.policy import load_policy
from odin_rm.rl.config import RLConfig
from odin_rm.testbed.annotator import make_prompts, make_sft
from odin_rm.testbed.tiny import build_model, build_tokenizer
from odin_rm.testbed.world import World
from odin_rm.workflows.policy.sft import SFTRunConfig, train_sft

VERSION = "1.12.0"
TRL, PPO, REMAX = "TRL, PPO", "ours, PPO", "ours, ReMax"
LEARNING_RATE = 1e-7
# Two-sided 95 % of Student's t by degrees of freedom; beyond, the normal's.
T_95 = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


# ---- what the arms share ---------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """The fine-tuned policy, a reward model of its architecture, and prompts, unless they are there."""
    if (folder / "critic" / "tokenizer.json").is_file():
        return
    world = World()
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"<unused{i}>" for i in range(options.vocabulary - len(tokenizer))])
    sizes = {"hidden": options.hidden, "layers": options.layers, "heads": max(2, options.hidden // 64)}
    build_model(tokenizer, options.seed, **sizes).save_pretrained(folder / "initial")
    tokenizer.save_pretrained(folder / "initial")
    write_rows(folder / "sft.jsonl", make_sft(world, options.demonstrations, options.seed))
    write_rows(folder / "prompts.jsonl", make_prompts(world, 8 * options.batch, options.seed))
    train_sft(
        SFTRunConfig(
            model=str(folder / "initial"),
            dataset=str(folder / "sft.jsonl"),
            output_dir=str(folder / "sft"),
            overwrite_output_dir=True,
            num_train_epochs=options.sft_epochs,
            per_device_train_batch_size=32,
            learning_rate=0.4 / options.hidden,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            save_strategy="no",
            disable_tqdm=True,
            seed=options.seed,
            use_cpu=not torch.cuda.is_available(),
        )
    )
    for name in ("judge", "critic"):
        torch.manual_seed(options.seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder / "sft" / "policy", num_labels=1, dtype=torch.float32
        )
        if name == "critic":
            model.score.weight.data.zero_()
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSON-lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prompt_ids(folder: Path) -> list[list[int]]:
    """The prompts as our loop encodes them."""
    _, tokenizer = load_policy(folder / "sft")
    return encode_prompts(tokenizer, load_prompts(folder / "prompts.jsonl").prompts, max_prompt_tokens=128)[0]


# ---- TRL's arm -------------------------------------------------------------------------------------------------------


def run_trl(turn: Turn, options: argparse.Namespace, folder: Path, seed: int) -> None:
    """Some collections of TRL's PPOTrainer."""
    import datasets
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    policy, tokenizer = load_policy(folder / "sft")
    reference, _ = load_policy(folder / "sft")
    tokenizer.padding_side = "left"
    judge, critic = (
        transformers.AutoModelForSequenceClassification.from_pretrained(folder / name, dtype=torch.float32)
        for name in ("judge", "critic")
    )
    collections = options.warmup + options.collections
    arguments = PPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=options.rows,
        gradient_accumulation_steps=options.batch // options.rows,
        local_rollout_forward_batch_size=options.rollout_rows,
        num_mini_batches=1,
        num_ppo_epochs=options.epochs,
        total_episodes=collections * options.batch,
        response_length=options.response_length,
        stop_token="eos",
        temperature=1.0,
        kl_coef=0.05,
        num_sample_generations=0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=judge,
        value_model=critic,
        train_dataset=datasets.Dataset.from_dict({"input_ids": prompt_ids(folder)}),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.accelerator.print = lambda *_: None
    with trl_watched(ppo_trainer, trainer, judge, turn, options.warmup):
        trainer.train()
    turn.responses = options.collections * options.batch


@contextmanager
def trl_watched(module: Any, trainer: Any, judge: Any, turn: Turn, warmup: int) -> Iterator[None]:
    """Wrap what ``PPOTrainer.train`` calls; each wrapper ends in the original."""
    watch, learning, lengths = Stopwatch(), [0.0], []

    def timed(original: Callable[..., Any], part: Callable[..., str | None]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began, name = clock(), part(*arguments)
            found = original(*arguments, **named)
            if name is not None and len(watch.stamps) >= warmup:
                turn.parts[name] = turn.parts.get(name, 0.0) + clock() - began
            return found

        return call

    def whiten(*arguments: Any, **named: Any) -> Any:
        found = original_whiten(*arguments, **named)
        learning[0] = clock()  # what follows are the updates
        return found

    def log(*_: Any) -> None:
        if len(watch.stamps) >= warmup:
            turn.parts["learn"] += clock() - learning[0]
            here = sys._getframe(1).f_locals
            # Tokens without the end token, as ours are counted.
            ended = here["contain_eos_token"].long()
            lengths.append(float((here["sequence_lengths"] + 1 - ended).float().mean()))
        watch.stamp()

    original_whiten = module.masked_whiten
    patches = {
        "batch_generation": timed(module.batch_generation, lambda *_: "generate"),
        "get_reward": timed(module.get_reward, lambda model, *_: "score" if model is judge else "forward"),
        "forward": timed(module.forward, lambda *_: None if torch.is_grad_enabled() else "forward"),
        "masked_whiten": whiten,
        "gc": SimpleNamespace(collect=timed(gc.collect, lambda *_: "collect garbage")),
    }
    with mock.patch.multiple(module, **patches), mock.patch.object(trainer, "log", log):
        yield
    watch.fill(turn, warmup)
    turn.tokens = float(np.mean(lengths))


# ---- our arms --------------------------------------------------------------------------------------------------------


def our_config(options: argparse.Namespace, folder: Path, seed: int, algorithm: str) -> RLConfig:
    """As many collections, and tokens of a micro-batch and of a generation batch, as TRL's rows have."""
    longest = max(map(len, prompt_ids(folder))) + options.response_length
    epochs = {"ppo_epochs": options.epochs} if algorithm == "ppo" else {}
    return RLConfig(
        algorithm=algorithm,
        model=str(folder / "sft"),
        reward=str(folder / "judge"),
        prompts=str(folder / "prompts.jsonl"),
        output_dir=str(folder / "ours"),
        overwrite_output_dir=True,
        max_steps=(options.warmup + options.collections) * epochs.get("ppo_epochs", 1),
        experience_size=options.batch,
        minibatch_size=options.batch,
        microbatch_tokens=options.rows * longest,
        rollout_tokens=options.rollout_rows * longest,
        max_new_tokens=options.response_length,
        kl_coef=0.05,
        learning_rate=LEARNING_RATE,
        standardise="none",
        watch_steps=0,
        sample_steps=0,
        save_steps=0,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        **epochs,
    )


# ---- turns and figures -----------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace, folder: Path) -> dict[str, list[Turn]]:
    """Every arm in every round, the order changing."""
    prepare(options, folder)
    runs: dict[str, Callable[[Turn, int], None]] = {
        TRL: lambda turn, seed: run_trl(turn, options, folder, seed),
        PPO: lambda turn, seed: run_ours(our_config(options, folder, seed, "ppo"), turn, options.warmup),
        REMAX: lambda turn, seed: run_ours(our_config(options, folder, seed, "remax"), turn, options.warmup),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in runs}
    for number in range(options.rounds):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            gc.collect()
            turn = Turn()
            with PeakMemory() as memory:
                runs[name](turn, options.seed + number)
            turn.peak_mib = memory.mib
            turns[name].append(turn)
            print(f"round {number + 1}, {name}: {turn.responses / turn.seconds:.2f} responses/s", file=sys.stderr)
    return turns


def seconds(turn: Turn) -> float:
    """By the clock of :func:`benchmarks.shared.rl_speed.clock`."""
    return turn.seconds


def wall_seconds(turn: Turn) -> float:
    """Wall clock."""
    return turn.wall_seconds


def part_seconds(turn: Turn) -> float:
    """Of the four parts alone, without what stands between them (TRL collects garbage twice per collection)."""
    return sum(turn.parts[part] for part in PARTS)


def ratio(first: list[Turn], second: list[Turn], of: Callable[[Turn], float]) -> tuple[float, float, float]:
    """How many times as many responses per second the first arm makes: geometric mean and 95 % t interval."""
    pairs = zip(first, second, strict=True)
    logs = [math.log(f.responses / of(f) * of(s) / s.responses) for f, s in pairs]
    mean, count = float(np.mean(logs)), len(logs)
    if count < 2:
        return math.exp(mean), math.nan, math.nan
    half = (T_95[count - 1] if count - 1 < len(T_95) else 1.96) * float(np.std(logs, ddof=1)) / math.sqrt(count)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write all figures there, as JSON")
    parser.add_argument("--folder", type=Path, help="keep the models there, and take them from there the next time")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=0, help="pad the testbed's vocabulary with unused words")
    parser.add_argument("--demonstrations", type=int, default=1500)
    parser.add_argument("--sft_epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="responses per collection and per optimiser step")
    parser.add_argument("--rows", type=int, default=8, help="of a micro-batch; TRL's default")
    parser.add_argument("--rollout_rows", type=int, default=64, help="of a generation batch; TRL's default")
    parser.add_argument("--epochs", type=int, default=1, help="passes over a collection; TRL's default is 4")
    parser.add_argument("--response_length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="collections of a turn that are not counted")
    parser.add_argument("--collections", type=int, default=4, help="counted collections of a turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.batch % options.rows or options.warmup < 1:
        parser.error("--rows must divide --batch, and --warmup be at least 1")
    return options


def main() -> None:
    import trl

    options = parse()
    if trl.__version__ != VERSION:
        sys.exit(f"this needs TRL {VERSION} (here: {trl.__version__}); run make bench-trl-ppo")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        turns = run_all(options, folder)
        policy, _ = load_policy(folder / "sft")
        parameters = sum(p.numel() for p in policy.parameters())
    print(f"policy of {parameters / 1e6:.2f} M parameters, {torch.get_num_threads()} threads\n\n{table(turns)}\n")
    ratios = {}
    for first, second in ((PPO, TRL), (REMAX, PPO)):
        for of in (seconds, wall_seconds, part_seconds):
            value, low, high = ratio(turns[first], turns[second], of)
            ratios[f"{first} / {second}, {of.__name__}"] = [value, low, high]
            print(f"{first} / {second}, {of.__name__}: {value:.2f} (95 % {low:.2f} to {high:.2f})")
    found = {"turns": {name: [asdict(turn) for turn in own] for name, own in turns.items()}, "ratios": ratios}
    found |= {"settings": vars(options) | {"output": None, "folder": None}, "environment": environment_record()}
    if options.output:
        atomic_write_json(options.output, json_safe(found))


if __name__ == "__main__":
    main()
