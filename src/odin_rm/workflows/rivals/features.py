"""What the heads read of every text, computed once and kept: a backbone is run once for all objectives and seeds.

Features stand in parts of at most ``PART`` sequences, each under a digest of the model, its reading and the token ids.
A stopped pass goes on where it ended, and another data set, fold or objective finds what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from odin_rm.core.files import atomic_write_bytes
from odin_rm.core.progress import Progress
from odin_rm.core.reading import read_bytes
from odin_rm.core.types import QUALITY
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.judging.scored import folder_state
from odin_rm.model.backbone import check_model_folder, load_config
from odin_rm.model.device import pick_device
from odin_rm.model.pad_token import ensure_sound_pad_token
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, load_tokenizer, score_columns

PART = 512
"""Sequences of a file."""


class Features:
    """The features that a new head on a backbone would read.

    Args:
        path: model folder or hub id of the backbone.
        folder: where features are kept.
        pooling: where a head reads, as of ``odin-rm reward``.
        max_length: window in tokens; longer responses are cut.
        microbatch_tokens: tokens of a forward pass.
        device: default CUDA where there is one.

    Attributes:
        tokenizer: the model's own.
        settings: how texts are rendered and cut.
        seconds: that were spent in forward passes, of this run alone.
    """

    def __init__(
        self, path: str, folder: Path, *, pooling: str, max_length: int, microbatch_tokens: int, device: str | None
    ) -> None:
        check_model_folder(path)
        self.tokenizer: Any = load_tokenizer(path)
        self.settings = EncodingSettings(max_length=max_length, overlong="truncate_response", read_at="end_of_turn")
        self.folder, self.pooling, self.path = folder, pooling, path
        self.microbatch_tokens, self.device = microbatch_tokens, pick_device(device)
        ensure_sound_pad_token(self.tokenizer, load_config(path), self.settings)
        self.seconds = 0.0
        self._model: RewardModel | None = None
        self._key = f"{folder_state(path) or path}:{pooling}"

    def of(self, sequences: Sequence[np.ndarray], what: str) -> np.ndarray:
        """``(R, D)`` float32 features of token sequences, from the files where they are there.

        Args:
            sequences: ``R`` arrays of token ids.
            what: to say what is computed.
        """
        if not len(sequences):
            return np.zeros((0, 0), np.float32)
        parts = [sequences[first : first + PART] for first in range(0, len(sequences), PART)]
        found = [self._stored(part) for part in parts]
        if any(part is None for part in found):
            missing = sum(len(part) for part, there in zip(parts, found, strict=True) if there is None)
            with Progress(f"features of {what}", missing, unit="texts") as bar:
                found = [self._computed(part, bar) if t is None else t for part, t in zip(parts, found, strict=True)]
        return np.concatenate([part for part in found if part is not None])

    def _file(self, sequences: Sequence[np.ndarray]) -> Path:
        digest = hashlib.sha256(self._key.encode())
        for one in sequences:
            ids = np.asarray(one, dtype="<i4")
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def _stored(self, sequences: Sequence[np.ndarray]) -> np.ndarray | None:
        file = self._file(sequences)
        if not file.is_file():
            return None
        try:
            feature_RD = load(read_bytes(file))[FEATURE]
        except (SafetensorError, KeyError):
            return None  # cut off or not ours: it is computed again
        return feature_RD if len(feature_RD) == len(sequences) else None

    @torch.no_grad()
    def _computed(self, sequences: Sequence[np.ndarray], bar: Progress) -> np.ndarray:
        import time

        model = self._backbone()
        started = time.perf_counter()
        columns = score_columns(
            model,
            [np.asarray(one) for one in sequences],
            pad_token_id=int(self.tokenizer.pad_token_id),
            microbatch_tokens=self.microbatch_tokens,
            device=self.device,
        )
        self.seconds += time.perf_counter() - started
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(self._file(sequences), save({FEATURE: columns[FEATURE]}))
        bar.advance(len(sequences))
        return columns[FEATURE]

    def _backbone(self) -> RewardModel:
        if self._model is None:
            self._model = RewardModel.from_backbone(self.path, heads=(QUALITY,), pooling=self.pooling)
            self._model.grow_vocabulary(int(self.tokenizer.pad_token_id) + 1)
            self._model.reads_feature = True
            self._model.to(self.device).eval()
        return self._model
