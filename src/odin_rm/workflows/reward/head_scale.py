"""The scale of a run's normalised heads: as given, else by the rule of :mod:`odin_rm.model.head_scale`."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast import TreeSupport
from odin_rm.model.head_scale import follows_features, scale_at, unit_deviation
from odin_rm.model.info import is_reward_model_folder
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, score_columns
from odin_rm.reward.config import RewardConfig

log = logging.getLogger(__name__)

RESPONSES = 128
"""How many responses, drawn once, tell the deviation of the features."""
TOKENS_AT_ONCE = 8192


def choose_head_scale(
    config: RewardConfig, model: RewardModel, data: TokenisedPreferences, pad_token_id: int, path: str
) -> float:
    """The scale of a run: as given, a saved model's own, by the features of a frozen encoder, else the paper's 1.

    A backbone that is trained makes its features larger by itself: MiniLM's rewards ended at a deviation of 1.15 from a
    scale of 1, and a start of 0.5 kept less content (docs/evidence.md, item 46).

    Args:
        config: the run's settings.
        model: the model as it begins.
        data: the training data.
        pad_token_id: what to pad with.
        path: what the model was loaded from.
    """
    if config.head_scale is not None:
        return config.head_scale
    new = config.train == "heads" and not is_reward_model_folder(path)
    if not (new and config.normalise_heads and follows_features(model.classifier)):
        return model.info.head_scale
    deviation = unit_deviation(_features(config, model, data, pad_token_id))
    scale = scale_at(deviation)
    what = "an encoder's features have a deviation of %.3g in a direction; --head_scale %g starts rewards at %.2g"
    log.info(what, deviation, scale, scale * deviation)
    return scale


def _features(config: RewardConfig, model: RewardModel, data: TokenisedPreferences, pad_token_id: int) -> np.ndarray:
    """``(R, D)`` features of some responses."""
    drawn = np.random.default_rng(0).permutation(data.num_responses)[:RESPONSES]
    sequences = [data.input_ids(int(number)) for number in np.sort(drawn)]
    kwargs: dict[str, Any] = {"pad_token_id": pad_token_id, "device": config.device}
    kwargs["microbatch_tokens"] = max(TOKENS_AT_ONCE, *(len(one) for one in sequences))
    kwargs["layout"] = TreeSupport("padded", None, "one pass over a few responses")
    training = model.training
    model.to(config.device).eval()
    model.reads_feature = True
    try:
        with torch.no_grad():
            return score_columns(model, sequences, **kwargs)[FEATURE]
    finally:
        model.reads_feature = False
        model.to("cpu").train(training)
