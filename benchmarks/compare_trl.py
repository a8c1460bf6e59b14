"""Speed side by side with TRL's RewardTrainer (docs/evidence.md, item 7).

    python -m benchmarks.compare_trl [--data FILE] [--output FILE.json] [--layers 4] [--hidden 192] ...

One process, the same random Llama, the same token ids, the same pairs in each optimiser step, the same optimiser. Both
train plain Bradley-Terry first, so their losses must agree step by step (printed); then ours trains the ODIN objective.
The arms:

* TRL with the whole optimiser batch in one pass, and with accumulated micro-batches of ``--trl_pairs`` pairs;
* the same with the pairs of each step sorted by length beforehand, which TRL does not do (it shows what padding costs);
* ours with the graphs of the scoring pass kept (``--single_pass_tokens``), and with two passes over micro-batches of
  ``--microbatch_tokens`` (the default of ``odin-rm reward``: memory does not grow with the batch);
* ours on data in which no two pairs share a response, which takes the gain of sharing away and leaves that of padding.

All of ours run padded batches here, to tell these gains apart; with prompt trees: ``benchmarks/reward_speed.py``.

Printed per arm, without the warm-up steps: pairs per second (of CPU time on a CPU, which other programs disturb less;
of wall-clock time on a GPU), the ratio to TRL's faster arm, sequences run forward per pair, the share of padding among
the tokens computed, and how far the arm drove the peak of the process's memory.

``--data`` takes any preference file (rows with ``chosen`` equal to ``rejected`` are left out); without it, ranked lists
of four responses from the testbed are used.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.shared.memory import memory_mib, reset_peak
from benchmarks.shared.reward_setup import SHARED, make_tokenizer, our_model, quiet, save_models, without_sharing
from odin_rm.core.files import atomic_write_json, environment_record, json_safe
from odin_rm.data.batching import plan_epoch
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer


@dataclass
class Arm:
    """What one arm did in its measured steps.

    Attributes:
        name: of the arm.
        pairs: optimised.
        seconds: of wall-clock time.
        cpu_seconds: of this process.
        sequences: run forward, repetitions counted.
        tokens: of those sequences, without padding.
        computed: tokens with padding.
        peak_mib: how far the peak of memory lay above the memory before the arm; ``None`` where it cannot be read.
        losses: the ranking loss of every step, warm-up included.
    """

    name: str
    pairs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sequences: int = 0
    tokens: int = 0
    computed: int = 0
    peak_mib: float | None = None
    losses: list[float] = field(default_factory=list)

    def rate(self) -> float:
        """Pairs per second."""
        return self.pairs / (self.seconds if torch.cuda.is_available() else self.cpu_seconds)


@dataclass(frozen=True)
class Work:
    """What every arm does: the pairs of each step, how many steps are warm-up, and the tokenizer."""

    plan: list[np.ndarray]
    warmup: int
    tokenizer: Any


class Stopwatch(transformers.TrainerCallback):
    """Measures from the end of the warm-up steps to the end of the last one, and counts what the model runs forward."""

    def __init__(self, arm: Arm, warmup: int, batch_pairs: int) -> None:
        self.arm, self.warmup, self.batch_pairs = arm, warmup, batch_pairs
        self.counting = False

    def watch(self, classifier: torch.nn.Module) -> None:
        """Count every forward pass of the classifier."""
        classifier.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self.counting:
            self.arm.sequences += len(kwargs["input_ids"])
            self.arm.computed += kwargs["input_ids"].numel()
            self.arm.tokens += int(kwargs["attention_mask"].sum())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start after the warm-up, then add up to here."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        if self.counting:
            self.arm.seconds = now[0] - self.started[0]
            self.arm.cpu_seconds = now[1] - self.started[1]
            self.arm.pairs += self.batch_pairs
        elif state.global_step == self.warmup:
            self.started, self.counting = now, True


def ranked_rows(prompts: int = 300) -> list[dict[str, Any]]:
    """Ranked lists of four responses."""
    from odin_rm.testbed.annotator import Annotator, make_ranked_lists
    from odin_rm.testbed.world import World, WorldSettings

    world = World(WorldSettings())
    return make_ranked_lists(world, Annotator(world), prompts, 4, 0)


def run_ours(arm: Arm, backbone: Path, data: TokenisedPreferences, work: Work, **settings: Any) -> None:
    """Train one arm of ours on the pairs of the plan."""
    config = RewardConfig(
        output_dir=str(backbone.parent / "ours"),
        batch_pairs=len(work.plan[0]),
        max_steps=len(work.plan),
        use_cpu=not torch.cuda.is_available(),
        **SHARED,
        **settings,
    )
    watch = Stopwatch(arm, work.warmup, len(work.plan[0]))
    model = our_model(backbone, config.objective)
    trainer = RewardTrainer(model, config, data, tokenizer=work.tokenizer, callbacks=[watch])
    trainer.batches.plan, trainer.batches.steps = work.plan, len(work.plan)
    watch.watch(model.classifier)
    value_of = trainer.objective.value

    def noted(*given: Any) -> Any:
        parts = value_of(*given)
        arm.losses.append(float(parts.metrics["ranking_loss"]))
        return parts

    trainer.objective.value = noted  # type: ignore[method-assign]
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def run_trl(arm: Arm, classifier: Path, data: TokenisedPreferences, work: Work, pairs: int) -> None:
    """Train TRL's RewardTrainer on the pairs of the plan, ``pairs`` at a time, accumulated to whole batches."""
    import datasets
    import trl

    order = np.concatenate(work.plan)
    columns = {"chosen_ids": data.pair_chosen[order], "rejected_ids": data.pair_rejected[order]}
    rows = {name: [data.input_ids(int(r)).tolist() for r in column] for name, column in columns.items()}
    arguments = trl.RewardConfig(
        output_dir=str(classifier.parent / "trl"),
        per_device_train_batch_size=pairs,
        gradient_accumulation_steps=len(work.plan[0]) // pairs,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        max_length=None,  # the ids are cut already
        max_steps=len(work.plan),
        use_cpu=not torch.cuda.is_available(),
        **SHARED,
    )
    watch = Stopwatch(arm, work.warmup, len(work.plan[0]))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32)
    trainer = trl.RewardTrainer(
        model,
        arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=work.tokenizer,
        callbacks=[watch],
    )
    watch.watch(model)
    step = trainer.training_step
    losses = [0.0] * len(work.plan)

    def noted(*given: Any, **named: Any) -> torch.Tensor:
        loss = step(*given, **named)
        losses[trainer.state.global_step] += float(loss)
        return loss

    trainer.training_step = noted
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    arm.losses = losses


