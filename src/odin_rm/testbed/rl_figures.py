"""What a sweep of policies says: length against the optimum's, fronts of true quality against length, differences.

The bounds of the area are fixed beforehand: from the length that the true optimum needs to twice that. A score no
better than the starting policy's earns nothing. Intervals are 95 % and resample runs; see ``evaluation.pareto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.pareto import Bounds, FrontBootstrap, RunPoints
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.testbed.sweep import PolicyRun

REFERENCES = ("gold", "length_only")
"""Rewards that no data have taught."""
LONGEST_BOUND = 2.0
"""The area's upper bound, in lengths of the optimum."""
READ_AT = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""Where arms are compared at equal length, in lengths of the optimum."""


@dataclass(frozen=True)
class Measured:
    """What a policy writes to held-out prompts.

    Attributes:
        mean_tokens: mean response tokens, without the end token.
        true_quality: mean true quality.
        win_score: ``50 + 100 (n_win - n_lose) / n`` against the starting policy's responses, by true quality.
        ended_share: share of responses that ended by themselves.
        samples: responses to the first prompts.
    """

    mean_tokens: float
    true_quality: float
    win_score: float
    ended_share: float
    samples: list[str]

    def words(self) -> str:
        """The two axes of the figure, for a progress line."""
        return f"{self.mean_tokens:.1f} tokens, true quality {self.true_quality:.2f}"


@dataclass(frozen=True)
class PolicyResult:
    """A trained policy of the sweep."""

    run: PolicyRun
    measured: Measured

    def point(self) -> RunPoint:
        """The run as a point of true quality against length."""
        run, measured = self.run, self.measured
        settings = run.settings | {"reward_model": run.reward_model}
        return RunPoint(
            run.arm, measured.mean_tokens, measured.true_quality, run.name, run.algorithm, settings, run.seed
        )

    def to_json(self) -> dict[str, Any]:
        """The entry of ``summary.json``."""
        return {
            "reward_model": self.run.reward_model,
            "arm": self.run.arm,
            "algorithm": self.run.algorithm,
            "settings": self.run.settings,
            "mean_tokens": self.measured.mean_tokens,
            "true_quality": self.measured.true_quality,
            "win_score": self.measured.win_score,
            "ended_share": self.measured.ended_share,
        }


@dataclass(frozen=True)
class Policies:
    """A whole sweep.

    Attributes:
        start: the SFT policy, where every run starts.
        results: the trained policies.
        optimum_tokens: mean length of a response of true quality 1 with nothing superfluous.
        left_out: what went wrong, by the name of the run.
    """

    start: Measured
    results: list[PolicyResult]
    optimum_tokens: float
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bounds(self) -> Bounds:
        """Of the area under a front, in tokens."""
        return self.optimum_tokens, LONGEST_BOUND * self.optimum_tokens

    def by_arm(self) -> dict[str, list[PolicyResult]]:
        """The results of each arm, arms in the order of the sweep."""
        arms: dict[str, list[PolicyResult]] = {}
        for result in self.results:
            arms.setdefault(result.run.arm, []).append(result)
        return arms

    def points(self) -> dict[str, RunPoints]:
        """The runs of each arm as points of mean tokens and true quality."""
        return {
            arm: RunPoints(
                np.array([r.measured.mean_tokens for r in results]),
                np.array([r.measured.true_quality for r in results]),
            )
            for arm, results in self.by_arm().items()
        }


@dataclass(frozen=True)
class ArmFigures:
    """Figures of one arm: means over its runs, and the area under its front (tokens times true quality)."""

    runs: int
    mean_tokens: Figure
    length_ratio: Figure
    true_quality: Figure
    win_score: Figure
    area: Figure


def arm_figures(policies: Policies, *, samples: int, seed: int) -> dict[str, ArmFigures]:
    """The figures of each arm, with intervals over its runs.

    Args:
        policies: the sweep.
        samples: resamples.
        seed: of the resamples.
    """
    bootstrap = FrontBootstrap(policies.points(), samples=samples, seed=seed)

    def mean(values: Sequence[float]) -> Figure:
        figure = bootstrap_mean(np.array(values), samples=samples, seed=seed)
        return Figure(figure.value, figure.low, figure.high, figure.why and "no interval: one run")

    figures = {}
    for arm, results in policies.by_arm().items():
        area = bootstrap.area(arm, policies.bounds, policies.start.true_quality)
        tokens = [r.measured.mean_tokens for r in results]
        figures[arm] = ArmFigures(
            runs=len(results),
            mean_tokens=mean(tokens),
            length_ratio=mean([t / policies.optimum_tokens for t in tokens]),
            true_quality=mean([r.measured.true_quality for r in results]),
            win_score=mean([r.measured.win_score for r in results]),
            area=replace(area, why="no interval: one run") if area.why and len(results) == 1 else area,
        )
    return figures


def best_penalty(areas: dict[str, float]) -> str | None:
    """The vanilla arm with a length penalty whose front has the largest area: chosen after the fact, in its favour."""
    penalised = [arm for arm in areas if arm.startswith("vanilla + penalty")]
    return max(penalised, key=lambda arm: areas[arm]) if penalised else None


def front_comparison(policies: Policies, first: str, second: str, *, samples: int, seed: int) -> dict[str, Any]:
    """``first`` against ``second``: area, score at equal length, and the probability of the higher front.

    Args:
        policies: the sweep, with runs of both arms.
        first, second: the arms.
        samples: resamples.
        seed: of the resamples.

    Returns:
        ``area_difference`` (a figure) and ``at_length``, one row per length of :data:`READ_AT`: ``tokens``,
        ``difference`` of the true quality at that length (a figure; undefined where one arm has no run so short) and
        ``dominance``, the probability that ``first`` attains more with responses no longer.
    """
    points = policies.points()
    bootstrap = FrontBootstrap({arm: points[arm] for arm in (first, second)}, samples=samples, seed=seed)
    at_M = policies.optimum_tokens * np.array(READ_AT)
    gaps = bootstrap.score_difference(first, second, at_M)
    chances = bootstrap.dominance(first, second, at_M)
    return {
        "first": first,
        "second": second,
        "area_difference": bootstrap.area_difference(first, second, policies.bounds, policies.start.true_quality),
        "at_length": [
            {"tokens": float(at), "difference": gap, "dominance": float(chance)}
            for at, gap, chance in zip(at_M, gaps, chances, strict=True)
        ],
    }


def compare_policies(policies: Policies, *, first: str = "odin", samples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Everything that the sweep says, ready for JSON.

    Args:
        policies: the sweep.
        first: the arm that is held against the others.
        samples: resamples.
        seed: of the resamples.

    Returns:
        ``optimum_tokens``, ``start``, ``area_bounds``, ``arms`` (figures of each) and ``comparisons``: the front of
        ``first`` against those of all other arms but the reference rewards; ``best_penalty`` names the arm of that
        kind.
    """
    figures = arm_figures(policies, samples=samples, seed=seed)
    rivals = [arm for arm in figures if arm != first and arm not in REFERENCES] if first in figures else []
    return {
        "optimum_tokens": policies.optimum_tokens,
        "start": {"mean_tokens": policies.start.mean_tokens, "true_quality": policies.start.true_quality},
        "area_bounds": policies.bounds,
        "arms": figures,
        "best_penalty": best_penalty({arm: f.area.value or 0.0 for arm, f in figures.items()}),
        "comparisons": [front_comparison(policies, first, arm, samples=samples, seed=seed) for arm in rivals],
    }
