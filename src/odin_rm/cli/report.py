"""One HTML page on a run or several: tables, zoomable figures, texts side by side, settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from odin_rm.cli.config import parse_config


def run(argv: Sequence[str]) -> int:
    """Parse, read, write, say where it is."""
    from odin_rm.workflows.report import ReportConfig, run_report

    written = run_report(parse_config(ReportConfig, list(argv), "report"))
    for note in written.notes:
        print(f"odin-rm report: note: {note}", file=sys.stderr)
    kinds = {suffix: sum(name.endswith(suffix) for name in written.files) for suffix in (".svg", ".tex")}
    print(f"{written.page}: {kinds['.svg']} figures, {kinds['.tex']} tables; as files in {written.folder}")
    return 0
