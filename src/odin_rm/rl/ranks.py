"""The processes of a run, seen from one of them: sums over ranks and micro-batches of which each rank has as many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from odin_rm.data.batching import plan_microbatches


class Ranks:
    """Thin sums over an accelerator's processes; with one process nothing is exchanged.

    Args:
        accelerator: accelerate's ``Accelerator``.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.size: int = accelerator.num_processes
        self.rank: int = accelerator.process_index

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Each number summed over ranks, in float64."""
        if self.size == 1:
            return dict(values)
        row = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(row)
        return dict(zip(values, row.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sums({"flag": float(flag)})["flag"] > 0

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
