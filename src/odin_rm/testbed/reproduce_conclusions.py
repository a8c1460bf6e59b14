"""The paper's conclusions, each as a difference with a 95 % interval, and whether it holds here.

The rule, the same for all and fixed beforehand:

    holds   the whole interval lies above the bound (0 unless it says otherwise)
    fails   the whole interval lies below it
    draw    the bound lies inside, or there is no interval

Fronts are compared by their areas (``evaluation.pareto``) from the length that the true optimum needs to twice that,
above the starting policy's score; their intervals resample runs. An arm that is the best of several is chosen after the
fact, in the rival's favour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.pareto import Bounds, FrontBootstrap, front_area
from odin_rm.evaluation.records import Figure
from odin_rm.testbed.reproduce_plan import ALGORITHMS, CLIP_ARM, KNOBS, PENALTY_ARM, RIVALS, Knob, Plan
from odin_rm.testbed.reproduce_points import SCORES, Point, run_points
from odin_rm.testbed.rl_figures import LONGEST_BOUND

Verdict = Literal["holds", "draw", "fails"]
NAMES = {"ppo": "PPO", "remax": "ReMax"}
_RIVAL_KEYS = {"vanilla": "vanilla", CLIP_ARM: "clip", PENALTY_ARM: "penalty"}
_RIVAL_WORDS = {
    "vanilla": "the plain reward model",
    CLIP_ARM: "the plain reward with clipping",
    PENALTY_ARM: "the plain reward with a length penalty",
}


@dataclass(frozen=True)
class Conclusion:
    """One claim of the paper, as it stands on the testbed.

    Attributes:
        name: a short name, the key in ``summary.json``.
        claim: in words.
        measure: what ``figure`` is.
        figure: a difference (or a distance), with its interval.
        verdict: by the rule of this module.
        on_true_quality: the same for fronts of true quality instead of win scores; ``None`` for other claims.
    """

    name: str
    claim: str
    measure: str
    figure: Figure
    verdict: Verdict
    on_true_quality: Figure | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of ``summary.json``."""
        other = self.on_true_quality
        beside = {} if other is None else {"on_true_quality": {"verdict": verdict_of(other), "figure": other}}
        names = ("claim", "measure", "figure", "verdict")
        return {name: getattr(self, name) for name in names} | beside


ACCURACY_LOSS = 0.02
"""What the paper's 0.9 points count as: a small loss of accuracy."""


def verdict_of(figure: Figure, bound: float = 0.0) -> Verdict:
    """What an interval says of "above the bound"."""
    if figure.low is None or figure.high is None:
        return "draw"
    if figure.low > bound:
        return "holds"
    return "fails" if figure.high < bound else "draw"


def conclude(
    name: str, claim: str, measure: str, figure: Figure, on_true_quality: Figure | None = None, bound: float = 0.0
) -> Conclusion:
    """A conclusion with the verdict of its interval."""
    return Conclusion(name, claim, measure, figure, verdict_of(figure, bound), on_true_quality)


def independent_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> Figure:
    """First minus second of two figures of audits: the widest interval that theirs allow, so a cautious one."""
    ends = [figure[end] for figure in (first, second) for end in ("value", "low", "high")]
    if any(end is None for end in ends):
        value = None if ends[0] is None or ends[3] is None else ends[0] - ends[3]
        return Figure(value, why="no interval: one of the two has none")
    return Figure(ends[0] - ends[3], ends[1] - ends[5], ends[2] - ends[4])


