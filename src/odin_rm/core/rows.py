"""Rows of dictionaries in and out of files: .jsonl, .json, .parquet and .csv, each also gzipped.

Reading streams (a ``.json`` list is the exception: it is parsed at once). The row number that errors show is the line
number in ``.jsonl`` and the number of the record, from 1 and without the header, elsewhere. CSV cells are strings.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from odin_rm.core.atomic import PathLike, atomic_file, dump_json
from odin_rm.core.errors import DataError, OutputError, RowError
from odin_rm.core.parquet import ROWS_AT_ONCE, ParquetRows
from odin_rm.core.reading import LARGEST_TEXT, LONGEST_LINE, first_of_list, parse_json
from odin_rm.core.system import cannot_read, shown_path, system_error

FORMATS = (".jsonl", ".json", ".parquet", ".csv")
Row = dict[str, Any]
OnBadRow = Callable[[RowError], None] | None

_MOST_BLANK = 1_000_000
_MAGIC = {b"\x1f\x8b": "gzip (.gz)", b"PAR1": "Parquet (.parquet)", b"PK\x03\x04": "zip"}


def row_format(path: PathLike) -> tuple[str, bool]:
    """``(suffix, gzipped)`` of a file name, for example ``(".jsonl", True)``.

    Raises:
        DataError: the suffix is none of the known ones.
    """
    name = Path(path).name.lower()
    gzipped = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise DataError(
            f"unknown file type '{suffix}'", where=str(path), fix=f"Use one of {known}, each also with .gz."
        )
    return suffix, gzipped


def read_rows(path: PathLike, on_bad_row: OnBadRow = None) -> Iterator[tuple[int, Row]]:
    """Stream ``(row number, row)`` of a file. That the file is there and not empty is checked at once.

    Args:
        path: the file.
        on_bad_row: is called with the :class:`RowError` of a malformed row, which is then left out; ``None`` raises.

    Raises:
        DataError: missing or empty file, unknown suffix, binary content, truncated gzip, duplicate columns, no rows.
        RowError: a malformed row (not JSON, not an object, too many cells, ...) where ``on_bad_row`` is ``None``.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise DataError("is a folder, not a file", where=str(path), fix="Give the name of a file.")
        suffix, gzipped = row_format(file)
        empty = file.stat().st_size == 0
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:  # a name with a NUL byte
        raise error if isinstance(error, DataError) else cannot_read(path, error) from error
    if empty:
        raise DataError("the file is empty", where=str(path), fix="Give a file with at least one row.")
    return _stream(file, suffix, gzipped, on_bad_row)


def first_row(path: PathLike) -> Row:
    """The first row of a file, to see of what kind its rows are; of a ``.json`` list without parsing the rest.

    Returns:
        The row; an empty one where a list begins with something else.

    Raises:
        OdinError: as of :func:`read_rows`.
    """
    rows = read_rows(path)
    suffix, gzipped = row_format(path)
    if suffix == ".json":
        with _reading(Path(path), gzipped) as file:
            row = first_of_list(file.read(LARGEST_TEXT))
        if isinstance(row, dict):
            return row
    return next((row for _, row in rows), {})


def _stream(path: Path, suffix: str, gzipped: bool, on_bad_row: OnBadRow) -> Iterator[tuple[int, Row]]:
    reader = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".csv": _read_csv}[suffix]
    seen = False
    with _reading(path, gzipped) as file:
        for number, row in reader(path, file):
            seen = True
            if not isinstance(row, RowError):
                yield number, row
            elif on_bad_row is None:
                raise row
            else:
                on_bad_row(row)
    if not seen:
        raise DataError("the file holds no rows", where=str(path), fix="Give a file with at least one row.")


