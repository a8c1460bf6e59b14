"""Writes that either happen whole or not at all, and JSON that any reader accepts.

Everything is written to a temporary sibling first, flushed to the disk, and renamed over its target. A reader, or a run
that is killed at any moment, sees the old content or the new, never half of it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from odin_rm.core.errors import OutputError

PathLike = str | os.PathLike[str]


def json_safe(value: Any) -> Any:
    """A copy of ``value`` made of plain JSON types.

    NaN and infinities become ``None`` (JSON has no word for them), numpy scalars and one-element tensors numbers,
    arrays lists, paths strings, dataclasses objects, sets sorted lists.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return json_safe(value.value)
    if isinstance(value, Mapping):
        return {str(json_safe(key)): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((json_safe(item) for item in value), key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_safe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return json_safe(value.tolist())
    return str(value)


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON text, made safe by :func:`json_safe`; characters stay readable, half characters are escaped."""
    safe = json_safe(value)
    text = json.dumps(safe, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form, but it has a JSON escape
        text = json.dumps(safe, indent=indent, ensure_ascii=True, allow_nan=False)
    return text


@contextmanager
def atomic_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes ``path`` when the block ends well and disappears when it does not.

    Raises:
        OutputError: the place cannot be written.
    """
    target = Path(path)
    temporary = _sibling(target)
    made = _missing_parents(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise OutputError("is a folder, not a file", where=str(target), fix="Give the name of a file.")
        file = temporary.open("xb")
    except OSError as error:
        _remove_empty(made)
        raise _not_writable(target, error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        _remove_empty(made)
        raise
    _sync_folder(target.parent)


def atomic_write_bytes(path: PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path``; NaN becomes ``null`` (see :func:`json_safe`)."""
    atomic_write_text(path, dump_json(value, indent=2) + "\n")


def append_jsonl(path: PathLike, value: Any) -> None:
    """Append ``value`` as one JSON line. The line is written by one call, so a reader never meets half of it.

    Raises:
        OutputError: the disk is full, or the file cannot be written.
    """
    try:
        with Path(path).open("ab") as file:
            file.write((dump_json(value) + "\n").encode("utf-8"))
    except OSError as error:
        fix = "Make room or mend the permissions; a run goes on with --resume_from_checkpoint true."
        raise OutputError(f"cannot be written ({error.strerror or error})", where=str(path), fix=fix) from error


@contextmanager
def atomic_folder(path: PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary sibling of ``path`` that is renamed to ``path`` when the block ends well.

    Args:
        path: the folder to make. An empty folder of that name counts as absent.
        overwrite: replace an existing folder; it stays untouched until the new one is complete.

    Raises:
        OutputError: ``path`` is a file, holds something and ``overwrite`` is off, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise OutputError("is a file, not a folder", where=str(target), fix="Choose another output folder.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise OutputError("the folder is not empty", where=str(target), fix="Choose another one, or ask to overwrite.")
    temporary = _sibling(target)
    made = _missing_parents(target)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        _remove_empty(made)
        raise _not_writable(target, error) from error
    try:
        yield temporary
        if target.is_dir():
            old = _sibling(target)
            os.rename(target, old)
            try:
                os.rename(temporary, target)
            except BaseException:
                os.rename(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)
        raise
    _sync_folder(target.parent)


def _missing_parents(target: Path) -> list[Path]:
    """Folders above ``target`` that a write would have to make, the innermost first."""
    return [folder for folder in target.parents if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    """Take away folders that were made for a write that failed; one that holds something by now stays."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _sibling(target: Path) -> Path:
    return target.parent / f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"


def _not_writable(target: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot be written ({error.strerror or error})", where=str(target), fix="Choose another place.")


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable; systems that cannot open folders do not need it.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
