"""One look for every figure: fonts, sizes and a palette that colour-blind readers can tell apart (Okabe-Ito)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")

from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
GREY, INK, FAINT = "#767676", "#1f2328", "#d9dce1"
# Two roles keep their colour on every page; other models take the rest in order.
_ROLES = {"odin": BLUE, "vanilla": VERMILION, "bradley": VERMILION, "gold": GREEN}
_REST = (GREEN, PURPLE, ORANGE, SKY, BLUE, VERMILION, GREY, BLACK)
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DPI = 150

RC = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8b929b",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.titlesize": 12,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": DPI,
    "savefig.facecolor": "white",
    "text.color": INK,
    "xtick.color": "#4b525b",
    "ytick.color": "#4b525b",
}


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per model, the same in every figure of a page.

    Names that contain ``odin`` or ``vanilla`` have their own colour (the first of each); the others take the next free.
    """
    colours: dict[str, str] = {}
    for name in names:
        for role, colour in _ROLES.items():
            if role in name.lower() and colour not in colours.values():
                colours[name] = colour
                break
    for name in names:
        if name not in colours:
            free = [c for c in _REST if c not in colours.values()] or [_REST[len(colours) % len(_REST)]]
            colours[name] = free[0]
    return {name: colours[name] for name in names}


def model_markers(names: Sequence[str]) -> dict[str, str]:
    """A marker per model, so that colour is never the only difference."""
    return {name: MARKERS[k % len(MARKERS)] for k, name in enumerate(names)}


def shade(place: float, *, dark: bool = False) -> str:
    """A colour of the scale from dark (0) to light (1) that ordered things have; ``dark`` on a dark page."""
    first, last = (0.3, 1.0) if dark else (0.0, 0.82)
    return str(to_hex(colormaps["viridis"](first + (last - first) * place)))


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib with the house style; other code's settings come back afterwards."""
    with plt.rc_context(RC):
        yield


def new_canvas(
    rows: int = 1, columns: int = 1, *, width: float = 7.2, height: float = 4.0
) -> tuple[Canvas, list[Axes]]:
    """A figure and its axes, row by row (call inside :func:`styled`).

    Args:
        rows, columns: the grid.
        width, height: inches of the whole figure.
    """
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False)
    return canvas, list(axes.ravel())


def shorten(name: str, longest: int = 28) -> str:
    """A model's name short enough for a label; its middle goes, since the end often tells versions apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