def magnitude(figure: Mapping[str, Any]) -> dict[str, float | None]:
    """The absolute value of a figure, its interval folded at 0."""
    value, low, high = (figure[end] for end in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return {"value": None if value is None else abs(value), "low": None, "high": None}
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return {"value": abs(value), "low": nearest, "high": max(abs(low), abs(high))}


@dataclass(frozen=True)
class Fronts:
    """How fronts are compared in a study.

    Attributes:
        start: the SFT policy, whose scores earn nothing.
        optimum_tokens: what the true optimum needs.
        samples: resamples of runs.
        seed: of the resamples.
    """

    start: Point
    optimum_tokens: float
    samples: int = 2000
    seed: int = 0

    @property
    def bounds(self) -> Bounds:
        """Of the areas, in tokens."""
        return self.optimum_tokens, LONGEST_BOUND * self.optimum_tokens

    def area(self, points: Sequence[Point], score: str) -> float:
        """The area under a front above the start's score."""
        return front_area(run_points(points, score), self.bounds, self.start.value(score))

    def area_figure(self, points: Sequence[Point], score: str) -> Figure:
        """The same with its interval."""
        bootstrap = FrontBootstrap({"one": run_points(points, score)}, samples=self.samples, seed=self.seed)
        return bootstrap.area("one", self.bounds, self.start.value(score))

    def difference(self, first: Sequence[Point], second: Sequence[Point], score: str) -> Figure:
        """Area of the first minus that of the second."""
        arms = {"first": run_points(first, score), "second": run_points(second, score)}
        bootstrap = FrontBootstrap(arms, samples=self.samples, seed=self.seed)
        return bootstrap.area_difference("first", "second", self.bounds, self.start.value(score))

    def above(self, points: Sequence[Point], other: Point, score: str) -> Figure:
        """What a front attains with responses no longer than another policy's, minus that policy's score."""
        bootstrap = FrontBootstrap({"one": run_points(points, score)}, samples=self.samples, seed=self.seed)
        (attained,) = bootstrap.band("one", np.array([other.value("mean_tokens")]))
        ends = (attained.value, attained.low, attained.high)
        value, low, high = (None if end is None else end - other.value(score) for end in ends)
        return Figure(value, low, high, attained.why)

    def judged(self, name: str, claim: str, measure: str, compare: Callable[[str], Figure]) -> Conclusion:
        """A conclusion on win scores, and beside it the same on true quality; ``compare`` takes the score's name."""
        win, truth = (compare(score) for score in SCORES)
        return conclude(name, claim, measure, win, truth)


def reward_conclusions(audits: Mapping[str, Mapping[str, Any]]) -> list[Conclusion]:
    """What the paper says of the reward models, from their ``audit.json``."""
    vanilla, odin = audits["vanilla"], audits["odin"]
    return [
        conclude(
            "reward_does_not_pay_for_length",
            "ODIN's reward correlates less with length than the plain model's.",
            "absolute Pearson correlation of reward with length, plain minus ODIN",
            independent_difference(magnitude(vanilla["pearson"]), magnitude(odin["pearson"])),
        ),
        conclude(
            "reward_knows_quality",
            "ODIN's reward orders responses no worse by what is not length (here: by true quality, known).",
            "share of held-out pairs ordered as their true quality is, ODIN minus plain",
            independent_difference(odin["true_quality_agreement"], vanilla["true_quality_agreement"]),
        ),
        conclude(
            "accuracy_hardly_falls",
            f"ODIN's accuracy on the annotator's choices is at most {100 * ACCURACY_LOSS:g} points lower.",
            f"accuracy, ODIN minus plain; the bound is -{ACCURACY_LOSS:g}",
            independent_difference(odin["accuracy"], vanilla["accuracy"]),
            bound=-ACCURACY_LOSS,
        ),
    ]


def length_conclusions(arms: Mapping[str, list[Point]], fronts: Fronts) -> list[Conclusion]:
    """Policies under the plain reward write longer; ODIN's write shorter than those at the same settings."""
    found = []
    for algorithm in ALGORITHMS:
        vanilla, odin = (_under(arms[arm], algorithm) for arm in ("vanilla", "odin"))
        growth = _mean([p.value("mean_tokens") - fronts.start.value("mean_tokens") for p in vanilla], fronts)
        by_settings = {_setting(point): point for point in odin}
        gaps = [
            point.value("mean_tokens") - by_settings[_setting(point)].value("mean_tokens")
            for point in vanilla
            if _setting(point) in by_settings
        ]
        name = NAMES[algorithm]
        found += [
            conclude(
                f"vanilla_grows_{algorithm}",
                f"Under the plain reward {name} makes responses longer than the SFT policy's.",
                "mean tokens of the runs minus the start's",
                growth,
            ),
            conclude(
                f"odin_stays_shorter_{algorithm}",
                f"With the same settings of {name}, ODIN's policies write less than the plain reward's.",
                "mean tokens, plain minus ODIN at equal beta and learning rate",
                _mean(gaps, fronts),
            ),
        ]
    return found


def front_conclusions(arms: Mapping[str, list[Point]], fronts: Fronts) -> list[Conclusion]:
    """ODIN's front against that of each rival, under each algorithm, with equally many runs."""
    found = []
    for algorithm in ALGORITHMS:
        odin = _under(arms["odin"], algorithm)
        for rival in RIVALS:
            other = _under(arms[rival], algorithm)
            found.append(
                fronts.judged(
                    f"odin_above_{_RIVAL_KEYS[rival]}_{algorithm}",
                    f"Under {NAMES[algorithm]} ODIN's front of win score against length lies above that of "
                    f"{_RIVAL_WORDS[rival]}.",
                    "area under the front, ODIN minus the other",
                    partial(fronts.difference, odin, other),
                )
            )
    return found


def tuning_conclusions(points: Sequence[Point], arms: Mapping[str, list[Point]], fronts: Fronts) -> list[Conclusion]:
    """Against all of the plain reward's runs together, which are more and tuned more; against DPO."""
    everything = [p for p in points if p.run is not None and p.run.reward_model == "vanilla"]
    found = [
        fronts.judged(
            "odin_above_everything_vanilla",
            f"Even against all {len(everything)} runs on the plain reward together, every trick and value tried, "
            f"ODIN's {len(arms['odin'])} runs have the higher front.",
            "area under the front, ODIN minus the plain reward's runs together",
            partial(fronts.difference, arms["odin"], everything),
        )
    ]
    for point in points:
        if point.algorithm == "dpo" and point.run is not None:
            found.append(
                fronts.judged(
                    f"odin_above_dpo_beta_{point.run.kl_coef:g}",
                    f"With responses no longer than DPO's (beta {point.run.kl_coef:g}), ODIN attains more.",
                    "win score of ODIN's front at DPO's length, minus DPO's",
                    partial(fronts.above, arms["odin"], point),
                )
            )
    return found


def knob_conclusions(points: Mapping[str, Point], plan: Plan, seed: int, fronts: Fronts) -> list[Conclusion]:
    """No value of a knob lifts the plain reward's front to ODIN's with every knob at its default.

    Equally many runs stand on both sides. For beta, which has no default, ODIN's best value stands against the plain
    reward's best one.
    """
    default = [points[run.name] for run in plan.default_runs("odin", seed) if run.name in points]
    found = []
    for knob in KNOBS:
        rivals = knob_levels(points, plan, seed, knob, "vanilla")
        ours = knob_levels(points, plan, seed, knob, "odin") if knob.name == "beta" else {0.0: default}
        if not rivals or not all(ours.values()):
            continue
        value, best = max(rivals.items(), key=lambda level: fronts.area(level[1], "win_score"))
        own = max(ours.values(), key=lambda level: fronts.area(level, "win_score"))
        found.append(
            fronts.judged(
                f"odin_above_best_{knob.name}",
                f"The best value of {knob.name} for the plain reward ({value:g}) does not lift its front to ODIN's.",
                f"area under the front, ODIN minus the plain reward with {knob.name} = {value:g}",
                partial(fronts.difference, own, best),
            )
        )
    return found


def knob_levels(
    points: Mapping[str, Point], plan: Plan, seed: int, knob: Knob, reward_model: str
) -> dict[float, list[Point]]:
    """The runs at each value of a knob, by the value; runs that were left out are missing."""
    if reward_model not in knob.reward_models:
        return {}
    levels = {
        value: [points[run.name] for run in runs if run.name in points]
        for value, runs in plan.knob_runs(knob, reward_model, seed).items()
    }
    return {value: there for value, there in levels.items() if there}


def _under(points: Sequence[Point], algorithm: str) -> list[Point]:
    return [point for point in points if point.algorithm == algorithm]


def _setting(point: Point) -> tuple[float, float]:
    assert point.run is not None
    return point.run.kl_coef, point.run.learning_rate


def _mean(values: Sequence[float], fronts: Fronts) -> Figure:
    figure = bootstrap_mean(np.array(values), samples=fronts.samples, seed=fronts.seed)
    return Figure(figure.value, figure.low, figure.high, figure.why and "no interval: one run")
