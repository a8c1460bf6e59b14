"""One cell of a comparison: an arm, a seed, a part of the prompts held out. Each is a small file and never redone.

A cell is known by a digest of all that decides it, so the same command goes on where it ended, and a changed arm is
trained anew while the others stay.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from odin_rm.core.atomic import dump_json
from odin_rm.core.errors import OdinError
from odin_rm.core.files import atomic_write_bytes
from odin_rm.core.reading import read_bytes
from odin_rm.core.types import LENGTH, QUALITY
from odin_rm.evaluation.dial_rivals import lowess
from odin_rm.evaluation.nulling import longer_less_shorter, nulled
from odin_rm.evaluation.rivals import smallest_subtraction
from odin_rm.reward.head_training import train_heads
from odin_rm.workflows.rivals.arms import BAG, LENGTH_HEAD, LOESS, NULLING, Arm
from odin_rm.workflows.rivals.bag import RIDGE, bag_of, fit_bag
from odin_rm.workflows.rivals.config import RivalsConfig
from odin_rm.workflows.rivals.features import Compared

VERSION = 2
SEEDS_APART = 1000
"""Between the seeds whose weights one cell averages."""
_TRAINING = ("learning_rate", "weight_decay", "epochs", "batch_pairs")
_DECIDES = ("folds", "seed", "pooling", "max_length", "edits", "responses", *_TRAINING)


@dataclass(frozen=True)
class Cell:
    """What a trained cell says.

    Attributes:
        held: rewards of the held-out responses, in their order.
        further: rewards of the set's further texts.
        seconds: of training.
    """

    held: np.ndarray
    further: np.ndarray
    seconds: float


class Cells:
    """The cells of one data set.

    Args:
        config: of the comparison.
        compared: the data set.
        folder: where cells are kept.
    """

    def __init__(self, config: RivalsConfig, compared: Compared, folder: Path) -> None:
        self.config, self.compared, self.folder = config, compared, folder
        ids = hashlib.sha256()
        for data in (compared.data, compared.further):
            of_responses = data.offsets, data.input_ids_flat, data.response_tokens, data.response_prompt
            for column in (*of_responses, data.pair_chosen, data.pair_rejected, data.pair_margin):
                ids.update(np.ascontiguousarray(column).tobytes())
        ids.update(np.ascontiguousarray(compared.feature_RD[:64:7]).tobytes())  # another backbone
        self._data = ids.hexdigest()
        self._bags: Any = None

    def get(self, arm: Arm, seed: int, fold: int) -> tuple[Cell, bool]:
        """The cell, trained where it is not there yet, and whether it was there.

        Raises:
            OdinError: its loss is not finite, or its objective cannot learn from these pairs; the arm is named.
        """
        file = self.folder / f"{self._digest(arm, seed, fold)}.safetensors"
        found = self._read(file)
        if found is not None:
            return found, True
        try:
            cell = self._bag(arm, fold) if arm.objective == BAG else self._heads(arm, seed, fold)
        except OdinError as error:
            where = f"arm '{arm.name}', {error.where.removeprefix('--')}"
            raise type(error)(error.what, where=where, fix=error.fix) from error
        columns = {"held": cell.held, "further": cell.further, "seconds": np.array([cell.seconds])}
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(file, save({name: np.ascontiguousarray(one) for name, one in columns.items()}))
        return cell, False

    def _digest(self, arm: Arm, seed: int, fold: int) -> str:
        settings = {name: getattr(self.config, name) for name in _DECIDES}
        asked = {"version": VERSION, "data": self._data, "arm": arm.to_json(), "head_seed": seed, "fold": fold}
        asked["settings"] = settings
        for name in arm.attributes:  # a user's own function may have changed
            column = np.ascontiguousarray(self.compared.data.attributes[name.rpartition(":")[2]], np.float64)
            asked[f"attribute {name}"] = hashlib.sha256(column.tobytes()).hexdigest()
        return hashlib.sha256(dump_json(asked).encode()).hexdigest()[:32]

    def _read(self, file: Path) -> Cell | None:
        if not file.is_file():
            return None
        try:
            columns = load(read_bytes(file))
            return Cell(columns["held"], columns["further"], float(columns["seconds"][0]))
        except (SafetensorError, KeyError):
            return None  # cut off: it is trained again

    def _heads(self, arm: Arm, seed: int, fold: int) -> Cell:
        compared, own = self.compared, arm.training
        training = {name: own.get(name, getattr(self.config, name)) for name in _TRAINING}
        started = time.perf_counter()
        reference = compared.fold_R != fold
        vectors = []  # by seed, those of the heads; the first seed is the cell's own
        for number in range(own.get("average", 1)):
            heads = train_heads(
                compared.feature_RD,
                compared.data,
                arm.objective,
                settings=arm.settings,
                pairs=np.flatnonzero(compared.fold_B != fold),
                normalise_heads=own.get("normalise_heads"),
                head_scale=own.get("head_scale", compared.head_scale),
                schedule="cosine",
                seed=seed + SEEDS_APART * number,
                **training,
            ).heads
            vectors.append({name: heads.effective(name).detach().double().numpy() for name in heads.names})
        seconds = time.perf_counter() - started
        mean = {name: np.mean([one[name] for one in vectors], axis=0) for name in vectors[0]}
        tables = [np.asarray(table, dtype=np.float64) for table in (compared.feature_RD, compared.further_RD)]
        if own.get("after") == NULLING:
            length_R = np.asarray(compared.data.response_tokens)[reference]
            mean[QUALITY] = nulled(mean[QUALITY], longer_less_shorter(tables[0][reference], length_R)[None])
        quality = [table @ mean[QUALITY] for table in tables]
        if own.get("after") == LENGTH_HEAD:
            length = [table @ mean[LENGTH] for table in tables]
            factor = smallest_subtraction(quality[0][reference], length[0][reference])
            quality = [q - factor * part for q, part in zip(quality, length, strict=True)]
        if own.get("after") == LOESS:
            lengths = [np.asarray(one.response_tokens, dtype=float) for one in (compared.data, compared.further)]
            curve = lowess(quality[0][reference], lengths[0][reference])
            quality = [q - curve(at) for q, at in zip(quality, lengths, strict=True)]
        return Cell(quality[0][compared.fold_R == fold], quality[1], seconds)

    def _bag(self, arm: Arm, fold: int) -> Cell:
        if self._bags is None:
            sets = (self.compared.data, self.compared.further)
            self._bags = [bag_of([one.input_ids(r) for r in range(one.num_responses)]) for one in sets]
        data, (own, further) = self.compared.data, self._bags
        started = time.perf_counter()
        pairs = np.flatnonzero(self.compared.fold_B != fold)
        difference = own[np.asarray(data.pair_chosen)[pairs]] - own[np.asarray(data.pair_rejected)[pairs]]
        weights = fit_bag(difference, arm.training.get("ridge", RIDGE))
        seconds = time.perf_counter() - started
        return Cell((own @ weights)[self.compared.fold_R == fold], further @ weights, seconds)
