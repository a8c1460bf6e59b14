"""The figure of dominance: how probable it is that one front is higher than another, length by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from odin_rm.reports.fronts import legend_columns
from odin_rm.reports.recipes import Drawing
from odin_rm.reports.style import INK, MARKERS, model_colours, new_canvas, shorten, styled

MOST_PAIRS = 8
_MARKED = 8


def draw_dominance(
    grid: Sequence[float], comparisons: Sequence[Mapping[str, Any]], *, length_label: str
) -> Drawing | None:
    """For every two arms the probability that the front of the first is the higher one, against length.

    Args:
        grid: lengths.
        comparisons: ``first``, ``second`` and ``dominance``, one probability per length (``None`` where neither
            attains anything).
        length_label: of the length axis.

    Returns:
        The figure; ``None`` without a pair, or with more pairs than a reader can follow.
    """
    if not comparisons or len(comparisons) > MOST_PAIRS or len(grid) < 2:
        return None
    names = [f"{shorten(pair['first'])} above {shorten(pair['second'])}" for pair in comparisons]
    # By number, since a name with two arms in it has the colour of neither.
    colours = dict(zip(names, model_colours([str(k) for k in range(len(names))]).values(), strict=True))
    with styled():
        canvas, (axis,) = new_canvas(width=8.6, height=4.4)
        for k, (name, pair) in enumerate(zip(names, comparisons, strict=True)):
            shares = np.array([np.nan if p is None else p for p in pair["dominance"]], dtype=np.float64)
            every = max(1, len(grid) // _MARKED)
            start = k * every // max(len(names), 1)
            axis.plot(
                grid, shares, color=colours[name], marker=MARKERS[k % len(MARKERS)], markevery=(start, every),
                markersize=6, drawstyle="steps-post", label=name, zorder=3,
            )  # fmt: skip
        axis.axhline(0.5, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2, label="even")
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_xlabel(length_label)
        axis.set_ylabel("probability that the front is higher")
        canvas.legend(loc="outside upper left", ncols=legend_columns([*names, "even"], 8.6), fontsize=9)
    data = {"length": length_label, "grid": list(grid), "comparisons": [dict(pair) for pair in comparisons]}
    words = "; ".join(f"{name}: {_span(pair['dominance'])}" for name, pair in zip(names, comparisons, strict=True))
    return Drawing(canvas, data, f"Probability that one front is higher than another, by {length_label}. {words}.")


def _span(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{min(known):.0%} to {max(known):.0%}" if known else "unknown"
