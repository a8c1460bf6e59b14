"""The exact gradient of an objective that is defined on the whole optimiser batch (method: three steps).

A correlation over a batch is not a mean over its parts, so accumulating losses of micro-batches optimises something
else. Here the loss is a function ``f(s_1 .. s_R, w)`` of every response's scalar scores and of the heads, and

    df/dtheta = sum_r (df/ds_r) (ds_r/dtheta) + (df/dw) (dw/dtheta)

is assembled without ever holding the graph of more than one micro-batch:

1. score each response without gradient, micro-batch by micro-batch; gather the scalars of all ranks;
2. evaluate the objective on the gathered scalars, in float64, and differentiate it with respect to each scalar;
3. run each micro-batch again with gradient and back-propagate ``sum(score * derivative)``.

Where there is one micro-batch its graph serves both passes, and of several as many graphs are kept as fit into memory;
only the others are computed again in step 3. The result does not depend on the split: not on micro-batches, order,
padding, layout or the number of ranks.

An objective may read more of a response than one scalar per head: the feature that the heads read. Its numbers travel
as further rows of the same matrix, and the derivative with respect to each of them comes back in step 3.

A micro-batch that does not fit into memory raises :class:`OutOfMemory` on every rank (but for the last backward pass of
a step, in which gradients travel already). Nothing but gradients has then been touched; the caller drops them and takes
the step again in smaller parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.model.device import is_out_of_memory

Parts = TypeVar("Parts")
ScoreFunction = Callable[[Any], RewardScores]
"""Scores one micro-batch (whatever the loader yields for it)."""


class OutOfMemory(Exception):
    """Some rank's memory did not hold a micro-batch; the step has to be taken again in smaller parts.

    Args:
        alone: only this rank knows, and the others are waiting for its gradients: there is no second attempt.
    """

    def __init__(self, alone: bool = False) -> None:
        super().__init__()
        self.alone = alone


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of this rank.

    Attributes:
        inputs: what the score function takes.
        positions: ``(r,)`` int64 positions of its responses in the optimiser batch. A rank with less work than the
            others carries an idle micro-batch: inputs to run, so collectives match, but no positions.
    """

    inputs: Any
    positions: Tensor


@dataclass(frozen=True)
class Engine:
    """How this process talks to the others; the defaults are one process.

    Attributes:
        world_size: number of ranks. Data-parallel averaging divides gradients by it, which is compensated.
        sum_over_ranks: ``(H, R) -> (H, R)`` sum over ranks (the gather: every scalar is non-zero on one rank only).
        backward: back-propagates a scalar (``accelerator.backward``: loss scaling, DeepSpeed).
        no_sync: context in which a backward pass does not start the gradient exchange.
        device: where the float64 scalars live (CPU where an accelerator has no float64); ``None`` for the CPU.
        retained_graphs: the graphs of the scoring pass are kept for so many micro-batches, the first ones. These have
            no second forward pass. The others are scored before them.
        synced_score: scores the last micro-batch where its backward pass exchanges gradients (the wrapped model, the
            score function being the bare one); ``None`` where both are the same.
        exchange: sums up the gradients of the ranks once all backward passes are done. Where it is given, no backward
            pass starts an exchange of its own, so a rank that runs out of memory leaves no other waiting.
        any_rank: whether something is true on any rank. All ranks ask at the same places.
    """

    world_size: int = 1
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda scores_HR: scores_HR
    backward: Callable[[Tensor], None] = lambda loss: loss.backward()
    no_sync: Callable[[], AbstractContextManager] = nullcontext
    device: torch.device | None = None
    retained_graphs: int = 0
    synced_score: ScoreFunction | None = None
    exchange: Callable[[], None] | None = None
    any_rank: Callable[[bool], bool] = lambda here: here


