"""A preference set and its scores: what evaluation in training, ``odin-rm audit`` and the testbed read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from odin_rm.data.schema import TokenisedPreferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.scoring import Scorer, check_finite, score_sequences


def score_preferences(
    scorer: Scorer,
    data: TokenisedPreferences,
    *,
    microbatch_tokens: int = 16384,
    progress: Callable[[int], None] | None = None,
    name: str | None = None,
) -> ScoredPreferences:
    """Every distinct response of a preference set, scored once.

    Raises:
        NumericalError: a score is not finite.
    """
    sequences = [data.input_ids(r) for r in range(data.num_responses)]
    quality_R, length_R = score_sequences(
        scorer.model,
        sequences,
        pad_token_id=scorer.pad_token_id,
        microbatch_tokens=microbatch_tokens,
        device=scorer.device,
        progress=progress,
        layout=scorer.layout(sequences),
    )
    check_finite(quality_R, scorer.name)
    return as_scored(data, quality_R, length_R, name or scorer.name)


def as_scored(
    data: TokenisedPreferences, quality_R: np.ndarray, length_R: np.ndarray | None, name: str
) -> ScoredPreferences:
    """Scores beside the columns of the data that an audit needs."""
    return ScoredPreferences(
        quality=quality_R,
        response_tokens=np.asarray(data.response_tokens),
        prompt=np.asarray(data.response_prompt),
        chosen=np.asarray(data.pair_chosen),
        rejected=np.asarray(data.pair_rejected),
        length_reward=length_R,
        true_quality=data.extra.get("true_quality"),
        name=name,
        dataset=Path(data.source).name,
        report=data.report,
    )
