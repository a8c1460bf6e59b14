"""Any reward model's scores of texts, for commands that need numbers and have no use for files of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from odin_rm.core.progress import Progress
from odin_rm.core.shared_options import ScorerOptions

if TYPE_CHECKING:
    from odin_rm.model.scoring import Scorer

_AT_ONCE = 2048


def scorer_of(config: ScorerOptions, model: str) -> Scorer:
    """The reward model as the options say, with its text settings.

    Raises:
        ModelError: it cannot be loaded.
    """
    from odin_rm.model import scoring

    scorer = scoring.load_scorer(
        model,
        column=config.column,
        dtype=config.dtype,
        device=config.device,
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        read_at=config.read_at,
        calibration=config.calibration,
    )
    scorer.batch_layout, scorer.tree_attention = config.batch_layout, config.tree_attention
    scorer.settings = scoring.text_settings(scorer, max_length=config.max_length, overlong=config.overlong)
    return scorer


def calibration_record(scorer: Scorer) -> dict[str, Any] | None:
    """What output files say of the scorer's calibration; ``None`` where it has none."""
    dial = getattr(scorer, "dial", None)
    return None if dial is None else dial.calibration.record()


@dataclass(frozen=True)
class ScoredTexts:
    """What a model says of ``R`` texts.

    Attributes:
        quality: ``(R,)`` rewards, NaN where a text does not fit the model's window.
        tokens: ``(R,)`` response tokens.
        cut: ``(R,)`` whether a part of the response was not read.
    """

    quality: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray


def scores_of(
    scorer: Scorer, prompts: Sequence[Any], responses: Sequence[Any], config: ScorerOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Quality rewards and response tokens of :func:`scored_texts`."""
    found = scored_texts(scorer, prompts, responses, config)
    return found.quality, found.tokens


def scored_texts(
    scorer: Scorer, prompts: Sequence[Any], responses: Sequence[Any], config: ScorerOptions
) -> ScoredTexts:
    """Quality rewards, calibrated where the scorer has a dial, with what was read.

    Args:
        scorer: from :func:`scorer_of`.
        prompts, responses: ``R`` strings or chat messages each; those of one prompt near each other are cheaper.
        config: how much is computed at a time.

    Raises:
        NumericalError: a score is not finite.
    """
    from odin_rm.data.tokenise import encode_responses
    from odin_rm.model import scoring

    quality_R, tokens_R = np.full(len(prompts), np.nan), np.zeros(len(prompts))
    cut_R = np.zeros(len(prompts), dtype=bool)
    with Progress(f"scoring with {scorer.name}", len(prompts), unit="responses") as bar:
        for first in range(0, len(prompts), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            encoded = encode_responses(scorer.tokenizer, prompts[part], responses[part], scorer.settings)
            fits = np.array([not one.dropped for one in encoded])
            if fits.any():
                kept = [one for one in encoded if not one.dropped]
                scores, _ = scoring.score_encoded(scorer, kept, microbatch_tokens=config.microbatch_tokens)
                scoring.check_finite(scores, scorer.name)
                quality_R[np.flatnonzero(fits) + first] = scores
            tokens_R[part] = [one.response_tokens for one in encoded]
            cut_R[part] = [one.response_cut > 0 for one in encoded]
            bar.advance(len(encoded))
    return ScoredTexts(quality_R, tokens_R, cut_R)
