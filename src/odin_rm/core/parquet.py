"""Rows of dictionaries to one Parquet file, whose columns are those of *all* rows.

Parquet wants its columns and their types before the first row. Rows wait in a scratch file as Arrow, a part at a time,
each part with the columns that its own rows have; at the end the parts are written with the columns of all of them. So
a field that the last row is the first to have is kept, in a column and in the records of one, and a column that begins
with nulls gets its type from the first value. What does not fit any column is refused as soon as it is seen, by name.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

from odin_rm.core.errors import OutputError

ROWS_AT_ONCE = 1024
_FIX = "Write .jsonl, which takes any row."


class ParquetRows:
    """Rows on their way into a Parquet file.

    Args:
        path: the file that they are for, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._buffer: list[dict[str, Any]] = []
        self._schema: Any = None
        self._scratch = tempfile.TemporaryFile()  # noqa: SIM115 - closed by write() or close()

    def add(self, row: dict[str, Any]) -> None:
        """Add one row.

        Raises:
            OutputError: a column of it has a type that Parquet, or the column so far, does not take.
        """
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) >= ROWS_AT_ONCE:
            self._put_aside()

    def write(self, file: IO[bytes]) -> None:
        """Write the file.

        Raises:
            OutputError: as :meth:`add`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._buffer or self._schema is None:
            self._put_aside()
        self._scratch.seek(0)
        try:
            with pq.ParquetWriter(file, self._schema) as writer:
                while self._scratch.read(1):
                    self._scratch.seek(-1, 1)
                    with pa.ipc.open_stream(self._scratch) as part:
                        table = part.read_all()
                    if table.schema != self._schema:
                        table = pa.Table.from_pylist(table.to_pylist(), schema=self._schema)
                    writer.write_table(table)
        except pa.ArrowException as error:
            what = f"the rows do not fit into a Parquet file ({_line(error)})"
            raise OutputError(what, where=str(self.path), fix=_FIX) from error
        self.close()

    def close(self) -> None:
        """Give up the scratch file."""
        self._scratch.close()

    def _put_aside(self) -> None:
        import pyarrow as pa

        names = dict.fromkeys(name for row in self._buffer for name in row)
        table = pa.table({name: self._column(name) for name in names})
        self._schema = table.schema if self._schema is None else self._with(table.schema)
        with pa.ipc.new_stream(self._scratch, table.schema) as part:
            part.write_table(table)
        self._buffer.clear()

    def _column(self, name: str) -> Any:
        import pyarrow as pa

        try:
            column = pa.array([row.get(name) for row in self._buffer])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise self._refused(name, _line(error)) from error
        if _has_empty_record(column.type):
            raise self._refused(name, "an empty object has no column in Parquet")
        return column

    def _with(self, schema: Any) -> Any:
        import pyarrow as pa

        try:
            return pa.unify_schemas([self._schema, schema], promote_options="permissive")
        except pa.ArrowException:
            pass
        for field in schema:  # which column is it?
            before = pa.schema([self._schema.field(field.name)] if field.name in self._schema.names else [])
            try:
                pa.unify_schemas([before, pa.schema([field])], promote_options="permissive")
            except pa.ArrowException as error:
                raise self._refused(field.name, _line(error)) from error
        raise self._refused(schema.names[0], "columns of different types")

    def _refused(self, name: str, why: str) -> OutputError:
        what = f"the rows up to {self.rows} do not fit into one column '{name}' ({why})"
        return OutputError(what, where=str(self.path), fix=_FIX)


def _has_empty_record(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_record(field.type) for field in kind)
    return _has_empty_record(kind.value_type) if pa.types.is_list(kind) else False


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
