"""How exact is the gradient of the whole optimiser batch? (docs/evidence.md, item 3)

    python benchmarks/exactness.py [--output FILE.json]

A fixed batch in float32 is differentiated by a naive implementation that scores all 2B slots at once with autograd, and
by the trainer in one pass, 2, 4 and 16 micro-batches, with kept graphs, in shuffled order, with right and left padding,
as trees and as packed rows, and by two processes (gloo, started with torchrun). Printed is the largest difference of a
gradient tensor relative to that tensor's largest entry, and after 20 optimiser steps the largest relative difference of
the weights. A second table has every objective: its gradient against responses that are scored alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from odin_rm.core.types import RewardScores
from odin_rm.data.batching import plan_microbatches
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.model.reward_model import RewardModel
from odin_rm.objectives.objective import Progress
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.loader import RankBatch
from odin_rm.reward.trainer import RewardTrainer

PROMPTS, RESPONSES, PAIRS = 24, 3, 4
LEARNING_RATE = 1e-3
OPTIONS: dict[str, dict[str, Any]] = {
    "odin, squared, both scopes, outputs": {
        "length_measure": "squared",
        "length_scope": "both",
        "orthogonality_of": "outputs",
        "prompt_offset_weight": 0.5,
    },
    "odin, unbiased, both scopes, memory": {"length_measure": "unbiased", "length_scope": "both", "length_memory": 2},
    "odin, tolerance, memory": {"length_tolerance": 0.05, "length_scope": "both", "length_memory": 1},
}
"""Options of an objective that change what its gradient is made of."""


class PadOnly:
    """All that the trainer asks of a tokenizer here."""

    pad_token_id = 0

    def save_pretrained(self, folder: Any) -> None:
        """Nothing to save."""


def make_data(seed: int = 0, prompts: int = PROMPTS) -> TokenisedPreferences:
    """Random token sequences with pairs that share responses and repeat some pairs."""
    rng = np.random.default_rng(seed)
    sequences, tokens, prompt_of, chosen, rejected = [], [], [], [], []
    for prompt in range(prompts):
        start = rng.integers(5, 64, rng.integers(2, 9))
        for _ in range(RESPONSES):
            length = int(rng.integers(2, 25))
            sequences.append(np.concatenate([start, rng.integers(5, 64, length)]))
            tokens.append(length)
            prompt_of.append(prompt)
        for _ in range(PAIRS):
            first, second = rng.choice(RESPONSES, 2, replace=False) + prompt * RESPONSES
            chosen.append(first)
            rejected.append(second)
    return TokenisedPreferences(
        input_ids_flat=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        response_tokens=np.array(tokens, dtype=np.int32),
        response_prompt=np.array(prompt_of, dtype=np.int32),
        pair_chosen=np.array(chosen, dtype=np.int32),
        pair_rejected=np.array(rejected, dtype=np.int32),
        pair_margin=rng.normal(0, 0.1, len(chosen)).astype(np.float32),
        pair_row=np.arange(1, len(chosen) + 1),
    )


def save_tiny_llama(folder: Path) -> Path:
    """A random Llama with features that differ between sequences."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def load_model(folder: Path, objective: str = "odin") -> RewardModel:
    """The same initial reward model each time, with the heads of an objective."""
    spec = OBJECTIVES[objective]
    torch.manual_seed(1)
    return RewardModel.from_backbone(folder, heads=spec.heads, normalise_heads=spec.normalise_heads)


def naive_loss(model: RewardModel, data: TokenisedPreferences, pairs: np.ndarray) -> torch.Tensor:
    """The paper's formulas on all 2B slots at once, one sequence at a time, straight from the hidden states."""
    hidden = []
    slots = np.concatenate([data.pair_chosen[pairs], data.pair_rejected[pairs]])
    for response in slots:
        ids = torch.tensor(data.input_ids(int(response)), dtype=torch.long)[None]
        hidden.append(model.classifier.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1])
    features = torch.stack(hidden)
    unit = {}
    for name, vector in model.heads.vectors.items():
        centred = vector - vector.mean()
        unit[name] = centred / centred.norm()
    quality, length = features @ unit["quality"], features @ unit["length"]
    tokens = torch.tensor(data.response_tokens[slots], dtype=torch.float32)
    half = len(pairs)
    margin = torch.tensor(data.pair_margin[pairs])
    total = quality + length
    ranking = -torch.nn.functional.logsigmoid(total[:half] - total[half:] - margin).mean()
    rho_quality = torch.corrcoef(torch.stack([quality, tokens]))[0, 1]
    rho_length = torch.corrcoef(torch.stack([length, tokens]))[0, 1]
    return ranking + (rho_quality.abs() - rho_length) + (unit["quality"] @ unit["length"]).abs()


