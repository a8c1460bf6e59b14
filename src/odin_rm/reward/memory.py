"""How many tokens a forward and backward pass may have: measured, chosen, and halved where memory runs out.

``--microbatch_tokens auto`` takes a probe: one forward and backward pass of some tokens of the data, which tells the
bytes that a token needs, and sets the budget to what is free. A number is taken as it is. Either way a step that does
not fit is taken again in micro-batches of half the tokens; no gradient is lost and the result is the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odin_rm.core.reading import read_text

DEFAULT_TOKENS = 16384
"""The budget where none is given and nothing can be measured."""
MOST_TOKENS = 65536
"""Beyond this a micro-batch gets no faster, and indices of its activations leave 32 bits."""
CPU_TOKENS = 4096
"""On a CPU larger micro-batches leave the caches and are no faster; graphs of several are kept instead."""
_CPU_SHARE, _CUDA_SHARE = 0.5, 0.8
_SAVED = {(4, 4): (24, 16, 8, 8), (4, 2): (26, 8, 4, 6), (2, 2): (16, 8, 4, 6)}
"""Bytes that autograd saves per token and layer for each of hidden size, inner size, width of queries, keys and values,
and the same again where queries and keys are normalised; by bytes of a weight and of a number in the products."""
_NORMALISES_HEADS = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2")
_MOMENTS = {"adafactor": 0, "sgd": 0}
"""Moments per trained weight that an optimiser keeps, where they are not AdamW's two; Adafactor's sums are small."""


@dataclass
class Budget:
    """What a run may put into memory at once; the same on every rank.

    Attributes:
        tokens: computed tokens of a micro-batch.
        kept: tokens of a rank's share whose graphs of the scoring pass are kept.
        largest_completed: tokens of the largest micro-batch that a whole step has been taken with.
        why: how the figures came about, for the log.
    """

    tokens: int
    kept: int = 0
    largest_completed: int = 0
    why: str = "as given"

    def shrink(self, largest: int, kept: int) -> str:
        """Allow less after memory ran out; kept graphs are halved first, then micro-batches.

        Args:
            largest: tokens of the largest micro-batch of the step.
            kept: tokens whose graphs the step kept.

        Returns:
            What was done, for the warning.
        """
        self.largest_completed = 0
        if kept:
            self.kept = min(self.kept, kept) // 2
            return f"graphs are kept of {self.kept} tokens a step from here on"
        self.tokens = max(1, min(self.tokens, largest) // 2)
        return f"--microbatch_tokens is {self.tokens} from here on"


def kept_rounds(tokens: Sequence[int], most: int) -> int:
    """Of how many micro-batches, from the first on, the graphs fit into ``most`` tokens; 0 where there is but one."""
    fitting = int(np.searchsorted(np.cumsum(tokens), most, side="right"))
    return fitting if len(tokens) > 1 else 0


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still take: of the GPU with torch's own reserve, or of the machine (or its group)."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(reserve)
    return min(_machine_bytes(), _group_bytes())


def graph_bytes(forward: Callable[[], Tensor], device: torch.device, parameters: Sequence[Tensor]) -> int:
    """Bytes that the graph of a forward pass takes, from one forward and backward pass.

    On a GPU it is the peak of the allocator, elsewhere the tensors that autograd keeps.

    Args:
        forward: gives a scalar; its gradients are the caller's to drop.
        device: where it runs.
        parameters: what is not counted, because it is there anyway.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        value = forward()
        forward_peak = torch.cuda.max_memory_allocated(device) - before
        value.backward()
        gradients = sum(p.grad.numel() * p.grad.element_size() for p in parameters if p.grad is not None)
        return max(forward_peak, torch.cuda.max_memory_allocated(device) - before - gradients)
    with _saved_bytes(parameters) as saved:
        value = forward()
    value.backward()
    return sum(saved.values())


