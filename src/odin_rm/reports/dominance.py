"""The figure of dominance: how probable it is that one front is higher than another, length by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.fronts import Panels
from odin_rm.reports.style import shorten

MOST_PAIRS = 8


def dominance_figure(
    grid: Sequence[float],
    comparisons: Sequence[Mapping[str, Any]],
    *,
    length_label: str,
    file: str = "dominance",
    title: str = "",
) -> Panels | None:
    """For every two arms the probability that the front of the first is the higher one, against length.

    Args:
        grid: lengths.
        comparisons: ``first``, ``second`` and ``dominance``, one probability per length (``None`` where neither
            attains anything).
        length_label: of the length axis.
        file, title: of the chart.

    Returns:
        The figure; ``None`` without a pair, or with more pairs than a reader can follow.
    """
    if not comparisons or len(comparisons) > MOST_PAIRS or len(grid) < 2:
        return None
    series = [
        Series(f"{shorten(pair['first'])} above {shorten(pair['second'])}", list(grid), pair["dominance"],
               group=f"pair {k}", style="steps")
        for k, pair in enumerate(comparisons)
    ]  # fmt: skip
    words = "; ".join(f"{one.name}: {_span(one.y)}" for one in series)
    chart = Chart(
        file, title, length_label, "probability that the front is higher", series,
        "The probability that an arm attains more than another with responses no longer, over resamples. No line where "
        "an arm attains nothing yet.",
        f"Probability that one front is higher than another, by {length_label}. {words}.", percent=True,
        marks=(Mark(0.5, "even"),), y_range=(-0.03, 1.03),
    )  # fmt: skip
    data = {"length": length_label, "grid": list(grid), "comparisons": [dict(pair) for pair in comparisons]}
    return Panels([chart], data, chart.alt)


def _span(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{min(known):.0%} to {max(known):.0%}" if known else "unknown"
