"""How a step is run on this machine: engine of the exact batch, memory budget, and what happens when memory runs out.

A mix-in of :class:`odin_rm.reward.trainer.RewardTrainer`; the mathematics of a step is in the trainer and in
``odin_rm.reward.exact_batch``.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import LAYOUTS
from odin_rm.core.types import RewardScores
from odin_rm.data.planning import row_inputs, to_device
from odin_rm.fast import (
    TreeSupport,
    choose_layout,
    choose_matmul,
    compile_layers,
    longest_and_first,
    neighbour_reason,
    some_sequences,
)
from odin_rm.model.device import is_out_of_memory
from odin_rm.reward import memory, processes
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.exact_batch import Engine, ScoreFunction
from odin_rm.reward.loader import PlannedBatches, RankBatch

log = logging.getLogger(__name__)
# Tokens of the passes that are measured. On a GPU the first one warms up, and two sizes tell what is fixed.
_PROBES = {"cpu": (512,), "cuda": (2048, 2048, 6144)}
_FROM_SIMPLE = LAYOUTS[::-1]
# Share of the free memory that the layers' inputs of a whole step may take where checkpointing keeps nothing else.
_CHECKPOINT_SHARE = 0.25


class StepMemory:
    """The part of the trainer that knows about processes and memory."""

    config: RewardConfig
    args: RewardConfig
    accelerator: Any
    model: Any
    model_wrapped: Any
    batches: PlannedBatches
    budget: memory.Budget
    layout: TreeSupport
    saved_budget: dict[str, Any] | None
    matmul: str
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    # ---- before the first step ---------------------------------------------------------------------------------------

    def choose_layout(self) -> TreeSupport:
        """The layout of micro-batches, verified on the model before training.

        Raises:
            ConfigError: the layout or attention that is asked for does not give the model's scores.
        """
        requested = self.config.batch_layout
        if not self._engine_splits_model():
            return self._verified_layout()
        # The weights are in pieces or elsewhere; under FSDP they come together when training begins.
        if self.is_deepspeed_enabled and requested in ("tree", "packed"):
            raise ConfigError(
                "cannot be verified under DeepSpeed", where=f"--batch_layout {requested}", fix="Use padded."
            )
        why = "DeepSpeed splits the model" if self.is_deepspeed_enabled else "not yet known"
        alone = requested == "single" or neighbour_reason(self.model.classifier) is not None
        return TreeSupport("single" if alone else "padded", None, why)

    def before_training(self) -> None:
        """What waits for model and optimiser to be in place, on every rank alike."""
        if self.is_fsdp_enabled:
            self.layout = self._verified_layout()
        if self.config.compile_layers:
            log.info("%d layers are compiled", compile_layers(self.model))
        if self.args.world_size > 1:
            (rank,) = processes.smallest([_FROM_SIMPLE.index(self.layout.layout)], self.args.device)
            if _FROM_SIMPLE[rank] != self.layout.layout:
                self.layout = TreeSupport(_FROM_SIMPLE[rank], self.layout.kernel, "another process cannot do more")
        self.batches.layout = self.layout.layout
        self.matmul = self.choose_matmul()
        self.set_budget(self.saved_budget)

    def _verified_layout(self) -> TreeSupport:
        was_training = self.model.training
        self.model.eval()
        with self.accelerator.autocast():  # as training will compute
            layout = choose_layout(
                self.model,
                longest_and_first(self.batches.data),
                self.batches.pad_token_id,
                requested=self.config.batch_layout,
                kernel=self.config.tree_attention,
                device=self.args.device,
            )
        self.model.train(was_training)
        self.model.zero_grad(set_to_none=True)  # an engine that shards the model may have kept some
        return layout

    def choose_matmul(self) -> str:
        """Fix the library of a CPU's large products: a run that goes on keeps its own, for the same sums bit by bit."""
        requested, saved = self.config.cpu_products, (self.saved_budget or {}).get("products")
        return choose_matmul(self.model, saved if requested == "auto" and saved == "torch" else requested)

    def set_budget(self, saved: dict[str, Any] | None = None) -> None:
        """Choose the token budget; called when model and optimiser are in place, on every rank alike.

        Args:
            saved: the budget of the checkpoint that the run goes on from: the same one gives the same sums, bit by bit.
        """
        given = self.config.given_tokens
        if given is None and saved:
            self.budget = memory.Budget(saved["tokens"], saved["kept"], why="of the checkpoint")
        elif given is None and not self._engine_splits_model():
            self.budget = self._measured()
        else:
            self.budget = memory.Budget(given or memory.DEFAULT_TOKENS, self._kept_inputs())
        if self.config.single_pass_tokens:
            self.budget.kept = self.config.single_pass_tokens
        if self.args.world_size > 1:
            figures = [self.budget.tokens, self.budget.kept]
            self.budget.tokens, self.budget.kept = processes.smallest(figures, self.args.device)
        self.batches.microbatch_tokens = self.budget.tokens

    def _engine_splits_model(self) -> bool:
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _measured(self) -> memory.Budget:
        """A budget from forward and backward passes of some tokens of the data; leaves no gradient behind."""
        device = self.args.device
        model = bare(self.model_wrapped if self.model_wrapped is not None else self.model)
        parameters = memory.all_parameters(model)
        points = []
        try:
            for size in _PROBES.get(device.type, _PROBES["cpu"]):
                sequences = some_sequences(self.batches.data, size)
                inputs = to_device(row_inputs(sequences, self.batches.layout, self.batches.pad_token_id), device)
                forward = functools.partial(_sum_of_scores, model, inputs)
                points.append((int(inputs["input_ids"].numel()), memory.graph_bytes(forward, device, parameters)))
                self.model.zero_grad(set_to_none=True)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.model.zero_grad(set_to_none=True)
            points = points or [(1, memory.free_bytes(device) // 1000)]
        per_token, fixed = memory.line_through(points)
        pending = memory.pending_bytes([p for p in model.parameters() if p.requires_grad], self.config.optimiser)
        local = int(os.environ.get("LOCAL_WORLD_SIZE") or self.args.world_size)
        return memory.choose(per_token, device, pending + int(fixed), processes=local)

    def _kept_inputs(self) -> int:
        """Tokens of a step whose checkpointed graphs (the layers' inputs) may be kept.

        The second forward pass is then the one that the checkpoints make, and there is no third.
        """
        if not self.config.recomputes_activations or self._engine_splits_model():
            return 0
        config = self._reward_model().config  # type: ignore[attr-defined]
        itemsize = next(self.model.parameters()).element_size()
        per_token = int(getattr(config, "num_hidden_layers", 0)) * int(getattr(config, "hidden_size", 0)) * itemsize
        return int(_CHECKPOINT_SHARE * memory.free_bytes(self.args.device) / max(1, per_token))

    # ---- one attempt at a step ---------------------------------------------------------------------------------------

    def retained_graphs(self, model: nn.Module, batch: RankBatch) -> int:
        """Of how many micro-batches the graphs are kept from the scoring pass to the backward pass."""
        alone = self.args.world_size == 1 and not self._engine_splits_model()
        if not (alone or isinstance(model, DistributedDataParallel)):
            return 0
        return memory.kept_rounds(batch.sizes.round_tokens, self.budget.kept)

    def engine(self, model: nn.Module, batch: RankBatch) -> Engine:
        """How the ranks of this run work together in a step with this batch."""
        device = self.args.device if self.args.device.type == "cuda" else torch.device("cpu")
        backward = self.accelerator.backward
        keep = self.retained_graphs(model, batch)
        if self.args.world_size == 1:
            return Engine(backward=backward, device=device, retained_graphs=keep)
        common = Engine(
            world_size=self.args.world_size,
            sum_over_ranks=processes.sum_over_ranks,
            backward=backward,
            no_sync=lambda: self.accelerator.no_sync(self.model_wrapped),
            device=device,
        )
        if not isinstance(model, DistributedDataParallel):
            return common
        # Gradients travel while the last backward pass runs. Where that may run out of memory (no step of this size has
        # been taken yet, and a rank that fails could not tell the others) or graphs are kept, they travel afterwards.
        apart = keep > 0 or batch.sizes.largest > self.budget.largest_completed
        fields = {
            **vars(common),
            "retained_graphs": keep,
            "synced_score": lambda inputs: model(**inputs),
            "any_rank": functools.partial(processes.any_rank, device=self.args.device),
            "exchange": self._average_gradients if apart else None,
        }
        return Engine(**fields)

    def smaller(self, model: nn.Module, batch: RankBatch, alone: bool = False) -> RankBatch:
        """The same optimiser batch in smaller parts, after memory ran out; nothing of the attempt is left.

        Raises:
            ConfigError: it is in the smallest parts already, or the ranks cannot start again together.
        """
        sizes = batch.sizes
        kept = sum(sizes.round_tokens[: self.retained_graphs(model, batch)])
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        if alone or (self.args.world_size > 1 and not isinstance(model, DistributedDataParallel)):
            error = ConfigError(
                f"a micro-batch of {sizes.largest:,} tokens does not fit into memory",
                where="--microbatch_tokens",
                fix=f"Give at most {sizes.largest // 2}.",
            )
            error.raised_on_every_rank = False
            raise error
        if not kept and sizes.largest_sequences <= 1:
            what = f"a single response with its prompt ({sizes.largest:,} tokens) does not fit into memory"
            fix = "Lower --max_length, or add --activation_checkpointing true or --bf16 true."
            raise ConfigError(what, where="--microbatch_tokens", fix=fix)
        done = self.budget.shrink(sizes.largest, kept)
        self.batches.microbatch_tokens = self.budget.tokens
        log.warning("out of memory with micro-batches of %s tokens; %s, the step is taken again", sizes.largest, done)
        return self.batches.plan_again(batch.batch)

    def _average_gradients(self) -> None:
        processes.average_gradients(self.model.parameters(), self.args.world_size)


def bare(model: nn.Module) -> nn.Module:
    """A model without the wrapper that waits for other ranks."""
    return model.module if isinstance(model, (DistributedDataParallel, nn.DataParallel)) else model


class ScoringClock:
    """Time of the forward passes without gradient; on a GPU by its own events, so that nothing waits.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def score_function(self, model: nn.Module) -> ScoreFunction:
        """The model's forward pass on the inputs of a micro-batch, timed where it only scores."""

        def score(inputs: dict[str, Tensor]) -> RewardScores:
            if torch.is_grad_enabled():
                return model(**inputs)
            if self.on_cuda:
                events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                events[0].record()
                found = model(**inputs)
                events[1].record()
                self._events.append(events)
                return found
            started = time.perf_counter()
            found = model(**inputs)
            self._seconds += time.perf_counter() - started
            return found

        return score

    def seconds(self) -> float:
        """What has passed; on a GPU call it when the step is done there."""
        return self._seconds + sum(first.elapsed_time(second) for first, second in self._events) / 1000


def _sum_of_scores(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).total().sum()
