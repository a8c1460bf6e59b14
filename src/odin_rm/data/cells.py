"""Container or text: one rule for every file type.

A string is text, always. Only the cells of a CSV file, which can hold nothing but strings, may be containers: a cell
that *is* a list of chat messages, or one message, is read as one. It may be written as JSON, or as Python or numpy
print it (``[{'role': 'user', ...}]``), which is what ``to_csv`` makes of a chat column. A cell that begins like that
and can not be read is refused. Fields that are never text (``responses``, ``ranks``, ``tools``, ...) are read by their
own reader, which takes JSON lists in any file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from odin_rm.core.errors import RowError
from odin_rm.core.reading import parse_json

_KEYS = ({"role", "content"}, {"from", "value"})
_BEGINS = re.compile(r"""\s*(?:array\()?(?:[\[(]\s*)?\{\s*(['"])(role|content|from|value|name|tool_calls)\1\s*:""")
# numpy prints the elements of an array one below the other, with nothing between.
_UNSEPARATED = re.compile(r"\}\s*\n\s*\{")


def values_of_cells(row: Mapping[str, Any], suffix: str) -> Mapping[str, Any]:
    """The values of a row, whatever its file could hold.

    Args:
        row: of a file.
        suffix: of the file; cells of ``.csv`` may be containers, and ``.parquet`` fills records with nulls.

    Raises:
        RowError: a cell begins as a list of messages and is none.
    """
    if suffix == ".csv":
        return containers_of_cells(row)
    if suffix == ".parquet":
        return {name: without_fillers(value) for name, value in row.items()}
    return row


def without_fillers(value: Any) -> Any:
    """A value of Arrow without the nulls that it puts into a record for the fields which other records have."""
    if isinstance(value, dict):
        return {name: without_fillers(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_fillers(one) for one in value]
    return value


def containers_of_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a CSV file with its cells of chat messages as such; every other cell stays a string.

    Raises:
        RowError: a cell begins as a list of messages and is none.
    """
    return {name: chat_of_cell(cell, name) if isinstance(cell, str) else cell for name, cell in row.items()}


def chat_of_cell(cell: str, name: str) -> Any:
    """The messages that a cell holds, or the cell itself.

    Raises:
        RowError: the cell begins as a list of messages and is none.
    """
    if not _BEGINS.match(cell):
        return cell
    value = _json(cell)
    if value is None:
        value = _printed(cell)
    if value is None and any(all(f"{quote}{key}{quote}" in cell for key in keys) for keys in _KEYS for quote in "'\""):
        what = f"'{name}' begins as a printed list of messages, but cannot be read as one"
        raise RowError(what, fix="Write the messages as JSON (json.dumps), or save the data as .jsonl or .parquet.")
    messages = value if isinstance(value, list) else [value]
    whole = messages and all(isinstance(m, dict) and any(keys <= set(m) for keys in _KEYS) for m in messages)
    return value if whole else cell


def _json(cell: str) -> Any:
    try:
        return parse_json(cell)
    except ValueError:
        return None


def _printed(cell: str) -> Any:
    """What Python or numpy has printed, or ``None``."""
    text = cell.strip()
    if text.startswith("array("):
        text = text.removeprefix("array(").rpartition("]")[0] + "]"
    try:
        value = ast.literal_eval(_UNSEPARATED.sub("},{", text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    if not isinstance(value, (list, tuple)):
        return value
    return None if Ellipsis in value else list(value)  # numpy leaves out the middle of a long array