def value_alone(trainer: RewardTrainer) -> torch.Tensor:
    """The trainer's objective on its first batch with each response alone in its forward pass, for any objective."""
    model, batch = trainer._reward_model(), trainer.batches[0]
    hidden = []
    for response in batch.batch.responses:
        ids = torch.tensor(trainer.train_data.input_ids(int(response)), dtype=torch.long)[None]
        hidden.append(model.classifier.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1])
    feature_RD = torch.stack(hidden)
    columns = {name: (feature_RD @ model.heads.effective(name)).double() for name in model.heads.names}
    feature = feature_RD.double() if trainer.objective.reads_feature else None
    progress = Progress(1, trainer.args.max_steps)
    value = trainer.objective.value(RewardScores(heads=columns, feature=feature), batch, progress)
    term = trainer.objective.head_term(model.heads, progress)
    return value.total if term is None else value.total + term


def objective_options(name: str) -> dict[str, Any]:
    """The options of an objective of the table, or of a name of :data:`OPTIONS`."""
    return {"objective": name.partition(",")[0], **OPTIONS.get(name, {})}


def measure_objective(name: str, folder: Path, output: str, steps: int = 20) -> dict[str, dict[str, float]]:
    """Every variant of an objective: its first gradient against responses alone, its weights against one pass."""
    data = make_data()
    options: dict[str, Any] = {**objective_options(name), "max_steps": steps}
    probe = make_trainer(folder, data, output, **options)
    lengths = np.asarray(data.sequence_tokens)[probe.batches[0].batch.responses]
    value_alone(probe).backward()
    expected = gradients(probe._reward_model())
    reference: dict[str, torch.Tensor] = {}
    results: dict[str, dict[str, float]] = {}
    for variant, changes in variants(lengths).items():
        shuffle = changes.pop("shuffle", False)
        trainer = make_trainer(folder, data, output, **options, **changes)
        difference = worst(step_gradients(trainer, shuffle), expected)
        trainer = make_trainer(folder, data, output, **options, **changes)
        trainer.train()
        weights = {n: p.detach() for n, p in trainer._reward_model().named_parameters()}
        reference = reference or weights
        results[variant] = {"gradient": difference, "weights": worst(weights, reference)}
    layouts = ("padded", "tree")
    jobs = [TwoProcesses(layout, objective=name, steps=steps) for layout in layouts]
    for layout, two in zip(layouts, run_two_processes(folder, output, budget_for(lengths, 4), jobs), strict=True):
        far = {"gradient": worst(two["gradients"], expected), "weights": worst(two["weights"], reference)}
        results[f"two processes, {layout}"] = far
    return results