def exact_backward(
    score: ScoreFunction,
    micro_batches: Sequence[MicroBatch],
    responses: int,
    objective: Callable[[RewardScores], tuple[Tensor, Parts]],
    *,
    head_term: Callable[[], Tensor | None] = lambda: None,
    engine: Engine | None = None,
) -> Parts:
    """Back-propagate the gradient of an objective over the whole optimiser batch; see the module's text.

    Args:
        score: forward pass of one micro-batch; must be deterministic (dropout off).
        micro_batches: this rank's share; every rank has the same number.
        responses: ``R``, distinct responses in the optimiser batch over all ranks.
        objective: ``(scores of R responses) -> (total, parts)``, where ``total`` is differentiated with respect to the
            scores only and ``parts`` is handed back. It sees float64 scores, the same ones on each rank.
        head_term: a term of the loss that depends on the heads alone (``lambda_O |w_Q . w_L|``); added once.
        engine: the processes; one by default.

    Returns:
        ``parts`` of the objective.
    """
    engine = engine or Engine()
    last = len(micro_batches) - 1
    keep = 1 if last == 0 else min(engine.retained_graphs, len(micro_batches))

    # 1. Score. Where the graph is kept, this is also the pass that is differentiated.
    kept: dict[int, Tensor] = {}
    names: tuple[str, ...] = ()
    scores_HR: Tensor | None = None
    with _memory_guard() as lacking:
        for index in (*range(keep, len(micro_batches)), *range(keep)):
            micro_batch = micro_batches[index]
            # A pass that is to exchange gradients must go through the wrapped model.
            synced = index < keep and engine.exchange is None and index == last
            with torch.set_grad_enabled(index < keep):
                found = (engine.synced_score or score if synced else score)(micro_batch.inputs)
                local_Hr = _stack(found)
            if scores_HR is None:
                names = tuple(found.heads)
                scores_HR = torch.zeros(len(local_Hr), responses, dtype=torch.float64, device=engine.device)
            real = len(micro_batch.positions)
            found_Hr = local_Hr.detach()[:, :real].to(engine.device).double()
            scores_HR[:, micro_batch.positions.to(engine.device)] = found_Hr
            if index < keep:
                kept[index] = local_Hr
            del found  # with a graph that is not its own to keep
    if engine.any_rank(bool(lacking)):
        raise OutOfMemory
    assert scores_HR is not None, "an optimiser batch has at least one micro-batch on each rank"
    scores_HR = engine.sum_over_ranks(scores_HR).requires_grad_(True)

    # 2. The objective and its derivative with respect to each scalar. Identical on each rank.
    with torch.enable_grad():
        total, parts = objective(_unstack(scores_HR, names))
        (derivative_HR,) = torch.autograd.grad(total, scores_HR)

    # 3. Back-propagate sum(score * derivative). The last micro-batch exchanges gradients, unless that comes afterwards.
    work = _BackwardPass(score, micro_batches, derivative_HR, kept, head_term, engine)
    with _memory_guard() as lacking:
        for index in range(last):
            with engine.no_sync():
                work.backward(index, work.scores(index))
        if engine.exchange is not None:
            with engine.no_sync():
                work.backward(last, work.scores(last))
    if engine.any_rank(bool(lacking)):
        raise OutOfMemory
    if engine.exchange is not None:
        engine.exchange()
        return parts
    with _memory_guard() as lacking:
        local_Hr = work.scores(last, synced=True)  # all ranks or none: a wrapper may exchange something here already
    if engine.any_rank(bool(lacking)):
        raise OutOfMemory
    with _memory_guard() as lacking:
        work.backward(last, local_Hr)
    if lacking:
        raise OutOfMemory(alone=engine.world_size > 1)
    return parts


@dataclass(frozen=True)
class _BackwardPass:
    score: ScoreFunction
    micro_batches: Sequence[MicroBatch]
    derivative_HR: Tensor
    kept: dict[int, Tensor]
    head_term: Callable[[], Tensor | None]
    engine: Engine

    def scores(self, index: int, *, synced: bool = False) -> Tensor:
        """Scores of a micro-batch with their graph, kept or computed again."""
        if index in self.kept:
            return self.kept.pop(index)  # a graph must not outlive its backward pass
        score = self.engine.synced_score or self.score if synced else self.score
        return _stack(score(self.micro_batches[index].inputs))

    def backward(self, index: int, local_Hr: Tensor) -> None:
        """Gradients of a micro-batch, with the term of the heads in the last one."""
        positions = self.micro_batches[index].positions
        weight_Hr = torch.zeros_like(local_Hr)
        weight_Hr[:, : len(positions)] = self.derivative_HR[:, positions.to(self.engine.device)].to(local_Hr)
        # Averaging over ranks divides by the world size; each response lives on one rank, so multiply back.
        loss = (local_Hr * weight_Hr).sum() * self.engine.world_size
        extra = self.head_term() if index == len(self.micro_batches) - 1 else None
        self.engine.backward(loss if extra is None else loss + extra)


@contextmanager
def _memory_guard() -> Iterator[list[str]]:
    """Collects what was said of memory that ran out, without holding on to the frames and tensors of the attempt."""
    lacking: list[str] = []
    try:
        yield lacking
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lacking.append(str(error))


def _stack(scores: RewardScores) -> Tensor:
    """``(H, r)`` in the scores' own dtype (float32); where a feature came with them, its ``D`` columns are rows too."""
    heads_Hr = torch.stack(list(scores.heads.values()))
    return heads_Hr if scores.feature is None else torch.cat([heads_Hr, scores.feature.T.to(heads_Hr)])


def _unstack(scores_HR: Tensor, names: Sequence[str]) -> RewardScores:
    heads = dict(zip(names, scores_HR[: len(names)], strict=True))
    return RewardScores(heads=heads, feature=scores_HR[len(names) :].T if len(scores_HR) > len(names) else None)
