"""One self-contained HTML page made of sections: text, tables and figures. No network, no script, light and dark.

    from odin_rm.reports.page import Plot, Section, Table, Text, write_report
    from odin_rm.reports.audit_report import audit_headline, audit_sections

    sections = [
        Section("What was done", [Text("Two reward models from the same initial weights ...")]),
        *audit_sections([vanilla_result, odin_result], [vanilla_scored, odin_scored]),
        Section("Policies", [Plot(canvas, "pareto", "Length against true quality.", alt="...")]),
    ]
    write_report("Quickstart", audit_headline([vanilla_result, odin_result]), sections, output_dir)

Every plot is saved as ``<output_dir>/<plot.file>.png`` and embedded in ``<output_dir>/report.html``.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure as Canvas

from odin_rm.core.files import atomic_write_bytes, atomic_write_text
from odin_rm.evaluation.records import Figure
from odin_rm.reports.style import DPI

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text (blank line between them). Markup is escaped."""

    text: str
    kind = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs, each on one line."""
        return [" ".join(part.split()) for part in re.split(r"\n\s*\n", self.text.strip())]


@dataclass(frozen=True)
class Percent:
    """A table cell to show in percent: a share as a number or a :class:`Figure`."""

    share: Any


@dataclass(frozen=True)
class Table:
    """A table with a caption. The first column holds the row headings.

    Attributes:
        caption: what the table shows, a sentence.
        columns: the headings, the first above the row headings.
        rows: cells: text, numbers, ``None`` (a dash), :class:`Figure` (value with its interval below) or
            :class:`Percent`.
        note: small print below the table.
        digits: decimal places of numbers.
        percent: show numbers and figures of these columns (by heading) in percent.
        folded: hide it behind a "show" line that a key or a click opens.
        file: name of its LaTeX file where a page writes such files; empty for none.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    digits: int = 3
    percent: Sequence[str] = ()
    folded: bool = False
    file: str = ""
    kind = "table"

    def cell(self, value: Any, column: int) -> dict[str, str]:
        """A cell as ``main`` text, ``interval`` text and ``why`` (a reason where a figure is undefined)."""
        return format_cell(value, self.digits, self.columns[column] in self.percent)


@dataclass(frozen=True)
class Plot:
    """A matplotlib figure with its caption and its description in words.

    Attributes:
        canvas: the figure.
        file: file name without suffix.
        caption: what to see in it.
        alt: what a reader who cannot see it needs to know, with the numbers.
    """

    canvas: Canvas
    file: str
    caption: str
    alt: str
    kind = "plot"


@dataclass(frozen=True)
class Section:
    """A titled part of the page.

    Attributes:
        title: its heading, also in the page's table of contents.
        blocks: texts, tables and plots in order.
    """

    title: str
    blocks: Sequence[Text | Table | Plot]

    @property
    def anchor(self) -> str:
        """The heading's id in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def format_number(value: float | int | None, digits: int = 3, percent: bool = False) -> str:
    """A number for people: fixed places, a true minus sign, thousands apart, a dash for none."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    text = f"{100 * value:.1f} %" if percent else f"{value:.{digits}f}"
    if float(text.rstrip(" %")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def format_cell(value: Any, digits: int = 3, percent: bool = False) -> dict[str, str]:
    """Text of a table cell; see :class:`Table`."""
    if isinstance(value, Percent):
        return format_cell(value.share, digits, percent=True)
    if isinstance(value, Figure):
        interval = ""
        if value.low is not None and value.high is not None:
            interval = f"{format_number(value.low, digits, percent)} to {format_number(value.high, digits, percent)}"
        return {"main": format_number(value.value, digits, percent), "interval": interval, "why": value.why or ""}
    if value is None or isinstance(value, int | float):
        return {"main": format_number(value, digits, percent), "interval": "", "why": ""}
    return {"main": str(value), "interval": "", "why": ""}


def png_bytes(canvas: Canvas) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def write_report(
    title: str,
    headline: str,
    sections: Sequence[Section],
    output_dir: str | Path,
    *,
    subtitle: str = "",
    footer: str = "",
    file: str = "report.html",
) -> Path:
    """Write the figures as PNG files and the page that embeds them.

    Args:
        title: of the page.
        headline: the finding in plain words with its numbers; sentences, shown large at the top.
        sections: the parts of the page.
        output_dir: where ``report.html`` and ``<plot.file>.png`` go; made where missing.
        subtitle: one line below the title (data, date, seed, ...).
        footer: small print at the end.
        file: name of the page.

    Returns:
        The path of the page.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images: dict[str, str] = {}
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Plot):
                if block.file in images:
                    raise ValueError(f"two plots are called '{block.file}'")
                content = png_bytes(block.canvas)
                atomic_write_bytes(folder / f"{block.file}.png", content)
                images[block.file] = base64.b64encode(content).decode("ascii")
    page = folder / file
    atomic_write_text(page, render_page(title, headline, sections, images, subtitle=subtitle, footer=footer))
    return page


def render_page(
    title: str,
    headline: str,
    sections: Sequence[Section],
    images: dict[str, str],
    *,
    subtitle: str = "",
    footer: str = "",
) -> str:
    """The HTML text; ``images`` maps each plot's file name to its base64 PNG."""
    environment = Environment(
        loader=PackageLoader("odin_rm.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        headline=Text(headline).paragraphs,
        sections=sections,
        anchors=page_anchors(sections),
        images=images,
        footer=footer,
        version=package_version(),
    )


def page_anchors(sections: Sequence[Any]) -> list[str]:
    """An id for each section's heading, all different."""
    anchors: list[str] = []
    for section in sections:
        anchor, number = section.anchor, 2
        while anchor in anchors:
            anchor, number = f"{section.anchor}-{number}", number + 1
        anchors.append(anchor)
    return anchors


def package_version() -> str:
    """The version of odin-rm that is installed; empty where it is not."""
    try:
        return metadata.version("odin-rm")
    except metadata.PackageNotFoundError:
        return ""
