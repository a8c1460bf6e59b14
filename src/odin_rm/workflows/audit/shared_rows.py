"""The rows that all models of a comparison are measured on: those that every one of them can read.

Models differ in window, tokenizer and template, so each could leave out other pairs, the long ones first; figures side
by side would then differ because the pairs do. A model's pairs are narrowed to those that the models before it can read
before it is scored, and all figures are taken of what is left in the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.data.left_out import NOT_READ_BY_ALL, PAIRS_DIGEST
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import select_pairs
from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.workflows.audit.data import Twins

TWINS_DIGEST = "twins_digest"
"""In an audit's ``data_report``: a digest of the texts of its verbosity twins."""
_FIX = "Audit the models one by one, or give a --max_length and an --overlong under which all of them can read pairs."


@dataclass(frozen=True)
class ScoredTwins:
    """One model's scores of the verbosity twins.

    Attributes:
        shorter, longer: ``(T,)`` quality reward of both sides, NaN where the model was not asked.
        overlong, identical: how many twins this model cannot read, and how many are the same tokens to it.
    """

    shorter: np.ndarray
    longer: np.ndarray
    overlong: int
    identical: int


@dataclass(frozen=True)
class Measured:
    """A model's scores.

    Attributes:
        scored: the pairs that it was scored on.
        pair_key: ``(B,)`` what tells a pair from others, see :class:`TokenisedPreferences`.
        twins: of the verbosity twins, where there are any.
    """

    scored: ScoredPreferences
    pair_key: np.ndarray
    twins: ScoredTwins | None = None


@dataclass
class SharedRows:
    """What all models so far can read.

    Attributes:
        keys: of the pairs, ascending and each once; ``None`` before the first model.
        twins: ``(T,)`` bool; ``None`` before the first model.
        names: of the models.
    """

    keys: np.ndarray | None = None
    twins: np.ndarray | None = None
    names: list[str] = field(default_factory=list)

    def narrow(self, name: str, data: TokenisedPreferences) -> TokenisedPreferences:
        """Take in a model's pairs; returns those of them that the models before it can read, too.

        Raises:
            DataError: there is none.
        """
        theirs = np.unique(np.asarray(data.pair_key))
        shared = theirs if self.keys is None else np.intersect1d(self.keys, theirs, assume_unique=True)
        if not len(shared):
            assert self.keys is not None  # data without a pair are refused when they are read
            what = (
                f"there is no pair that all models can read: {name} can read {len(theirs):,}, and none of the "
                f"{len(self.keys):,} that {_listed(self.names)} can"
            )
            raise DataError(what, where=data.source, fix=_FIX)
        self.keys = shared
        self.names.append(name)
        return select_pairs(data, np.isin(np.asarray(data.pair_key), shared))

    def narrow_twins(self, reads_T: np.ndarray, name: str, source: str) -> np.ndarray:
        """The same for twins.

        Args:
            reads_T: ``(T,)`` bool, which twins this model can tell apart.
            name: of the model.
            source: of the twins.

        Raises:
            DataError: none is left.
        """
        shared = reads_T if self.twins is None else self.twins & reads_T
        if not shared.any():
            if not reads_T.any():
                fix = "Raise --max_length, or choose --overlong truncate_prompt_left."
                raise DataError("no twin fits into max_length", where=source, fix=fix)
            raise DataError(f"there is no twin that all models up to {name} can read", where=source, fix=_FIX)
        self.twins = shared
        return shared


def on_shared_pairs(measured: Measured, shared: SharedRows) -> ScoredPreferences:
    """A model's scores of the pairs that all models can read; its report says how many of its own are not among them.

    Args:
        measured: one model's scores.
        shared: what all of them can read, after the last one.
    """
    assert shared.keys is not None
    keep_B = np.isin(measured.pair_key, shared.keys)
    scored = measured.scored.of_pairs(keep_B)
    counts = {
        NOT_READ_BY_ALL: int(measured.scored.report["pairs"]) - int(keep_B.sum()),
        PAIRS_DIGEST: _digest(np.sort(measured.pair_key[keep_B]).tobytes()),
    }
    return replace(scored, report={**scored.report, **counts})


def twin_counts(twins: Twins, scored: ScoredTwins, shared: SharedRows) -> dict[str, Any]:
    """Counts of the verbosity twins for an audit's ``data_report``.

    Args:
        twins: all of them.
        scored: one model's scores.
        shared: what all models can read, after the last one.
    """
    assert shared.twins is not None
    kept, read = int(shared.twins.sum()), len(shared.twins)
    rows = zip(twins.prompts, twins.shorter, twins.longer, shared.twins, strict=True)
    texts = [texts for *texts, keep in rows if keep]
    return {
        "twins": kept,
        "twins_left_out": read - kept + twins.skipped,
        "twins_overlong": scored.overlong,
        "twins_identical": scored.identical,
        "twins_not_read_by_all": read - scored.overlong - scored.identical - kept,
        "twins_skipped": twins.skipped,
        TWINS_DIGEST: _digest(json.dumps(texts).encode("utf-8")),
    }


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check_same_pairs(results: Sequence[AuditResult]) -> None:
    """Refuse audits of the same data that are not of the same pairs; audits of other data stand for themselves.

    Only an earlier audit can differ, because it cannot be measured again without its model.

    Raises:
        DataError: with the names and how many pairs each has.
    """
    by_dataset: dict[str, list[AuditResult]] = {}
    for result in results:
        by_dataset.setdefault(result.dataset, []).append(result)
    for dataset, group in by_dataset.items():
        digests = {r.data_report[PAIRS_DIGEST] for r in group if PAIRS_DIGEST in r.data_report}
        if len(digests) > 1 or len({r.pairs for r in group}) > 1:
            sizes = ", ".join(f"{r.name}: {r.pairs:,}" for r in group)
            what = f"the audits are not of the same pairs ({sizes}), so their figures cannot stand side by side"
            fix = (
                "Give the models instead of their earlier audits: all are then measured on the pairs that all can read."
            )
            raise DataError(what, where=dataset, fix=fix)
    if len({r.data_report[TWINS_DIGEST] for r in results if TWINS_DIGEST in r.data_report}) > 1:
        sizes = ", ".join(f"{r.name}: {r.data_report['twins']:,}" for r in results if TWINS_DIGEST in r.data_report)
        what = f"the audits are not of the same verbosity twins ({sizes})"
        raise DataError(what, fix="Give the models instead of their earlier audits.")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
