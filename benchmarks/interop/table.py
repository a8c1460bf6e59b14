"""From scores to verdicts and tables: pure functions, no peer is needed for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
PASSED, FAILED, BY_DESIGN, SKIPPED = "passed", "failed", "by design", "skipped"


@dataclass(frozen=True)
class Outcome:
    """One model in one peer, called in one way.

    Attributes:
        tool: name of the peer.
        way: how it was called.
        model: name of the model.
        tolerance: largest difference that passes, in deviations of the reward.
        verdict: ``passed``, ``failed``, ``by design`` (this way cannot give the score, whatever the export holds) or
            ``skipped`` (the peer is not installed).
        difference: largest absolute difference to ``odin-rm score``; ``None`` where there are no scores.
        spearman: rank correlation with ``odin-rm score``.
        why: what was wrong, or why this way is wrong by design, or why it was skipped.
    """

    tool: str
    way: str
    model: str
    tolerance: float
    verdict: str
    difference: float | None = None
    spearman: float | None = None
    why: str = ""


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """``max_i |found_i - expected_i|``; infinite where a score is not finite.

    Raises:
        ValueError: the numbers of scores differ, or there are none.
    """
    if len(found) != len(expected) or not expected:
        raise ValueError(f"{len(found)} scores for {len(expected)} texts")
    apart = np.abs(np.asarray(found, dtype=float) - np.asarray(expected, dtype=float))
    return float(apart.max()) if np.isfinite(apart).all() else math.inf


def rank_correlation(found: Sequence[float], expected: Sequence[float]) -> float | None:
    """Spearman's correlation; ``None`` where it is not defined (constant or not finite scores)."""
    values = np.asarray([found, expected], dtype=float)
    if not np.isfinite(values).all() or (np.ptp(values, axis=1) == 0).any():
        return None
    return float(stats.spearmanr(*values).statistic)


def judge(
    tool: str,
    way: str,
    model: str,
    *,
    expected: Sequence[float],
    found: Sequence[float] | None,
    error: str = "",
    tolerance: float,
    by_design: str = "",
) -> Outcome:
    """The verdict on one way of calling.

    Args:
        tool, way, model: what was called.
        expected: scores of ``odin-rm score``.
        found: the peer's; ``None`` where it gave none.
        error: why it gave none.
        tolerance: largest difference that passes.
        by_design: why this way cannot give the score; it is then measured but does not count as a failure.
    """
    problem, difference, spearman = error or "no answer", None, None
    if found is not None:
        try:
            difference, problem = largest_difference(found, expected), ""
            spearman = rank_correlation(found, expected)
        except ValueError as mismatch:
            problem = str(mismatch)
    good = difference is not None and difference <= tolerance
    verdict = PASSED if good else BY_DESIGN if by_design else FAILED
    why = "" if good else "; ".join(part for part in (problem, by_design) if part)
    return Outcome(tool, way, model, tolerance, verdict, difference, spearman, why)


def cell(outcome: Outcome) -> str:
    """An outcome in a table: the difference, bold and with the rank correlation where it fails."""
    if outcome.verdict == SKIPPED:
        return "-"
    if outcome.difference is None:
        text = "error"
    else:
        text = "no number" if math.isinf(outcome.difference) else f"{outcome.difference:.1e}"
    if outcome.verdict == PASSED:
        return text
    if outcome.spearman is not None:
        text += f" ({outcome.spearman:.3f})"
    return f"**{text}**" if outcome.verdict == FAILED else f"{text} d"


def markdown(outcomes: Sequence[Outcome], models: Sequence[str]) -> str:
    """A table of ways of calling by models."""
    header = ["tool", "way of calling", "tolerance", *models]
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    rows: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.tool, outcome.way), {})[outcome.model] = outcome
    for (tool, way), by_model in rows.items():
        tolerance = max(outcome.tolerance for outcome in by_model.values())
        cells = [cell(by_model[name]) if name in by_model else "" for name in models]
        lines.append(" | ".join([tool, f"`{way}`", f"{tolerance:g}", *cells]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    """Every reason once, with where it holds: errors, what is wrong by design, what was skipped."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.why:
            found.setdefault((outcome.verdict, outcome.tool, outcome.why), []).append(
                f"{outcome.way} [{outcome.model}]" if outcome.verdict != SKIPPED else ""
            )
    lines = []
    for (verdict, tool, why), places in found.items():
        shown = ", ".join(place for place in places[:3] if place) + (" ..." if len(places) > 3 else "")
        lines.append(f"{verdict}: {tool}: {why}" + (f" ({shown})" if any(places) else ""))
    return lines


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many outcomes have which verdict."""
    kinds = (PASSED, FAILED, BY_DESIGN, SKIPPED)
    return {kind: sum(outcome.verdict == kind for outcome in outcomes) for kind in kinds}


def record(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes for a JSON file; infinite differences become ``null`` (the verdict says that they fail)."""
    rows = [asdict(outcome) for outcome in outcomes]
    for row in rows:
        if row["difference"] is not None and math.isinf(row["difference"]):
            row["difference"], row["why"] = None, row["why"] or "a score is not a finite number"
    return rows


def between_marks(page: str, table: str) -> str:
    """A page with what stands between its marks replaced by a table.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    before, first, rest = page.partition(BEGIN)
    _, last, after = rest.partition(END)
    if not (first and last) or BEGIN in rest or END in after:
        raise ValueError(f"the page needs the marks {BEGIN} and {END}, once each and in this order")
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"
