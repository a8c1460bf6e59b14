"""One HTML page on a run or several: tables, zoomable figures, texts side by side, settings."""

from __future__ import annotations

from odin_rm.core.console import say
from odin_rm.workflows.report.config import ReportConfig


def run(config: ReportConfig) -> None:
    """Read, write, say where it is."""
    from odin_rm.workflows.report.run import run_report

    written = run_report(config)
    for note in written.notes:
        say(f"odin-rm report: note: {note}", error=True)
    kinds = {suffix: sum(name.endswith(suffix) for name in written.files) for suffix in (".svg", ".tex")}
    say(f"{written.page}: {kinds['.svg']} figures, {kinds['.tex']} tables; as files in {written.folder}")
