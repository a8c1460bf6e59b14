"""A preference set and its scores: what evaluation in training, ``odin-rm audit`` and the testbed read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from odin_rm.core.types import LENGTH, QUALITY
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.scoring import Scorer, check_finite, score_columns


def score_preferences(
    scorer: Scorer,
    data: TokenisedPreferences,
    *,
    microbatch_tokens: int = 16384,
    progress: Callable[[int], None] | None = None,
    name: str | None = None,
) -> ScoredPreferences:
    """Every distinct response of a preference set, scored once, and calibrated where the scorer has a dial.

    Raises:
        NumericalError: a score is not finite.
        DataError: the dial counts something in the texts that the data do not carry.
    """
    sequences = [data.input_ids(r) for r in range(data.num_responses)]
    columns = score_columns(
        scorer.model,
        sequences,
        pad_token_id=scorer.pad_token_id,
        microbatch_tokens=microbatch_tokens,
        device=scorer.device,
        progress=progress,
        layout=scorer.layout(sequences),
    )
    check_finite(columns[QUALITY], scorer.name)
    if scorer.dial is None:
        return as_scored(data, columns, name or scorer.name)
    attributes = {attribute: np.asarray(column) for attribute, column in data.attributes.items()}
    calibrated = scorer.dial(columns[QUALITY], attributes, np.asarray(data.response_prompt))
    scored = as_scored(data, {**columns, QUALITY: calibrated}, name or scorer.name)
    return replace(scored, report={**scored.report, "calibration": scorer.dial.calibration.record()})


def as_scored(data: TokenisedPreferences, columns: Mapping[str, np.ndarray], name: str) -> ScoredPreferences:
    """Scores beside the columns of the data that an audit needs; of responses that stand in a pair.

    Args:
        data: what was scored.
        columns: ``(R,)`` rewards by head.
        name: what to call the model.
    """
    chosen, rejected = np.asarray(data.pair_chosen), np.asarray(data.pair_rejected)
    rows = np.arange(data.num_responses)
    if data.variants:
        rows, numbers = np.unique(np.concatenate([chosen, rejected]), return_inverse=True)
        chosen, rejected = np.split(numbers, 2)
    length_R, true_quality_R = columns.get(LENGTH), data.extra.get("true_quality")
    return ScoredPreferences(
        quality=columns[QUALITY][rows],
        response_tokens=np.asarray(data.response_tokens)[rows],
        prompt=np.asarray(data.response_prompt)[rows],
        chosen=chosen,
        rejected=rejected,
        length_reward=None if length_R is None else length_R[rows],
        true_quality=None if true_quality_R is None else np.asarray(true_quality_R)[rows],
        name=name,
        dataset=Path(data.source).name,
        report=data.report,
        attributes={name: np.asarray(column)[rows] for name, column in data.attributes.items()},
    )
