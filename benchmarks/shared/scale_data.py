"""Generated preference files of any size: made-up words, prompts that repeat, responses that several pairs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from odin_rm.core.atomic import atomic_file

WORDS = 20_000
RESPONSES = 4
PAIRS = ((0, 1), (2, 3), (0, 2), (1, 3))
"""Pairs of each prompt, each a row of its own."""
PROMPT_WORDS, RESPONSE_WORDS = (5, 20), (10, 41)
_SYLLABLES = [c + v for c in (*"bdfgklmnprstvz", "ch", "st", "tr") for v in (*"aeiou", "ai", "ou")]
_PROMPTS_AT_ONCE = 5_000


def words_of_a_language(count: int = WORDS, seed: int = 0) -> np.ndarray:
    """Distinct words of one to four syllables, the short ones first."""
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(_SYLLABLES)
    while len(found) < count:
        size = 2 + min(2, 6 * len(found) // count)
        found["".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), size))] = None
    return np.array(list(found)[:count], dtype=object)


def write_pairs(path: Path, pairs: int, seed: int = 0) -> None:
    """Rows ``prompt``, ``chosen``, ``rejected``: four responses and four pairs of each prompt.

    Words are drawn by Zipf's law. The rows of a prompt lie scattered among those of a few thousand others, so that the
    reader has something to sort.

    Args:
        path: a .jsonl file.
        pairs: how many rows, a multiple of 4.
        seed: of the texts; the language is one and the same.
    """
    words = words_of_a_language()
    weights = 1 / np.arange(3, len(words) + 3)
    edges = np.cumsum(weights / weights.sum())
    left = pairs // len(PAIRS)
    rng = np.random.default_rng([seed, 1])

    def texts(count: int, sizes: tuple[int, int]) -> list[str]:
        lengths = rng.integers(*sizes, count)
        drawn = words[np.minimum(np.searchsorted(edges, rng.random(lengths.sum())), len(words) - 1)].tolist()
        ends = np.cumsum(lengths).tolist()
        return [" ".join(drawn[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    with atomic_file(path) as file:
        while left:
            block = min(left, _PROMPTS_AT_ONCE)
            prompts, responses = texts(block, PROMPT_WORDS), texts(block * RESPONSES, RESPONSE_WORDS)
            for at in rng.permutation(block * len(PAIRS)).tolist():
                prompt, (chosen, rejected) = at // len(PAIRS), PAIRS[at % len(PAIRS)]
                own = responses[prompt * RESPONSES : (prompt + 1) * RESPONSES]
                row = f'{{"prompt": "{prompts[prompt]}", "chosen": "{own[chosen]}", "rejected": "{own[rejected]}"}}\n'
                file.write(row.encode("ascii"))
            left -= block