def by_length(work: Work, data: TokenisedPreferences) -> Work:
    """The same steps with the pairs of each in order of length, which TRL does not do itself."""
    tokens = np.maximum(data.sequence_tokens[data.pair_chosen], data.sequence_tokens[data.pair_rejected])
    return replace(work, plan=[batch[np.argsort(tokens[batch], kind="stable")] for batch in work.plan])


def full_batches(data: TokenisedPreferences, options: argparse.Namespace) -> list[np.ndarray]:
    """Optimiser batches of our planner from all over the epoch, all of full size (TRL's are)."""
    planned = plan_epoch(data, options.batch_pairs, options.max_pairs_per_prompt, 0, 0)
    size = max(map(len, planned))
    size -= size % options.trl_pairs
    full = [batch[:size] for batch in planned if len(batch) >= size]
    wanted = options.warmup + options.steps
    if size == 0 or len(full) < wanted:
        raise SystemExit("too few pairs for these steps; give a smaller --batch_pairs or fewer --steps")
    return [full[round(i)] for i in np.linspace(0, len(full) - 1, wanted)]


def measured(name: str, run: Callable[[Arm], None]) -> Arm:
    """Run an arm and read how far it drove the peak of memory."""
    gc.collect()
    arm = Arm(name)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(arm)
        arm.peak_mib = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        before_mib = reset_peak()
        run(arm)
        arm.peak_mib = None if before_mib is None else memory_mib("VmHWM") - before_mib
    print(f"{name}: {arm.rate():.2f} pairs/s", file=sys.stderr)
    return arm


