"""The processes of a run, seen from one of them: sums over ranks, one voice, one end, and micro-batches of which each
rank has as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.data.batching import plan_microbatches
from odin_rm.rl.records import JudgedResponses, RewardRequest, RewardSource, Rollout, RolloutEngine


class Ranks:
    """Thin sums over an accelerator's processes; with one process nothing is exchanged.

    Args:
        accelerator: accelerate's ``Accelerator``.

    Attributes:
        size: how many there are.
        rank: which one this is, from 0.
        deepspeed, sharded: the engine is DeepSpeed; the engine is DeepSpeed or FSDP, which keep weights or the
            optimiser's state in parts.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.size: int = accelerator.num_processes
        self.rank: int = accelerator.process_index
        engine = str(accelerator.distributed_type).split(".")[-1]
        self.deepspeed = engine == "DEEPSPEED"
        self.sharded = engine in ("FSDP", "DEEPSPEED")

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Each number summed over ranks, in float64."""
        if self.size == 1:
            return dict(values)
        row = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(row)
        return dict(zip(values, row.tolist(), strict=True))

    def some(self, value: Any) -> Any:
        """The first value over ranks that is not ``None``, on every rank."""
        if self.size == 1:
            return value
        values = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return next((v for v in values if v is not None), None)

    def first(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, device=self.accelerator.device)
        return box[0]

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This rank's consecutive part of a list whose length the number of ranks divides."""
        part = len(items) // self.size
        return items[self.rank * part : (self.rank + 1) * part]

    def micro_batches(self, sequence_tokens: np.ndarray, budget: int) -> list[np.ndarray]:
        """Positions of this rank's sequences in micro-batches of similar lengths, as many on each rank.

        A rank that would have fewer splits its larger ones: sharded models must run as often on each rank.
        """
        plan = [part for part in plan_microbatches(sequence_tokens, budget)[0] if len(part)]
        if self.size == 1:
            return plan
        wanted = torch.tensor(len(plan), device=self.accelerator.device)
        torch.distributed.all_reduce(wanted, op=torch.distributed.ReduceOp.MAX)
        while len(plan) < int(wanted):
            largest = max(range(len(plan)), key=lambda i: len(plan[i]))
            part = plan.pop(largest)
            if len(part) == 1:
                raise AssertionError("a rank cannot have fewer responses than another has micro-batches")
            plan += [part[: len(part) // 2], part[len(part) // 2 :]]
        return plan


class SourceOfRanks:
    """A reward source that ends all ranks where it fails on one; the others would wait for that one's gradients.

    Args:
        source: what judges, on each rank its own responses.
    """

    def __init__(self, source: RewardSource) -> None:
        self.source = source
        self.name, self.reward_mean, self.reward_std = source.name, source.reward_mean, source.reward_std

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """The quality of each response."""
        with fail_on_all_ranks():
            return self.source.judge(request)


class EngineOfFirst:
    """An engine for prompts that all ranks share: each writes along, the first rank's responses are taken.

    Sharded models need every rank to write, and to run as often afterwards, which equal responses see to.
    """

    def __init__(self, engine: RolloutEngine, ranks: Ranks) -> None:
        self.engine, self.ranks = engine, ranks

    def generate(self, *args: Any, **kwargs: Any) -> list[Rollout]:
        """One response per prompt, in order."""
        return self.ranks.first(self.engine.generate(*args, **kwargs))

    def update_weights(self, model: Any) -> None:
        """As of the engine inside."""
        self.engine.update_weights(model)
