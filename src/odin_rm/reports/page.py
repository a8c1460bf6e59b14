"""One self-contained HTML page made of sections: no network, light and dark, figures that zoom and read by keyboard.

    from odin_rm.reports import Charts, Section, Text, audit_headline, audit_sections, write_report

    sections = [
        Section("What was done", [Text("Two reward models from the same initial weights ...")]),
        *audit_sections([vanilla_result, odin_result], [vanilla_scored, odin_scored]),
        Section("Policies", [Charts([front_chart])]),
    ]
    write_report("Quickstart", audit_headline([vanilla_result, odin_result]), sections, output_dir)

The page holds plotly's script and its own, both by their digests: the content security policy in its head lets nothing
else run, and lets nothing be fetched. Texts of prompts and responses are escaped by the template and appear nowhere
else. Without scripts every figure is a picture. Beside the page stand its figures (PNG, SVG) and the tables that have a
file name (LaTeX).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from odin_rm.core.files import atomic_write_bytes, atomic_write_text
from odin_rm.core.reading import read_text
from odin_rm.core.untrusted import without_controls
from odin_rm.reports.blocks import Table, Text
from odin_rm.reports.chart import Chart, numbers_table, palette, thinned
from odin_rm.reports.chart_live import describe_live
from odin_rm.reports.chart_still import draw_still, still_files
from odin_rm.reports.latex import latex_table
from odin_rm.reports.sections import Charts, Section


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title, subtitle: of the page.
        headline: the findings in plain words, one paragraph each.
        sections: its parts; empty ones are left out.
        notes: what a reader must know of the input: cut lines, unfinished runs.
        footer: small print at the end.
    """

    title: str
    subtitle: str
    headline: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    footer: str = ""


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
    """Write the page and the files of its figures and tables.

    Args:
        title: of the page.
        headline: the finding in plain words with its numbers; sentences, shown large at the top.
        sections: the parts of the page.
        output_dir: where the page and its files go; made where missing.
        subtitle: one line below the title (data, date, seed, ...).
        footer: small print at the end.
        file: name of the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: two figures have one name.
    """
    html, files = render_report(Report(title, subtitle, Text(headline).paragraphs, sections, footer=footer))
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return write_page(folder, html, files, file=file)


def write_page(folder: Path, html: str, files: Mapping[str, bytes], *, file: str = "report.html") -> Path:
    """Write what :func:`render_report` has made: the files first, then the page; returns its path."""
    for name, content in files.items():
        atomic_write_bytes(folder / name, content)
    atomic_write_text(folder / file, html)
    return folder / file


def render_report(report: Report) -> tuple[str, dict[str, bytes]]:
    """The page and the files beside it by name.

    Raises:
        ValueError: two figures have one name.
    """
    sections = [section for section in report.sections if section.blocks]
    blocks = [block for section in sections for block in section.blocks]
    charts = [_thinned(chart) for block in blocks if isinstance(block, Charts) for chart in block.charts]
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
    for block in blocks:
        if isinstance(block, Table) and block.file:
            files[f"{block.file}.tex"] = latex_table(block).encode("utf-8")
    return _html(report, sections, stills, live), files


def _html(report: Report, sections: Sequence[Section], stills: Mapping[str, str], live: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("odin_rm.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    plotly_script = _plotly_script() if live else ""
    own = read_text(Path(__file__).parent / "templates" / "report.js")
    page_script = without_addresses(own) if live else ""
    return environment.get_template("report.html.j2").render(
        title=report.title,
        subtitle=report.subtitle,
        headline=report.headline,
        notes=report.notes,
        footer=report.footer,
        sections=sections,
        anchors=page_anchors(sections),
        stills=stills,
        numbers=numbers_table,
        live=bool(live),
        charts_json=Markup(json_in_html(live)),
        plotly_script=Markup(plotly_script),
        page_script=Markup(page_script),
        policy=content_policy([plotly_script, page_script] if live else []),
        version=package_version(),
    )


def _shown(value: Any) -> Any:
    """What a template writes of a value: texts without control characters, our own markup and scripts to the byte."""
    return without_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
    return without_addresses(str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n"))


def without_addresses(script: str) -> str:
    """The same JavaScript, spelt so that no address stands in the page.

    plotly names servers of maps, which no chart of ours asks for and the page's policy forbids. Whoever looks through a
    page for what it might fetch finds none of them: ``https:\\/\\/`` in a string is ``https://``, ``t["href"]=`` is
    ``t.href=``, and ``href\\x3d`` in a string is ``href=``.
    """
    script = re.sub(r"(https?):\/\/", r"\1:\\/\\/", script)
    script = re.sub(r"\.(href|src)=(?=[\"'])", r'["\1"]=', script)
    return re.sub(r"(?<!\.)(href|src)=(?=[\"'])", r"\1\\x3d", script)


def _thinned(chart: Chart) -> Chart:
    return Chart(**{**vars(chart), "series": [thinned(one) for one in chart.series]})


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
