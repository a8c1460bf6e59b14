"""Rc-BT's pairs (Cai et al. 2025, *Disentangling Length Bias in Preference Learning via Response-Conditioned Modeling*,
2502.00814): the same response under two prompts, one of which asks for a length.

    (x, y_chosen)              beats  (x + a length that y_chosen misses, y_chosen)
    (x + a length that y_rejected keeps, y_rejected)  beats  (x, y_rejected)

The text is the same on both sides, so its length is, and only what the prompt asks for can decide. A bound is drawn
above or below the response's words: ``words * u`` with ``u`` uniform in 1.25 to 2, or divided by it, and turned so that
it is missed or kept. The authors' templates and their draw of lengths are not public; the sentence and the draw here
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST, MOST = 1.25, 2.0
"""By how much a bound is away from the words that there are."""


def instruction(words: int, *, at_least: bool) -> str:
    """The sentence that asks for a length."""
    return f"The answer should have {'at least' if at_least else 'at most'} {words} words."


def length_instruction_pairs(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Two pairs for each row: ``chosen_prompt``, ``rejected_prompt`` and the one ``response``.

    Args:
        rows: ``prompt`` (text, or messages whose last one is a user's), ``chosen``, ``rejected`` (text) each.
        seed: of the bounds.
    """
    rng = np.random.default_rng(seed)
    found = []
    for row in rows:
        for response, kept in ((row["chosen"], False), (row["rejected"], True)):
            words, factor, above = len(response.split()), rng.uniform(LEAST, MOST), bool(rng.random() < 0.5)
            above = above or words < 2
            bound = max(words + 1, round(words * factor)) if above else min(words - 1, round(words / factor))
            # A bound above the words is kept as "at most" and missed as "at least"; one below the other way round.
            asked = _asked(row["prompt"], instruction(bound, at_least=above != kept))
            prompts = (asked, row["prompt"]) if kept else (row["prompt"], asked)
            found.append({"chosen_prompt": prompts[0], "rejected_prompt": prompts[1], "response": response})
    return found


def _asked(prompt: Any, sentence: str) -> Any:
    if isinstance(prompt, str):
        return f"{prompt}\n{sentence}"
    return [*prompt[:-1], {**prompt[-1], "content": f"{prompt[-1]['content']}\n{sentence}"}]
