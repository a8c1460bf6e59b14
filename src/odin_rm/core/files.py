"""The one door to files: atomic writes, rows in and out, and what a run says of its machine.

Atomic writes live in ``core.atomic`` and row formats in ``core.rows``; import them from here.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

from odin_rm.core.atomic import (
    append_bytes,
    append_jsonl,
    atomic_file,
    atomic_folder,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    dump_json,
    json_safe,
    staged_folder,
    swap_in,
    written,
)
from odin_rm.core.rows import FORMATS, RowWriter, bad_row, first_row, json_name, read_rows, row_format
from odin_rm.core.system import PathLike

__all__ = [
    "FORMATS",
    "PathLike",
    "RowWriter",
    "append_bytes",
    "append_jsonl",
    "atomic_file",
    "atomic_folder",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "bad_row",
    "dump_json",
    "environment_record",
    "first_row",
    "json_name",
    "json_safe",
    "read_rows",
    "row_format",
    "staged_folder",
    "swap_in",
    "written",
]

_PACKAGES = (
    "odin-rm",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "tokenizers",
    "trl",
    "peft",
    "numpy",
    "scipy",
)


def environment_record() -> dict[str, Any]:
    """What a run says of its machine: versions, platform, cores, accelerator. No user, host or path.

    Torch is asked for its device only where it is loaded already, so that this stays cheap.
    """
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.system(),
        "machine": platform.machine(),
        "cpu_cores": _usable_cores(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "device": None,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        cuda = torch.cuda.is_available()
        record["device"] = torch.cuda.get_device_name() if cuda else "cpu"
        record["device_count"] = torch.cuda.device_count() if cuda else 1
        record["cuda"] = torch.version.cuda
        record["torch_threads"] = torch.get_num_threads()
    return record


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
