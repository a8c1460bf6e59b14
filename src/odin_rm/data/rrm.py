"""RRM's further rows (Liu et al. 2024, *RRM: Robust Reward Model Training Mitigates Reward Hacking*, 2409.13156).

What a reward pays for without looking at the prompt cannot tell an answer to the prompt from an answer to another one.
So each row ``i`` is put beside two rows ``j`` and ``k`` of other prompts. Under the prompt of ``i``

* both of its responses beat every response of ``j`` and of ``k``: eight pairs;
* two responses of ``j`` and ``k`` are alike (``P = 1/2``): six pairs.

Deviations: the authors then filter the rows with a trained reward model, here nothing is filtered. A pair that is alike
is written in both orders, which is the same loss (``-1/2 [log s(d) + log s(-d)]``, twice); so that it weighs what it
weighs there, three of the six are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

ALIKE = 3
"""Pairs of other prompts' responses that a row gets, each in both orders."""
_TRIES = 100


def partners(prompts: Sequence[Any], seed: int = 0) -> np.ndarray:
    """``(B, 2)`` rows ``j`` and ``k`` of each row: three different prompts, drawn by shuffling.

    Args:
        prompts: of each row.
        seed: of the draw.

    Raises:
        ValueError: there are not enough other prompts.
    """
    number_B = np.unique([repr(prompt) for prompt in prompts], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    found = np.column_stack([rng.permutation(len(number_B)) for _ in range(2)])
    for _ in range(_TRIES):
        of_partner = number_B[found]
        alike = (of_partner == number_B[:, None]).any(axis=1) | (of_partner[:, 0] == of_partner[:, 1])
        if not alike.any():
            return found
        found[alike] = rng.integers(len(number_B), size=(int(alike.sum()), 2))
    raise ValueError("RRM needs rows of at least three prompts, none of them with nearly all rows")


def rrm_rows(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """The rows that RRM adds to ``rows``: fourteen for each.

    Args:
        rows: ``prompt``, ``chosen``, ``rejected`` each; other fields are not taken along.
        seed: of partners and of the pairs that are alike.
    """
    places = partners([row["prompt"] for row in rows], seed)
    rng = np.random.default_rng([seed, 1])
    found: list[dict[str, Any]] = []
    for row, (j, k) in zip(rows, places, strict=True):
        others = [rows[number][side] for number in (j, k) for side in ("chosen", "rejected")]
        won = [(mine, other) for mine in (row["chosen"], row["rejected"]) for other in others]
        alike = list(combinations(others, 2))
        drawn = [alike[number] for number in rng.permutation(len(alike))[:ALIKE]]
        won += [both for one, two in drawn for both in ((one, two), (two, one))]
        found += [{"prompt": row["prompt"], "chosen": first, "rejected": second} for first, second in won]
    return found