def run_all(options: argparse.Namespace, folder: Path) -> tuple[list[Arm], TokenisedPreferences]:
    """Every arm, one after the other."""
    source: Any = options.data or ranked_rows()
    tokenizer = make_tokenizer(source)
    settings = EncodingSettings(max_length=options.max_length, overlong="drop")
    data = load_preferences(source, tokenizer, settings, on_bad_row="skip", cache_dir=folder / "cache")
    backbone, classifier = save_models(folder, tokenizer, options.layers, options.hidden, options.max_length)
    work = Work(full_batches(data, options), options.warmup, tokenizer)
    apart = without_sharing(data)
    whole, part = len(work.plan[0]), options.trl_pairs
    budget: dict[str, Any] = {"microbatch_tokens": options.microbatch_tokens}
    kept = {**budget, "single_pass_tokens": options.single_pass_tokens}
    plain = {"objective": "bradley_terry"}
    if "batch_layout" in RewardConfig.__dataclass_fields__:
        budget["batch_layout"] = kept["batch_layout"] = "padded"
    runs: list[tuple[str, Callable[[Arm], None]]] = [
        ("TRL, one pass", lambda arm: run_trl(arm, classifier, data, work, whole)),
        (f"TRL, {part} pairs at a time", lambda arm: run_trl(arm, classifier, data, work, part)),
        (
            f"(TRL, {part} at a time, sorted by us)",
            lambda arm: run_trl(arm, classifier, data, by_length(work, data), part),
        ),
        ("ours, graphs kept", lambda arm: run_ours(arm, backbone, data, work, **plain, **kept)),
        ("ours, two passes", lambda arm: run_ours(arm, backbone, data, work, **plain, **budget)),
        ("ours, graphs kept, nothing shared", lambda arm: run_ours(arm, backbone, apart, work, **plain, **kept)),
        ("ours, ODIN, graphs kept", lambda arm: run_ours(arm, backbone, data, work, **kept)),
        ("ours, ODIN, two passes", lambda arm: run_ours(arm, backbone, data, work, **budget)),
    ]
    return [measured(name, run) for name, run in runs], data


def table(arms: list[Arm]) -> str:
    """One line an arm; the ratio is to the faster arm of TRL."""
    peer = max(arm.rate() for arm in arms if arm.name.startswith("TRL"))
    lines = [
        "| arm | pairs/s | against TRL | sequences per pair | padding | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        peak = "" if arm.peak_mib is None else f"{arm.peak_mib:.0f}"
        lines.append(
            f"| {arm.name} | {arm.rate():.2f} | {arm.rate() / peer:.2f} | {arm.sequences / arm.pairs:.2f} "
            f"| {1 - arm.tokens / arm.computed:.1%} | {peak} |"
        )
    return "\n".join(lines)


def loss_difference(arms: list[Arm]) -> float:
    """Largest difference of a step's Bradley-Terry loss between arms, ODIN's left out."""
    losses = np.array([arm.losses for arm in arms if "ODIN" not in arm.name])
    return float(np.ptp(losses, axis=0).max())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--batch_pairs", type=int, default=32)
    parser.add_argument("--trl_pairs", type=int, default=8, help="TRL's default per_device_train_batch_size")
    parser.add_argument("--max_pairs_per_prompt", type=int, default=8)
    parser.add_argument("--microbatch_tokens", type=int, default=4096)
    parser.add_argument("--single_pass_tokens", type=int, default=1_000_000)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    quiet()
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        arms, data = run_all(options, Path(folder))
    print(table(arms))
    print(f"\nBradley-Terry losses of {len(arms[0].losses)} steps differ by at most {loss_difference(arms):.1e}.")
    found: dict[str, Any] = {"arms": [{**asdict(arm), "pairs_per_second": arm.rate()} for arm in arms]}
    settings = vars(options) | {"data": Path(options.data).name if options.data else "testbed", "output": None}
    found |= {"settings": settings, "environment": environment_record()}
    found |= {"loss_difference": loss_difference(arms), "pairs": data.num_pairs, "responses": data.num_responses}
    print(json.dumps(json_safe(found)))
    if options.output:
        atomic_write_json(options.output, found)


if __name__ == "__main__":
    main()
