"""Policies on rewards of three objectives in the testbed's named worlds (docs/evidence.md, item 43).

    python -m benchmarks.rl_worlds [--worlds good_writers_write_more linear] [--seed 0]          # make bench-rl-worlds

In each world: preference pairs, rewards of three objectives on bags of words and of pairs of words (the heads of
``benchmarks.worlds``: seconds, and agreement with the truth is known), a small Llama that imitates the writers, and
twelve policies from it for each reward, for the plain one and ``matched`` with the dial, and for the plain one with a
length penalty: PPO and ReMax, three betas, two learning rates. The penalty is the best one of ``PENALTIES`` in the
world's own units when several are given. Prints a table for each world: length, true quality and area of each arm, and
the front of ``--first`` less that of the others, with intervals over runs. A second call goes on where the first
stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rl_testbed import table
from benchmarks.worlds import ARMS as OBJECTIVE_ARMS
from benchmarks.worlds import agreement
from odin_rm.core.errors import NumericalError
from odin_rm.core.files import atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.data.render import Reply, response_texts
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reports.chart_still import draw_panels, still_files
from odin_rm.reward.head_training import train_heads
from odin_rm.testbed.annotator import make_preferences
from odin_rm.testbed.experiment import write_data
from odin_rm.testbed.linear_worlds import Bag, as_data, dial_curve, powers_of_length, words_of
from odin_rm.testbed.quickstart_config import QuickstartConfig
from odin_rm.testbed.rl_experiment import (
    FOLDER,
    RESULT,
    START,
    PolicyTask,
    measure_policy,
    policy_config,
    train_start,
)
from odin_rm.testbed.rl_figures import Measured, Policies, PolicyResult, compare_policies
from odin_rm.testbed.rl_story import policy_front
from odin_rm.testbed.sweep import PolicyRun, SweepSettings, grid
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, count_tokens
from odin_rm.testbed.worlds import WORLDS
from odin_rm.workflows.rl.run import train_policy

REWARDS = ("vanilla", "odin", "matched")
DIALLED = {"vanilla_dial": "vanilla", "matched_dial": "matched"}
"""Rewards less the share of their own curve of length by which fillers are worth nothing, by the reward's name."""
HELD_OUT = 2000


class BagReward:
    """A linear reward of which words and pairs of words a response has, in the signature of TRL's reward functions.

    Args:
        weights: of each word.
        curve: of the length, taken off.
    """

    def __init__(self, weights: dict[str, float], curve: list[float] | None = None) -> None:
        self.weights, self.curve = weights, curve

    @classmethod
    def load(cls, path: str) -> BagReward:
        """From what :func:`bag_rewards` has written."""
        return cls(**read_json(Path(path)))

    def of(self, texts: list[str]) -> np.ndarray:
        """``(R,)`` rewards."""
        words_R = np.array([sum(self.weights.get(word, 0.0) for word in words_of(text)) for text in texts])
        return words_R if self.curve is None else words_R - powers_of_length(texts) @ np.array(self.curve)

    def __call__(self, prompts: list[Any], completions: list[Reply], **_: Any) -> list[float]:
        """The reward of each completion."""
        return self.of([" ".join(response_texts(completion)) for completion in completions]).tolist()


def bag_rewards(world: str, seed: int, pairs: int, folder: Path) -> dict[str, dict[str, float]]:
    """Trains the rewards of a world, one file each; their agreement with the truth and Pearson with length."""
    named, done = WORLDS[world], folder / "rewards.json"
    figures: dict[str, dict[str, float]] = read_json(done) if done.is_file() else {}
    if set(figures) >= {*REWARDS, *DIALLED}:
        return figures
    train, texts, _ = as_data(make_preferences(named.world, named.annotator, pairs, seed))
    _, held_texts, truth = as_data(make_preferences(named.world, named.annotator, HELD_OUT, seed, split="held_out"))
    bag, lengths = Bag(texts), np.array([count_tokens(text) for text in held_texts])
    rewards: dict[str, BagReward] = {}
    for name in REWARDS:
        options = OBJECTIVE_ARMS[name]
        settings = OBJECTIVES[options["objective"]].settings(**options.get("settings", {}))
        trained = train_heads(
            bag(texts),
            train,
            options["objective"],
            settings=settings,
            batch_pairs=64,
            epochs=5,
            learning_rate=0.005,
            seed=seed,
        )
        weight_D = trained.heads.effective("quality").detach().double().tolist()
        rewards[name] = BagReward({word: weight_D[column] for word, column in bag.column.items()})
    for name, plain in DIALLED.items():
        curve = dial_curve(rewards[plain].of, texts, seed).tolist()
        rewards[name] = BagReward(rewards[plain].weights, curve)
    for name, reward in rewards.items():
        atomic_write_json(folder / f"{name}.json", {"weights": reward.weights, "curve": reward.curve})
        place = str((folder / f"{name}.json").resolve())
        content = f"from benchmarks.rl_worlds import BagReward\n\nreward = BagReward.load({place!r})\n"
        (folder / f"{name}.py").write_text(content, encoding="utf-8")
        held_R = reward.of(held_texts)
        figures[name] = {"agreement": agreement(held_R, truth), "pearson": float(np.corrcoef(held_R, lengths)[0, 1])}
        print(f"{world} {name}: {figures[name]}", flush=True)
    atomic_write_json(done, figures)
    return figures


