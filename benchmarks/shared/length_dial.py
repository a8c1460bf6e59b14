"""The dial of response tokens for rewards that are at hand: what several benchmarks fit by an anchor."""

from __future__ import annotations

import numpy as np

from odin_rm.core.types import RESPONSE_TOKENS
from odin_rm.data.dial import Dial
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.evaluation.dial_fit import DialPairs, DialRows, fit_dial


def length_dial(
    quality_R: np.ndarray,
    data: TokenisedPreferences,
    anchor: str,
    *,
    writer_R: np.ndarray | None = None,
    twin_quality_R: np.ndarray | None = None,
    twins: TokenisedPreferences | None = None,
    fit_R: np.ndarray | None = None,
    fit_B: np.ndarray | None = None,
) -> Dial:
    """The reward's curve of response tokens within prompts, and the share that an anchor asks for.

    Args:
        quality_R: rewards of the responses of ``data``; labels are not read.
        data: the responses.
        anchor: ``twins``, ``writers`` or ``zero``.
        writer_R: who wrote each response, for ``writers``.
        twin_quality_R: rewards of the responses of ``twins``.
        twins: pairs of texts of one content, the longer one chosen, for the anchor of that name.
        fit_R: which responses the curve is fitted on; all by default.
        fit_B: which twins the share is fitted on; all by default.
    """
    fit_R = np.ones(data.num_responses, dtype=bool) if fit_R is None else fit_R
    prompt_R = np.asarray(data.response_prompt, np.int64)
    length = {RESPONSE_TOKENS: np.asarray(data.response_tokens, np.float64)[fit_R]}
    of_writers = writer_R[fit_R] if writer_R is not None and anchor == "writers" else None
    rows = DialRows(quality_R[fit_R], length, prompt_R[fit_R], of_writers)
    pairs = None
    if anchor == "twins":
        assert twins is not None
        assert twin_quality_R is not None
        tokens = np.asarray(twins.response_tokens, np.float64)
        longer, shorter = np.asarray(twins.pair_chosen), np.asarray(twins.pair_rejected)
        few, many = ({RESPONSE_TOKENS: tokens[side]} for side in (shorter, longer))
        number = prompt_R.max() + 1 + np.asarray(twins.response_prompt, np.int64)[longer]
        first, second = twin_quality_R[shorter], twin_quality_R[longer]
        pairs = DialPairs(first, second, few, many, number, np.full(len(longer), anchor))
        pairs = pairs if fit_B is None else pairs.of(fit_B)
    return fit_dial(rows, [RESPONSE_TOKENS], anchor, pairs, bootstrap_samples=2).dial