def gradients(model: RewardModel) -> dict[str, torch.Tensor]:
    """A copy of every gradient by name."""
    return {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference of a tensor relative to its own largest entry."""
    assert set(found) == set(expected), set(found) ^ set(expected)
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max()) for n in expected)


def budget_for(lengths: np.ndarray, micro_batches: int) -> int:
    """The smallest token budget that gives at most so many micro-batches."""
    low, high = int(lengths.max()), int(lengths.max() * len(lengths))
    while low < high:
        middle = (low + high) // 2
        if len(plan_microbatches(lengths, middle)[0]) <= micro_batches:
            high = middle
        else:
            low = middle + 1
    return low


def make_trainer(
    folder: Path, data: TokenisedPreferences, output: str, *, padding_side: str = "right", **options: Any
) -> RewardTrainer:
    """A trainer whose optimiser batch is half of the data set."""
    settings: dict[str, Any] = {
        "batch_pairs": data.num_pairs // 2,
        "max_pairs_per_prompt": PAIRS,
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "optim": "adamw_torch",
        "batch_layout": "padded",
        **options,
    }
    config = RewardConfig(output_dir=output, **settings)
    model = load_model(folder, config.objective)
    return RewardTrainer(model, config, data, tokenizer=PadOnly(), padding_side=padding_side)


def step_gradients(trainer: RewardTrainer, shuffle: bool = False) -> dict[str, torch.Tensor]:
    """Gradients of the first optimiser batch by the trainer's own training step."""
    batch = trainer.batches[0]
    if shuffle:
        batch = shuffled(trainer, batch)
    trainer.model.zero_grad()
    trainer.training_step(trainer.model_wrapped, batch)
    return gradients(trainer._reward_model())


def shuffled(trainer: RewardTrainer, batch: RankBatch) -> RankBatch:
    """The same batch with its pairs and its micro-batches in another order."""
    order = np.random.default_rng(3).permutation(trainer.batches.plan[0])
    mixed = trainer.batches.build(order)
    return replace(mixed, micro_batches=mixed.micro_batches[::-1])


def variants(lengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """Name -> options of every way to compute the same gradient in one process."""
    everything = int(lengths.max() * len(lengths))
    quarter = budget_for(lengths, 4)
    return {
        "one pass": {"microbatch_tokens": everything},
        "2 micro-batches": {"microbatch_tokens": budget_for(lengths, 2)},
        "4 micro-batches": {"microbatch_tokens": quarter},
        "16 micro-batches": {"microbatch_tokens": budget_for(lengths, 16)},
        "4 micro-batches, graphs kept": {"microbatch_tokens": quarter, "single_pass_tokens": 10**9},
        "4 micro-batches, shuffled": {"microbatch_tokens": quarter, "shuffle": True},
        "4 micro-batches, left padding": {"microbatch_tokens": quarter, "padding_side": "left"},
        "tree, one pass": {"batch_layout": "tree", "microbatch_tokens": everything},
        "trees, several": {"batch_layout": "tree", "microbatch_tokens": quarter // 2},
        "trees, groups split": {"batch_layout": "tree", "microbatch_tokens": int(lengths.max())},
        "trees, graphs kept": {"batch_layout": "tree", "microbatch_tokens": quarter // 2, "single_pass_tokens": 10**9},
        "trees, some kept": {
            "batch_layout": "tree",
            "microbatch_tokens": quarter // 2,
            "single_pass_tokens": 300,
        },
        "trees, dense mask": {"batch_layout": "tree", "tree_attention": "dense", "microbatch_tokens": quarter // 2},
        "packed": {"batch_layout": "packed", "microbatch_tokens": quarter},
        "any layout, measured budget": {"batch_layout": "auto", "microbatch_tokens": "auto"},
    }


def measure(folder: Path, output: str, steps: int = 20) -> dict[str, dict[str, float]]:
    """Every variant against the naive gradient, and its weights after some steps against one pass."""
    save_tiny_llama(folder)
    data = make_data()
    probe = make_trainer(folder, data, output)
    pairs = probe.batches.plan[0]
    lengths = np.asarray(data.sequence_tokens)[probe.batches[0].batch.responses]
    model = load_model(folder)
    naive_loss(model, data, pairs).backward()
    expected = gradients(model)
    results: dict[str, dict[str, float]] = {}
    reference: dict[str, torch.Tensor] = naive_weights(folder, data, probe, steps)
    for name, options in variants(lengths).items():
        shuffle = options.pop("shuffle", False)
        trainer = make_trainer(folder, data, output, **options)
        count = len(trainer.batches[0].micro_batches)
        difference = worst(step_gradients(trainer, shuffle), expected)
        trainer = make_trainer(folder, data, output, max_steps=steps, **options)
        trainer.train()
        weights = {n: p.detach() for n, p in trainer._reward_model().named_parameters()}
        results[name] = {"micro_batches": count, "gradient": difference, "weights": worst(weights, reference)}
    layouts = ("padded", "tree")
    jobs = [TwoProcesses(layout, steps=steps) for layout in layouts]
    for layout, two in zip(layouts, run_two_processes(folder, output, budget_for(lengths, 4), jobs), strict=True):
        results[f"two processes, {layout}"] = {
            "micro_batches": two["micro_batches"],
            "gradient": worst(two["gradients"], expected),
            "weights": worst(two["weights"], reference),
        }
    return results


def naive_weights(folder: Path, data: TokenisedPreferences, probe: RewardTrainer, steps: int) -> dict[str, Any]:
    """Weights after some AdamW steps on the naive loss, over the same plan of batches."""
    model = load_model(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(steps):
        probe.batches.set_epoch(step // len(probe.batches))
        optimiser.zero_grad()
        naive_loss(model, data, probe.batches.plan[step % len(probe.batches)]).backward()
        optimiser.step()
    probe.batches.set_epoch(0)
    return {n: p.detach() for n, p in model.named_parameters()}


@dataclass(frozen=True)
class TwoProcesses:
    """What two processes are to train: an objective in a layout, for some steps.

    Attributes:
        layout, kept: ``batch_layout`` and ``single_pass_tokens``.
        objective: a name of the registry or of :data:`OPTIONS`.
        steps: of the optimiser.
    """

    layout: str = "padded"
    kept: int = 0
    objective: str = "odin"
    steps: int = 20


def run_two_processes(
    folder: Path, output: str, microbatch_tokens: int, jobs: Sequence[TwoProcesses]
) -> list[dict[str, Any]]:
    """Start this script under torchrun with two processes, once for all jobs, and read what rank 0 saved of each."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "rank0.pt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
        command += ["--worker", str(target), "--model", str(folder), "--microbatch_tokens", str(microbatch_tokens)]
        command += ["--scratch", output, "--jobs", json.dumps([asdict(job) for job in jobs])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300 * len(jobs))
        if done.returncode:
            raise RuntimeError(f"torchrun failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return torch.load(target, weights_only=True)


def worker(arguments: argparse.Namespace) -> None:
    """One of two processes: for each job a gradient of the first batch, then some steps; rank 0 saves both."""
    data = make_data()
    found: list[dict[str, Any]] = []
    for job in (TwoProcesses(**values) for values in json.loads(arguments.jobs)):
        options: dict[str, Any] = {
            "ddp_backend": "gloo",
            "microbatch_tokens": arguments.microbatch_tokens,
            "batch_layout": job.layout,
            "single_pass_tokens": job.kept,
            **objective_options(job.objective),
        }
        trainer = make_trainer(Path(arguments.model), data, arguments.scratch, **options)
        trainer.model_wrapped = trainer.accelerator.prepare(trainer.model)
        count = len(trainer.batches[0].micro_batches)
        gradient = step_gradients(trainer)
        trainer = make_trainer(Path(arguments.model), data, arguments.scratch, max_steps=job.steps, **options)
        trainer.train()
        weights = {n: p.detach() for n, p in trainer._reward_model().named_parameters()}
        found.append({"gradients": gradient, "weights": weights, "micro_batches": count})
    if trainer.is_world_process_zero():
        torch.save(found, arguments.worker)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # a wrapper still holds the group, and torch may abort when both go as the program ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    every = [*OBJECTIVES, *OPTIONS]
    parser.add_argument("--objectives", nargs="*", choices=every, default=every)
    parser.add_argument("--objectives_only", action="store_true", help="leave the first table out")
    for name in ("--worker", "--model", "--scratch", "--jobs"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--microbatch_tokens", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if arguments.worker:
        worker(arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        save_tiny_llama(Path(scratch) / "model")
        alone = arguments.objectives_only
        results = {} if alone else measure(Path(scratch) / "model", scratch, arguments.steps)
        others = {
            name: measure_objective(name, Path(scratch) / "model", scratch, arguments.steps)
            for name in arguments.objectives
        }
    print("| variant | micro-batches per rank | gradient | weights after the steps |\n|---|---|---|---|")
    for name, row in results.items():
        print(f"| {name} | {row['micro_batches']} | {row['gradient']:.1e} | {row['weights']:.1e} |")
    print("\n| objective | worst gradient over all ways | worst weights |\n|---|---|---|")
    for name, ways in others.items():
        far = [max(way[what] for way in ways.values()) for what in ("gradient", "weights")]
        print(f"| {name} | {far[0]:.1e} | {far[1]:.1e} |")
    if arguments.output:
        whole = {**results, "objectives": others}
        arguments.output.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
