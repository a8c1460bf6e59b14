"""Judgements of two answers in both orders: what was asked, what was preferred, and what both orders say together.

A preference is AlpacaEval's: 1 the first answer is better, 2 the second, 1.5 a tie. Shown in one order only, a judge
with a liking for the first place moves the figure; the mean of both orders does not move:

    preference = (candidate_second + candidate_first) / 2

with both terms turned so that 2 means the candidate. A win in one order and a loss in the other is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """Two answers to one instruction, in the order in which a judge sees them."""

    instruction: str
    first: str
    second: str

    def swapped(self) -> Question:
        """The same answers in the other order."""
        return Question(self.instruction, self.second, self.first)


@dataclass(frozen=True)
class Judgement:
    """What a judge said of one question.

    Attributes:
        preference: 1 the first answer, 2 the second, 1.5 a tie; ``None`` where the reply could not be read.
        reply: the judge's own words, or its two numbers.
        prompt_tokens, completion_tokens: what was paid for it, as the endpoint counts; 0 where nothing is.
    """

    preference: float | None
    reply: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class BothOrders:
    """The preference for the candidate (2 = the candidate is better) as each order gave it.

    Attributes:
        candidate_second, candidate_first: by the candidate's place; ``None`` where that judgement is missing.
    """

    candidate_second: float | None
    candidate_first: float | None

    @property
    def preference(self) -> float | None:
        """The mean of both orders; ``None`` unless both are there, for one alone carries the judge's position bias."""
        if self.candidate_second is None or self.candidate_first is None:
            return None
        return (self.candidate_second + self.candidate_first) / 2


def preference_of(first: float, second: float, margin: float = 0.0) -> float:
    """The preference that two scores express; differences up to ``margin`` are ties."""
    if abs(first - second) <= margin:
        return 1.5
    return 1.0 if first > second else 2.0


def combine_orders(baseline_first: Judgement | None, candidate_first: Judgement | None) -> BothOrders:
    """Both judgements of a pair, turned so that 2 means the candidate.

    Args:
        baseline_first: of the question that shows the baseline's answer first; ``None`` where there is none.
        candidate_first: of the other one.
    """
    second = None if baseline_first is None else baseline_first.preference
    first = None if candidate_first is None else candidate_first.preference
    return BothOrders(second, None if first is None else 3.0 - first)


def summarise_orders(judged: Sequence[BothOrders]) -> dict[str, Any]:
    """Counts of a comparison and what swapping the answers shows of the judge.

    Returns:
        ``prompts``; ``wins``, ``ties`` and ``losses`` of the candidate, ``missing`` (no preference); ``disagreement``
        (share of prompts on which the orders differ), ``reversal`` (share on which each order prefers the other
        answer) and ``first_place_preference`` (how often the answer shown first is preferred, ties as half; 0.5 for a
        judge without position bias). The shares are of the prompts judged in both orders, ``None`` without any.
    """
    both = [
        (second, first, (second + first) / 2)
        for item in judged
        if (second := item.candidate_second) is not None and (first := item.candidate_first) is not None
    ]
    n = len(both)
    return {
        "prompts": len(judged),
        "wins": sum(mean > 1.5 for _, _, mean in both),
        "ties": sum(mean == 1.5 for _, _, mean in both),
        "losses": sum(mean < 1.5 for _, _, mean in both),
        "missing": len(judged) - n,
        "disagreement": sum(second != first for second, first, _ in both) / n if n else None,
        "reversal": sum((second - 1.5) * (first - 1.5) < 0 for second, first, _ in both) / n if n else None,
        "first_place_preference": sum(1 + first - second for second, first, _ in both) / (2 * n) if n else None,
    }
