"""Scored texts as what the dial is fitted on: the domain, labelled pairs, pairs that say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.data.attributes import TOKENS, find_attribute, measure_texts
from odin_rm.evaluation.dial_fit import DialPairs, DialRows
from odin_rm.workflows.calibrate.config import CalibrateConfig
from odin_rm.workflows.calibrate.rows import Material
from odin_rm.workflows.probe.rows import reply_text


def plain_scorer(config: CalibrateConfig) -> Any:
    """The model's own scores are what a curve is fitted to, whatever stands beside it."""
    from odin_rm.workflows.model_scores import scorer_of

    plain = replace(config)
    plain.calibration = "none"
    return scorer_of(plain, str(config.model))


def attributes_of(config: CalibrateConfig) -> list[str]:
    """Names of the attributes that a model is calibrated for."""
    return [find_attribute(name).name for name in config.attributes] or [TOKENS]


class Texts:
    """Scored texts, with their attributes.

    Args:
        material: what was scored.
        quality, tokens, cut: of each text.
        names: of the attributes.
    """

    def __init__(
        self, material: Material, quality: np.ndarray, tokens: np.ndarray, cut: np.ndarray, names: Sequence[str]
    ) -> None:
        self.material, self.quality, self.cut, self.names = material, quality, cut, list(names)
        self.number = np.array(material.number)
        self.attributes = {TOKENS: tokens}
        counted = [find_attribute(name) for name in names if name != TOKENS]
        if counted:
            self.attributes |= measure_texts(map(reply_text, material.responses), counted)

    def _of(self, places: np.ndarray) -> dict[str, np.ndarray]:
        return {name: self.attributes[name][places] for name in self.names}

    def material_of(self) -> tuple[DialRows, DialPairs | None, dict[str, Any]]:
        """What the dial is fitted on, and counts of it; what was not read whole is in no pair."""
        material = self.material
        domain = np.array(material.domain)
        read = np.isfinite(self.quality[domain])
        if not read.any():
            fix = "Give --max_length room, or say what to do with long texts by --overlong."
            raise DataError("no response fits the model's window", fix=fix)
        known = [material.writers[k] for k in np.flatnonzero(read)]
        domain = domain[read]
        place = {text: k for k, text in enumerate(domain.tolist())}
        labelled = [(place[a], place[b]) for a, b in material.labelled if a in place and b in place]
        chosen, rejected = np.array(labelled, dtype=int).reshape(-1, 2).T
        rows = DialRows(
            self.quality[domain], self._of(domain), self.number[domain], writer_numbers(known), chosen, rejected
        )
        pairs, left_out = self.pairs()
        counts = {
            "rows": material.rows,
            "skipped_rows": material.skipped,
            "responses": len(domain),
            "responses_not_read": int((~read).sum()),
            "prompts": len(np.unique(rows.prompt)),
            "labelled_pairs": len(chosen),
            "pairs": 0 if pairs is None else len(pairs.first),
            "pairs_not_read_whole": left_out,
            "writers": len({name for name in known if name is not None}),
        }
        return rows, pairs, counts

    def pair_places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """First and second text and kind of each pair that was read whole, and how many were not."""
        first = np.array([a for a, _, _ in self.material.pairs], dtype=int)
        second = np.array([b for _, b, _ in self.material.pairs], dtype=int)
        kind = np.array([name for _, _, name in self.material.pairs], dtype=object)
        whole = np.isfinite(self.quality[first]) & np.isfinite(self.quality[second])
        whole &= ~self.cut[first] & ~self.cut[second]
        return first[whole], second[whole], kind[whole].astype(str), int((~whole).sum())

    def pairs(self) -> tuple[DialPairs | None, int]:
        """The pairs, and how many were left out because a part of a side was not read."""
        if not self.material.pairs:
            return None, 0
        first, second, kind, left_out = self.pair_places()
        if not len(first):
            what = "no pair is read whole: the model cannot see what the edits or twins change"
            raise DataError(what, fix="Give --max_length room, or shorter responses.")
        found = DialPairs(
            self.quality[first],
            self.quality[second],
            self._of(first),
            self._of(second),
            self.number[first],
            kind,
        )
        return found, left_out


def writer_numbers(names: Sequence[str | None]) -> np.ndarray | None:
    """``(R,)`` a number for each writer, -1 where there is none; ``None`` where nobody is named."""
    known = {name: k for k, name in enumerate(sorted({name for name in names if name is not None}))}
    return np.array([-1 if name is None else known[name] for name in names]) if known else None
