"""Optimiser batches for one rank: the plan of an epoch, cut into this rank's micro-batches.

Every rank computes the same plan from (seed, epoch), so no data travel between ranks; only its own micro-batches are
turned into tensors. The loader yields one :class:`RankBatch` per optimiser step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from odin_rm.data.batching import OptimiserBatch, build_optimiser_batch, collate, plan_epoch, plan_microbatches
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.reward.exact_batch import MicroBatch


@dataclass(frozen=True)
class RankBatch:
    """One optimiser step as one rank sees it: the whole batch as indices, its own part as tensors.

    Attributes:
        batch: the global optimiser batch (same on each rank).
        tokens_R: ``(R,)`` float64 true response lengths.
        prompt_R: ``(R,)`` int64 prompt of each response, numbered from 0 within the batch.
        chosen_B, rejected_B: ``(B,)`` int64 positions in the batch's responses.
        margin_B: ``(B,)`` float64.
        micro_batches: this rank's forward passes.
        real_tokens: tokens without padding over all ranks.
        padded_tokens: tokens with padding on this rank.
    """

    batch: OptimiserBatch
    tokens_R: Tensor
    prompt_R: Tensor
    chosen_B: Tensor
    rejected_B: Tensor
    margin_B: Tensor
    micro_batches: list[MicroBatch]
    real_tokens: int
    padded_tokens: int

    def to(self, device: torch.device) -> RankBatch:
        """The same batch with the model's inputs on ``device``; the scalars stay where the objective wants them."""
        moved = [
            replace(m, inputs={k: v.to(device, non_blocking=True) for k, v in m.inputs.items()})
            for m in self.micro_batches
        ]
        return replace(self, micro_batches=moved)


class PlannedBatches(Dataset):
    """The optimiser batches of the current epoch, by number.

    Args:
        data: tokenised preferences.
        batch_pairs: pairs per optimiser batch over all ranks.
        max_pairs_per_prompt: cap on pairs of one prompt in a batch.
        microbatch_tokens: padded tokens per forward pass.
        pad_token_id: what to pad with.
        seed: of the plan.
        rank, world_size: which part to cut out.
        padding_side: ``right`` or ``left``.
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
    ) -> None:
        self.data = data
        self.batch_pairs, self.max_pairs_per_prompt, self.seed = batch_pairs, max_pairs_per_prompt, seed
        self.microbatch_tokens, self.pad_token_id, self.padding_side = microbatch_tokens, pad_token_id, padding_side
        self.rank, self.world_size = rank, world_size
        self.sequence_tokens = np.asarray(data.sequence_tokens)
        self.epoch = -1
        self.set_epoch(0)
        # The trainer asks once how many steps an epoch has; later epochs keep to it.
        self.steps = len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        """Plan another epoch; the same (seed, epoch) gives the same plan."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.plan = plan_epoch(self.data, self.batch_pairs, self.max_pairs_per_prompt, self.seed, epoch)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> RankBatch:
        return self.build(self.plan[index % len(self.plan)])

    def build(self, pair_numbers: np.ndarray) -> RankBatch:
        """The rank's batch for given pairs."""
        batch = build_optimiser_batch(self.data, pair_numbers)
        lengths = self.sequence_tokens[batch.responses]
        own = plan_microbatches(lengths, self.microbatch_tokens, self.world_size)[self.rank]
        micro_batches = [self._micro_batch(batch, positions) for positions in own]
        _, prompt_R = np.unique(np.asarray(self.data.response_prompt)[batch.responses], return_inverse=True)
        return RankBatch(
            batch=batch,
            tokens_R=torch.as_tensor(np.asarray(self.data.response_tokens)[batch.responses], dtype=torch.float64),
            prompt_R=torch.as_tensor(prompt_R, dtype=torch.int64),
            chosen_B=torch.as_tensor(batch.chosen, dtype=torch.int64),
            rejected_B=torch.as_tensor(batch.rejected, dtype=torch.int64),
            margin_B=torch.as_tensor(batch.margin, dtype=torch.float64),
            micro_batches=micro_batches,
            real_tokens=int(lengths.sum()),
            padded_tokens=sum(int(m.inputs["input_ids"].numel()) for m in micro_batches),
        )

    def _micro_batch(self, batch: OptimiserBatch, positions: np.ndarray) -> MicroBatch:
        # An idle rank still runs a forward pass (the shortest response), so that collectives match.
        rows = positions if len(positions) else np.array([np.argmin(self.sequence_tokens[batch.responses])])
        sequences = [self.data.input_ids(int(r)) for r in batch.responses[rows]]
        inputs = collate(sequences, self.pad_token_id, self.padding_side)
        inputs.pop("position_ids", None)  # the model counts positions itself, from the mask
        return MicroBatch(inputs, torch.as_tensor(np.asarray(positions), dtype=torch.int64))


def make_loader(batches: PlannedBatches, *, num_workers: int = 0, **kwargs: Any) -> DataLoader:
    """A loader that yields the batches in the plan's order and that ``accelerate.skip_first_batches`` can wind on."""
    sampler = BatchSampler(SequentialSampler(batches), batch_size=1, drop_last=False)
    return DataLoader(batches, batch_sampler=sampler, collate_fn=_only, num_workers=num_workers, **kwargs)


def _only(items: list[RankBatch]) -> RankBatch:
    (item,) = items
    return item
