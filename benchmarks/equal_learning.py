"""What is learnt in trees, packed rows and padded batches: held-out loss and accuracy after the same pairs.

    make bench-equal-learning ARGS="--data FILE --output FILE.json"

Two settings, some seeds each, every batch layout: the quickstart's data and settings on the testbed, and a small Llama
from scratch on a file of real preferences (a tenth of its prompts held out). A seed draws heads, held-out prompts and
the order of the pairs, on the testbed also data and model; layouts of one seed differ in rounding alone. Printed:
figures by layout, and how far layouts are apart within a seed against how far seeds are apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from benchmarks.shared.reward_setup import make_tokenizer, save_models
from odin_rm.core.files import atomic_write_json, environment_record, json_safe
from odin_rm.reward.config import RewardConfig
from odin_rm.testbed.experiment import QuickstartConfig, reward_config, write_data
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.workflows.reward.run import train_reward_model

LAYOUTS = ("padded", "packed", "tree")
FIGURES = ("loss", "accuracy", "pearson")


def testbed(folder: Path, seed: int, options: argparse.Namespace, **changes: Any) -> RewardConfig:
    """The quickstart's ODIN arm with a held-out file."""
    settings = QuickstartConfig(output=str(folder), seed=seed)
    if not (folder / "initial_model").exists():
        with contextlib.redirect_stdout(io.StringIO()):
            write_data(settings, folder / "data")
            save_tiny_model(folder / "initial_model", seed)
    held_out = str(folder / "data" / "held_out.jsonl")
    evaluation = {"eval_dataset": held_out, "eval_strategy": "epoch", "max_steps": options.steps}
    return reward_config(settings, folder, "odin", **evaluation, **changes)


def real(folder: Path, seed: int, options: argparse.Namespace, **changes: Any) -> RewardConfig:
    """A Llama from scratch on real preferences."""
    if not (folder / "backbone").exists():
        save_models(folder, make_tokenizer(options.data), options.layers, options.hidden, options.max_length)
    return RewardConfig(
        model=str(folder / "backbone"),
        dataset=options.data,
        eval_fraction=0.1,
        eval_strategy="epoch",
        on_bad_row="skip",
        overlong="drop",
        max_length=options.max_length,
        batch_pairs=32,
        microbatch_tokens=8192,
        learning_rate=3e-4,
        num_train_epochs=1,
        max_steps=options.steps,
        save_strategy="no",
        seed=seed,
        use_cpu=True,
        **changes,
    )


def last_figures(run: Path) -> dict[str, float]:
    """Held-out figures of the last evaluation in a run's log."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    row = [row for row in rows if "eval_loss" in row][-1]
    return {name: row[f"eval_{name}"] for name in FIGURES}


def run_one(make: Any, folder: Path, seed: int, options: argparse.Namespace, layout: str) -> dict[str, float]:
    """Train with one layout."""
    own = {
        "output_dir": str(folder / layout),
        "overwrite_output_dir": True,
        "batch_layout": layout,
        "disable_tqdm": True,
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return last_figures(train_reward_model(make(folder, seed, options, **own)))


def spreads(runs: list[dict[str, Any]], figure: str) -> tuple[float, float]:
    """Largest distance of two layouts of one seed; standard deviation over seeds of the padded runs."""
    seeds = sorted({run["seed"] for run in runs})
    by_seed = [[run[figure] for run in runs if run["seed"] == seed] for seed in seeds]
    padded = [run[figure] for run in runs if run["layout"] == "padded"]
    return max(max(own) - min(own) for own in by_seed), float(np.std(padded, ddof=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="real preferences; without it, the testbed alone")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=-1, help="optimiser steps; -1 is one epoch (testbed: three)")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--max_length", type=int, default=768)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: dict[str, list[dict[str, Any]]] = {}
    for name, make in {"testbed": testbed, **({"real": real} if options.data else {})}.items():
        runs = found.setdefault(name, [])
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as place:
                for layout in LAYOUTS:
                    runs.append({"layout": layout, "seed": seed, **run_one(make, Path(place), seed, options, layout)})
                    print(name, runs[-1], flush=True)
        for figure in FIGURES:
            layouts, seeds = spreads(runs, figure)
            print(f"{name}, {figure}: layouts of one seed at most {layouts:.1e} apart, seeds deviate by {seeds:.1e}")
        if options.output:
            atomic_write_json(options.output, json_safe({"runs": found, "environment": environment_record()}))


if __name__ == "__main__":
    main()
