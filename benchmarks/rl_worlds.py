"""Policies on rewards of three objectives in the testbed's named worlds (docs/evidence.md, item 43).

    python -m benchmarks.rl_worlds [--worlds good_writers_write_more linear] [--seeds 0] [--responses 6400] [--workers 2]

In each world: the quickstart's data, three reward models (plain, ``odin``, ``matched``) of the same tiny Llama on the
same pairs, a starting policy, and twelve policies for each reward and for the plain one with each of two length
penalties (PPO and ReMax, three betas, two learning rates). Prints a markdown table for each world: length, true quality
and area of each arm, and the front of ``matched`` less that of the others, with intervals over runs. Of the penalties
the better one is taken afterwards, in its favour. A second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.rl_testbed import pooled, table
from odin_rm.core.files import atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.reports.blocks import png_bytes
from odin_rm.testbed.experiment import audit_arm, reward_config, write_data
from odin_rm.testbed.quickstart_config import QuickstartConfig
from odin_rm.testbed.rl_experiment import train_policies
from odin_rm.testbed.rl_figures import Policies, compare_policies
from odin_rm.testbed.rl_story import front_canvas
from odin_rm.testbed.sweep import TRAINED_REWARDS, SweepSettings, objective_sweep
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.worlds import WORLDS
from odin_rm.workflows.reward.run import train_reward_model

SHOWN = ("pearson", "spearman", "true_quality_agreement", "accuracy")


def reward_models(config: QuickstartConfig, folder: Path) -> dict[str, dict[str, float | None]]:
    """Data and reward models of one world; their held-out figures. What is there is not done again."""
    done = folder / "rewards.json"
    if done.is_file():
        found: dict[str, dict[str, float | None]] = read_json(done)
        return found
    write_data(config, folder / "data")
    save_tiny_model(folder / "initial_model", config.seed, hidden=config.hidden, layers=config.layers, overwrite=True)
    figures = {}
    for name in TRAINED_REWARDS:
        run = train_reward_model(reward_config(config, folder, name))
        audit = audit_arm(config, folder, run, name).audit
        figures[name] = {figure: audit[figure].value for figure in SHOWN}
        print(f"{folder.name} {name}: {figures[name]}", flush=True)
    atomic_write_json(done, figures)
    return figures


def policies_of(world: str, seed: int, options: argparse.Namespace) -> tuple[dict[str, Any], Policies]:
    """Rewards and policies of one world and seed."""
    named = WORLDS[world]
    folder = options.output / f"{world}_{seed}"
    config = QuickstartConfig(
        output=str(folder),
        seed=seed,
        pairs=options.pairs,
        bootstrap_samples=100,
        overwrite_output_dir=True,
        **named.writers,
        **named.bias,
    )
    folder.mkdir(parents=True, exist_ok=True)
    figures = reward_models(config, folder)
    settings = SweepSettings(
        sweep="full", policy_responses=options.responses, max_new_tokens=options.max_new_tokens, workers=options.workers
    )
    runs = [run for run in objective_sweep(seed) if not options.arms or run.arm in options.arms]
    say = lambda line: print(line, flush=True)  # noqa: E731
    return figures, train_policies(folder, runs, settings, named.world, seed, say=say)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/rl_worlds"))
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=["good_writers_write_more", "linear"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=[], choices=sorted({run.arm for run in objective_sweep(0)}))
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--responses", type=int, default=SweepSettings().policy_responses)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bootstrap_samples", type=int, default=2000)
    options = parser.parse_args()
    started = time.perf_counter()
    for world in options.worlds:
        found = {seed: policies_of(world, seed, options) for seed in options.seeds}
        together = pooled([policies for _, policies in found.values()])
        comparison = compare_policies(together, first="matched", samples=options.bootstrap_samples, seed=0)
        content = {
            "rewards": {seed: figures for seed, (figures, _) in found.items()},
            **comparison,
            "runs": [result.to_json() for result in together.results],
            "seconds": time.perf_counter() - started,
        }
        atomic_write_json(options.output / f"{world}.json", content)
        (options.output / f"{world}.png").write_bytes(png_bytes(front_canvas(together)))
        print(f"\n{world}, optimum {together.optimum_tokens:.1f} tokens\n\n{table(comparison, first='matched')}\n", flush=True)


if __name__ == "__main__":
    main()
