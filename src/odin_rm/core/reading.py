"""The door to files that are read whole: bytes, text, JSON and YAML, each with a limit and each error in one line.

No other module calls ``open``, ``json.loads`` or ``yaml.safe_load`` (``tests/architecture`` refuses it). All errors are
:class:`DataError`, so a caller that has a better word for a missing file catches that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import DataError
from odin_rm.core.system import PathLike, cannot_read, shown_path
from odin_rm.core.untrusted import json_integer

LONGEST_LINE = 64 * 2**20
"""Bytes of a line, and of a cell, of a file of rows."""
LARGEST_TEXT = 1024 * 2**20
"""Bytes of a file that is read whole."""
DEEPEST = 100
"""Lists and mappings inside one another."""
_MOST_VALUES = 1_000_000


@contextmanager
def opened(path: PathLike) -> Iterator[BufferedReader]:
    """A file for reading, as bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        if isinstance(error, DataError) or (isinstance(error, ValueError) and "null" not in str(error)):
            raise
        raise cannot_read(path, error) from error


def read_bytes(path: PathLike, *, limit: int = LARGEST_TEXT) -> bytes:
    """The content of a file.

    Raises:
        DataError: it cannot be read, or is larger than the limit.
    """
    with opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        what = f"holds more than {limit / 2**20:,.0f} MiB, which are not read at once"
        raise DataError(what, where=shown_path(path), fix="Check that it is the right file.")
    return content


def read_text(path: PathLike, *, limit: int = LARGEST_TEXT) -> str:
    """The content of a file in UTF-8, with or without its mark.

    Raises:
        DataError: it cannot be read, is too large or is not UTF-8.
    """
    return _text(read_bytes(path, limit=limit), shown_path(path))


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=where, fix="Save it as UTF-8.") from error


def parse_json(content: str | bytes, *, where: str = "", fix: str = "Check its content.") -> Any:
    """What a JSON text says.

    Raises:
        DataError: it is no JSON, or nested more than :data:`DEEPEST` deep.
    """
    text = _text(content, where) if isinstance(content, bytes) else content
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=json_integer)
    except RecursionError as error:
        raise _too_deep(where) from error
    except (ValueError, MemoryError) as error:
        raise DataError(f"is not valid JSON ({error or 'too large'})", where=where, fix=fix) from error
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value, where)
    return value


def first_of_list(content: str | bytes) -> Any:
    """The first value of a JSON list, without the work of the rest; ``None`` where there is none.

    It is for a look at what a file holds: whether the rest is JSON is not seen.
    """
    with suppress(DataError, ValueError, RecursionError):
        text = (_text(content, "") if isinstance(content, bytes) else content).lstrip()
        if text.startswith("["):
            return json.JSONDecoder().raw_decode(text[1:].lstrip())[0]
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys is given once: of two values of a key nobody knows which one is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{twice[:80]}' is given twice")
    return found


def parse_yaml(text: str, *, where: str = "", loader: type[Any] = yaml.SafeLoader) -> Any:
    """What a YAML text says; only plain values, never objects.

    Args:
        text: the text.
        where: the file's name, for messages.
        loader: a loader that makes nothing but plain values.

    Raises:
        DataError: it is no YAML, nested more than :data:`DEEPEST` deep, or grows without end by its references.
    """
    try:
        value = yaml.load(text, Loader=loader)
    except RecursionError as error:
        raise _too_deep(where) from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, MemoryError) as error:
        what = f"is not valid YAML ({' '.join(str(error).split())[:300]})"
        raise DataError(what, where=where, fix="Correct the file.") from error
    _check_nesting(value, where, most=_MOST_VALUES)
    return value


def read_json(path: PathLike) -> Any:
    """What a JSON file says.

    Raises:
        DataError: as of :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_bytes(path), where=shown_path(path))


def read_lines(path: PathLike) -> list[dict[str, Any]]:
    """The objects of a log of JSON lines; a line that a kill has cut, or that is damaged, is none of them.

    Raises:
        DataError: the file cannot be read.
    """
    rows = []
    for line in read_bytes(path).split(b"\n"):
        if line.strip():
            with suppress(DataError):
                rows.append(parse_json(line))
    return [row for row in rows if isinstance(row, dict)]


def read_yaml(path: PathLike, *, loader: type[Any] = yaml.SafeLoader) -> Any:
    """What a YAML file says.

    Raises:
        DataError: as of :func:`read_text` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path), where=shown_path(path), loader=loader)


def _too_deep(where: str) -> DataError:
    return DataError(f"is nested more than {DEEPEST} deep", where=where, fix="Check that it is the right file.")


def _check_depth(value: Any, where: str) -> None:
    """Refuse what is deep; for values whose parts have no name, as in JSON, so that none is seen twice."""
    level = [value] if isinstance(value, (list, dict)) else []
    for _ in range(DEEPEST):
        level = [
            one
            for item in level
            for one in (item.values() if isinstance(item, dict) else item)
            if isinstance(one, (list, dict))
        ]
        if not level:
            return
    raise _too_deep(where)


def _check_nesting(value: Any, where: str, most: int | None = None) -> None:
    """Refuse what is deep, holds itself, or would be huge when its references are written out."""
    sizes: dict[int, int] = {}

    def size(item: Any, depth: int) -> int:
        if depth > DEEPEST:
            raise _too_deep(where)
        if id(item) not in sizes:
            inside = item.values() if isinstance(item, dict) else item
            within = sum(size(one, depth + 1) for one in inside if isinstance(one, (list, dict)))
            sizes[id(item)] = 1 + len(item) + within
        return sizes[id(item)]

    if isinstance(value, (list, dict)) and size(value, 1) > (most or float("inf")):
        raise DataError("holds too many values", where=where, fix="Check that it is the right file.")


__all__ = [
    "DEEPEST",
    "LARGEST_TEXT",
    "LONGEST_LINE",
    "first_of_list",
    "opened",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_lines",
    "read_text",
    "read_yaml",
]
