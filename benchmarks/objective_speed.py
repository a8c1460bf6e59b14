"""What an objective costs beside plain Bradley-Terry, and what a step of heads costs beside fine-tuning (item 35).

    python -m benchmarks.objective_speed --data DIR [--rounds 20]

Times are processor seconds of one thread, medians over rounds in which the arms take turns. The first table trains the
quickstart's tiny Llama on 64 pairs of the testbed a step. The second takes 64 pairs of AlpacaEval with MiniLM, 256
tokens: one step of all weights, one of the heads on features that are there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.frozen_features import ENCODING
from benchmarks.real_preferences import VAL, encoder_folder
from odin_rm.data.load import load_preferences
from odin_rm.model.scoring import load_tokenizer
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.frozen import FrozenRewardModel, as_rows
from odin_rm.reward.head_training import HeadTrainer
from odin_rm.reward.trainer import RewardTrainer
from odin_rm.testbed.annotator import make_preferences
from odin_rm.testbed.linear_worlds import as_data
from odin_rm.testbed.tiny import build_tokenizer, save_tiny_model
from odin_rm.testbed.worlds import WORLDS
from odin_rm.workflows.reward.run import build_model


def config_of(model: str, output: str, objective: str, **options: Any) -> RewardConfig:
    """Settings of a step."""
    kwargs: dict[str, Any] = {"batch_pairs": 64, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    kwargs |= {"cpu_products": "torch", "microbatch_tokens": "65536"}
    return RewardConfig(output_dir=output, model=model, objective=objective, **kwargs | options)


def one_step(trainer: RewardTrainer) -> float:
    """Processor seconds of a training step."""
    batch = trainer.batches[0]
    trainer.model.zero_grad()
    started = time.process_time()
    trainer.training_step(trainer.model_wrapped, batch)
    return time.process_time() - started


def objectives(rounds: int, scratch: str) -> dict[str, float]:
    """Median seconds of a step by objective."""
    named = WORLDS["linear"]
    data, _, _ = as_data(make_preferences(named.world, named.annotator, 256, 0), build_tokenizer())
    folder = str(save_tiny_model(Path(scratch) / "model", 0))
    trainers = {}
    for name in OBJECTIVES:
        config = config_of(folder, scratch, name)
        trainers[name] = RewardTrainer(build_model(config, folder), config, data, tokenizer=build_tokenizer())
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds + 1):
        for name, trainer in trainers.items():
            seconds[name].append(one_step(trainer))
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def heads(data_folder: Path, scratch: str) -> dict[str, float]:
    """Seconds of a fine-tuning step and of a step of heads."""
    folder = encoder_folder()
    tokenizer = load_tokenizer(folder)
    data = load_preferences(data_folder / VAL, tokenizer, ENCODING, on_bad_row="skip", cache_dir=scratch)
    options = {"pooling": "mean", "microbatch_tokens": "8192", "single_pass_tokens": 10**6}
    config = config_of(folder, scratch, "bradley_terry", **options)
    whole = one_step(RewardTrainer(build_model(config, folder), config, data, tokenizer=tokenizer))
    config = config_of(folder, scratch, "bradley_terry", pooling="mean", train="heads")
    model = build_model(config, folder)
    rows = np.random.default_rng(0).normal(size=(data.num_responses, model.heads.in_features)).astype(np.float32)
    frozen: Any = FrozenRewardModel(model, [rows])
    trainer = HeadTrainer(frozen, config, as_rows(data), tokenizer=tokenizer)
    trainer.before_training()
    return {"all weights": whole, "heads": float(np.median([one_step(trainer) for _ in range(20)]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        found = objectives(options.rounds, scratch)
        print("| objective | ms a step | times Bradley-Terry |\n|---|---|---|")
        for name, seconds in found.items():
            print(f"| {name} | {1000 * seconds:.1f} | {seconds / found['bradley_terry']:.3f} |", flush=True)
        if options.data:
            steps = heads(options.data, scratch)
            ratio = steps["all weights"] / steps["heads"]
            print(f"fine-tuning {steps['all weights']:.2f} s, heads {1000 * steps['heads']:.2f} ms: {ratio:.0f} times")


if __name__ == "__main__":
    main()
