"""Heads on frozen features, as a model that the reward trainer can train.

The backbone is out of the way: a *sequence* of the data is one number, the row of its response in a table of features,
and the forward pass looks it up and multiplies it with the heads. Everything else (objectives, exact batches, order,
schedule, evaluation, checkpoints) is the code that fine-tuning runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from odin_rm.core.types import RewardScores
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.model.heads import RewardHeads
from odin_rm.model.info import RewardModelInfo
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.storage import HEADS_FILE, read_heads


def head_scores(heads: RewardHeads, feature_RD: Tensor, *, with_feature: bool = False) -> RewardScores:
    """Rewards by head of features ``(R, D)``, float32; with the features where an objective reads them."""
    with heads.giving_feature(False):
        rewards_RH = heads(feature_RD)
    columns = dict(zip(heads.names, rewards_RH.unbind(-1), strict=True))
    return RewardScores(heads=columns, feature=feature_RD.float() if with_feature else None)


def as_rows(data: TokenisedPreferences, first: int = 0) -> TokenisedPreferences:
    """The same data set with one number in place of each sequence: ``first`` plus the number of the response."""
    numbers = np.arange(first, first + data.num_responses, dtype=np.int32)
    return replace(data, input_ids_flat=numbers, offsets=np.arange(data.num_responses + 1, dtype=np.int64))


class FrozenRewardModel(nn.Module):
    """The heads of a reward model on a table of its features.

    Args:
        model: the whole model; its heads are trained in place, and nothing else of it is touched.
        tables: ``(N, D)`` float32 arrays; rows are numbered through all of them.

    Attributes:
        whole: that model.
    """

    def __init__(self, model: RewardModel, tables: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.heads = model.heads
        self._whole = (model,)  # in a tuple, so that it is no submodule: neither trained, moved nor saved
        self.tables = [np.asarray(table) for table in tables]
        self.ends = np.cumsum([len(table) for table in self.tables])

    @property
    def whole(self) -> RewardModel:
        """The model that the heads belong to."""
        return self._whole[0]

    @property
    def info(self) -> RewardModelInfo:
        """Its description."""
        return self.whole.info

    @property
    def config(self) -> Any:
        """Its backbone's config."""
        return self.whole.config

    @property
    def reads_feature(self) -> bool:
        """Whether scores come with the feature."""
        return self.heads.with_feature

    @reads_feature.setter
    def reads_feature(self, wanted: bool) -> None:
        self.heads.with_feature = wanted

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> RewardScores:
        """Rewards of ``R`` responses by their numbers.

        Args:
            input_ids: ``(R, 1)`` rows of the tables.
            attention_mask: not read; there is no padding.
        """
        feature_RD = torch.from_numpy(self._rows(input_ids[:, 0].cpu().numpy())).to(input_ids.device)
        return head_scores(self.heads, feature_RD, with_feature=self.reads_feature)

    def _rows(self, number_R: np.ndarray) -> np.ndarray:
        table_R = np.searchsorted(self.ends, number_R, side="right")
        out = np.empty((len(number_R), self.heads.in_features), dtype=np.float32)
        for index in np.unique(table_R):
            here = table_R == index
            start = self.ends[index] - len(self.tables[index])
            out[here] = self.tables[index][number_R[here] - start]
        return out

    def save_pretrained(
        self, folder: str | Path, *, tokenizer: Any = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the heads and the description, for a checkpoint: the backbone has not changed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vectors = {name: v.detach().float().cpu().contiguous() for name, v in self.heads.vectors.items()}
        save_file(vectors, folder / HEADS_FILE, metadata={"format": "pt"})
        self.info.save(folder)

    def load_weights(self, folder: str | Path) -> None:
        """Read the heads of a checkpoint."""
        tensors = read_heads(folder, self.heads.names)
        with torch.no_grad():
            for name, parameter in self.heads.vectors.items():
                parameter.copy_(tensors[name])
