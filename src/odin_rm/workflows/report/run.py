"""One self-contained page on a run or several: the body of ``odin-rm report``.

Everything is read, and the page made, before anything is written. Beside the page ``NAME.html`` stands the folder
``NAME`` with its figures (PNG, SVG) and tables (LaTeX).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from odin_rm.core.errors import OutputError
from odin_rm.core.files import atomic_folder, atomic_write_bytes, atomic_write_text
from odin_rm.core.system import is_there
from odin_rm.evaluation.audit import AuditResult
from odin_rm.results.reader import Item, Reader
from odin_rm.results.records import (
    Described,
    Fronts,
    Judged,
    Material,
    Sweep,
    TextFile,
    TrainingRun,
    WinRates,
)
from odin_rm.workflows.report.config import ReportConfig

SUFFIXES = (".png", ".svg", ".tex")


@dataclass(frozen=True)
class Written:
    """What a report left: the page, its files, what a reader must know."""

    page: Path
    folder: Path
    files: list[str]
    notes: Sequence[str]


def run_report(config: ReportConfig) -> Written:
    """Read every path and write the page with its folder.

    Raises:
        OdinError: a path that is no run or result or cannot be read, an output that exists already.
    """
    page = Path(config.output)
    folder = page.with_suffix("")
    check_output(page, folder, config.overwrite_output)
    material = read_material(config.runs, config.names)
    # Only now: matplotlib and what draws with it take a second to load.
    from odin_rm.reports.comparison.story import build_report
    from odin_rm.reports.page import render_report

    html, files = render_report(build_report(material, title=config.title, samples=config.samples))
    with atomic_folder(folder, overwrite=config.overwrite_output) as place:
        for name, content in files.items():
            atomic_write_bytes(place / name, content)
    atomic_write_text(page, html)
    return Written(page, folder, sorted(files), material.notes)


def check_output(page: Path, folder: Path, overwrite: bool) -> None:
    """Refuse a page that exists, and a folder of its name that holds anything but a report's files.

    Raises:
        OutputError: it exists and is not to be replaced, or is something else.
    """
    if page.is_dir():
        raise OutputError("is a folder, not a page", where=str(page), fix="Choose another name.")
    if folder.exists() and not folder.is_dir():
        what = "is a file, and the figures need a folder of that name"
        raise OutputError(what, where=str(folder), fix="Choose another name for the page.")
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    # Without its page beside it, a folder of figures is somebody else's.
    foreign = [e.name for e in inside if e.suffix not in SUFFIXES or not e.is_file() or not page.exists()]
    if foreign:
        what = f"holds something else than a report's figures and tables ({foreign[0]})"
        raise OutputError(what, where=str(folder), fix="Choose another name for the page.")
    if (is_there(page) or inside) and not overwrite:
        there = page if is_there(page) else folder
        raise OutputError("exists already", where=str(there), fix="Choose another name, or pass --overwrite.")


def read_material(paths: Sequence[str], names: Sequence[str] = ()) -> Material:
    """Everything that the paths hold, each thing with a name of its own.

    Args:
        paths: folders and files.
        names: what to call them; empty takes the names of folders and files.

    Raises:
        DataError: as :meth:`odin_rm.results.reader.Reader.read`.
    """
    reader = Reader()
    items: list[Item] = []
    for path, name in zip(paths, names or own_names(paths), strict=True):
        items += reader.read(path, name)
    given = {id(item): item.name for item in items}
    for kind in (TrainingRun, AuditResult, TextFile, Judged, WinRates, Sweep):
        taken: set[str] = set()
        for item in items:
            if isinstance(item, kind):
                given[id(item)] = _free_name(item.name, taken)
                taken.add(given[id(item)])
    named = [replace(item, name=given[id(item)]) for item in items]
    return Material(
        runs=[item for item in named if isinstance(item, TrainingRun)],
        audits=[item for item in named if isinstance(item, AuditResult)],
        files=[item for item in named if isinstance(item, TextFile)],
        judged=[item for item in named if isinstance(item, Judged)],
        win_rates=[item for item in named if isinstance(item, WinRates)],
        sweeps=[item for item in named if isinstance(item, Sweep)],
        fronts=[item for item in named if isinstance(item, Fronts)],
        others=[item for item in named if type(item) is Described],
        notes=reader.notes,
    )


def own_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: its last part, with the parts before it where two would be the same."""
    parts = [_stem_parts(Path(path)) for path in paths]
    names = []
    for own in parts:
        depth = 1
        while depth < len(own) and any(other[-depth:] == own[-depth:] for other in parts if other != own):
            depth += 1
        names.append("/".join(own[-depth:]))
    return names


def _stem_parts(path: Path) -> list[str]:
    parts = [part for part in path.absolute().parts if part != path.anchor]
    for suffix in (".gz", ".json", ".jsonl", ".parquet", ".csv"):
        parts[-1:] = [part.removesuffix(suffix) or part for part in parts[-1:]]
    # audit.json and its like are called after their folder.
    return parts[:-1] if len(parts) > 1 and parts[-1] in ("audit", "comparison", "pareto", "summary") else parts


def _free_name(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free
