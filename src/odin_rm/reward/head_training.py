"""Training of heads alone (``--train heads``): by the reward trainer, and as a function without files.

:class:`HeadTrainer` is the reward trainer with a model of one row per response. :func:`train_heads` is a plain loop
over the same objectives, batches and schedule, for comparisons of many objectives on the same features; a test holds
both to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from odin_rm.core.errors import ConfigError, NumericalError, ShapeError
from odin_rm.core.types import RewardScores
from odin_rm.data.batching import OptimiserBatch, build_optimiser_batch, plan_epoch
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import select_pairs
from odin_rm.fast import TreeSupport
from odin_rm.model.heads import RewardHeads
from odin_rm.model.reward_model import RewardModel
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress
from odin_rm.objectives.registry import OBJECTIVES, ObjectiveSpec, make_objective
from odin_rm.reward.frozen import FrozenRewardModel, as_rows, head_scores
from odin_rm.reward.loader import pair_columns, start_objective
from odin_rm.reward.memory import Budget
from odin_rm.reward.options import HEADS_RATE
from odin_rm.reward.trainer import RewardTrainer

ROWS_AT_ONCE = 65536


class HeadTrainer(RewardTrainer):
    """The reward trainer for a :class:`~odin_rm.reward.frozen.FrozenRewardModel`: there is no layout to verify.

    Attributes:
        features: the digest of the training features, for the notes of checkpoints: they hold heads alone.
    """

    features = ""

    def data_note(self) -> dict[str, Any]:
        """Of the rows, and the digest of their features, which says which texts and which backbone they are of."""
        return {**super().data_note(), "features": self.features}

    def choose_layout(self) -> TreeSupport:
        """Rows of one number each."""
        return TreeSupport("padded", None, "heads on frozen features")

    def before_training(self) -> None:
        """A micro-batch is a table of rows; no memory has to be measured for it."""
        self.budget = Budget(ROWS_AT_ONCE, ROWS_AT_ONCE, why="heads on frozen features")
        self.batches.microbatch_tokens = self.budget.tokens

    def trained_model(self) -> RewardModel:
        """The whole model, with its trained heads."""
        frozen: Any = self._reward_model()
        assert isinstance(frozen, FrozenRewardModel)
        return frozen.whole


@dataclass(frozen=True)
class TrainedHeads:
    """What :func:`train_heads` gives.

    Attributes:
        heads: the trained heads.
        objective: the objective with its state (a curve, multipliers).
        losses: ``total`` of each step.
        metrics: of the last step, as they are logged.
    """

    heads: RewardHeads
    objective: Objective
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def scores(self, feature_RD: np.ndarray) -> RewardScores:
        """Rewards by head of features ``(R, D)``, detached."""
        with torch.no_grad():
            return head_scores(self.heads, torch.as_tensor(np.asarray(feature_RD, dtype=np.float32)))


def train_heads(
    feature_RD: np.ndarray,
    data: TokenisedPreferences,
    objective: str | Objective = "bradley_terry",
    *,
    settings: Any = None,
    pairs: np.ndarray | None = None,
    heads: tuple[str, ...] | None = None,
    normalise_heads: bool | None = None,
    head_scale: float = 1.0,
    batch_pairs: int | None = None,
    max_pairs_per_prompt: int | None = None,
    epochs: int = 1,
    learning_rate: float = HEADS_RATE,
    schedule: str = "cosine",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    start: RewardHeads | None = None,
    after_step: Callable[[int, RewardHeads], None] | None = None,
) -> TrainedHeads:
    """Train the heads of an objective on features.

    Args:
        feature_RD: ``(R, D)`` feature of each response of ``data``.
        data: the preference set; its token ids are not read.
        objective: a name of :data:`odin_rm.objectives.registry.OBJECTIVES`, or an objective. One ``of_features`` trains
            plain heads here, and its own network.
        settings: the record of its options where it is named; ``None`` for the defaults.
        pairs: numbers of the pairs to train on; ``None`` for all. Features stay those of ``data``.
        heads: names of the heads; by default the ones of the table.
        normalise_heads, head_scale: as the flags; by default as the table has it.
        batch_pairs: pairs in a step; ``None`` for all of them in each step.
        max_pairs_per_prompt: cap on the pairs of one prompt in a step; ``None`` for none.
        epochs: passes over the pairs.
        learning_rate: of AdamW, at its peak.
        schedule, warmup_steps: transformers' name of the schedule, and its warm-up.
        weight_decay: of AdamW.
        max_grad_norm: the gradient is clipped to this norm; 0 for not at all.
        seed: of the first weights and of the order of pairs.
        start: heads to begin with (they are changed) instead of drawn ones.
        after_step: called with the number of the step and the heads.

    Returns:
        :class:`TrainedHeads`.

    Raises:
        ShapeError: there is not one feature for each response, or no such pair.
        ConfigError: there is no such objective, or a number is out of range.
        NumericalError: a feature or the loss is not finite.
    """
    _check_numbers(epochs=epochs, batch_pairs=batch_pairs, max_pairs_per_prompt=max_pairs_per_prompt)
    rows = _rows_of(data, pairs)
    table_RD = torch.as_tensor(_checked_features(feature_RD, data)[np.asarray(rows.input_ids_flat)])
    if isinstance(objective, str):
        spec = _spec_of(objective)
        heads = spec.heads if heads is None else heads
        normalise_heads = spec.normalise_heads if normalise_heads is None else normalise_heads
        objective = make_objective(objective, spec.settings() if settings is None else settings)
    trained = start if start is not None else _drawn(table_RD.shape[1], heads, normalise_heads, head_scale, seed)

    size, cap = batch_pairs or rows.num_pairs, max_pairs_per_prompt or rows.num_pairs
    whole = np.arange(rows.num_pairs)
    every = build_optimiser_batch(rows, whole, objective.variants)
    all_columns = pair_columns(rows, every)
    draw = start_objective(objective, all_columns)
    one_batch = draw is None and size >= rows.num_pairs and cap >= rows.num_pairs
    plans = [[whole] if one_batch else plan_epoch(rows, size, cap, seed, epoch, draw) for epoch in range(epochs)]
    steps = sum(map(len, plans))
    optimiser = torch.optim.AdamW(trained.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = get_scheduler(schedule, optimiser, num_warmup_steps=warmup_steps, num_training_steps=steps)
    losses, metrics = list[float](), dict[str, float]()
    for step, numbers in enumerate((one for plan in plans for one in plan), start=1):
        batch = every if one_batch else build_optimiser_batch(rows, numbers, objective.variants)
        columns = all_columns if one_batch else pair_columns(rows, batch)
        optimiser.zero_grad()
        progress = Progress(step, steps)
        scores, value, loss = _backward(trained, objective, table_RD, batch, columns, progress, data.source)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained.parameters(), max_grad_norm)
        optimiser.step()
        scheduler.step()
        objective.after_step(scores.detach(), columns, progress)
        losses.append(loss)
        if step == steps:
            metrics = {name: float(one) for name, one in value.metrics.items()}
        if after_step is not None:
            after_step(step, trained)
    return TrainedHeads(trained, objective, losses, metrics)


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ConfigError(f"is {number}", where=name, fix="Give a number of at least 1.")


def _spec_of(objective: str) -> ObjectiveSpec:
    if objective not in OBJECTIVES:
        fix = f"Use one of {', '.join(OBJECTIVES)}."
        raise ConfigError(f"there is no objective '{objective}'", where="objective", fix=fix)
    return OBJECTIVES[objective]


def _checked_features(feature_RD: np.ndarray, data: TokenisedPreferences) -> np.ndarray:
    """``(R, D)`` float32, one finite row for each response."""
    table_RD = np.asarray(feature_RD, dtype=np.float32)
    if table_RD.ndim != 2:
        raise ShapeError(f"features must be a table (R, D), they have the shape {table_RD.shape}")
    if len(table_RD) != data.num_responses:
        raise ShapeError(f"there are {len(table_RD)} features for {data.num_responses} responses")
    bad = int((~np.isfinite(table_RD).all(1)).sum())
    if bad:
        fix = "Compute them in float32, or leave those responses out."
        raise NumericalError(f"{bad} responses have features that are not finite", where=data.source, fix=fix)
    return table_RD


def _rows_of(data: TokenisedPreferences, pairs: np.ndarray | None) -> TokenisedPreferences:
    """The set with its responses' numbers for texts, and these of its pairs."""
    if pairs is None:
        return as_rows(data)
    keep_B = np.zeros(data.num_pairs, dtype=bool)
    try:
        keep_B[pairs] = True
    except IndexError as error:
        raise ShapeError(f"'pairs' are no numbers of the {data.num_pairs} pairs ({error})") from error
    if not keep_B.any():
        raise ShapeError("'pairs' names no pair")
    return select_pairs(as_rows(data), keep_B)


