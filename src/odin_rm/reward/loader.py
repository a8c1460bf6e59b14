"""Optimiser batches for one rank: the plan of an epoch, cut into this rank's micro-batches.

Every rank computes the same plan from (seed, epoch), so no data travel between ranks; only its own micro-batches are
turned into tensors. The loader yields one :class:`RankBatch` per optimiser step. Which micro-batches there are is a
function of the pairs, the layout and the token budget, so any number of loader workers gives the same ones.

A batch is ready when its step begins: a thread (or, if asked for, worker processes) builds it during the step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from odin_rm.data.batching import OptimiserBatch, build_optimiser_batch, plan_epoch
from odin_rm.data.planning import Cost, plan_batch, row_inputs, to_device
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.objectives.objective import Objective, PairColumns
from odin_rm.reward.exact_batch import MicroBatch


@dataclass(frozen=True)
class BatchSizes:
    """What an optimiser batch costs; the same on every rank.

    Attributes:
        slot_tokens: tokens of the ``2B`` response slots, each with its prompt, as a trainer without sharing sees them.
        response_tokens: tokens of the distinct responses, each with its prompt.
        distinct_tokens: tokens that are computed over all ranks, without padding.
        computed_tokens: the same with padding.
        micro_batches: micro-batches of a rank.
        largest: tokens of the largest micro-batch of any rank.
        largest_sequences: responses in it.
        round_tokens: tokens of the largest first, second, ... micro-batch of any rank.
        budget: the token budget that the micro-batches were planned with.
    """

    slot_tokens: int
    response_tokens: int
    distinct_tokens: int
    computed_tokens: int
    micro_batches: int
    largest: int
    largest_sequences: int
    round_tokens: tuple[int, ...]
    budget: int


def pair_columns(data: TokenisedPreferences, batch: OptimiserBatch) -> PairColumns:
    """The columns of a batch of these data."""
    _, prompt_R = np.unique(np.asarray(data.response_prompt)[batch.responses], return_inverse=True)
    return PairColumns(
        attributes={
            name: torch.as_tensor(np.asarray(column)[batch.responses], dtype=torch.float64)
            for name, column in data.attributes.items()
        },
        prompt_R=torch.as_tensor(prompt_R, dtype=torch.int64),
        chosen_B=torch.as_tensor(batch.chosen, dtype=torch.int64),
        rejected_B=torch.as_tensor(batch.rejected, dtype=torch.int64),
        margin_B=torch.as_tensor(batch.margin, dtype=torch.float64),
        variants={kind: torch.as_tensor(pairs, dtype=torch.int64) for kind, pairs in batch.variants.items()},
    )


def start_objective(objective: Objective, columns: PairColumns) -> np.ndarray | None:
    """Show an objective its training data.

    Args:
        objective: it has seen nothing yet.
        columns: of all training pairs (:func:`all_columns`).

    Returns:
        ``(B,)`` probability with which each pair enters an epoch; ``None`` for all of them.
    """
    objective.begin(columns)
    drawn = objective.draws()
    return None if drawn is None else drawn.numpy()


def all_columns(data: TokenisedPreferences, variants: Sequence[str] = ()) -> PairColumns:
    """The columns of all pairs of a data set as one batch."""
    return pair_columns(data, build_optimiser_batch(data, np.arange(data.num_pairs), variants))


@dataclass(frozen=True)
class RankBatch(PairColumns):
    """One optimiser step as one rank sees it: the whole batch as indices and columns, its own part as tensors.

    Attributes:
        batch: the global optimiser batch (same on each rank).
        micro_batches: this rank's forward passes.
        sizes: tokens of the batch, over all ranks.
    """

    batch: OptimiserBatch
    micro_batches: list[MicroBatch]
    sizes: BatchSizes

    def to(self, device: torch.device) -> RankBatch:
        """The same batch with the model's inputs on ``device``; the scalars stay where the objective wants them."""
        moved = [replace(m, inputs=to_device(m.inputs, device)) for m in self.micro_batches]
        return replace(self, micro_batches=moved)

    # Loader workers send batches through a pipe: as arrays, for each tensor would need a shared file of its own.
    def __getstate__(self) -> dict[str, Any]:
        state = {item.name: _as_array(getattr(self, item.name)) for item in fields(self)}
        parts = [({k: _as_array(v) for k, v in m.inputs.items()}, m.positions.numpy()) for m in self.micro_batches]
        return {**state, "micro_batches": parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = [
            MicroBatch({k: torch.from_numpy(v) for k, v in inputs.items()}, torch.from_numpy(positions))
            for inputs, positions in state["micro_batches"]
        ]
        tensors = {name: _as_tensor(value) for name, value in state.items()}
        self.__dict__.update(tensors, micro_batches=parts)


class PlannedBatches(Dataset):
    """The optimiser batches of the current epoch, by number.

    ``layout`` and ``microbatch_tokens`` may be changed between two steps; they change no gradient.

    Args:
        data: tokenised preferences.
        batch_pairs: pairs per optimiser batch over all ranks.
        max_pairs_per_prompt: cap on pairs of one prompt in a batch.
        microbatch_tokens: computed tokens per forward pass.
        pad_token_id: what to pad with.
        seed: of the plan.
        rank, world_size: which part to cut out.
        padding_side: ``right`` or ``left``.
        layout: ``tree``, ``packed`` or ``padded`` (:mod:`odin_rm.data.planning`).
        cost: by which work is shared out between ranks.
        variants: kinds of variants of responses that a batch holds beside those in pairs.
        draw: ``(B,)`` probability with which a pair enters an epoch; ``None`` for all pairs.
    """

    def __init__(
        self,
        data: TokenisedPreferences,
        *,
        batch_pairs: int,
        max_pairs_per_prompt: int,
        microbatch_tokens: int,
        pad_token_id: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        padding_side: str = "right",
        layout: str = "padded",
        cost: Cost | None = None,
        variants: Sequence[str] = (),
        draw: np.ndarray | None = None,
    ) -> None:
        self.data, self.draw = data, draw
        self.variants = tuple(variants)
        self.batch_pairs, self.max_pairs_per_prompt, self.seed = batch_pairs, max_pairs_per_prompt, seed
        self.microbatch_tokens, self.pad_token_id, self.padding_side = microbatch_tokens, pad_token_id, padding_side
        self.rank, self.world_size = rank, world_size
        self.layout, self.cost = layout, cost
        self.sequence_tokens = np.asarray(data.sequence_tokens)
        self.epoch = -1
        self.set_epoch(0)
        # The trainer asks once how many steps an epoch has; later epochs keep to it.
        self.steps = len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        """Plan another epoch; the same (seed, epoch) gives the same plan."""
        if epoch != self.epoch:
            self.epoch = epoch
            sizes = self.batch_pairs, self.max_pairs_per_prompt
            self.plan = plan_epoch(self.data, *sizes, self.seed, epoch, self.draw)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> RankBatch:
        return self.build(self.plan[index % len(self.plan)])

    def build(self, pair_numbers: np.ndarray) -> RankBatch:
        """The rank's batch for given pairs."""
        return self.plan_again(build_optimiser_batch(self.data, pair_numbers, self.variants))

    def plan_again(self, batch: OptimiserBatch) -> RankBatch:
        """The rank's part of an optimiser batch in the layout and under the budget that hold now."""
        lengths = self.sequence_tokens[batch.responses]
        sequences = [self.data.input_ids(int(r)) for r in batch.responses]
        plan = plan_batch(sequences, self.microbatch_tokens, self.world_size, layout=self.layout, cost=self.cost)
        # An idle rank still runs a forward pass (the shortest response), so that collectives match.
        idle = np.array([np.argmin(lengths)])
        micro_batches = [
            MicroBatch(
                self._inputs([sequences[int(p)] for p in (rows if len(rows) else idle)]),
                torch.as_tensor(np.asarray(rows), dtype=torch.int64),
            )
            for rows in plan.ranks[self.rank]
        ]
        return RankBatch(
            **vars(pair_columns(self.data, batch)),
            batch=batch,
            micro_batches=micro_batches,
            sizes=BatchSizes(
                slot_tokens=int(lengths[batch.chosen].sum() + lengths[batch.rejected].sum()),
                response_tokens=int(lengths.sum()),
                distinct_tokens=plan.real_tokens,
                computed_tokens=plan.computed_tokens,
                micro_batches=len(plan.ranks[self.rank]),
                largest=plan.largest,
                largest_sequences=plan.largest_sequences,
                round_tokens=tuple(map(max, zip(*plan.tokens, strict=True))),
                budget=self.microbatch_tokens,
            ),
        )

    def _inputs(self, sequences: list[np.ndarray]) -> dict[str, Tensor]:
        return row_inputs(sequences, self.layout, self.pad_token_id, self.padding_side)


def _as_array(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_array(one) for name, one in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


def _as_tensor(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tensor(one) for name, one in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def make_loader(batches: PlannedBatches, *, num_workers: int = 0, **kwargs: Any) -> DataLoader:
    """A loader that yields the batches in the plan's order and that ``accelerate.skip_first_batches`` can wind on."""
    sampler = BatchSampler(SequentialSampler(batches), batch_size=1, drop_last=False)
    source: Dataset = batches if num_workers else BuiltAhead(batches)
    return DataLoader(source, batch_sampler=sampler, collate_fn=_only, num_workers=num_workers, **kwargs)


class BuiltAhead(Dataset):
    """The same batches by number; after one is taken, a thread builds the next.

    Building one takes milliseconds, and in a step the interpreter waits for the device much longer than that. Worker
    processes would have to hand batches over through a pipe, which takes time of the next step.

    Args:
        batches: the batches.
    """

    def __init__(self, batches: PlannedBatches) -> None:
        self.batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="odin_rm_batches")
        self._next: tuple[np.ndarray, Future[RankBatch]] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> RankBatch:
        plan = self.batches.plan
        wanted = plan[index % len(plan)]
        # Another epoch or a run that is wound on wants another one than was built.
        ready, self._next = self._next, None
        batch = ready[1].result() if ready is not None and ready[0] is wanted else self.batches.build(wanted)
        if index + 1 < len(self):
            following = plan[(index + 1) % len(plan)]
            self._next = following, self._thread.submit(self.batches.build, following)
        return batch


def _only(items: list[RankBatch]) -> RankBatch:
    (item,) = items
    return item
