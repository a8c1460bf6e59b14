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
    """The given reference point, or the longest length and the lowest score of all runs.

    Args:
        points: all runs of a figure.
        length, score: instead of those.
    """
    lengths, scores = [p.mean_length for p in points], [p.score for p in points]
    why = ""
    if length is None and min(lengths) == max(lengths):
        why = "all runs have the same length, which is the reference length; give another one"
    elif score is None and min(scores) == max(scores):
        why = "all runs have the same score, which is the reference score; give another one"
    reference = Reference(
        max(lengths) if length is None else float(length), min(scores) if score is None else float(score), why
    )
    if not why and reference.length <= 0:
        return Reference(reference.length, reference.score, "the reference length is not above 0")
    return reference


def matched_lengths(arms: Sequence[RunPoints]) -> list[float]:
    """Lengths at which every arm has a score: three from the first such length to the shortest of the longest runs.

    One where the arms do not overlap: the first length at which all of them have a run no longer than that.
    """
    low = max(float(points.length_N.min()) for points in arms)
    high = min(float(points.length_N[pareto_front(points)].max()) for points in arms)
    return [float(x) for x in np.linspace(low, high, MATCHED_LENGTHS)] if high > low else [low]


def length_grid(points: Sequence[RunPoint], count: int) -> np.ndarray:
    """``count`` lengths from the shortest to the longest run; fewer where some are equal."""
    lengths = [point.mean_length for point in points]
    return np.unique(np.linspace(min(lengths), max(lengths), count))


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
    comparisons = [_pair(bootstrap, *pair, grid_M, matched, reference) for pair in combinations(runs, 2)]
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
    if not reference.why_not:
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
    first: str,
    second: str,
    grid_M: np.ndarray,
    matched: np.ndarray,
    reference: Reference,
) -> dict[str, Any]:
    area = Figure(None, why=reference.why_not)
    if not reference.why_not:
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
    """What a reader would look for in vain, and why; each thing once."""
    said = {f"hypervolume: {reference.why_not}": None} if reference.why_not else {}
    for name, arm in content["arms"].items():
        if arm["runs"] == 1:
            said[f"{name}: a front of one run is a single step, its score is the same at every length from there"] = (
                None
            )
        for what in ("hypervolume", "band", "matched"):
            figures = arm[what] if isinstance(arm[what], list) else [arm[what]]
            for figure in figures:
                if figure.why and figure.why.startswith("no interval"):
                    said[f"{name}: {figure.why}"] = None
        if any(figure.value is None for figure in arm["matched"]):
            said[f"{name}: no score at a length that is shorter than its shortest run"] = None
    if len(content["arms"]) == 1:
        said["comparisons: there is one arm"] = None
    return list(said)
