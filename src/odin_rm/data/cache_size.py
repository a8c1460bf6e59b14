"""How large the cache of tokenised data is, and a bound on its growth: what was used longest ago goes first."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from odin_rm.core.errors import ConfigError

LIMIT_VARIABLE = "ODIN_RM_CACHE_GIB"
DEFAULT_LIMIT_GIB = 20.0
GIB = 2**30
_RECORD = "record.json"
_ENTRY = re.compile(r"[0-9a-f]{32}")
_LEFTOVER = re.compile(r"\.scratch-.+|\.[0-9a-f]{32}\..+\.part|\.gone-.+")
_A_DAY = 86_400.0


@dataclass(frozen=True)
class CacheEntry:
    """One tokenised data set, or what a run that was killed has left.

    Attributes:
        folder: where it is.
        size: bytes.
        used: when it was last read or written, in seconds since 1970.
    """

    folder: Path
    size: int
    used: float


def cache_limit() -> float:
    """The bound in bytes: ``ODIN_RM_CACHE_GIB``, else 20 GiB; ``inf`` is none.

    Raises:
        ConfigError: the variable holds something else than a number of at least 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        limit = float(text) if text else DEFAULT_LIMIT_GIB
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        fix = "Give a number of GiB, such as 20, or inf for no bound."
        raise ConfigError(f"is '{text}', not a size", where=LIMIT_VARIABLE, fix=fix)
    return limit * GIB


def cache_entries(root: Path) -> list[CacheEntry]:
    """The data sets in a cache folder, the one that was used last at the end. Nothing else there is looked at."""
    return _found(root, _ENTRY)


def cache_leftovers(root: Path) -> list[CacheEntry]:
    """What runs that were killed have left there (or what runs that go on are writing)."""
    return _found(root, _LEFTOVER)


def _found(root: Path, names: re.Pattern[str]) -> list[CacheEntry]:
    if not root.is_dir():
        return []
    entries = [_entry(path) for path in root.iterdir() if names.fullmatch(path.name) and path.is_dir()]
    return sorted(entries, key=lambda entry: (entry.used, entry.folder.name))


def _entry(folder: Path) -> CacheEntry:
    size, newest = 0, 0.0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:  # another process takes it away
            continue
        size += status.st_size
        newest = max(newest, status.st_mtime)
    try:
        used = (folder / _RECORD).stat().st_mtime
    except OSError:
        used = newest
    return CacheEntry(folder, size, used)


def mark_used(folder: Path) -> None:
    """Note that a data set is used now; where that cannot be written it is only older than it seems."""
    with contextlib.suppress(OSError):
        os.utime(folder / _RECORD)


def keep_within(root: Path, limit: float, spared: Collection[Path] = (), now: float | None = None) -> list[CacheEntry]:
    """Delete the data sets that were used longest ago until the rest is no larger than the bound.

    What a run that was killed has left is deleted after a day. A data set that another process reads stays readable
    for it until it ends, where the system keeps open files (all but Windows).

    Args:
        root: the cache folder.
        limit: bytes.
        spared: data sets that stay.
        now: seconds since 1970.

    Returns:
        What was deleted.
    """
    now = time.time() if now is None else now
    gone = [entry for entry in cache_leftovers(root) if now - entry.used > _A_DAY]
    entries = cache_entries(root)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        if total <= limit:
            break
        if entry.folder not in spared:
            gone.append(entry)
            total -= entry.size
    return [entry for entry in gone if _delete(entry.folder)]


def clear_cache(root: Path) -> list[CacheEntry]:
    """Delete everything of ours in a cache folder.

    Returns:
        What was deleted.
    """
    return [entry for entry in (*cache_entries(root), *cache_leftovers(root)) if _delete(entry.folder)]


def _delete(folder: Path) -> bool:
    """Rename first, so that no process meets half a data set."""
    aside = folder.with_name(f".gone-{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True
