"""The audit from stored scores: ``--scores F``, no model, no tokenizer, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from odin_rm.data.attributes import LENGTHS, TOKENS
from odin_rm.data.columns import Columns
from odin_rm.evaluation.audit import AuditResult, audit_preferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.evaluation.stored_scores import StoredScores, read_stored_scores
from odin_rm.workflows.audit.config import AuditConfig


def audit_stored(config: AuditConfig) -> list[tuple[AuditResult, ScoredPreferences]]:
    """One audit for each model in the file, in the order in which they appear.

    Raises:
        OdinError: rows that cannot be used, attributes that are missing.
    """
    assert config.scores is not None  # checked by the config
    stored = read_stored_scores(
        config.scores,
        attributes=config.attributes,
        columns=Columns(config.columns),
        on_bad_row=config.on_bad_row,
        keep_texts=False,
    )
    return [_audited(config, one) for one in stored]


def _audited(config: AuditConfig, stored: StoredScores) -> tuple[AuditResult, ScoredPreferences]:
    length, unit = audited_length(stored, config.length_unit)
    scored = ScoredPreferences(
        quality=stored.quality,
        response_tokens=length,
        prompt=stored.prompt,
        chosen=stored.chosen,
        rejected=stored.rejected,
        length_unit=f"response {unit}",
        name=stored.model,
        dataset=stored.source,
        report=stored.report,
        attributes=stored.attributes,
    )
    result = audit_preferences(
        scored,
        bootstrap_samples=config.bootstrap_samples,
        seed=config.seed,
        described=described(stored),
        labelled=False,
    )
    return result, scored


def described(stored: StoredScores) -> dict[str, dict[str, Any]]:
    """Words and unit of every attribute, as ``audit.json`` has them."""
    return {name: {"words": one.words, "unit": one.unit} for name, one in stored.described.items()}


def audited_length(stored: StoredScores, wanted: str) -> tuple[np.ndarray, str]:
    """The lengths that correlations with length are of, and what they count.

    Tokens are at hand only where the rows carry ``response_tokens``; otherwise words, otherwise characters take their
    place. Without any of them every length is 0, and the figures of length are undefined.

    Args:
        stored: the scores.
        wanted: ``tokens``, ``characters`` or ``words``.
    """
    first = TOKENS if wanted == "tokens" else wanted
    for name in dict.fromkeys([first, TOKENS, "words", *LENGTHS]):
        if name in stored.attributes:
            return stored.attributes[name], "tokens" if name == TOKENS else name
    return np.zeros(len(stored.quality)), wanted
