"""Features that a reward head reads, and a model with another weight in that head, for ``odin-rm calibrate --fold``.

What is written is a stock classifier. For a model of ours it is also a reward model again, whose heads are plain
vectors: the folded quality head is no longer of unit length, so the heads are stored as the forward pass has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odin_rm.core.errors import ExportError, ModelError
from odin_rm.core.types import QUALITY, RewardScores
from odin_rm.model.backbone import find_output_layer
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, ColumnClassifier, Scorer, load_scorer, score_columns

TOLERANCE = 1e-4
"""Largest difference between the written model's score and the formula, over the largest score (at least 1)."""


class _WithFeature(nn.Module):
    """A classifier's last linear layer with the feature behind its output: the classifier picks the token to read."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, feature: Tensor) -> Tensor:
        return torch.cat([self.layer(feature), feature.to(self.layer.weight.dtype)], dim=-1)


def head_of(scorer: Scorer) -> np.ndarray:
    """``(D,)`` float64 weight that gives the quality reward from the feature.

    Raises:
        ModelError: the last layer is not linear.
    """
    model = scorer.model
    if isinstance(model, RewardModel):
        return model.heads.effective(QUALITY).detach().double().cpu().numpy()
    assert isinstance(model, ColumnClassifier)
    return _output_layer(model).weight[model.column].detach().double().cpu().numpy()


def _output_layer(model: ColumnClassifier) -> nn.Linear:
    classifier: Any = model.classifier
    name = find_output_layer(classifier, int(classifier.config.num_labels))
    layer = classifier.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise ModelError(f"the last layer ({name}) is no linear layer, so nothing can be folded into it")
    return layer


def features_of(
    scorer: Scorer, sequences: Sequence[np.ndarray], *, microbatch_tokens: int, progress: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """``(R, D)`` features and ``(R,)`` quality rewards of sequences, uncalibrated."""
    options: dict[str, Any] = {
        "pad_token_id": scorer.pad_token_id,
        "microbatch_tokens": microbatch_tokens,
        "device": scorer.device,
        "progress": progress,
    }
    model: Any = scorer.model
    if isinstance(model, RewardModel):
        layout = scorer.layout(sequences)
        with model.heads.giving_feature():
            columns = score_columns(model, sequences, layout=layout, **options)
        return columns[FEATURE].astype(np.float64), columns[QUALITY]
    padded = _padded(scorer)
    with _feature_behind_logits(model) as reading:
        columns = score_columns(reading, sequences, layout=padded.layout(sequences), **options)
    return columns[FEATURE].astype(np.float64), columns[QUALITY]


def _padded(scorer: Scorer) -> Scorer:
    return Scorer(scorer.model, scorer.tokenizer, scorer.settings, scorer.name, False, batch_layout="padded")


@contextmanager
def _feature_behind_logits(model: ColumnClassifier) -> Iterator[nn.Module]:
    classifier: Any = model.classifier
    labels = int(classifier.config.num_labels)
    layer = _output_layer(model)
    name = find_output_layer(classifier, labels)
    parent, _, child = name.rpartition(".")
    owner = classifier.get_submodule(parent) if parent else classifier

    class Reading(nn.Module):
        """The column and the feature of a classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> RewardScores:
            from odin_rm.model.backbone import pad_right
            from odin_rm.model.reading import padded_logits

            ids, mask = pad_right(input_ids, attention_mask)
            both = padded_logits(classifier, classifier, ids, mask, stock=True)
            return RewardScores(heads={QUALITY: both[:, model.column].float()}, feature=both[:, labels:].float())

    setattr(owner, child, _WithFeature(layer))
    try:
        yield Reading()
    finally:
        setattr(owner, child, layer)


def save_folded(scorer: Scorer, weight_D: np.ndarray, folder: Path) -> None:
    """Write the model with another quality head.

    Args:
        scorer: the model; it is changed in place.
        weight_D: the head's new weight.
        folder: where to.
    """
    model = scorer.model
    weight = torch.tensor(weight_D)
    if isinstance(model, RewardModel):
        merged = model.merged()
        heads = {name: merged.heads.effective(name).detach().clone() for name in merged.heads.names}
        heads[QUALITY] = weight.to(heads[QUALITY])
        merged.heads.normalise, merged.heads.scale = False, 1.0
        with torch.no_grad():
            for name, value in heads.items():
                merged.heads.vectors[name].copy_(value)
        merged.info = merged.info.with_(
            normalise_heads=False, head_scale=1.0, reward_mean=None, reward_std=None, reference={}, audit={}
        )
        merged.save_pretrained(folder, tokenizer=scorer.tokenizer)
        return
    assert isinstance(model, ColumnClassifier)
    with torch.no_grad():
        layer = _output_layer(model)
        layer.weight[model.column] = weight.to(layer.weight)
    classifier: Any = model.classifier
    classifier.save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)


def prove_folded(
    folder: Path, sequences: Sequence[np.ndarray], expected_R: np.ndarray, scorer: Scorer, *, microbatch_tokens: int
) -> float:
    """The largest difference between the written model's scores and what the formula says.

    Raises:
        ExportError: it is larger than :data:`TOLERANCE` allows.
    """
    model: Any = scorer.model
    theirs: Any = None if isinstance(model, RewardModel) else model
    column = theirs.column if theirs is not None and int(theirs.classifier.config.num_labels) > 1 else None
    written = load_scorer(folder, column=column, device=str(scorer.device), calibration="none")
    scores = score_columns(
        written.model,
        sequences,
        pad_token_id=written.pad_token_id,
        microbatch_tokens=microbatch_tokens,
        device=written.device,
        layout=written.layout(sequences),
    )[QUALITY]
    found = float(np.abs(scores - expected_R).max())
    if not found <= TOLERANCE * max(1.0, float(np.abs(expected_R).max())):
        what = f"the written model's scores differ from the formula by {found:.2g}"
        raise ExportError(what, where=str(folder), fix="Nothing was written. Load the model in float32.")
    return found
