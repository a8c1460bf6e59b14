"""The trainers of a reward run: of all weights, or of the heads on features of the frozen backbone."""

from __future__ import annotations

import copy
import logging
import tempfile
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import TrainerCallback

from odin_rm.core.progress import Progress
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast import choose_layout, choose_matmul, longest_and_first
from odin_rm.model.reward_model import RewardModel
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.features import Features, frozen_features
from odin_rm.reward.frozen import FrozenRewardModel, as_rows
from odin_rm.reward.head_training import HeadTrainer
from odin_rm.reward.memory import DEFAULT_TOKENS
from odin_rm.reward.trainer import RewardTrainer
from odin_rm.runs.run_folder import as_config_errors

log = logging.getLogger(__name__)


def build_trainer(
    config: RewardConfig, model: RewardModel, train_data: TokenisedPreferences, **parts: Any
) -> RewardTrainer:
    """The trainer of a config, made beside the run folder: what the Trainer refuses must not leave half a run.

    Raises:
        ConfigError: an optimiser, a tracker or an engine that is asked for is not installed or cannot work.
    """
    return _made(RewardTrainer, config, model, train_data, **parts)


def _made(
    kind: type[RewardTrainer], config: RewardConfig, model: Any, train_data: TokenisedPreferences, **parts: Any
) -> RewardTrainer:
    args = copy.copy(config)
    args.push_to_hub = False  # the finished model is uploaded, not every checkpoint
    with tempfile.TemporaryDirectory() as scratch, as_config_errors("reward"):
        args.output_dir = scratch
        trainer = kind(model, args, train_data, **parts)
        trainer.get_optimizer_cls_and_kwargs(args, model)  # type: ignore[arg-type]
    return trainer


def build_head_trainer(
    config: RewardConfig,
    model: RewardModel,
    train_data: TokenisedPreferences,
    *,
    eval_data: TokenisedPreferences | None = None,
    tokenizer: Any,
    callbacks: list[TrainerCallback] | None = None,
) -> HeadTrainer:
    """The trainer of heads alone (``--train heads``); features are computed, or read from the cache.

    Raises:
        OdinError: as :func:`build_trainer`; a feature is not finite, or the cache cannot be written.
    """
    data = [train_data, *([eval_data] if eval_data is not None else [])]
    features = [_features(config, model, one, int(tokenizer.pad_token_id)) for one in data]
    frozen = FrozenRewardModel(model, [one.rows for one in features])
    held_out = None if eval_data is None else as_rows(eval_data, train_data.num_responses)
    parts: dict[str, Any] = {"eval_data": held_out, "tokenizer": tokenizer, "callbacks": callbacks}
    trainer = _made(HeadTrainer, config, frozen, as_rows(train_data), **parts)
    assert isinstance(trainer, HeadTrainer)
    trainer.features = features[0].digest
    return trainer


def features_precision(config: RewardConfig) -> str:
    """The name of the precision in which a run computes features."""
    kind = _autocast_dtype(config)
    return "" if kind is None else str(kind)


def _autocast_dtype(config: RewardConfig) -> torch.dtype | None:
    return torch.bfloat16 if config.bf16 else torch.float16 if config.fp16 else None


def _features(config: RewardConfig, model: RewardModel, data: TokenisedPreferences, pad_token_id: int) -> Features:
    """Features of a data set on the device and in the precision of the run."""
    kind, device = _autocast_dtype(config), config.device

    def autocast() -> AbstractContextManager:
        return torch.autocast(device.type, dtype=kind, enabled=kind is not None)

    model.to(device).eval()
    choose_matmul(model, config.cpu_products)
    with autocast():
        layout = choose_layout(
            model,
            longest_and_first(data),
            pad_token_id,
            requested=config.batch_layout,
            kernel=config.tree_attention,
            device=device,
        )
    model.zero_grad(set_to_none=True)
    budget = config.given_tokens or DEFAULT_TOKENS
    with Progress("features", data.num_responses, unit="responses") as progress:
        found = frozen_features(
            model,
            data,
            pad_token_id=pad_token_id,
            microbatch_tokens=budget,
            layout=layout,
            cache_dir=config.cache_dir,
            autocast=autocast,
            precision=features_precision(config),
            progress=progress.advance,
        )
    model.to("cpu")
    how = f"computed in {found.seconds:.1f} s ({layout.layout})" if found.seconds else "from the cache"
    log.info("features of %s: %s responses, %s", data.source, f"{data.num_responses:,}", how)
    return found
