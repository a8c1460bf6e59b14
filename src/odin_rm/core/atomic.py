"""Writes that either happen whole or not at all, and JSON that any reader accepts.

Everything is written to a temporary sibling first, flushed to the disk, and renamed over its target. A reader, or a run
that is killed at any moment, sees the old content or the new, never half of it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from odin_rm.core.errors import OutputError
from odin_rm.core.system import PathLike, writing

_UNTOUCHED = "What was there before is untouched."
_APPENDED = "What was written to it before is kept; a run goes on with --resume_from_checkpoint auto."
_LONGEST_STEM = 200
_TEMPORARY = re.compile(r"\..+\.(\d+-[0-9a-f]{8}|[a-z0-9_]{8})\.part")  # ours, and those of earlier versions


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
        OutputError: the place cannot be written; :class:`MachineError` where the disk is full. What was there stays.
    """
    target = Path(path)
    made: list[Path] = []
    temporary = _sibling(target)
    try:
        with writing(target, kept=_UNTOUCHED):
            made = _missing_parents(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise OutputError("is a folder, not a file", where=str(target), fix="Give the name of a file.")
            remove_stale(target)
            with temporary.open("xb") as file:
                hold(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        _remove_empty(made)
        raise
    _sync_folder(target.parent)


@contextmanager
def written(path: PathLike, *, append: bool = False) -> Iterator[IO[bytes]]:
    """A file that is written as it comes, for what stands in a temporary folder anyway or is only ever appended to.

    Raises:
        OutputError: as of :func:`atomic_file`.
    """
    with writing(path), Path(path).open("ab" if append else "wb") as file:
        yield file


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
        OutputError: the disk is full, or the file cannot be written; it then is as it was before.
    """
    append_bytes(path, (dump_json(value) + "\n").encode("utf-8"))


def append_bytes(path: PathLike, data: bytes) -> None:
    """Append to a file, which is made where it is missing; all of ``data`` or none of it.

    Raises:
        OutputError: as of :func:`append_jsonl`.
    """
    with writing(path, kept=_APPENDED), Path(path).open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise


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
    with staged_folder(target) as temporary:
        yield temporary
        swap_in(temporary, target)


@contextmanager
def staged_folder(target: PathLike) -> Iterator[Path]:
    """Yield an empty folder beside ``target``, which is gone after the block unless :func:`swap_in` has moved it.

    Raises:
        OutputError: it cannot be made, or the block cannot write it.
    """
    target = Path(target)
    temporary = _sibling(target)
    made: list[Path] = []
    try:
        with writing(target, kept=_UNTOUCHED):
            made = _missing_parents(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_stale(target)
            temporary.mkdir()
            with held_folder(temporary):
                yield temporary
    except BaseException:
        _remove(temporary)
        _remove_empty(made)
        raise
    _remove(temporary)
    _sync_folder(target.parent)


def swap_in(stage: Path, target: Path) -> None:
    """Put a complete folder in the place of another one, which is removed; a kill leaves the old one or the new one."""
    if target.is_symlink():
        target = target.resolve()
    if not target.is_dir():
        os.rename(stage, target)
        return
    if exchange(stage, target):
        _remove(stage)
        return
    old = _sibling(target)
    os.rename(target, old)
    try:
        os.rename(stage, target)
    except BaseException:
        os.rename(old, target)
        raise
    _remove(old)


def exchange(one: Path, other: Path) -> bool:
    """Let two entries of a file system change places in one step; false where the system has no such call."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return int(renameat2(here, os.fsencode(one), here, os.fsencode(other), both)) == 0


# ---- what a kill leaves ----------------------------------------------------------------------------------------------


def hold(descriptor: int) -> bool:
    """Mark an open file as in use, until it is closed or its process ends; false where another one holds it.

    File systems without locks count as held by nobody else.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Mark a temporary folder as in use for the block."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        hold(descriptor)
        yield
    finally:
        os.close(descriptor)


def remove_stale(target: Path) -> None:
    """Remove the temporary files and folders beside a target that processes left which are no more."""
    try:
        # glob would read brackets of a name as a pattern
        names = [name for name in os.listdir(target.parent) if _is_temporary(name, target)]
    except OSError:
        return
    for name in names:
        remove_if_stale(target.parent / name)


def remove_stale_inside(folder: Path) -> None:
    """The same for all temporary files in a folder, whatever they were to become."""
    try:
        names = [name for name in os.listdir(folder) if _TEMPORARY.fullmatch(name)]
    except OSError:
        return
    for name in names:
        remove_if_stale(folder / name)


def remove_if_stale(path: Path) -> None:
    """Remove a temporary file or folder unless a process that lives holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or a file system that cannot say
            return
        _remove(path)
    finally:
        os.close(descriptor)


def _is_temporary(name: str, target: Path) -> bool:
    return name.startswith(f".{_stem(target)}.") and _TEMPORARY.fullmatch(name) is not None


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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


def _stem(target: Path) -> str:
    """A target's name, cut where the name of its temporary sibling would be too long for a file system."""
    name = target.name
    if len(os.fsencode(name)) <= _LONGEST_STEM:
        return name
    return f"{name[:30]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def _sibling(target: Path) -> Path:
    return target.parent / f".{_stem(target)}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"


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
