"""The cache of tokenised data: its size, and emptying it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.cache.config import CacheConfig


def run(config: CacheConfig) -> None:
    """Measure or empty it, say what is there."""
    from odin_rm.core.files import dump_json
    from odin_rm.data.cache_size import LIMIT_VARIABLE
    from odin_rm.workflows.cache.run import run_cache

    found = run_cache(config)
    if config.json:
        say(dump_json(found, indent=2))
        return
    if config.clear:
        say(f"Deleted {found['deleted']:,} data sets, {size(found['deleted_bytes'])}")
    say(f"{found['folder']}: {found['data_sets']:,} tokenised data sets, {size(found['bytes'])}")
    if found["leftover_bytes"]:
        say(f"{size(found['leftover_bytes'])} more of runs that go on or were killed; it goes after a day")
    bound = "It has no bound" if found["limit_gib"] is None else f"It is kept below {found['limit_gib']:g} GiB"
    say(f"{bound} ({LIMIT_VARIABLE}); what was used longest ago goes first")


def size(count: float) -> str:
    """Bytes in words."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{count / one:,.1f} {unit}"
    return f"{count:,.0f} bytes"
