"""Tokenised data on disk: one folder of memory-mapped arrays per key of content, tokenizer and settings.

A folder appears whole or not at all. One that does not add up (a file missing, cut short or changed) counts as absent
and is built again. Two processes that build the same folder do not disturb each other: the first to finish wins, and
the other takes its result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.files import PathLike, atomic_write_json
from odin_rm.core.reading import opened, parse_json, read_bytes, read_json
from odin_rm.data.schema import TokenisedPreferences

FLAT = "input_ids_flat"
COLUMNS = (
    FLAT,
    "offsets",
    "response_tokens",
    "response_prompt",
    "pair_chosen",
    "pair_rejected",
    "pair_margin",
    "pair_row",
    "pair_key",
)
ENVIRONMENT_VARIABLE = "ODIN_RM_CACHE"
_RECORD = "record.json"
_EXTRA, _VARIANTS = "extra-", "variants-"
# Files up to this size are checked whole, larger ones by size and both ends.
_CHECKED_WHOLE = 64 * 2**20
_CODE = (
    "attributes",
    "rows",
    "messages",
    "cells",
    "columns",
    "layouts",
    "template_check",
    "render",
    "rendered",
    "template_form",
    "tokenise",
    "collect",
    "encode",
    "left_out",
    "load",
    "schema",
    "cache",
    "sources",
)

_log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """The folder named by ``ODIN_RM_CACHE``, else ``~/.cache/odin_rm/data``."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named).expanduser() if named else Path("~/.cache/odin_rm/data").expanduser()


def usable_cache_dir(cache_dir: PathLike | None) -> Path | None:
    """Make the cache folder; ``None`` (and a warning) where it cannot be written, because a cache is a convenience."""
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("no cache for tokenised data: %s cannot be made (%s)", folder, error.strerror)
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        _log.warning("no cache for tokenised data: %s cannot be written", folder)
        return None
    return folder


def cache_key(content: str, tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """A digest of everything that the tokenised data depend on, this package's reading code included."""
    parts = {
        "content": content,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "settings": dict(settings),
        "code": _code_fingerprint(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest of a tokenizer's vocabulary, rules, special tokens and chat template (not of where it lies)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = parse_json(backend.to_str())
        # Left behind by earlier calls; no property of the tokenizer.
        rules.pop("truncation", None)
        rules.pop("padding", None)
    else:
        rules = sorted(tokenizer.get_vocab().items())
    parts = [
        type(tokenizer).__name__,
        rules,
        getattr(tokenizer, "chat_template", None),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        getattr(tokenizer, "split_special_tokens", None),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()


def _code_fingerprint() -> str:
    digest = hashlib.sha256()
    for name in _CODE:
        digest.update(read_bytes(Path(__file__).parent / f"{name}.py"))
    return digest.hexdigest()


def write_columns(folder: Path, data: TokenisedPreferences) -> None:
    """Write all columns and the record of a data set into a folder. :data:`FLAT` stays if it is there already."""
    arrays = {name: getattr(data, name) for name in COLUMNS}
    arrays |= {_EXTRA + name: column for name, column in data.extra.items()}
    arrays |= {_VARIANTS + kind: column for kind, column in data.variants.items()}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        if not path.exists():
            np.save(path, array)
    write_record(folder, arrays, {"source": data.source, "report": data.report})


def write_record(folder: Path, names: Iterable[str], about: Mapping[str, Any]) -> None:
    """Write the record of a cache folder: sizes and checksums of its arrays, beside what is to be said about them."""
    files = {name: _file_record(folder / f"{name}.npy") for name in names}
    atomic_write_json(folder / _RECORD, {**about, "files": files})


def read_columns(folder: Path) -> TokenisedPreferences | None:
    """The data set in a folder, memory-mapped; ``None`` where there is none or it is damaged."""
    found = read_arrays(folder)
    if found is None:
        return None
    arrays, record = found
    try:
        extra, variants = (
            {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
            for prefix in (_EXTRA, _VARIANTS)
        )
        columns: dict[str, Any] = {name: arrays[name] for name in COLUMNS}
        described = {"source": record["source"], "report": record["report"]}
        return TokenisedPreferences(**columns, **described, extra=extra, variants=variants)
    except (KeyError, TypeError) as error:
        _say_damaged(folder, error)
        return None


def read_arrays(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The arrays of a cache folder by name, memory-mapped, and its record; ``None`` where they are not as written."""
    try:
        record = read_json(folder / _RECORD)
        arrays: dict[str, np.ndarray] = {}
        for name, expected in record["files"].items():
            path = folder / f"{name}.npy"
            if _file_record(path) != expected:
                raise ValueError(f"{path.name} has changed")
            # Plain views of the mapped memory: numpy's memmap class is slow to index.
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        return arrays, record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _say_damaged(folder, error)
        return None


def _say_damaged(folder: Path, error: Exception) -> None:
    _log.warning("the cached data in %s are damaged (%s); they are built again", folder, error)


def _file_record(path: Path) -> list[int]:
    """Size and checksum of a file."""
    size = path.stat().st_size
    with opened(path) as file:
        checksum = zlib.crc32(file.read(min(size, _CHECKED_WHOLE)))
        if size > _CHECKED_WHOLE:
            file.seek(-min(2**20, size - _CHECKED_WHOLE), os.SEEK_END)
            checksum = zlib.crc32(file.read(), checksum)
    return [size, checksum]
