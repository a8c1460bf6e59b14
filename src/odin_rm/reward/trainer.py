"""Reward training as a ``transformers.Trainer`` whose one step is the exact optimiser batch.

Data parallelism, mixed precision, LoRA, schedules, trackers and checkpoints are the Trainer's. What differs from it:

1. The loader yields a whole optimiser batch (``odin_rm.reward.loader``) and accumulation stays at 1, so a training step
   is the function :meth:`RewardTrainer.training_step`, top to bottom.
2. The loss is an objective (``odin_rm.objectives``) over that whole batch and all ranks
   (``odin_rm.reward.exact_batch``).
3. Checkpoints hold our model folder, and a note of the settings that decide the weights: a run goes on from its own
   checkpoints only.
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from odin_rm.core.errors import CheckpointError, ConfigError, NumericalError
from odin_rm.core.files import atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.core.types import QUALITY, RewardScores
from odin_rm.data.batching import build_optimiser_batch
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.evaluation.audit import point_figures
from odin_rm.fast import forward_cost
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, check_finite, score_columns
from odin_rm.objectives.objective import COMPLETE, Objective, ObjectiveValue, Progress
from odin_rm.objectives.registry import make_objective
from odin_rm.reward.callbacks import BeforeTraining, PlanEpochs, StepMeter
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.exact_batch import OutOfMemory, exact_backward
from odin_rm.reward.loader import PlannedBatches, RankBatch, all_columns, make_loader, pair_columns, start_objective
from odin_rm.reward.memory import DEFAULT_TOKENS, Budget
from odin_rm.reward.scoring import as_scored
from odin_rm.reward.step import ScoringClock, StepMemory, bare
from odin_rm.runs.checkpoints import SoundCheckpoints

SETTINGS_FILE = "odin_rm_run.json"
STATE_FILE = "objective_state.safetensors"


class RewardTrainer(SoundCheckpoints, StepMemory, Trainer):
    """Trains a :class:`RewardModel` on tokenised preferences.

    Args:
        model: the reward model.
        args: a :class:`RewardConfig`; its ``output_dir`` holds the checkpoints.
        train_data: tokenised preferences to train on.
        eval_data: held-out preferences, or ``None``.
        tokenizer: saved with each checkpoint; gives the pad token.
        callbacks: further ``TrainerCallback`` objects.
        padding_side: side of padding in training batches (the gradient does not depend on it).
        objective: what to train; default the one that ``args`` name.
    """

    def __init__(
        self,
        model: RewardModel,
        args: RewardConfig,
        train_data: TokenisedPreferences,
        *,
        eval_data: TokenisedPreferences | None = None,
        tokenizer: Any,
        callbacks: list[Any] | None = None,
        padding_side: str = "right",
        objective: Objective | None = None,
    ) -> None:
        self.config: RewardConfig = args
        self.objective = objective or make_objective(args.objective, args.objective_settings)
        model.reads_feature = self.objective.reads_feature
        draw = start_objective(self.objective, all_columns(train_data, self.objective.variants))
        self.train_data, self.eval_data = train_data, eval_data
        self.batches = PlannedBatches(
            train_data,
            batch_pairs=args.batch_pairs,
            max_pairs_per_prompt=args.max_pairs_per_prompt,
            microbatch_tokens=args.given_tokens or DEFAULT_TOKENS,
            pad_token_id=int(tokenizer.pad_token_id),
            seed=args.data_seed if args.data_seed is not None else args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            padding_side=padding_side,
            cost=forward_cost(model),
            variants=self.objective.variants,
            draw=draw,
        )
        self.budget = Budget(self.batches.microbatch_tokens, args.single_pass_tokens)
        self.saved_budget: dict[str, Any] | None = None
        self.matmul = "torch"
        self.meter = StepMeter()
        super().__init__(
            model=model,
            args=args,
            train_dataset=self.batches,
            eval_dataset=eval_data,
            processing_class=tokenizer,
            callbacks=[PlanEpochs(self.batches), BeforeTraining(self.before_training), *(callbacks or [])],
        )
        # The loss of a step is already that of the whole batch; nothing must divide it again.
        self.model_accepts_loss_kwargs = False
        self.layout = self.choose_layout()
        self.batches.layout = self.layout.layout

    # ---- one step ----------------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: RankBatch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Score, gather, objective, derivative per score, backward per micro-batch; returns the batch's loss.

        Where memory does not hold a micro-batch, the step is taken again in smaller ones.
        """
        started = time.perf_counter()
        model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()
        batch = inputs
        if batch.sizes.budget != self.batches.microbatch_tokens:  # planned by a worker before the budget was halved
            batch = self.batches.plan_again(batch.batch)
        while True:
            try:
                clock = ScoringClock(self.args.device)
                value, scores = self._attempt(model, batch.to(self.args.device), clock)
                break
            except OutOfMemory as error:
                alone = error.alone
            # Outside of the handler, so that no frame holds on to tensors.
            batch = self.smaller(model, batch, alone)
        self.budget.largest_completed = max(self.budget.largest_completed, batch.sizes.largest)
        loss = value.total.detach() + self._head_loss(self._progress())
        if self.args.device.type == "cuda":
            torch.cuda.synchronize()  # the backward pass is still running, and its time belongs to the step
        seconds = time.perf_counter() - started
        metrics = {**value.metrics, **self._head_metrics()}
        self.objective.after_step(scores, batch, self._progress())
        self.meter.add(metrics, batch, seconds=seconds, scoring_seconds=clock.seconds())
        return loss.to(device=self.args.device, dtype=torch.float32)

    def _attempt(self, model: nn.Module, batch: RankBatch, clock: ScoringClock) -> tuple[ObjectiveValue, RewardScores]:
        """Gradients of one step, its value and its scores, detached; the clock runs in passes that only score."""
        progress = self._progress()

        def objective(scores: RewardScores) -> tuple[Tensor, tuple[ObjectiveValue, RewardScores]]:
            value = self.objective.value(scores, batch, progress)
            self._check_loss(value.total, scores, batch)
            return value.total, (value, scores.detach())

        return exact_backward(
            clock.score_function(bare(model)),
            batch.micro_batches,
            len(batch.tokens_R),
            objective,
            head_term=lambda: self.objective.head_term(self._reward_model().heads, progress),
            engine=self.engine(model, batch),
        )

    def _progress(self) -> Progress:
        return Progress(self.state.global_step + 1, self.state.max_steps)

    def _head_loss(self, progress: Progress) -> Tensor:
        with torch.no_grad():
            term = self.objective.head_term(self._reward_model().heads, progress)
        return torch.zeros((), dtype=torch.float64) if term is None else term.double()

    def _head_metrics(self) -> dict[str, float]:
        with torch.no_grad():
            return self.objective.head_metrics(self._reward_model().heads)

    def _check_loss(self, total: Tensor, scores: RewardScores, batch: RankBatch) -> None:
        if bool(torch.isfinite(total)):
            return
        step = self.state.global_step + 1
        bad_R = ~torch.isfinite(scores.total().detach())
        rows = [
            int(row)
            for row, chosen, rejected in zip(batch.batch.rows, batch.chosen_B, batch.rejected_B, strict=True)
            if bad_R[chosen] or bad_R[rejected]
        ]
        path = Path(self.args.output_dir).parent / f"bad_batch_step_{step}.json"
        if self.is_world_process_zero():
            atomic_write_json(path, self._describe(batch, scores, step))
        listing = ", ".join(map(str, sorted(set(rows))[:8])) or "none of them alone"
        raise NumericalError(
            f"the loss is not finite (rows {listing}{', ...' if len(set(rows)) > 8 else ''})",
            where=f"{self.train_data.source}, step {step}",
            fix=f"The batch is saved in {path}; lower --learning_rate, or train with --bf16 instead of --fp16.",
        )

    def _describe(self, batch: RankBatch, scores: RewardScores, step: int) -> dict[str, Any]:
        others = {f"{name}_reward": column.tolist() for name, column in scores.heads.items() if name != QUALITY}
        return {
            "step": step,
            "source": self.train_data.source,
            "rows": batch.batch.rows.tolist(),
            "chosen": batch.chosen_B.tolist(),
            "rejected": batch.rejected_B.tolist(),
            "response_tokens": batch.tokens_R.tolist(),
            "quality": scores.quality.tolist(),
            "length_reward": None,
            **others,
            "input_ids": [self.train_data.input_ids(int(r)).tolist() for r in batch.batch.responses],
        }

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Figures of the audit (without intervals) on the held-out pairs, as ``eval_<figure>``, and ``eval_loss``.

        ``eval_loss`` is the objective that is trained, with all its terms, options and full weights, on the held-out
        pairs as one batch.

        Raises:
            NumericalError: a score is not finite.
        """
        data: Any = self.eval_data if eval_dataset is None else eval_dataset
        started = time.perf_counter()
        columns = self._columns(data)
        scored = as_scored(data, columns, "model")
        metrics: dict[str, float] = {
            f"{metric_key_prefix}_{name}": value for name, value in point_figures(scored).items() if value is not None
        }
        value = self._held_out_value(data, columns)
        for name, figure in {**value.metrics, **self._head_metrics()}.items():
            if float(figure) == float(figure):  # NaN: the objective has no such metric on these data
                metrics.setdefault(f"{metric_key_prefix}_{name}", float(figure))
        metrics[f"{metric_key_prefix}_loss"] = float(value.total) + float(self._head_loss(COMPLETE))
        seconds = time.perf_counter() - started
        metrics[f"{metric_key_prefix}_runtime"] = round(seconds, 3)
        metrics[f"{metric_key_prefix}_pairs_per_second"] = round(data.num_pairs / seconds, 3)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The Trainer's, but a figure that these data leave undefined (nothing shorter was chosen) is one line."""
        wanted = str(self.args.metric_for_best_model or "loss").removeprefix("eval_")
        if f"eval_{wanted}" not in metrics:
            raise ConfigError(
                f"'{wanted}' is undefined on the held-out data",
                where="--metric_for_best_model",
                fix=f"Use one of {', '.join(sorted(name.removeprefix('eval_') for name in metrics))}.",
            )
        return super()._determine_best_metric(metrics, trial)

    def score(self, data: TokenisedPreferences) -> Any:
        """:class:`ScoredPreferences` of a data set with the model as it stands, split over ranks."""
        return as_scored(data, self._columns(data), "model")

    def _columns(self, data: TokenisedPreferences) -> dict[str, np.ndarray]:
        """Every response's rewards by head, and features where the objective reads them."""
        model = self.model_wrapped if self.model_wrapped is not None else self.model
        was_training = model.training
        model.eval()
        with self.accelerator.autocast():
            columns = score_columns(
                bare(model),
                [data.input_ids(r) for r in range(data.num_responses)],
                pad_token_id=self.batches.pad_token_id,
                microbatch_tokens=self.budget.tokens,
                layout=self.layout,
                device=self.args.device,
                rank=self.args.process_index,
                world_size=self.args.world_size,
            )
        model.train(was_training)
        columns = {name: self._sum(column) for name, column in columns.items()}
        check_finite(columns[QUALITY], "evaluation")
        return columns

    def _sum(self, values: np.ndarray) -> np.ndarray:
        if self.args.world_size == 1:
            return values
        tensor = torch.as_tensor(values, device=self.args.device)
        torch.distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def _held_out_value(self, data: TokenisedPreferences, columns: dict[str, np.ndarray]) -> ObjectiveValue:
        """The training objective on all held-out pairs as one batch, at full weights also during the warm-up."""
        batch = build_optimiser_batch(data, np.arange(data.num_pairs), self.objective.variants)
        rows = {name: torch.as_tensor(column[batch.responses], dtype=torch.float64) for name, column in columns.items()}
        feature = rows.pop(FEATURE, None)
        return self.objective.value(RewardScores(heads=rows, feature=feature), pair_columns(data, batch), COMPLETE)

    # ---- pieces of the Trainer that assume per-device tensors --------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """The loader of whole optimiser batches; never sharded again, each rank's part is in the batch."""
        kwargs: dict[str, Any] = {"pin_memory": False}
        if self.args.dataloader_num_workers:
            kwargs["prefetch_factor"] = self.args.dataloader_prefetch_factor
        return make_loader(self.batches, num_workers=self.args.dataloader_num_workers, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, None]:
        """Optimiser batches as they are; there is no token count to normalise by."""
        if self.all_steps_taken:
            return [], None
        return [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)], None

    def num_examples(self, dataloader: DataLoader) -> int:
        """Pairs in an epoch."""
        return self.train_data.num_pairs

    def get_total_train_batch_size(self, args: Any) -> int:
        """Pairs in an optimiser step."""
        return self.config.batch_pairs

    def floating_point_ops(self, inputs: Any) -> int:
        """Estimate of a step's floating-point operations: 6 per parameter and token (the usual count for training)."""
        parameters = sum(p.numel() for p in self._reward_model().parameters())
        return 6 * parameters * inputs.sizes.distinct_tokens if isinstance(inputs, RankBatch) else 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Tokens are counted by the step meter."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with the heads in a group of their own: no weight decay, their own learning rate."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return optimizer
        heads = {id(p) for p in self._reward_model().heads.parameters()}
        head_parameters = [p for g in optimizer.param_groups for p in g["params"] if id(p) in heads]
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in heads]
        template = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", "initial_lr")}
        rate = self.config.head_learning_rate
        rate = self.config.learning_rate if rate is None else rate
        optimizer.add_param_group({**template, "params": head_parameters, "weight_decay": 0.0, "lr": rate})
        optimizer.param_groups[:] = [g for g in optimizer.param_groups if g["params"]]
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every part of the objective since the last log to a training log."""
        if "loss" in logs:
            logs.update(self.meter.drain())
        super().log(logs, start_time)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self._reward_model().save_pretrained(folder, tokenizer=self.processing_class, state_dict=state_dict)
        budget = {"tokens": self.budget.tokens, "kept": self.budget.kept, "products": self.matmul}
        note = {"settings": self.config.trajectory(), "data": self.data_note(), "budget": budget}
        atomic_write_json(folder / SETTINGS_FILE, note)
        state = self.objective.state_dict()
        if state:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / STATE_FILE)

    def open_figures(self) -> Any:
        """What the meter has since the last log."""
        return self.meter.state()

    def take_up_figures(self, figures: Any) -> None:
        """Go on from :meth:`open_figures`."""
        self.meter.load(figures)

    def data_note(self) -> dict[str, Any]:
        """What identifies the training data in a checkpoint."""
        return data_note(self.train_data)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        note = Path(resume_from_checkpoint) / SETTINGS_FILE
        self.saved_budget = read_json(note).get("budget") if note.is_file() else None
        self._load_objective_state(Path(resume_from_checkpoint))
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._reward_model().load_weights(resume_from_checkpoint)

    def _load_objective_state(self, checkpoint: Path) -> None:
        """Take over the objective's state.

        Raises:
            CheckpointError: the objective has a state and the checkpoint has none, or not this one.
        """
        wanted = self.objective.state_dict()
        if not wanted:
            return
        try:
            state = load_file(checkpoint / STATE_FILE)
            if set(state) != set(wanted):
                raise ValueError(f"it holds {', '.join(sorted(state))}")
        except (OSError, ValueError, SafetensorError) as error:
            what = f"{STATE_FILE} is missing or is not the state of this objective ({' '.join(str(error).split())})"
            fix = "Give an earlier checkpoint, or start anew."
            raise CheckpointError(what, where=str(checkpoint), fix=fix) from error
        self.objective.load_state_dict(state)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            self._reward_model().load_weights(self.state.best_model_checkpoint)

    def trained_model(self) -> RewardModel:
        """The model that the run makes."""
        return self._reward_model()

    def _reward_model(self) -> RewardModel:
        return self.accelerator.unwrap_model(self.model)


def data_note(data: TokenisedPreferences) -> dict[str, Any]:
    """Counts and two checksums that tell one tokenised data set from another: of lengths and pairs, and of texts."""
    checksum = 0
    for column in (data.response_tokens, data.offsets, data.pair_chosen, data.pair_rejected, data.pair_margin):
        checksum = zlib.crc32(np.ascontiguousarray(column).tobytes(), checksum)
    texts = zlib.crc32(np.ascontiguousarray(data.input_ids_flat).data)
    return {"pairs": data.num_pairs, "responses": data.num_responses, "checksum": checksum, "texts": texts}
