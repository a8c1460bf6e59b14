"""Splitting a tokenised preference set by prompt, so that no prompt stands on both sides."""

from __future__ import annotations

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.data.schema import TokenisedPreferences


def split_by_prompt(
    data: TokenisedPreferences, fraction: float, *, seed: int
) -> tuple[TokenisedPreferences, TokenisedPreferences]:
    """Hold out a share of the prompts with all their responses and pairs.

    Args:
        data: the whole set.
        fraction: share of prompts to hold out, in (0, 1); at least one prompt is held out and one is kept.
        seed: decides which.

    Returns:
        The kept and the held-out part.

    Raises:
        DataError: there are fewer than two prompts with pairs.
    """
    prompts = np.unique(np.asarray(data.response_prompt)[data.pair_chosen])
    if len(prompts) < 2:
        raise DataError("needs at least two prompts to hold some out", where=data.source, fix="Give --eval_dataset.")
    size = int(np.clip(round(fraction * len(prompts)), 1, len(prompts) - 1))
    held = np.random.default_rng(seed).permutation(prompts)[:size]
    return select_prompts(data, np.setdiff1d(prompts, held)), select_prompts(data, np.sort(held))


def select_prompts(data: TokenisedPreferences, prompts: np.ndarray) -> TokenisedPreferences:
    """The part of a data set that belongs to ``prompts`` (ascending), renumbered."""
    keep_R = np.isin(data.response_prompt, prompts)
    return _select(data, keep_R, keep_R[data.pair_chosen])


def select_pairs(data: TokenisedPreferences, keep_B: np.ndarray) -> TokenisedPreferences:
    """The part of a data set that some pairs need: they, their responses and their prompts, renumbered.

    Args:
        data: the whole set.
        keep_B: ``(B,)`` bool, the pairs to keep.
    """
    if keep_B.all():
        return data
    keep_R = np.zeros(data.num_responses, dtype=bool)
    keep_R[np.asarray(data.pair_chosen)[keep_B]] = keep_R[np.asarray(data.pair_rejected)[keep_B]] = True
    for column in data.variants.values():
        theirs = np.asarray(column)[keep_R]
        keep_R[theirs[theirs >= 0]] = True
    return _select(data, keep_R, keep_B)


def _select(data: TokenisedPreferences, keep_R: np.ndarray, keep_B: np.ndarray) -> TokenisedPreferences:
    new_R = np.cumsum(keep_R) - 1
    rows = np.flatnonzero(keep_R)
    lengths = np.asarray(data.sequence_tokens)[rows]
    chunks = [data.input_ids(int(r)) for r in rows]
    return TokenisedPreferences(
        input_ids_flat=np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        response_tokens=np.asarray(data.response_tokens)[rows],
        response_prompt=np.unique(np.asarray(data.response_prompt)[rows], return_inverse=True)[1].astype(np.int32),
        pair_chosen=new_R[np.asarray(data.pair_chosen)[keep_B]].astype(np.int32),
        pair_rejected=new_R[np.asarray(data.pair_rejected)[keep_B]].astype(np.int32),
        pair_margin=np.asarray(data.pair_margin)[keep_B],
        pair_row=np.asarray(data.pair_row)[keep_B],
        pair_key=np.asarray(data.pair_key)[keep_B] if len(data.pair_key) else data.pair_key,
        source=data.source,
        report=data.report,
        extra={name: np.asarray(column)[rows] for name, column in data.extra.items()},
        variants={kind: _renumbered(np.asarray(column)[rows], keep_R, new_R) for kind, column in data.variants.items()},
    )


def _renumbered(variant_R: np.ndarray, keep_R: np.ndarray, new_R: np.ndarray) -> np.ndarray:
    kept = (variant_R >= 0) & keep_R[variant_R]
    return np.where(kept, new_R[variant_R], -1).astype(np.int32)
