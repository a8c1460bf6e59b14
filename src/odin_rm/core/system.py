"""What the system refuses, in one line: a full disk, a name that is too long, a file that must not be read.

The user can mend a path or its permissions (exit code 2); a full disk, a full memory or a device that fails is the
machine's (:class:`MachineError`, exit code 1). Libraries have words of their own for the same; they are read here too.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, DataError, MachineError, MissingFileError, OdinError, OutputError

PathLike = str | os.PathLike[str]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = _FULL | {
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOLCK,
}
_PATHS = {
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.EACCES: "Check its permissions.",
    errno.EPERM: "Check its permissions.",
    errno.EROFS: "Choose a place that can be written.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Give the name of a file.",
    errno.EEXIST: "Choose another name.",
    errno.ELOOP: "Check its links.",
    errno.EINVAL: "Check the path.",
    errno.EBUSY: "Choose another place.",
    errno.ENOTEMPTY: "Choose another place.",
    errno.EXDEV: "Choose another place.",
}
# torch, safetensors (Rust), Arrow and SQLite say it in these words, without a number.
_SAID_FULL = re.compile(
    r"no space left|disk is full|quota exceeded|file too large|os error (28|122|27)\b|PytorchStreamWriter|"
    r"inline_container|iostream error|disk I/O error|file write failed",
    re.IGNORECASE,
)
_SAID_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|bad alloc", re.IGNORECASE)
_LONGEST_SHOWN = 120


def shown_path(path: Any) -> str:
    """A path as a message names it: what is longer than a line is cut in its middle, and no byte of it is a control."""
    if path is None or isinstance(path, int):
        return ""
    text = "".join(c if c.isprintable() else "?" for c in os.fsdecode(path))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:60]}...{text[-50:]}"


def is_there(place: PathLike) -> bool:
    """Whether a name is taken: by a file, a folder or a link, also one that leads nowhere.

    Raises:
        OSError: the system refuses the name itself.
    """
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it comes from, is that of a full disk."""
    return any(
        (isinstance(one, OSError) and one.errno in _FULL) or _SAID_FULL.search(str(one)) is not None
        for one in _chain(error)
        if not isinstance(one, OdinError)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def free_space(place: PathLike) -> str:
    """What is free on the disk of a place, for a message."""
    folder = Path(place)
    try:
        while not folder.is_dir():
            folder = folder.parent
        return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there"
    except (OSError, ValueError):
        return "the free space is unknown"


def cannot_write(place: PathLike, error: BaseException, *, kept: str = "") -> OutputError:
    """The error of a write that the system refused.

    Args:
        place: what was to be written.
        error: what the system, or a library, said.
        kept: a sentence on what is there nevertheless.
    """
    reason = _reason(error)
    if is_full(error):
        what = f"cannot be written ({reason}; {free_space(place)})"
        return MachineError(what, where=shown_path(place), fix=f"Make room on the disk. {kept}".strip())
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return MachineError(f"cannot be written ({reason})", where=shown_path(place), fix=kept)
    fix = _PATHS.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    longer = "Give a shorter path." if fix == _PATHS[errno.ENAMETOOLONG] else "Choose another place."
    return OutputError(f"cannot be written ({reason})", where=shown_path(place), fix=f"{longer} {kept}".strip())


def cannot_read(place: PathLike, error: BaseException) -> DataError | MachineError:
    """The error of a read that the system refused."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError("no such file", where=shown_path(place), fix="Check the path.")
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return MachineError(f"cannot be read ({_reason(error)})", where=shown_path(place))
    fix = _PATHS.get(error.errno or 0, "Check the file.") if isinstance(error, OSError) else "Check the path."
    return DataError(f"cannot be read ({_reason(error)})", where=shown_path(place), fix=fix)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def writing(place: PathLike, *, kept: str = "") -> Iterator[None]:
    """A block that writes a place: what the system or a library says of it becomes one line.

    Raises:
        OutputError: it cannot be written; :class:`MachineError` where no flag is wrong.
    """
    try:
        yield
    except OdinError:
        raise
    except OSError as error:
        if _is_of_files(error):
            raise cannot_write(_culprit(error, place), error, kept=kept) from error
        raise
    except Exception as error:
        if is_full(error) or _is_nul(error):
            raise cannot_write(place, error, kept=kept) from error
        raise


def _culprit(error: OSError, place: PathLike) -> PathLike:
    """The file that the system named, unless it is one that is made on the way to the place."""
    if not isinstance(error.filename, (str, bytes)):
        return place
    named, target = Path(os.fsdecode(error.filename)), Path(place)
    return place if named in target.parents or target.parent in named.parents else named


def _is_nul(error: BaseException) -> bool:
    return isinstance(error, ValueError) and "null byte" in str(error)


def _is_of_files(error: OSError) -> bool:
    return error.errno in _MACHINE or error.errno in _PATHS


def system_error(error: BaseException, kept: str = "") -> OdinError | None:
    """The one line for an error of the system that nobody has caught, or ``None`` where it is none.

    Args:
        error: what was raised.
        kept: a sentence on what an ended run leaves.
    """
    for one in _chain(error):
        if _is_nul(one):
            return ConfigError("a path holds a NUL byte", fix="Give the path without it.")
        if isinstance(one, MemoryError) or (isinstance(one, RuntimeError) and _SAID_MEMORY.search(str(one))):
            return MachineError("the memory does not suffice", fix=f"Use a machine with more, or less at once. {kept}")
        if isinstance(one, OSError) and _is_of_files(one):
            place = shown_path(one.filename)
            if one.errno in _MACHINE:
                fix = f"Make room on the disk. {kept}" if one.errno in _FULL else kept
                return MachineError(f"cannot be used ({_reason(one)})", where=place, fix=fix.strip())
            if place:
                return ConfigError(f"cannot be used ({_reason(one)})", where=place, fix=_PATHS[one.errno or 0])
    if is_full(error):
        return MachineError(f"the disk cannot be written ({_reason(error)})", fix=f"Make room on it. {kept}".strip())
    return None
