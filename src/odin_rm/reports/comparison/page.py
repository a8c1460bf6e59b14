"""One self-contained page on runs, zoomable, with its figures and tables as files beside it.

The page holds plotly's script and its own, both by their digests: the content security policy in its head lets nothing
else run, and lets nothing be fetched. Texts of prompts and responses are escaped by the template and appear nowhere
else. Without scripts every figure is a picture.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from odin_rm.core.reading import read_text
from odin_rm.reports.chart import Chart, Series, numbers_table, palette, thinned
from odin_rm.reports.chart_live import describe_live
from odin_rm.reports.chart_still import draw_still, still_files
from odin_rm.reports.latex import latex_table
from odin_rm.reports.page import Table, Text, package_version, page_anchors

FOLD_AFTER = 700
"""Characters of a text that are shown before the rest is folded."""


@dataclass(frozen=True)
class Charts:
    """Figures side by side where there is room."""

    charts: Sequence[Chart]
    kind = "charts"


@dataclass(frozen=True)
class Passage:
    """A text that somebody or something wrote; nothing in it is markup."""

    text: str

    @property
    def _cut(self) -> int:
        if len(self.text) <= FOLD_AFTER * 5 // 4:
            return len(self.text)
        space = self.text.rfind(" ", FOLD_AFTER // 2, FOLD_AFTER)
        return FOLD_AFTER if space < 0 else space

    @property
    def shown(self) -> str:
        """What is shown at once."""
        return self.text[: self._cut] or "(nothing)"

    @property
    def rest(self) -> str:
        """What is folded."""
        return self.text[self._cut :]

    @property
    def rest_words(self) -> str:
        """How much is folded."""
        return f"{len(self.rest):,} characters"


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt: who wrote it, facts as name and value, the text."""

    name: str
    facts: Sequence[tuple[str, str]]
    text: Passage


@dataclass(frozen=True)
class Sample:
    """A prompt with answers side by side."""

    prompt: Passage
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Samples:
    """Prompts with their answers; ``anchor`` tells one such block of the page from another."""

    samples: Sequence[Sample]
    anchor: str = "s"
    kind = "samples"


Block = Text | Table | Charts | Samples


@dataclass(frozen=True)
class Part:
    """A titled part of the page."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The heading's id in the page."""
        return (
            "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in self.title.lower()).split()) or "part"
        )


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title, subtitle: of the page.
        headline: the findings in plain words, one paragraph each.
        parts: its parts, empty ones left out by the page.
        notes: what a reader must know of the input: cut lines, unfinished runs.
    """

    title: str
    subtitle: str
    headline: Sequence[str]
    parts: Sequence[Part]
    notes: Sequence[str] = field(default_factory=list)


def render_report(report: Report) -> tuple[str, dict[str, bytes]]:
    """The page and the files beside it by name.

    Raises:
        ValueError: two figures have one name.
    """
    parts = [part for part in report.parts if part.blocks]
    charts = [_thinned(c) for part in parts for block in part.blocks if isinstance(block, Charts) for c in block.charts]
    names = [chart.file for chart in charts]
    if len(set(names)) < len(names):
        raise ValueError(f"two figures are called '{next(name for name in names if names.count(name) > 1)}'")
    colours, markers = palette(charts)
    files: dict[str, bytes] = {}
    stills: dict[str, str] = {}
    live: dict[str, Any] = {}
    for chart in charts:
        files[f"{chart.file}.png"], files[f"{chart.file}.svg"] = still_files(draw_still(chart, colours, markers))
        stills[chart.file] = base64.b64encode(files[f"{chart.file}.svg"]).decode("ascii")
        live[chart.file] = describe_live(chart, colours, markers)
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Table) and block.file:
                files[f"{block.file}.tex"] = latex_table(block).encode("utf-8")
    return _html(report, parts, stills, live), files


def _html(report: Report, parts: Sequence[Part], stills: Mapping[str, str], live: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("odin_rm.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    plotly_script = _plotly_script() if live else ""
    page_script = _own_script() if live else ""
    return environment.get_template("run_report.html.j2").render(
        title=report.title,
        subtitle=report.subtitle,
        headline=report.headline,
        notes=report.notes,
        sections=parts,
        anchors=page_anchors(parts),
        stills=stills,
        numbers=numbers_table,
        live=bool(live),
        charts_json=Markup(json_in_html(live)),
        plotly_script=Markup(plotly_script),
        page_script=Markup(page_script),
        policy=content_policy([plotly_script, page_script] if live else []),
        version=package_version(),
    )


def json_in_html(value: Any) -> str:
    """JSON that may stand in a ``script`` element: no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_policy(scripts: Sequence[str]) -> str:
    """The content security policy: these scripts and no other, pictures and styles of the page itself, no network."""
    digests = [base64.b64encode(hashlib.sha256(s.encode("utf-8")).digest()).decode("ascii") for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    # Whatever plotly writes into its file: nothing in it may end the script element.
    return str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n")


def _own_script() -> str:
    return read_text(Path(__file__).parent.parent / "templates" / "run_report.js")


def _thinned(chart: Chart) -> Chart:
    series: list[Series] = [thinned(one) for one in chart.series]
    return Chart(**{**vars(chart), "series": series})
