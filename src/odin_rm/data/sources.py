"""Where rows come from: a file, a folder, a hub id or a list in memory. All of them stream.

On their way the rows become those that :mod:`odin_rm.data.rows` takes: the cells of a CSV file that hold chat messages,
names given by the user, public layouts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.files import FORMATS, PathLike, read_rows, row_format
from odin_rm.core.reading import opened
from odin_rm.data.cells import values_of_cells, without_fillers
from odin_rm.data.columns import NO_NAMES, Columns
from odin_rm.data.layouts import HELPSTEER, Want, helpsteer, in_our_form, is_rated_response
from odin_rm.data.splits import DEFAULT, choose_files, missing_split

Row = Mapping[str, Any]
RowSource = PathLike | Sequence[Row]
OnBadRow = Callable[[RowError], None] | None

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_READ_AT_ONCE = 1000


@dataclass(frozen=True)
class PlacedRow:
    """A row with its number (from 1, counted over the whole source) and its place for messages ("file, row 3")."""

    number: int
    place: str
    row: Row
    layout: str | None = None
    """The public layout that it was read from; ``None`` for our own form."""
    names: Columns = NO_NAMES
    """What the user calls its fields."""

    def placed(self, error: DataError) -> RowError:
        """An error of this row with its place, and with its fields' names."""
        named = self.names.renamed(error)
        return RowError(named.what, where=self.place, fix=named.fix)


@dataclass(frozen=True)
class Source:
    """A readable source of rows.

    Attributes:
        name: for messages and reports.
        rows: streams the rows; malformed ones go to the callback, or are raised without one.
        fingerprint: a digest of the content.
        in_memory: the rows are a list of the caller's.
    """

    name: str
    rows: Callable[[OnBadRow], Iterator[PlacedRow]]
    fingerprint: Callable[[], str]
    in_memory: bool = False


def iter_preference_rows(
    source: RowSource, on_bad_row: OnBadRow = None, columns: Sequence[str] = ()
) -> Iterator[PlacedRow]:
    """Stream the preference rows of any source (see :func:`open_source`)."""
    return open_source(source, columns=columns, want="preferences").rows(on_bad_row)


def open_source(source: RowSource, *, columns: Sequence[str] = (), want: Want | None = None) -> Source:
    """Find out what ``source`` is.

    Args:
        source: a list of rows or a ``datasets.Dataset``; a file (.jsonl, .json, .parquet, .csv, each also .gz); a
            folder written by ``save_to_disk``, or one with data files (:mod:`odin_rm.data.splits` says which split a
            file belongs to); a hub id. Folders and ids may name a split: ``"id:test"``; otherwise it is ``train``, or
            the only one.
        columns: names of fields, ``new=theirs`` each (:mod:`odin_rm.data.columns`).
        want: what the rows are read for; public layouts are brought into our form for it
            (:mod:`odin_rm.data.layouts`). ``None`` leaves the rows as they are, but for the names.

    Raises:
        DataError: nothing of that name is there, or it has several splits of which none is named.
        ConfigError: ``columns`` are not of that form.
    """
    names = Columns(columns)
    found = _find_source(source)
    return found if want is None and not names else replace(found, rows=partial(_shaped, found, names, want))


def _shaped(source: Source, names: Columns, want: Want | None, on_bad_row: OnBadRow) -> Iterator[PlacedRow]:
    """The rows of a source under our names and in our form; one that cannot be brought there goes to the callback."""
    rated: list[PlacedRow] = []
    first = True
    for placed in source.rows(on_bad_row):
        if first:
            names.check(placed.row, source.name)
            first = False
        row: Row = names.apply(placed.row) if names else placed.row
        placed = replace(placed, row=row, names=names)
        if rated and not (is_rated_response(row) and row["prompt"] == rated[0].row["prompt"]):
            yield from _reported(_rated, rated, on_bad_row)
            rated = []
        if want == "preferences" and is_rated_response(row):
            rated.append(placed)
        elif want is None:
            yield placed
        else:
            yield from _reported(partial(_in_our_form, want), [placed], on_bad_row)
    if rated:
        yield from _reported(_rated, rated, on_bad_row)


def _in_our_form(want: Want, rows: list[PlacedRow]) -> PlacedRow:
    row, layout = in_our_form(rows[0].row, want)
    return replace(rows[0], row=row, layout=layout)


def _rated(rows: list[PlacedRow]) -> PlacedRow:
    return replace(rows[0], row=helpsteer([one.row for one in rows]), layout=HELPSTEER)


def _reported(
    read: Callable[[list[PlacedRow]], PlacedRow], rows: list[PlacedRow], on_bad_row: OnBadRow
) -> Iterator[PlacedRow]:
    try:
        shaped = read(rows)
    except RowError as error:
        placed = rows[0].placed(error)
        if on_bad_row is None:
            raise placed from None
        on_bad_row(placed)
    else:
        yield shaped