@contextmanager
def _reading(path: Path, gzipped: bool) -> Iterator[IO[bytes]]:
    """The file's (decompressed) bytes; failures of reading or decompression become one line."""
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except EOFError as error:
        raise DataError("truncated gzip: the file ends too early", where=str(path), fix="Fetch it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"broken gzip ({error})", where=str(path), fix="Fetch it again, or drop the .gz.") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    except MemoryError as error:
        raise _too_long(path) from error


def _too_long(path: Path, number: int | None = None) -> DataError:
    place = shown_path(path) if number is None else f"{shown_path(path)}, line {number}"
    what = f"holds a line or a cell of more than {LONGEST_LINE / 2**20:,.0f} MiB"
    return DataError(what, where=place, fix="Check that it is the right file, with one row per line.")


def _lines(path: Path, file: IO[Any]) -> Iterator[Any]:
    """The lines of a file, each of bounded length; a file of nothing but ends of lines is refused as well."""
    number = blank = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise _too_long(path, number)
        blank = 0 if line.strip() else blank + 1
        if blank > _MOST_BLANK:
            what = f"holds more than {_MOST_BLANK:,} blank lines in a row"
            raise DataError(what, where=shown_path(path), fix="Check that it is the right file.")
        yield line


def _refuse_binary(path: Path, head: bytes) -> None:
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"is binary; it looks like {kind}", where=str(path), fix="Rename it by what it holds.")
    text = head.decode("utf-8", "replace")
    strange = sum(c == "�" or (c < " " and c not in "\t\n\r\f") for c in text)
    if b"\x00" in head or strange > max(8, 0.1 * len(text)):
        raise DataError("is binary, not UTF-8 text", where=str(path), fix="Save it as UTF-8 text.")


HALF_CHARACTER = "holds half a character (a lone surrogate)"
_SURROGATE = re.compile("[\ud800-\udfff]")