def line_through(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bytes per token, and bytes whatever the tokens, from the (tokens, bytes) of the last two passes.

    What a pass takes whatever its size (16-bit copies of the weights, workspaces) is not charged to tokens. One pass,
    or two of nearly the same size, give their mean and nothing fixed.
    """
    (fewer, small), (more, large) = min(points[-2:]), max(points[-2:])
    slope = (large - small) / (more - fewer) if more >= 2 * fewer else 0.0
    mean = large / more
    if not 0.2 * mean < slope <= mean:
        return mean, 0.0
    return slope, large - slope * more


def choose(
    per_token: float, device: torch.device, pending: int, *, processes: int = 1, free: int | None = None
) -> Budget:
    """The budget for a need per token.

    Args:
        per_token: bytes per token (:func:`line_through`).
        device: where the model is.
        pending: bytes that the run is still going to allocate whatever the budget.
        processes: processes that share the machine's memory.
        free: bytes that are free; default measured.
    """
    on_cuda = device.type == "cuda"
    free = free_bytes(device) if free is None else free
    share = _CUDA_SHARE if on_cuda else _CPU_SHARE / processes
    room = max(0.0, free * share - pending)
    fits = max(1, int(room / max(per_token, 1.0)))
    most = MOST_TOKENS if on_cuda else CPU_TOKENS
    why = f"{per_token / 2**10:.0f} KiB a token, {free / 2**30:.1f} GiB free"
    return Budget(min(fits, most), fits, why=why)


def moments_bytes(itemsize: int, optimiser: str = "adamw_torch") -> int:
    """Bytes of the moments of a trained weight, which the first step allocates; torch gives them the weight's dtype.

    Args:
        itemsize: bytes of the weight.
        optimiser: ``--optim``; those of 8 bits are counted as AdamW, which is more than they take.
    """
    return _MOMENTS.get(optimiser, 2) * itemsize


def pending_bytes(trained: Sequence[Tensor], optimiser: str = "adamw_torch") -> int:
    """Gradients and moments that the first step allocates for these weights."""
    return sum(p.numel() * (p.element_size() + moments_bytes(p.element_size(), optimiser)) for p in trained)


def activation_bytes(config: Any, weight_size: int = 4, itemsize: int = 4, *, checkpointing: bool = False) -> int:
    """Estimate of the bytes that the graph of a causal or encoder model holds per token, from its config alone.

    A layer keeps what autograd saves: inputs of norms and projections, queries, keys, values, the attention's output,
    four tensors of the inner size. The counts are those of transformers' Llama and Qwen3 layers, for weights and
    products of one dtype or of two (autocast, which also keeps what the norms compute in 32 bits). With checkpointing
    only a layer's input is kept, and one layer whole.

    Args:
        config: of the model.
        weight_size: bytes of a weight.
        itemsize: bytes of a number in the products; smaller than ``weight_size`` under autocast.
        checkpointing: whether activations are computed anew in the backward pass.
    """
    hidden = int(getattr(config, "hidden_size", 0))
    layers = int(getattr(config, "num_hidden_layers", 0))
    inner = int(getattr(config, "intermediate_size", 0) or getattr(config, "ffn_dim", 0) or 4 * hidden)
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    key_heads = int(getattr(config, "num_key_value_heads", 0) or heads)
    width = int(getattr(config, "head_dim", 0) or hidden // heads)
    per_hidden, per_inner, per_head, normalised = _SAVED[weight_size, itemsize]
    per_head += normalised if getattr(config, "model_type", "") in _NORMALISES_HEADS else 0
    layer = per_hidden * hidden + per_inner * inner + per_head * width * (heads + key_heads)
    return layers * hidden * weight_size + layer if checkpointing else layers * layer


@contextmanager
def _saved_bytes(parameters: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Bytes of the storages that autograd saves inside the block, by address; weights are left out."""
    weights = {p.untyped_storage().data_ptr() for p in parameters}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def all_parameters(model: nn.Module) -> list[Tensor]:
    """Weights and buffers of a model."""
    return [*model.parameters(), *model.buffers()]


def _machine_bytes() -> int:
    try:
        for line in read_text("/proc/meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:  # no such file outside Linux; half of what is built in is a careful guess there
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def _group_bytes() -> int:
    """What the container that this process runs in may still take."""
    try:
        limit = read_text("/sys/fs/cgroup/memory.max").strip()
        used = read_text("/sys/fs/cgroup/memory.current")
        return sys.maxsize if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return sys.maxsize
