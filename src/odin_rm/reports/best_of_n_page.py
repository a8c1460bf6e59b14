"""The page of ``odin-rm best-of-n``: proxy and gold over the KL, and every attribute that comes along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_rm.evaluation.best_of_n import BestOfN
from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.stored_scores import StoredScores
from odin_rm.reports.blocks import Table, format_number
from odin_rm.reports.chart import Chart, Series
from odin_rm.reports.page import Report
from odin_rm.reports.sections import Charts, Section

_MOST_LINES = 6


def best_of_n_report(stored: StoredScores, found: BestOfN, content: Mapping[str, Any]) -> Report:
    """The page.

    Args:
        stored: whose scores chose.
        found: the curves.
        content: of ``best_of_n.json``.
    """
    leading: list[str] = [name for name in ("proxy", "gold") if name in found.curves]
    attributes = sorted(
        (name for name in found.curves if name.startswith("attribute.")), key=lambda n: -abs(_gain(found, n))
    )
    notes = []
    if found.left_out:
        notes.append(f"{found.left_out:,} prompts have fewer than {found.n[-1]} responses and are left out.")
    return Report(
        title="Best-of-N",
        subtitle=f"{content['model']}: {found.prompts:,} prompts, N = {', '.join(map(str, found.n))}",
        headline=[_headline(stored, found, attributes)],
        sections=[
            Section("What is chosen", [Charts([_chart(found, leading, "rewards", "Proxy and gold", _reward_words)])]),
            Section(
                "What comes along",
                [
                    Charts([_chart(found, attributes[:_MOST_LINES], "attributes", "Attributes", _words(stored))]),
                    _table(stored, found, leading, attributes),
                ],
            ),
        ],
        notes=notes,
    )


def _gain(found: BestOfN, name: str) -> float:
    """How far a curve has moved at the largest ``n``, in deviations within a prompt."""
    first, last, deviation = found.curves[name][0].value, found.curves[name][-1].value, found.deviation[name]
    return 0.0 if first is None or last is None or not deviation else (last - first) / deviation


def _headline(stored: StoredScores, found: BestOfN, attributes: list[str]) -> str:
    n = found.n[-1]
    text = f"The best of {n} scores {format_number(_gain(found, 'proxy'), 2)} deviations higher than one response"
    text += f" ({format_number(found.kl[-1], 2)} nats from the policy)."
    if "gold" in found.curves:
        first, last = found.curves["gold"][0].value, found.curves["gold"][-1].value
        text += f" Gold goes from {format_number(first, 3)} to {format_number(last, 3)}."
    moved = [(name, _gain(found, name)) for name in attributes[:3] if abs(_gain(found, name)) >= 0.05]
    if moved:
        words = _words(stored)
        parts = [f"{words(name)} ({'+' if gain > 0 else ''}{format_number(gain, 2)})" for name, gain in moved]
        text += f" What comes along most, in deviations: {', '.join(parts)}."
    return text


def _reward_words(name: str) -> str:
    return name


def _words(stored: StoredScores) -> Any:
    return lambda name: stored.described[name.removeprefix("attribute.")].words


def _chart(found: BestOfN, names: list[str], file: str, title: str, words: Any) -> Chart:
    series = []
    for name in names:
        scale, start = found.deviation[name] or 1.0, found.curves[name][0].value or 0.0
        figures = [_moved(figure, start, scale) for figure in found.curves[name]]
        series.append(
            Series(
                words(name),
                found.kl,
                [figure.value for figure in figures],
                [figure.low for figure in figures],
                [figure.high for figure in figures],
                [f"N = {n}" for n in found.n],
                band=True,
            )
        )
    values = "; ".join(f"{one.name} {format_number(one.y[-1], 2)}" for one in series)
    return Chart(
        file=file,
        title=title,
        x_label="KL from the policy (nats)",
        y_label="change, in deviations within a prompt",
        series=series,
        caption="Mean under best-of-N minus the mean of one response, in deviations within a prompt, with the 95 % "
        "interval of the mean. Each point is an N.",
        alt=f"Lines over the KL from the policy. At N = {found.n[-1]}: {values}.",
        digits=2,
    )


def _moved(figure: Figure, start: float, scale: float) -> Figure:
    def move(value: float | None) -> float | None:
        return None if value is None else (value - start) / scale

    return Figure(move(figure.value), move(figure.low), move(figure.high))


def _table(stored: StoredScores, found: BestOfN, leading: list[str], attributes: list[str]) -> Table:
    words = _words(stored)
    rows = [[name, *found.curves[name]] for name in leading]
    rows += [[words(name), *found.curves[name]] for name in attributes]
    return Table("Means under best-of-N.", ["Mean of", *(f"N = {n}" for n in found.n)], rows, digits=2)
