"""A trained policy as a point of the paper's figures: its length, its true quality, its win scores against the start.

The win score is judged by the testbed's truth in both orders, through the judge that ``odin-rm judge --judge gold``
uses. Beside it stands what the annotator with the length bias would say of the same answers: the gap between the two is
what an evaluation that only looks at win scores takes for progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.files import read_rows
from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.judgements import (
    BothOrders,
    Judgement,
    Question,
    combine_orders,
    preference_of,
    summarise_orders,
)
from odin_rm.evaluation.pareto import RunPoints
from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.win_score import win_score_values
from odin_rm.judging.scored import TruthJudge
from odin_rm.testbed.annotator import Annotator
from odin_rm.testbed.rl_experiment import RESPONSES
from odin_rm.testbed.sweep import PolicyRun

BIASED = "biased_win_score"
SCORES = ("win_score", "true_quality")
"""What fronts are drawn of; the win score is the paper's."""


@dataclass(frozen=True)
class Answers:
    """A policy's responses to the held-out prompts, in their order."""

    prompts: list[str]
    texts: list[str]
    tokens: np.ndarray
    true_quality: np.ndarray
    ended: np.ndarray


@dataclass(frozen=True)
class Point:
    """A policy.

    Attributes:
        name: of its run folder.
        arm: its reward with its mitigation; ``start`` for the SFT policy.
        run: its settings; ``None`` for the start.
        mean_tokens: mean response tokens.
        true_quality: mean true quality.
        win_score: against the start, by the truth in both orders.
        biased_win_score: the same by the annotator's utility, which pays for length.
        orders: counts of the two orders' judgements.
        ended_share: share of responses that ended by themselves.
        samples: its first responses.
    """

    name: str
    arm: str
    run: PolicyRun | None
    mean_tokens: Figure
    true_quality: Figure
    win_score: Figure
    biased_win_score: Figure
    orders: dict[str, Any]
    ended_share: float
    samples: list[str]

    @property
    def algorithm(self) -> str:
        """``ppo``, ``remax`` or ``dpo``; ``sft`` for the start."""
        return self.run.algorithm if self.run else "sft"

    def value(self, name: str) -> float:
        """One of its figures as a number."""
        value = getattr(self, name).value
        assert value is not None  # means over prompts are always defined
        return float(value)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``summary.json``; its numbers are those of ``odin-rm quickstart``'s runs, with more beside."""
        figures = ("mean_tokens", "true_quality", "win_score", BIASED)
        return {
            "name": self.name,
            "reward_model": self.run.reward_model if self.run else None,
            "arm": self.arm,
            "algorithm": self.algorithm,
            "settings": self.run.settings if self.run else {},
            **{name: self.value(name) for name in figures},
            "intervals": {name: asdict(getattr(self, name)) for name in figures},
            "orders": self.orders,
            "ended_share": self.ended_share,
            "folder": f"policies/{self.name}",
        }


def read_answers(folder: Path) -> Answers:
    """What a run folder of the testbed holds of its policy's responses."""
    rows = [row for _, row in read_rows(folder / RESPONSES)]
    return Answers(
        [row["prompt"] for row in rows],
        [row["response"] for row in rows],
        np.array([row["response_tokens"] for row in rows], dtype=float),
        np.array([row["true_quality"] for row in rows], dtype=float),
        np.array([row["ended"] for row in rows], dtype=float),
    )


def judge_by_truth(candidate: Answers, baseline: Answers) -> list[BothOrders]:
    """The truth's judgement of each pair of answers, asked in both orders."""
    triples = zip(candidate.prompts, baseline.texts, candidate.texts, strict=True)
    questions = [Question(*triple) for triple in triples]
    asked = [*questions, *(question.swapped() for question in questions)]
    said: dict[int, Judgement] = {}
    TruthJudge().judge(asked, said.__setitem__)
    count = len(questions)
    return [combine_orders(said.get(place), said.get(place + count)) for place in range(count)]


def judge_by_annotator(annotator: Annotator, candidate: Answers, baseline: Answers) -> np.ndarray:
    """``(R,)`` preferences (2 = the candidate is better) by the annotator's utility, without its noise."""
    rows = zip(candidate.prompts, baseline.texts, candidate.texts, strict=True)
    return np.array([preference_of(annotator.utility(p, old), annotator.utility(p, new)) for p, old, new in rows])


def make_point(
    run: PolicyRun | None, name: str, answers: Answers, start: Answers, annotator: Annotator, *, samples: int, seed: int
) -> Point:
    """Measures a policy against the start.

    Args:
        run: its settings; ``None`` for the start.
        name: of its run folder.
        answers: its responses.
        start: those of the SFT policy.
        annotator: the judge with the length bias.
        samples: resamples of the prompts behind each 95 % interval.
        seed: of the resamples.
    """
    both = judge_by_truth(answers, start)
    preferences = np.array([item.preference for item in both], dtype=float)
    biased = judge_by_annotator(annotator, answers, start)

    def mean(values: np.ndarray) -> Figure:
        return bootstrap_mean(values, samples=samples, seed=seed)

    return Point(
        name=name,
        arm=run.arm if run else "start",
        run=run,
        mean_tokens=mean(answers.tokens),
        true_quality=mean(answers.true_quality),
        win_score=mean(win_score_values(preferences)),
        biased_win_score=mean(win_score_values(biased)),
        orders=summarise_orders(both),
        ended_share=float(answers.ended.mean()),
        samples=answers.texts[:3],
    )


def run_points(points: Sequence[Point], score: str) -> RunPoints:
    """Policies as points of mean tokens and of one of :data:`SCORES` (or the biased win score)."""
    return RunPoints(
        np.array([point.value("mean_tokens") for point in points]), np.array([point.value(score) for point in points])
    )
