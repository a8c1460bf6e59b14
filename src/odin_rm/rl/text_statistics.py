"""How varied the responses of a policy are: distinct n-grams and repetition, on token ids."""

from __future__ import annotations

from collections.abc import Sequence

REPETITION_NGRAM = 4


def text_statistics(responses: Sequence[Sequence[int]]) -> dict[str, float]:
    """Distinct-n over all responses together, and the mean repetition inside a response.

    - ``distinct_n``: different n-grams / all n-grams, 1 where none occurs twice (Li et al. 2016, arXiv 1510.03055). An
      n-gram never reaches over the end of a response. It falls with the number of tokens even where the writing stays
      the same, so compare it over equal numbers of prompts, and beside the mean length.
    - ``repetition``: share of a response's 4-grams that occurred before in the same response, mean over responses; a
      response too short for a 4-gram repeats nothing.

    Args:
        responses: token ids of each response.

    Returns:
        ``distinct_1``, ``distinct_2``, ``distinct_3`` and ``repetition``, each from 0 to 1; 0 where there is no n-gram.
    """
    statistics = {
        f"distinct_{n}": _distinct_share([g for ids in responses for g in _ngrams(ids, n)]) for n in (1, 2, 3)
    }
    repeated = [1.0 - _distinct_share(grams) for ids in responses if (grams := _ngrams(ids, REPETITION_NGRAM))]
    statistics["repetition"] = sum(repeated) / len(responses) if responses else 0.0
    return statistics


def _ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


def _distinct_share(ngrams: list[tuple[int, ...]]) -> float:
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
