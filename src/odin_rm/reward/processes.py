"""What the ranks of a reward run tell each other in a step: scores, gradients, and whether memory ran out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_BUCKET_BYTES = 32 * 2**20


def sum_over_ranks(values: Tensor) -> Tensor:
    """``values`` summed over all ranks, in place."""
    torch.distributed.all_reduce(values)
    return values


def any_rank(here: bool, device: torch.device) -> bool:
    """Whether something is true on any rank."""
    flag = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def smallest(values: list[int], device: torch.device) -> list[int]:
    """Each value's smallest over all ranks."""
    tensor = torch.tensor(values, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MIN)
    return tensor.tolist()


def average_gradients(parameters: Iterable[nn.Parameter], world_size: int) -> None:
    """What data-parallel training does with gradients, once and at the end: their mean over ranks, on every rank.

    A parameter without a gradient here counts as zero, for another rank may have one.
    """
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and (size > _BUCKET_BYTES or bucket[0].grad.dtype != parameter.grad.dtype):  # type: ignore[union-attr]
            _average(bucket, world_size)
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.grad.numel() * parameter.grad.element_size()
    if bucket:
        _average(bucket, world_size)


def _average(bucket: list[nn.Parameter], world_size: int) -> None:
    gradients = [p.grad for p in bucket if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