def run_one(task: PolicyTask) -> PolicyResult:
    """One policy, trained and measured; what is there already is not done again."""
    finished = task.finished()
    if finished is not None:
        return finished
    reward = f"{(task.folder / task.run.reward_model).resolve()}.py:reward"
    train_policy(dataclasses.replace(policy_config(task), reward=reward))
    start = read_json(task.folder / FOLDER / START / RESULT)
    quality = np.array(start["quality"])
    measured, _ = measure_policy(
        task.place / "policy", task.folder, task.settings, World(task.world), task.run.seed, quality
    )
    shutil.rmtree(task.place / "checkpoints", ignore_errors=True)
    atomic_write_json(task.place / RESULT, {"asked": task.asked, "measured": dataclasses.asdict(measured)})
    return PolicyResult(task.run, measured)


def runs_of(seed: int, options: argparse.Namespace) -> list[PolicyRun]:
    """Twelve runs an arm, arms in turn, so that a sweep that is stopped has all arms alike."""
    arms: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in (*REWARDS, *DIALLED)]
    arms += [("vanilla", {"length_penalty": penalty}) for penalty in options.penalties]
    by_arm = []
    for reward, mitigation in arms:
        ppo = grid(
            reward,
            ("ppo",),
            options.betas,
            options.rates,
            seed=seed,
            experience_size=options.ppo_experience,
            **mitigation,
        )
        by_arm.append(ppo + grid(reward, ("remax",), options.betas, options.rates, seed=seed, **mitigation))
    return [run for runs in zip(*by_arm, strict=True) for run in runs]


def policies_of(world: str, options: argparse.Namespace) -> tuple[dict[str, Any], Policies]:
    """Rewards and policies of one world."""
    named, seed = WORLDS[world], options.seed
    folder = options.output / f"{world}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    figures = bag_rewards(world, seed, options.pairs, folder)
    config = QuickstartConfig(output=str(folder), seed=seed, pairs=options.pairs, **named.writers, **named.bias)
    if not (folder / "initial_model").is_dir():
        write_data(config, folder / "data")
        save_tiny_model(folder / "initial_model", seed, hidden=options.hidden, layers=options.layers, overwrite=True)
    settings = SweepSettings(
        sweep="full",
        sft_steps=options.sft_steps,
        policy_responses=options.responses,
        max_new_tokens=options.max_new_tokens,
        workers=1,
    )
    start: Measured = train_start(folder, settings, named.world, seed)
    print(f"{world} start: {start.words()}", flush=True)
    results, runs = [], runs_of(seed, options)
    for number, run in enumerate(runs, start=1):
        try:
            results.append(run_one(PolicyTask(folder, run, settings, named.world.settings)))
        except NumericalError as error:
            print(f"{number}/{len(runs)} {run.name} left out. {error}", flush=True)
            continue
        print(f"{number}/{len(runs)} {run.name}: {results[-1].measured.words()}", flush=True)
    return figures, Policies(start, results, named.world.optimum_tokens())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/rl_worlds"))
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=["good_writers_write_more", "linear"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--responses", type=int, default=1280)
    parser.add_argument("--max_new_tokens", type=int, default=56)
    parser.add_argument("--sft_steps", type=int, default=130)
    parser.add_argument("--hidden", type=int, default=48)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--ppo_experience", type=int, default=128)
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--penalties", type=float, nargs="*", default=[0.04])
    parser.add_argument("--first", choices=[*REWARDS, *DIALLED], default="matched", help="the arm to compare with")
    parser.add_argument("--bootstrap_samples", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    for world in options.worlds:
        figures, policies = policies_of(world, options)
        comparison = compare_policies(policies, first=options.first, samples=options.bootstrap_samples, seed=0)
        content = {
            "rewards": figures,
            **comparison,
            "runs": [result.to_json() for result in policies.results],
            "seconds": time.perf_counter() - started,
        }
        atomic_write_json(options.output / f"{world}.json", content)
        (options.output / f"{world}.png").write_bytes(still_files(draw_panels([policy_front(policies)]))[0])
        shown = table(comparison, first=options.first)
        print(f"\n{world}, optimum {policies.optimum_tokens:.1f} tokens\n\n{shown}\n", flush=True)


if __name__ == "__main__":
    main()