def has_half_character(value: Any) -> bool:
    """Whether text, or text anywhere in lists and mappings, holds a lone surrogate, which no UTF-8 file can.

    Two escapes that make one character together are that character once JSON is read, so they are none.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if not one.isascii() and _SURROGATE.search(one):
                return True
        elif isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
    return False


def bad_row(path: PathLike, number: int, what: str, fix: str) -> RowError:
    """The :class:`RowError` of one row, placed by file and row number."""
    return RowError(what, where=f"{path}, row {number}", fix=fix)


def _read_jsonl(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row | RowError]]:
    _refuse_binary(path, file.peek(4096)[:4096])  # type: ignore[attr-defined]
    for number, line in enumerate(_lines(path, file), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, _parse_line(path, number, line)


def _parse_line(path: Path, number: int, line: bytes) -> Row | RowError:
    try:
        row = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError:
        return bad_row(path, number, "is not UTF-8 text", "Save the file as UTF-8.")
    except DataError as error:
        hint = (
            "Name the file .json." if number == 1 and line.lstrip().startswith(b"[") else "Write one object per line."
        )
        return bad_row(path, number, error.what, hint)
    # Rare: only an escape can smuggle in half a character.
    return _as_row(path, number, row, escapes=b"\\ud" in line or b"\\uD" in line)


def _as_row(path: Path, number: int, row: Any, *, escapes: bool) -> Row | RowError:
    if escapes and has_half_character(row):
        return bad_row(path, number, HALF_CHARACTER, "Remove it.")
    if isinstance(row, dict):
        return row
    return bad_row(path, number, f"is a JSON {json_name(row)}, not an object", 'Write {"field": value, ...}.')


def json_name(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {list: "list", dict: "object", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _read_json(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row | RowError]]:
    content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        what = f"holds more than {LARGEST_TEXT / 2**20:,.0f} MiB, and a .json file is read at once"
        raise DataError(what, where=shown_path(path), fix="Write it as .jsonl, one object per line.")
    _refuse_binary(path, content[:4096])
    data = parse_json(content, where=str(path), fix="If it holds one object per line, name it .jsonl.")
    rows = data.get("data") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise DataError(f"holds a JSON {json_name(data)}, not a list", where=str(path), fix="Write a list of objects.")
    escapes = b"\\ud" in content or b"\\uD" in content
    for number, row in enumerate(rows, start=1):
        yield number, _as_row(path, number, row, escapes=escapes)


def _read_csv(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row | RowError]]:
    csv.field_size_limit(LONGEST_LINE)  # the default refuses cells above 128 KiB
    head = file.read(4096)
    _refuse_binary(path, head)
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    records = csv.reader(_lines(path, text), strict=True)
    try:
        header = next(records, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise DataError(f"duplicate columns: {', '.join(twice)}", where=str(path), fix="Name each column once.")
        number = 0
        for cells in records:
            if not cells:
                continue  # a blank line
            number += 1
            if len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            else:
                what = f"has {len(cells)} cells where the header has {len(header)}"
                yield number, bad_row(path, number, what, "Quote cells that hold commas, quotes or line breaks.")
    except csv.Error as error:
        line = f"is not valid CSV (line {records.line_num}: {error})"
        raise DataError(line, where=str(path), fix="Check the quoting there.") from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path), fix="Save it as UTF-8.") from error
    finally:
        text.detach()


def _read_parquet(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row | RowError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as spool:
        if isinstance(file, gzip.GzipFile):  # Parquet is read from its end; gzip can only be read from its start
            shutil.copyfileobj(file, spool)
            spool.seek(0)
        try:
            table = pq.ParquetFile(spool if isinstance(file, gzip.GzipFile) else file)
            names = table.schema_arrow.names
            if len(set(names)) != len(names):
                raise DataError("duplicate columns", where=str(path), fix="Name each column once.")
            number = 0
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                if batch.nbytes > LARGEST_TEXT:
                    raise _too_long(path)
                for row in _batch_rows(batch):
                    number += 1
                    yield number, row or bad_row(path, number, "is not UTF-8 text", "Write its text as UTF-8.")
        except (pa.ArrowException, OSError) as error:
            if (machine := system_error(error)) is not None:
                raise machine from error
            what = f"is not a readable Parquet file ({str(error).splitlines()[0]})"
            raise DataError(what, where=str(path), fix="Write it again.") from error


def _batch_rows(batch: Any) -> Iterator[Row | None]:
    """The rows of a record batch; ``None`` for one whose text is not UTF-8, which Arrow stores unchecked."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for position in range(batch.num_rows):
            try:
                yield batch.slice(position, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


class RowWriter:
    """Writes rows one by one; the file appears, complete, when the ``with`` block ends well.

    The columns of ``.csv`` are those of the first row; lists and objects are written as JSON there and ``None`` as an
    empty cell. The columns of ``.parquet`` are those of all rows (:mod:`odin_rm.core.parquet`).

    Args:
        path: the file; its suffix chooses the format as in :func:`read_rows`.

    Raises:
        DataError: unknown suffix (at once).
        OutputError: the place cannot be written, or a later row does not fit the columns.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.rows = 0
        self._suffix, self._gzipped = row_format(self.path)
        self._columns: list[str] = []
        self._parquet: ParquetRows | None = None

    def __enter__(self) -> RowWriter:
        self._atomic: AbstractContextManager[IO[bytes]] = atomic_file(self.path)
        raw = self._atomic.__enter__()
        # No name and no time in the gzip header: the same rows give the same bytes.
        self._file: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if self._gzipped else raw
        if self._suffix == ".json":
            self._file.write(b"[")
        if self._suffix == ".parquet":
            self._parquet = ParquetRows(self.path)
        return self

    def write(self, row: Row) -> None:
        """Add one row."""
        if self._suffix == ".jsonl":
            self._file.write((dump_json(row) + "\n").encode("utf-8"))
        elif self._suffix == ".json":
            self._file.write(((",\n" if self.rows else "\n") + dump_json(row)).encode("utf-8"))
        elif self._parquet is not None:
            self._parquet.add(row)
        else:
            self._check_columns(row)
            self._write_csv([row.get(name) for name in self._columns])
        self.rows += 1

    def _check_columns(self, row: Row) -> None:
        if self.rows == 0:
            self._columns = list(row)
            self._write_csv(self._columns)
        elif extra := [name for name in row if name not in self._columns]:
            what = f"row {self.rows + 1} has a column '{extra[0]}' that the first row has not"
            raise OutputError(what, where=str(self.path), fix="Write .jsonl, which takes any row.")

    def _write_csv(self, cells: list[Any]) -> None:
        text = io.StringIO(newline="")
        plain = (int, float, str)
        csv.writer(text, lineterminator="\r\n").writerow(
            "" if cell is None else cell if isinstance(cell, plain) else dump_json(cell) for cell in cells
        )
        self._file.write(text.getvalue().encode("utf-8"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._abandon()
            self._atomic.__exit__(*sys.exc_info())
            raise
        if kind is not None:
            self._abandon()
        self._atomic.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._suffix == ".json":
            self._file.write(b"\n]\n" if self.rows else b"]\n")
        if self._parquet is not None:
            self._parquet.write(self._file)
        if self._gzipped:
            self._file.close()

    def _abandon(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
