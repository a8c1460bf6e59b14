"""What the cache of tokenised data holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odin_rm.core.errors import OutputError
from odin_rm.data.cache import default_cache_dir
from odin_rm.data.cache_size import GIB, cache_entries, cache_leftovers, cache_limit, clear_cache
from odin_rm.workflows.cache.config import CacheConfig


def run_cache(config: CacheConfig) -> dict[str, Any]:
    """Measure the cache, and empty it where that is asked for.

    Returns:
        ``folder``; ``data_sets`` and ``bytes`` that are there now, ``leftover_bytes`` of runs that were killed;
        ``deleted`` and ``deleted_bytes``; ``limit_gib``, the bound on its growth (``None`` where there is none).

    Raises:
        OutputError: ``--cache_dir`` is no folder, or something cannot be deleted.
    """
    folder = Path(config.cache_dir).expanduser() if config.cache_dir else default_cache_dir()
    if config.cache_dir and not folder.is_dir():
        raise OutputError("there is no such folder", where=str(folder), fix="Check --cache_dir.")
    gone = clear_cache(folder) if config.clear else []
    entries, leftovers = cache_entries(folder), cache_leftovers(folder)
    if config.clear and entries:
        what = f"{len(entries):,} data sets cannot be deleted"
        raise OutputError(what, where=str(folder), fix="Mend its permissions.")
    limit = cache_limit() / GIB
    return {
        "folder": str(folder),
        "data_sets": len(entries),
        "bytes": sum(entry.size for entry in entries),
        "leftover_bytes": sum(entry.size for entry in leftovers),
        "deleted": len(gone),
        "deleted_bytes": sum(entry.size for entry in gone),
        "limit_gib": limit if limit < float("inf") else None,
    }
