"""What the files of a run say: objects, settings, audits, logs, figures. Every reader of results reads them here."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.files import read_rows
from odin_rm.core.reading import read_json, read_yaml
from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure

Row = Mapping[str, Any]

AUDIT, SETTINGS, ENVIRONMENT, METRICS, SAMPLES = (
    "audit.json", "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl",
)  # fmt: skip
MAKE_AGAIN = "Make it again."

HOLDERS = {
    "sweep": ("sweep.json",),
    "evaluation": ("evaluation.json",),
    "fronts": ("pareto.json",),
    "judged": ("judge.json", "annotations"),
    "experiment": ("summary.json",),
    "training": (METRICS,),
    "audit": ("comparison.json", AUDIT),
}
"""What a folder is, by the files that say so; a name without an ending is one of any format. The telling ones first."""


def kind_of_folder(folder: Path) -> str | None:
    """Which of :data:`HOLDERS` a folder is; ``None`` where it holds none of their files itself."""
    held = {path.name for path in folder.iterdir() if path.is_file()}
    held |= {name.split(".")[0] for name in held}
    return next((kind for kind, names in HOLDERS.items() if held & set(names)), None)


def expanded(places: Iterable[str]) -> Iterator[Path]:
    """The files and folders that names and patterns (``runs/*``) stand for; a name need not be there.

    Raises:
        DataError: a pattern matches nothing.
    """
    for place in places:
        if Path(place).exists() or not glob.has_magic(place):
            yield Path(place)
            continue
        matching = sorted(glob.glob(place, recursive=True))
        if not matching:
            raise DataError("the pattern matches nothing", where=place, fix="Check --runs.")
        yield from map(Path, matching)


def read_content(path: Path, fix: str = MAKE_AGAIN) -> Any:
    """What a JSON file says.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path), fix="Check the path.") from error
    except DataError as error:
        raise DataError(error.what, where=str(path), fix=fix) from error


def read_object(path: Path, fix: str = MAKE_AGAIN) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    content = read_content(path, fix)
    if not isinstance(content, dict):
        raise DataError("does not hold a JSON object", where=str(path), fix=fix)
    return content


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a folder was made with; empty where it has none.

    Raises:
        DataError: its ``config.yaml`` cannot be read or holds something else.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    fix = "Mend it, or move it away."
    try:
        content = read_yaml(path)
    except DataError as error:
        raise DataError(error.what, where=str(path), fix=fix) from error
    if content is not None and not isinstance(content, dict):
        raise DataError("does not hold names and values", where=str(path), fix=fix)
    return {str(key): value for key, value in (content or {}).items()}


def read_environment(folder: Path) -> dict[str, Any]:
    """The versions that a folder was made with; empty where it does not say."""
    return read_object(folder / ENVIRONMENT) if (folder / ENVIRONMENT).is_file() else {}


def read_audit(path: Path, name: str = "") -> AuditResult:
    """The audit in an ``audit.json``.

    Args:
        path: the file.
        name: what to call it; its own name by default.

    Raises:
        DataError: the file cannot be read or holds no audit.
    """
    return audit_of(path, read_object(path, "Run odin-rm audit again."), name)


def audit_of(path: Path, content: Any, name: str = "") -> AuditResult:
    """The audit that an object of a file is.

    Args:
        path: the file, for messages.
        content: the object.
        name: what to call it; its own name by default.

    Raises:
        DataError: it is none.
    """
    try:
        result = AuditResult.from_json(content)
    except (DataError, TypeError, ValueError, AttributeError) as error:
        what = error.what if isinstance(error, DataError) else str(error)
        raise DataError(f"is no audit ({what})", where=str(path), fix="Run odin-rm audit again.") from error
    return AuditResult(**{**vars(result), "name": name or result.name})


def read_log(path: Path) -> tuple[list[Row], bool]:
    """The rows of a log, and whether its last line is cut off: a run that still goes writes while we read.

    Raises:
        RowError: any other line cannot be read.
    """
    rows: list[Row] = []
    bad: list[tuple[int, RowError]] = []
    for _, row in read_rows(path, lambda error: bad.append((len(rows), error))):
        rows.append(row)
    if bad and (len(bad) > 1 or bad[0][0] < len(rows) or not rows):
        raise bad[0][1]
    return rows, bool(bad)


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """A file of the right name and kind whose content somebody else made is the user's to mend."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is not what odin-rm writes ({type(error).__name__}: {error})"
        raise DataError(what, where=str(path), fix=MAKE_AGAIN) from error


def number_of(value: Any) -> float | None:
    """A number; ``None`` for anything else, NaN too."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return float(value) if known else None


def as_figure(value: Any) -> Figure:
    """A number, or an object of ``value``, ``low`` and ``high``; undefined for anything else."""
    if isinstance(value, Mapping):
        point, low, high = (number_of(value.get(side)) for side in ("value", "low", "high"))
        return Figure(point, low, high, why=None if value.get("why") is None else str(value["why"]))
    return Figure(number_of(value))


def figure_of(where: str, content: Any, name: str) -> Figure:
    """The figure of a name in an object.

    Raises:
        DataError: it is not there or no number.
    """
    figure = as_figure(content.get(name) if isinstance(content, Mapping) else None)
    if figure.value is None:
        raise DataError(f"'{name}' is missing or no figure", where=where, fix="Make the file again.")
    return figure


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep as ``sweep.json`` has it: ``status`` is ``done``, ``failed``, ...; ``varied`` its settings."""

    name: str
    status: str
    folder: Path
    varied: Row
    row: Row


def read_sweep(folder: Path) -> list[SweepRun]:
    """The runs of a sweep's folder.

    Raises:
        DataError: its ``sweep.json`` cannot be read or is none.
    """
    path = folder / "sweep.json"
    with as_written(path):
        return [
            SweepRun(str(row["name"]), str(row["status"]), folder / str(row["folder"]), dict(row["varied"] or {}), row)
            for row in read_object(path, "Run the sweep again.")["runs"]
        ]


def rows_of(value: Any) -> list[Row]:
    """The objects of a list; empty for anything else."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []
