"""Arms of a reward-training benchmark: our trainer and TRL's on the same pairs, step by step, with what each computes.

An arm's time is that of its own training loop from the fetching of a batch to the end of the optimiser step. What it
computes is counted at the embedding, where every position of every forward pass goes through, padding included. What it
*had* to compute are the distinct tokens of a step: what its sequences begin with alike once, and the rest of each
distinct sequence once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.shared.memory import memory_mib, reset_peak
from benchmarks.shared.relay import Turns
from benchmarks.shared.reward_setup import SHARED, our_model
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer


@dataclass
class Arm:
    """What one arm did, step by step, warm-up included.

    Attributes:
        name: of the arm.
        settings: what it was given beyond what all are given.
        steps: per step ``seconds`` (wall clock), ``cpu_seconds`` (of the process), ``pairs``, ``peak_mib`` (how far the
            peak of memory lay above that before the step, or with ``Work.alone`` before the first one; ``None`` where
            it cannot be read), ``positions`` run through the model, ``differentiated`` (those of them with a graph) and
            ``padding`` among them.
        losses: of every step.
        error: why there is no more.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Work:
    """What all arms share.

    Attributes:
        data: tokenised preferences.
        plan: pair numbers of each step, all of one size.
        tokenizer: gives the pad token.
        backbone, classifier: model folders, ours and TRL's.
        device: ``cpu`` or ``cuda``.
        bf16: passes in bfloat16 by autocast.
        dtype: of the weights.
        threads: of torch on a CPU; 0 leaves them alone.
        alone: each arm has a process of its own, so memory is counted from the beginning of training.
    """

    data: TokenisedPreferences
    plan: list[np.ndarray]
    tokenizer: Any
    backbone: Path
    classifier: Path
    device: str = "cpu"
    bf16: bool = False
    dtype: torch.dtype = torch.float32
    threads: int = 0
    alone: bool = False

    def arguments(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Arguments that both trainers take."""
        own = {"bf16": self.bf16, "use_cpu": self.device == "cpu", "max_steps": len(self.plan)}
        return SHARED | own | settings


class Unsupported(Exception):
    """This version of the package has no such setting."""


class StepClock(transformers.TrainerCallback):
    """Times each step, counts what the model runs, and hands the baton on.

    Args:
        arm: takes the figures.
        work: the steps.
        baton: the arm's turns.
    """

    def __init__(self, arm: Arm, work: Work, baton: Turns) -> None:
        self.arm, self.work, self.baton = arm, work, baton
        self._before: float | None = None
        self._seen: list[tuple[int, torch.Tensor, bool]] = []

    def watch(self, classifier: Any) -> None:
        """Count the positions of every forward pass of a classifier."""
        pad = self.work.tokenizer.pad_token_id

        @torch.compiler.disable  # a compiled model would be compiled anew for each count
        def count(module: Any, args: Any, kwargs: Any) -> None:
            ids = args[0] if args else kwargs["input"]
            self._seen.append((ids.numel(), (ids == pad).sum(), torch.is_grad_enabled()))

        classifier.get_input_embeddings().register_forward_pre_hook(count, with_kwargs=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the first step."""
        if self.work.alone:
            self._before = reset_peak()
        self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a step; start the next when it is this arm's turn again."""
        if self.work.device == "cuda":
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.work.device == "cuda" else memory_or_none()
        self.arm.steps.append(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "pairs": len(self.work.plan[len(self.arm.steps)]),
                "peak_mib": None if peak is None or self._before is None else peak - self._before,
                "positions": sum(n for n, _, _ in self._seen),
                "differentiated": sum(n for n, _, graph in self._seen if graph),
                "padding": sum(int(padding) for _, padding, _ in self._seen),
            }
        )
        self.baton.hand_over()
        self._start()

    def _start(self) -> None:
        self._seen.clear()
        gc.collect()
        if self.work.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        elif not self.work.alone:
            self._before = reset_peak()
        self._started = time.perf_counter(), time.process_time()


def memory_or_none() -> float | None:
    """Peak memory of the process in MiB, where the kernel tells it."""
    try:
        return memory_mib("VmHWM")
    except (OSError, ValueError):
        return None


def train_ours(arm: Arm, work: Work, baton: Turns) -> None:
    """Our trainer on the steps of the plan; ``arm.settings`` are those of ``odin-rm reward``.

    Raises:
        Unsupported: a setting that this version does not know.
    """
    given = {"objective": "bradley_terry", **arm.settings}
    if unknown := set(given) - {f.name for f in fields(RewardConfig)}:
        raise Unsupported(f"no setting {', '.join(sorted(unknown))} in this version")
    size = len(work.plan[0])
    folder = str(work.backbone.parent / "ours")
    config = RewardConfig(output_dir=folder, batch_pairs=size, **work.arguments(given))
    clock = StepClock(arm, work, baton)
    model = our_model(work.backbone, config.objective, work.dtype)
    trainer = RewardTrainer(model, config, work.data, tokenizer=work.tokenizer, callbacks=[clock])
    trainer.batches.plan, trainer.batches.steps = work.plan, len(work.plan)
    _train(trainer, model.classifier, clock, work)


