"""What a reward run would do, before it does it: the body of ``odin-rm reward --dry_run``.

Data are read and tokenised (into the cache, as the run would), the model's architecture is built without weights, and
the micro-batches of the first epoch are planned with the code that training uses. Nothing is trained or written.
Memory is estimated from the config; the run itself measures it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from odin_rm.data.batching import build_optimiser_batch, plan_epoch
from odin_rm.data.planning import BatchPlan, plan_batch
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast import forward_cost, neighbour_reason, reads_left_to_right, structural_reason
from odin_rm.model.backbone import load_config
from odin_rm.model.info import RewardModelInfo, is_reward_model_folder
from odin_rm.model.scoring import load_tokenizer
from odin_rm.model.storage import local_folder
from odin_rm.objectives.registry import make_objective
from odin_rm.reward import memory
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.loader import all_columns, start_objective
from odin_rm.runs.data_record import data_lines

MOST_STEPS = 200
"""So many steps of an epoch are planned at most, spread over it; the figures of tokens are theirs."""


@dataclass(frozen=True)
class TokenFigures:
    """Tokens of the planned steps, summed over them.

    Attributes:
        slots: of all response slots with their prompts, as a trainer without sharing sees them.
        responses: of the distinct responses of each step, each with its prompt.
        distinct: that the layout computes, without padding.
        computed: the same with padding.
        padded_real, padded_computed: of padded batches under the same budget, without and with padding.
    """

    slots: int
    responses: int
    distinct: int
    computed: int
    padded_real: int
    padded_computed: int

    @property
    def reuse(self) -> float:
        """Slot tokens per computed token."""
        return self.slots / self.computed

    @property
    def padding_share(self) -> float:
        """Share of padding in what the layout computes."""
        return 1 - self.distinct / self.computed

    @property
    def padding_share_padded(self) -> float:
        """Share of padding in padded batches under the same budget."""
        return 1 - self.padded_real / self.padded_computed


@dataclass(frozen=True)
class RewardPlan:
    """The plan of a reward run.

    Attributes:
        prompts, pairs, responses, slots: of the training data; slots are twice the pairs.
        layout: ``tree``, ``packed`` or ``padded``, by the model's structure.
        why: what decided it.
        budget: tokens per micro-batch, and up to how many tokens a step keeps its graphs.
        planned_steps: steps of the first epoch that were planned.
        tokens: their tokens.
        micro_batches: mean per step and rank.
        largest: tokens of the largest micro-batch.
        second_pass: share of the planned tokens that have a second forward pass.
        steps_per_epoch, steps: optimiser steps.
        parameters, trained: weights of the model.
        memory: bytes by name: weights, gradients, optimiser, activations.
        devices: processes of the run.
        data: a line on each data set: what of it is used and what is left out for which reason.
    """

    prompts: int
    pairs: int
    responses: int
    slots: int
    layout: str
    why: str
    budget: memory.Budget
    planned_steps: int
    tokens: TokenFigures
    micro_batches: float
    largest: int
    second_pass: float
    steps_per_epoch: int
    steps: int
    parameters: int
    trained: int
    memory: dict[str, int]
    devices: int
    data: list[str]


def plan_reward_run(
    config: RewardConfig, model_path: str, load_data: Any, prepare_texts: Any, data_records: Any
) -> RewardPlan:
    """The plan of the run that a config describes.

    Args:
        config: the settings.
        model_path: folder or hub id of the model; its weights are not read.
        load_data: ``(config, tokenizer, file for skipped rows) -> (training data, held-out data)``.
        prepare_texts: ``(config, classifier, tokenizer, path)``: settles where texts end, are padded and are cut.
        data_records: ``(training data, held-out data) -> what of the rows is used``.

    Raises:
        OdinError: bad input, as the run itself would refuse it.
    """
    classifier = _without_weights(model_path, config)
    tokenizer = load_tokenizer(model_path, trust_remote_code=config.trust_remote_code)
    prepare_texts(config, classifier, tokenizer, model_path)
    with tempfile.TemporaryDirectory() as scratch:
        data, held_out = load_data(config, tokenizer, Path(scratch) / "skipped_rows.jsonl")
    layout, why = _expected_layout(config, classifier)
    parameters = sum(p.numel() for p in classifier.parameters())
    trained = _trained(config, classifier, parameters)
    itemsize = 2 if config.bf16 or config.fp16 or config.model_dtype != "float32" else 4
    weight_size = 4 if config.model_dtype == "float32" else 2
    recomputed = config.recomputes_activations
    per_token = memory.activation_bytes(classifier.config, weight_size, itemsize, checkpointing=recomputed)
    held = {
        "weights": parameters * weight_size,
        "gradients": trained * weight_size,
        "optimiser": trained * memory.moments_bytes(weight_size, config.optimiser),
    }
    if weight_size > itemsize:  # autocast keeps a copy of each trained weight until the backward pass is over
        held["16-bit copies"] = trained * itemsize
    budget = _budget(config, per_token, sum(held.values()))

    seed = config.data_seed if config.data_seed is not None else config.seed
    objective = make_objective(config.objective, config.objective_settings)
    draw = start_objective(objective, all_columns(data, objective.variants))
    epoch = plan_epoch(data, config.batch_pairs, config.max_pairs_per_prompt, seed, 0, draw)
    chosen = np.unique(np.linspace(0, len(epoch) - 1, min(MOST_STEPS, len(epoch))).astype(int))
    options: dict[str, Any] = {"layout": layout, "cost": forward_cost(classifier), "variants": objective.variants}
    plans: list[BatchPlan] = []
    figures = np.zeros(6, dtype=np.int64)
    for step in chosen:
        plan, tokens = _plan_step(data, epoch[step], budget.tokens, config.world_size, **options)
        plans.append(plan)
        figures += tokens
    rounds = [[max(counts) for counts in zip(*p.tokens, strict=True)] for p in plans]
    kept = [sum(r[: memory.kept_rounds(r, budget.kept)]) if len(r) > 1 else r[0] for r in rounds]
    again = 1 - sum(kept) / sum(map(sum, rounds))
    at_once = max(max(k, p.largest) for k, p in zip(kept, plans, strict=True))
    total = config.max_steps if config.max_steps > 0 else int(np.ceil(config.num_train_epochs * len(epoch)))
    return RewardPlan(
        prompts=data.num_prompts,
        pairs=data.num_pairs,
        responses=data.num_responses,
        slots=2 * data.num_pairs,
        layout=layout,
        why=why,
        budget=budget,
        planned_steps=len(chosen),
        tokens=TokenFigures(*figures.tolist()),
        micro_batches=float(np.mean([len(p.ranks[0]) for p in plans])),
        largest=max(p.largest for p in plans),
        second_pass=again,
        steps_per_epoch=len(epoch),
        steps=total,
        parameters=parameters,
        trained=trained,
        memory={**held, "activations": at_once * per_token},
        devices=config.world_size,
        data=data_lines(data_records(data, held_out)),
    )


def _plan_step(
    data: TokenisedPreferences,
    pairs: np.ndarray,
    budget: int,
    world_size: int,
    *,
    layout: str,
    cost: Any,
    variants: Sequence[str],
) -> tuple[BatchPlan, np.ndarray]:
    batch = build_optimiser_batch(data, pairs, variants)
    sequences = [data.input_ids(int(r)) for r in batch.responses]
    lengths = np.array([len(s) for s in sequences])
    plan = plan_batch(sequences, budget, world_size, layout=layout, cost=cost)
    padded = plan_batch(sequences, budget, world_size, layout="padded")
    slots = int(lengths[batch.chosen].sum() + lengths[batch.rejected].sum())
    figures = (slots, lengths.sum(), plan.real_tokens, plan.computed_tokens, padded.real_tokens, padded.computed_tokens)
    return plan, np.array(figures, dtype=np.int64)


def _without_weights(model_path: str, config: RewardConfig) -> Any:
    """The classifier as the run builds it, on no device."""
    source = model_path
    if is_reward_model_folder(model_path):
        folder = local_folder(model_path)
        source = str(RewardModelInfo.load(folder).base_model or folder)
    settings = load_config(source, trust_remote_code=config.trust_remote_code, num_labels=1)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(settings, trust_remote_code=config.trust_remote_code)


def _expected_layout(config: RewardConfig, classifier: Any) -> tuple[str, str]:
    if config.batch_layout != "auto":
        return config.batch_layout, "as asked; verified when the run starts"
    if (reason := neighbour_reason(classifier)) is not None:
        return "single", reason
    if (reason := structural_reason(classifier)) is not None:
        return "padded", reason
    layout = "tree" if reads_left_to_right(classifier.base_model) else "packed"
    return layout, "by the model's structure; verified when the run starts"


def _trained(config: RewardConfig, classifier: Any, parameters: int) -> int:
    """Trained weights: all, or those of a LoRA adapter on the linear layers that it is put on."""
    if not config.lora_r:
        return parameters
    names = config.lora_target_modules.split(",") if config.lora_target_modules else None
    layers = [
        module
        for name, module in classifier.base_model.named_modules()
        if isinstance(module, torch.nn.Linear) and (names is None or name.rpartition(".")[2] in names)
    ]
    return sum(config.lora_r * (layer.in_features + layer.out_features) for layer in layers)


def _budget(config: RewardConfig, per_token: int, held: int) -> memory.Budget:
    if config.given_tokens is not None:
        return memory.Budget(config.given_tokens, config.single_pass_tokens)
    device = config.device
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or config.world_size)
    budget = memory.choose(per_token, device, held, processes=local)
    budget.kept = config.single_pass_tokens or budget.kept
    return budget
