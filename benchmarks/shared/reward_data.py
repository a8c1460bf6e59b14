"""Preference sets for the speed benchmarks: subsets of real ones, and generated ones of a given shape."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from odin_rm.data.schema import TokenisedPreferences


def one_pair_per_prompt(data: TokenisedPreferences, seed: int = 0) -> TokenisedPreferences:
    """One pair of each prompt, drawn at random."""
    prompts = np.asarray(data.response_prompt)[data.pair_chosen]
    shuffled = np.random.default_rng(seed).permutation(data.num_pairs)
    _, first = np.unique(prompts[shuffled], return_index=True)
    kept = np.sort(shuffled[first])
    columns = ("pair_chosen", "pair_rejected", "pair_margin", "pair_row")
    return replace(data, **{name: np.asarray(getattr(data, name))[kept] for name in columns})


def generated(
    prompts: int,
    responses: int,
    *,
    prompt_tokens: int,
    response_tokens: tuple[int, int],
    pairs_per_prompt: int | None = None,
    vocabulary: int = 8192,
    seed: int = 0,
) -> TokenisedPreferences:
    """Random ids: each prompt with its responses, all pairs of a random ranking or the first few of them.

    Args:
        prompts: how many.
        responses: of each prompt.
        prompt_tokens: length of each prompt.
        response_tokens: shortest and longest response; lengths are uniform between them.
        pairs_per_prompt: at most so many pairs of each prompt, drawn at random.
        vocabulary: ids are drawn from 3 (the special tokens are before) to here.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    count = prompts * responses
    lengths = rng.integers(response_tokens[0], response_tokens[1] + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths + prompt_tokens)]).astype(np.int64)
    flat = rng.integers(3, vocabulary, offsets[-1], dtype=np.int32)
    if prompt_tokens:
        # The prompt of a group's first response, copied over the beginnings of the others.
        starts = offsets[:-1].reshape(prompts, responses)
        columns = np.arange(prompt_tokens)
        for other in range(1, responses):
            flat[starts[:, other, None] + columns] = flat[starts[:, 0, None] + columns]
    edges = np.array(list(combinations(range(responses), 2)))
    each = min(len(edges), pairs_per_prompt or len(edges))
    ranks = rng.random((prompts, len(edges))).argsort(axis=1)[:, :each]
    ranks.sort(axis=1)
    chosen = (np.arange(prompts)[:, None] * responses + edges[ranks, 0]).reshape(-1)
    rejected = (np.arange(prompts)[:, None] * responses + edges[ranks, 1]).reshape(-1)
    return TokenisedPreferences(
        input_ids_flat=flat,
        offsets=offsets,
        response_tokens=lengths.astype(np.int32),
        response_prompt=np.repeat(np.arange(prompts, dtype=np.int32), responses),
        pair_chosen=chosen.astype(np.int32),
        pair_rejected=rejected.astype(np.int32),
        pair_margin=np.zeros(len(chosen), dtype=np.float32),
        pair_row=np.arange(1, len(chosen) + 1),
        source="generated",
    )