def train_trl(arm: Arm, work: Work, baton: Turns) -> None:
    """TRL's trainer on the steps of the plan, ``arm.settings["pairs"]`` at a time, accumulated to whole steps.

    Its other settings are those of TRL.
    """
    import datasets
    import trl

    pairs = int(arm.settings["pairs"])
    order = np.concatenate(work.plan)
    columns = {"chosen_ids": work.data.pair_chosen[order], "rejected_ids": work.data.pair_rejected[order]}
    rows = {name: [work.data.input_ids(int(r)).tolist() for r in column] for name, column in columns.items()}
    given = {
        "per_device_train_batch_size": pairs,
        "gradient_accumulation_steps": len(work.plan[0]) // pairs,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "max_length": None,  # the ids are cut already
        **{name: value for name, value in arm.settings.items() if name != "pairs"},
    }
    arguments = trl.RewardConfig(output_dir=str(work.classifier.parent / "trl"), **work.arguments(given))
    clock = StepClock(arm, work, baton)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(work.classifier, dtype=work.dtype)
    trainer = trl.RewardTrainer(
        model,
        arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=work.tokenizer,
        callbacks=[clock],
    )
    _train(trainer, model, clock, work)


def _train(trainer: Any, classifier: Any, clock: StepClock, work: Work) -> None:
    """Train with the clock on, and keep the losses (summed over the micro-batches of a step)."""
    if work.threads:
        torch.set_num_threads(work.threads)
    clock.watch(classifier)
    step = trainer.training_step
    losses: list[Any] = [0.0] * len(work.plan)

    def noted(*given: Any, **named: Any) -> torch.Tensor:
        loss = step(*given, **named)
        losses[trainer.state.global_step] += loss.detach()
        return loss

    trainer.training_step = noted
    trainer.remove_callback(transformers.PrinterCallback)
    try:
        trainer.train()
    finally:
        clock.arm.losses = [float(loss) for loss in losses[: len(clock.arm.steps)]]
        # The loop's frames hold tensors of the last step; without this an arm that fails keeps its memory.
        trainer.optimizer = trainer.model_wrapped = None
        gc.collect()
        if work.device == "cuda":
            torch.cuda.empty_cache()


def grouped_by_length(plan: list[np.ndarray], data: TokenisedPreferences, warmup: int) -> list[np.ndarray]:
    """The pairs of all measured steps in the order of transformers' length grouping, cut into steps again.

    TRL takes ``train_sampling_strategy="group_by_length"`` (with a length column and ``remove_unused_columns=False``).
    Its sampler sorts stretches of up to 50 steps; here it is the measured steps together. Warm-up steps are sorted each
    for itself.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    tokens = np.maximum(data.sequence_tokens[data.pair_chosen], data.sequence_tokens[data.pair_rejected])
    warm = [batch[np.argsort(-tokens[batch], kind="stable")] for batch in plan[:warmup]]
    together = np.concatenate(plan[warmup:])
    generator = torch.Generator().manual_seed(0)
    order = get_length_grouped_indices(tokens[together].tolist(), len(plan[0]), len(plan) - warmup, generator)
    return [*warm, *np.split(together[np.asarray(order)], len(plan) - warmup)]


def tune(
    work: Work, candidates: list[int], *, say: Callable[[str], None], deadline: float | None = None
) -> tuple[int, dict[int, float]]:
    """The micro-batch with which TRL is fastest on the plan of ``work`` (its last step counts).

    Args:
        work: some steps; the first of two or more are warm-up.
        candidates: pairs per micro-batch.
        say: takes a line per candidate.
        deadline: on the monotonic clock; no further candidate is tried after it.

    Returns:
        The best candidate, and seconds of each that ran.

    Raises:
        RuntimeError: none ran.
    """
    from benchmarks.shared.relay import Relay

    found: dict[int, float] = {}
    reason = "no candidate divides a step"
    for pairs in candidates:
        if len(work.plan[0]) % pairs or (deadline is not None and found and time.monotonic() > deadline):
            continue
        arm = Arm(f"TRL, {pairs}", {"pairs": pairs})
        errors = Relay(deadline).run({arm.name: lambda baton, arm=arm: train_trl(arm, work, baton)})
        if errors:
            reason = errors[arm.name]
            say(f"TRL with {pairs} pairs at a time: {reason.splitlines()[0]}")
            continue
        found[pairs] = arm.steps[-1]["seconds"]
        say(f"TRL with {pairs} pairs at a time: {found[pairs]:.2f} s a step")
    if not found:
        raise RuntimeError(reason)
    return min(found, key=lambda pairs: found[pairs]), found


def step_figures(work: Work, settings: dict[str, Any]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Our trainer's first step, looked at before the optimiser changes the weights.

    Returns:
        The loss, ``(R,)`` quality scores of the batch's responses, and all gradients end to end in float32, on the CPU.

    Raises:
        Unsupported: a setting that this version does not know.
    """
    seen: dict[str, Any] = {}

    class Look(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = kwargs["model"]
            named = sorted((n.removeprefix("module."), p) for n, p in model.named_parameters() if p.grad is not None)
            seen["gradient"] = torch.cat([p.grad.detach().float().flatten() for _, p in named]).cpu()

    given = {"objective": "bradley_terry", "max_grad_norm": 0.0, **settings}
    if unknown := set(given) - {f.name for f in fields(RewardConfig)}:
        raise Unsupported(f"no setting {', '.join(sorted(unknown))} in this version")
    folder = str(work.backbone.parent / "ours")
    config = RewardConfig(output_dir=folder, batch_pairs=len(work.plan[0]), **work.arguments(given) | {"max_steps": 1})
    model = our_model(work.backbone, config.objective, work.dtype)
    trainer = RewardTrainer(model, config, work.data, tokenizer=work.tokenizer, callbacks=[Look()])
    trainer.batches.plan, trainer.batches.steps = work.plan, len(work.plan)
    value_of = trainer.objective.value

    def noted(scores: Any, *given: Any, **named: Any) -> Any:
        parts = value_of(scores, *given, **named)
        seen["scores"], seen["loss"] = scores.quality.detach().double().cpu(), float(parts.metrics["ranking_loss"])
        return parts

    trainer.objective.value = noted  # type: ignore[method-assign]
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return seen["loss"], seen["scores"], seen["gradient"]
