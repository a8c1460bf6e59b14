"""Linear reward models of the testbed's texts: counts of words and of marks, trained in a second by Bradley-Terry.

A reward is ``phi(text) . w`` with one weight for each word, for a bullet and for each mark at the end of a sentence,
and the same for a word in a list or behind an opener as anywhere. Training minimises the mean logistic loss, a ridge,
and two terms that mend or move a bias: the mean squared change under edits, and the squared correlation with length
within prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from odin_rm.testbed import phrases
from odin_rm.testbed.world import count_tokens, is_flattering, is_list

_PART = re.compile(r"[a-z']+|[^\w\s]")
WORDS = sorted(
    {
        part
        for sentence in (*phrases.HELPFUL, *phrases.HARMFUL, *phrases.FILLERS, *phrases.OPENERS)
        for part in _PART.findall(sentence.lower())
    }
    | {"-"}
)
_PLACE = {word: k for k, word in enumerate(WORDS)}
FLAGS = 2


def features(texts: Sequence[str]) -> np.ndarray:
    """``(n, V + 2)`` counts of words and marks; whether it is a list, whether it opens with flattery."""
    return np.stack([_counts(text) for text in texts]).astype(np.float64)


@cache
def _counts(text: str) -> np.ndarray:
    row = np.zeros(len(WORDS) + FLAGS, dtype=np.int16)
    for part in _PART.findall(text.lower()):
        if part in _PLACE:
            row[_PLACE[part]] += 1
    row[-2:] = is_list(text), is_flattering(text)
    return row


def forget() -> None:
    """Drop the counts of texts that were seen."""
    _counts.cache_clear()


@dataclass(frozen=True)
class WordReward:
    """A reward model.

    Attributes:
        weights: of :func:`features`.
        per_token: paid for a token besides.
        beyond: paid for a token above ``threshold`` tokens.
        threshold: of ``beyond``.
    """

    weights: np.ndarray
    per_token: float = 0.0
    beyond: float = 0.0
    threshold: float = 0.0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """``(n,)`` rewards."""
        tokens = np.array([count_tokens(text) for text in texts], dtype=float)
        return (
            features(texts) @ self.weights
            + self.per_token * tokens
            + self.beyond * np.maximum(tokens - self.threshold, 0)
        )


def train(
    chosen: np.ndarray,
    rejected: np.ndarray,
    *,
    edits: np.ndarray | None = None,
    edit_weight: float = 0.0,
    length: np.ndarray | None = None,
    length_weight: float = 0.0,
    ridge: float = 3e-4,
) -> WordReward:
    """Fit a reward model.

    Args:
        chosen, rejected: ``(B, D)`` features.
        edits: ``(E, D)`` features of edited minus original responses; their mean squared change is charged.
        edit_weight: of that charge.
        length: ``(B,)`` tokens of the chosen minus the rejected response, whose correlation with the margin is charged.
        length_weight: of that charge.
        ridge: of the weights.
    """
    margin_features = chosen - rejected
    quadratic = 2 * ridge * np.eye(margin_features.shape[1])
    if edits is not None:
        quadratic += 2 * edit_weight * edits.T @ edits / len(edits)
    if length is not None:
        direction = margin_features.T @ length / np.sqrt((length @ length) * len(length))
        quadratic += 2 * length_weight * np.outer(direction, direction)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin, bent = margin_features @ weights, quadratic @ weights
        value = float(np.logaddexp(0, -margin).mean() + weights @ bent / 2)
        return value, -margin_features.T @ expit(-margin) / len(margin) + bent

    found = minimize(loss, np.zeros(margin_features.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return WordReward(found.x)


Reward = Callable[[Sequence[str]], np.ndarray]