def _backward(
    trained: RewardHeads,
    objective: Objective,
    table_RD: Tensor,
    batch: OptimiserBatch,
    columns: PairColumns,
    progress: Progress,
    source: str,
) -> tuple[RewardScores, ObjectiveValue, float]:
    """Scores, value and loss of a step, after its gradients are with the heads."""
    feature_RD = table_RD[torch.from_numpy(batch.responses)]
    scores = _in_float64(head_scores(trained, feature_RD, with_feature=objective.reads_feature))
    value = objective.value(scores, columns, progress)
    term = objective.head_term(trained, progress)
    total = value.total if term is None else value.total + term
    if not bool(torch.isfinite(total)):
        fix = "Lower the learning rate."
        raise NumericalError("the loss is not finite", where=f"{source}, step {progress.step}", fix=fix)
    total.backward()
    return scores, value, float(total.detach())


def _drawn(size: int, names: tuple[str, ...] | None, normalise: bool | None, scale: float, seed: int) -> RewardHeads:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RewardHeads(size, names or ("quality",), normalise=bool(normalise), scale=scale)


def _in_float64(scores: RewardScores) -> RewardScores:
    """As the exact batch hands them to an objective."""
    feature: Tensor | None = None if scores.feature is None else scores.feature.double()
    return RewardScores(heads={name: column.double() for name, column in scores.heads.items()}, feature=feature)
