"""The settings of ``odin-rm cache``."""

from __future__ import annotations

from dataclasses import dataclass

from odin_rm.core.options import option


@dataclass
class CacheConfig:
    """Everything that ``odin-rm cache`` takes."""

    cache_dir: str | None = option(None, "The cache folder; default ODIN_RM_CACHE, else ~/.cache/odin_rm/data.")
    clear: bool = option(False, "Delete the tokenised data in it; they are made again when they are needed.")
    json: bool = option(False, "Print JSON.")