def _find_source(source: RowSource) -> Source:
    if hasattr(source, "_fingerprint") and hasattr(source, "iter"):
        return _dataset_source("data set", source)
    if not isinstance(source, (str, Path)) and not hasattr(source, "__fspath__"):
        return _rows_source(source)  # type: ignore[arg-type]
    name = str(source)
    path = Path(name).expanduser()
    split: str | None = None
    if not path.exists() and ":" in name:
        name, split = name.rsplit(":", 1)
        path = Path(name).expanduser()
    if path.is_dir():
        return _folder_source(path, split)
    if path.exists() or _looks_like_file(name) or not _HUB_ID.fullmatch(name):
        return _files_source(str(source), [Path(str(source)).expanduser()])
    return _hub_source(name, split)


def _looks_like_file(name: str) -> bool:
    try:
        row_format(name)
    except DataError:
        return name.endswith(".gz") or name.startswith((".", "/", "~"))
    return True


def _rows_source(rows: Sequence[Row]) -> Source:
    if not isinstance(rows, Sequence):
        kind = type(rows).__name__
        raise DataError(f"the data are {kind}, not a list of rows", fix="Give a path, a hub id or a list of rows.")

    def stream(on_bad_row: OnBadRow) -> Iterator[PlacedRow]:
        for number, row in enumerate(rows, start=1):
            place = f"in-memory rows, row {number}"
            if isinstance(row, Mapping):
                yield PlacedRow(number, place, row)
                continue
            error = RowError(f"is {type(row).__name__}, not a dictionary", where=place, fix="Give dictionaries.")
            if on_bad_row is None:
                raise error
            on_bad_row(error)

    def fingerprint() -> str:
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    return Source("in-memory rows", stream, fingerprint, in_memory=True)


def _files_source(name: str, files: list[Path]) -> Source:
    for file in files:
        read_rows(file)  # complains at once about a missing, empty or unknown file

    def stream(on_bad_row: OnBadRow) -> Iterator[PlacedRow]:
        before = number = 0
        for file in files:
            suffix = row_format(file)[0]
            for in_file, row in read_rows(file, on_bad_row):
                number = before + in_file
                place = f"{file}, row {in_file}"
                try:
                    yield PlacedRow(number, place, values_of_cells(row, suffix))
                except RowError as error:
                    placed = RowError(error.what, where=place, fix=error.fix)
                    if on_bad_row is None:
                        raise placed from None
                    on_bad_row(placed)
            before = number

    def fingerprint() -> str:
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.name.encode("utf-8", "surrogatepass") + b"\0")
            with opened(file) as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    return Source(name, stream, fingerprint)


def _folder_source(path: Path, split: str | None) -> Source:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved_source(path, split)
    files = sorted(f for f in path.rglob("*") if f.is_file() and _is_data_file(f, path))
    if not files:
        known = ", ".join(FORMATS)
        raise DataError("the folder holds no data file", where=str(path), fix=f"Put {known} files there (or .gz).")
    name = str(path) if split is None else f"{path}:{split}"
    return _files_source(name, choose_files(files, path, split))


def _is_data_file(file: Path, folder: Path) -> bool:
    if any(part.startswith((".", "_")) for part in file.relative_to(folder).parts):
        return False
    # A folder of data may also hold descriptions of itself.
    return file.name not in ("dataset_info.json", "dataset_infos.json", "state.json") and _has_known_suffix(file)


def _has_known_suffix(file: Path) -> bool:
    try:
        row_format(file)
    except DataError:
        return False
    return True


def _saved_source(path: Path, split: str | None) -> Source:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        what = f"is not a readable dataset folder ({_first_line(error)})"
        raise DataError(what, where=str(path), fix="Write it again with save_to_disk.") from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _pick_split(loaded, split, str(path))
    elif split is not None and split != str(loaded.split):
        what = f"is one data set{'' if loaded.split is None else f' ({loaded.split})'}, without the split '{split}'"
        raise DataError(what, where=str(path), fix="Leave the split out.")
    return _dataset_source(str(path) if split is None else f"{path}:{split}", loaded)


def _pick_split(loaded: Any, split: str | None, name: str) -> Any:
    wanted = split or DEFAULT
    if wanted in loaded:
        return loaded[wanted]
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    raise missing_split(name, wanted, loaded)


def _hub_source(name: str, split: str | None) -> Source:
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split or DEFAULT)
    except Exception as error:
        what = f"is neither a local file or folder nor a dataset that can be fetched ({_first_line(error)})"
        raise DataError(what, where=name, fix="Check the path, the id ('id' or 'id:split') and the network.") from error
    return _dataset_source(name if split is None else f"{name}:{split}", loaded)


def _dataset_source(name: str, dataset: Any) -> Source:
    if len(dataset) == 0:
        raise DataError("holds no rows", where=name, fix="Give a data set with at least one row.")

    def stream(on_bad_row: OnBadRow) -> Iterator[PlacedRow]:
        number = 0
        for columns in dataset.iter(batch_size=_READ_AT_ONCE):
            keys = list(columns)
            for cells in zip(*columns.values(), strict=True):
                number += 1
                row = {key: without_fillers(cell) for key, cell in zip(keys, cells, strict=True)}
                yield PlacedRow(number, f"{name}, row {number}", row)

    def fingerprint() -> str:
        return f"{name}:{dataset._fingerprint}:{len(dataset)}"

    return Source(name, stream, fingerprint)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
