"""What is said of several fronts: areas, bands, scores at equal length, and which front is the higher one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from odin_rm.evaluation.pareto import Bounds, FrontBootstrap, RunPoints, pareto_front
from odin_rm.evaluation.records import Figure, RunPoint

MATCHED_LENGTHS = 3
"""How many lengths are read where none are asked for."""
ONE_RUN = "an arm of one run has none, for a short run would win by being short"
MARGIN = 0.1
"""How far the reference point lies beyond all runs, as a share of their range: the outermost runs count too."""


@dataclass(frozen=True)
class Reference:
    """The reference point of the hypervolume: it counts what a front attains below its length and above its score.

    Attributes:
        length, score: the point.
        why_not: why there is no hypervolume; empty where there is one.
    """

    length: float
    score: float
    why_not: str = ""

    @property
    def bounds(self) -> Bounds:
        """Of the area, from nothing to the reference length."""
        return 0.0, self.length


def reference_point(points: Sequence[RunPoint], length: float | None = None, score: float | None = None) -> Reference:
    """The given reference point, or one that is longer and worse than all runs by a tenth of their range.

    Args:
        points: all runs of a figure.
        length, score: instead of those.
    """
    lengths, scores = [p.mean_length for p in points], [p.score for p in points]
    widths = [max(values) - min(values) for values in (lengths, scores)]
    why = ""
    if length is None and widths[0] == 0:
        why = "all runs have the same length, so a reference length must be given"
    elif score is None and widths[1] == 0:
        why = "all runs have the same score, so a reference score must be given"
    length = max(lengths) + MARGIN * widths[0] if length is None else float(length)
    score = min(scores) - MARGIN * widths[1] if score is None else float(score)
    return Reference(length, score, why or ("" if length > 0 else "the reference length is not above 0"))


def matched_lengths(arms: Sequence[RunPoints]) -> list[float]:
    """Three lengths at which every arm has a score, a quarter, half and three quarters of the way through all fronts.

    Where the fronts do not overlap it is one: half way from the first length at which all have a score to the longest
    run on a front. The lengths of the runs themselves are no good choice: in half of the resamples of prompts a run is
    a little longer.
    """
    low = max(float(points.length_N.min()) for points in arms)
    longest = [float(points.length_N[pareto_front(points)].max()) for points in arms]
    if min(longest) > low:
        return [float(x) for x in np.linspace(low, min(longest), MATCHED_LENGTHS + 2)[1:-1]]
    return [(low + max(longest)) / 2 if max(longest) > low else low * (1 + MARGIN / 2)]


def length_grid(points: Sequence[RunPoint], count: int, to: float) -> np.ndarray:
    """``count`` lengths from the shortest run to the longest run or ``to``, whatever is longer."""
    lengths = [point.mean_length for point in points]
    return np.unique(np.linspace(min(lengths), max(*lengths, to), count))


def summarise_fronts(
    bootstrap: FrontBootstrap,
    runs: Mapping[str, Sequence[RunPoint]],
    *,
    grid_M: np.ndarray,
    matched_K: Sequence[float],
    reference: Reference,
) -> dict[str, Any]:
    """The figures of each arm and of every two arms.

    Args:
        bootstrap: over runs or over prompts.
        runs: the runs of each arm, in the order of the bootstrap's.
        grid_M: ``(M,)`` lengths of the bands and of the dominance.
        matched_K: ``K`` lengths at which scores are compared.
        reference: point of the hypervolume.

    Returns:
        ``grid``; ``arms``, by name ``runs`` (their number), ``front`` (its runs, the shortest first), ``hypervolume``,
        ``band`` (the front at each length of the grid) and ``matched``; ``comparisons`` of every two arms:
        ``hypervolume_difference`` (first minus second), ``dominance`` (the probability that the front of the first is
        the higher one at each length of the grid), ``matched`` differences and ``matched_dominance``; ``not_computed``,
        sentences. Figures are :class:`Figure`s.
    """
    matched = np.asarray(matched_K, dtype=np.float64)
    arms = {name: _arm(bootstrap, name, runs[name], grid_M, matched, reference) for name in runs}
    comparisons = [_pair(bootstrap, runs, *pair, grid_M, matched, reference) for pair in combinations(runs, 2)]
    content = {"grid": [float(x) for x in grid_M], "arms": arms, "comparisons": comparisons}
    return content | {"not_computed": _not_computed(content, reference)}


def _arm(
    bootstrap: FrontBootstrap,
    name: str,
    runs: Sequence[RunPoint],
    grid_M: np.ndarray,
    matched: np.ndarray,
    reference: Reference,
) -> dict[str, Any]:
    points = bootstrap.arms[name]
    area = Figure(None, why=reference.why_not)
    if len(runs) == 1:
        area = Figure(None, why=ONE_RUN)
    elif not reference.why_not:
        area = bootstrap.area(name, reference.bounds, reference.score)
    return {
        "runs": len(runs),
        "front": [
            {"name": runs[k].name, "length": float(points.length_N[k]), "score": float(points.score_N[k])}
            for k in pareto_front(points)
        ],
        "hypervolume": area,
        "band": bootstrap.band(name, grid_M),
        "matched": bootstrap.band(name, matched, "matched"),
    }


def _pair(
    bootstrap: FrontBootstrap,
    runs: Mapping[str, Sequence[RunPoint]],
    first: str,
    second: str,
    grid_M: np.ndarray,
    matched: np.ndarray,
    reference: Reference,
) -> dict[str, Any]:
    area = Figure(None, why=reference.why_not)
    if min(len(runs[first]), len(runs[second])) == 1:
        area = Figure(None, why=ONE_RUN)
    elif not reference.why_not:
        area = bootstrap.area_difference(first, second, reference.bounds, reference.score)
    return {
        "first": first,
        "second": second,
        "hypervolume_difference": area,
        "dominance": _shares(bootstrap.dominance(first, second, grid_M)),
        "matched": bootstrap.score_difference(first, second, matched),
        "matched_dominance": _shares(bootstrap.dominance(first, second, matched)),
    }


def _shares(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _not_computed(content: Mapping[str, Any], reference: Reference) -> list[str]:
    """What a reader would look for in vain, why, and in which arms."""
    said: dict[str, list[str]] = {f"hypervolume: {reference.why_not}": []} if reference.why_not else {}
    for name, arm in content["arms"].items():
        reasons = []
        if arm["runs"] == 1:
            reasons.append(f"hypervolume: {ONE_RUN}")
            reasons.append("a front of one run has the same score at every length from there on")
        figures = [arm["hypervolume"], *arm["band"], *arm["matched"]]
        # Without the names of arms in it, which come behind.
        reasons += [figure.why.split(" (")[0] for figure in figures if figure.why and "no interval" in figure.why]
        if any(figure.value is None for figure in arm["matched"]):
            reasons.append("no score at a length that is shorter than the shortest run")
        for reason in dict.fromkeys(reasons):
            said.setdefault(reason, []).append(name)
    if len(content["arms"]) == 1:
        said["comparisons: there is one arm"] = []
    return [f"{reason}: {', '.join(names)}" if names else reason for reason, names in said.items()]
